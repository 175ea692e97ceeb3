"""Screenshots for the README: `python -m tests.browser.screenshots OUTDIR`. Starts the real page and photographs its first screen.

`--all` also uses the page and photographs every section, `--fast` with fewer images and steps. Any console error ends the run in words.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.benchmarks.page import ROOT, free_port, wait
from tests.browser.conftest import FLAGS, chromium, strict

LONG = 1_800_000  # ms


def ready(browser, said: list[str], address: str, width: int = 1440, height: int = 900, query: str = "", **options):
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=options.pop("scale", 1), **{"locale": "en-US", **options}
    )
    tab = strict(context, said)
    tab.set_default_timeout(LONG)
    tab.goto(address + query)
    tab.wait_for_function("window.scoreFusionReady === true")
    tab.wait_for_timeout(1200)  # pictures; the stream of events keeps the network from ever being idle
    return tab


def shoot(tab, path: Path, section: str | None = None, full: bool = False) -> None:
    """One picture: from a section's top, or of the whole page."""
    tab.mouse.move(0, 0)
    tab.evaluate("(id) => (id ? document.getElementById(id) : document.body).scrollIntoView()", section)
    tab.wait_for_timeout(400)
    tab.screenshot(path=str(path), full_page=full)
    print(path, flush=True)


def work(tab, out: Path, fast: bool) -> None:
    """Fit, compare and look at every tab of the evidence."""
    if not tab.locator("#answer").count():
        tab.click("#fit-button")
        tab.wait_for_selector("#answer")
    shoot(tab, out / "fit.png", "fit")
    shoot(tab, out / "mixer.png", "mixer")
    tab.click("#compare-button")
    tab.wait_for_selector("[data-running=compare]")
    tab.wait_for_selector("#compare-button:not([disabled])")
    shoot(tab, out / "compare.png", "compare")
    if fast:
        tab.select_option("[data-do=measure_count]", "16")
    tab.click("#measure-button")
    tab.wait_for_selector("#measured")
    tab.wait_for_selector("#measure-button:not([disabled])")
    shoot(tab, out / "evidence-measured.png", "evidence")
    for name in ("level", "explains", "correlation", "metrics", "population"):
        tab.click(f"#tab-{name}")
        tab.wait_for_selector(f"#tab-{name}[aria-selected=true]")
        shoot(tab, out / f"evidence-{name}.png", "tab-panel")
    tab.click("[data-do=report]")
    tab.wait_for_selector("a[download='recipe.json']")
    shoot(tab, out / "report.png", "report")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--all", action="store_true", help="every section too: fit, mixer, comparison, evidence, report")
    parser.add_argument("--fast", action="store_true", help="with --all: two images with four steps instead of four with twenty")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    address, said = f"http://127.0.0.1:{free_port()}", []
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", address.rsplit(":")[-1]], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        wait(address, 600)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            shoot(ready(browser, said, address), args.output / "first-screen.png")
            shoot(ready(browser, said, address, color_scheme="dark"), args.output / "dark.png")
            shoot(ready(browser, said, address, locale="ja-JP"), args.output / "japanese.png")
            shoot(ready(browser, said, address, 390, 844, scale=2), args.output / "phone.png")
            if args.all:
                shoot(ready(browser, said, address, 768, 1024), args.output / "tablet.png")
                shoot(ready(browser, said, address, 390, 844, color_scheme="dark", scale=2), args.output / "phone-mixer.png", "mixer")
                work(ready(browser, said, address, query="?images=2&steps=4" if args.fast else ""), args.output, args.fast)
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    if said:
        raise SystemExit("the page was not clean:\n" + "\n".join(said))


if __name__ == "__main__":
    main()
