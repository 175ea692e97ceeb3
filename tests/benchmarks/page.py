"""How fast the page answers: `python -m tests.benchmarks.page`. Prints JSON and a table.

Drag-to-loss: from the browser's `input` event to numbers and map painted (the next animation frame counts in). Start-to-paint: from
starting `python app.py` to the first screen's text in Chromium, and the part of it that the browser needs once the server answers.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, chromium

ROOT = Path(__file__).resolve().parents[2]
DRAG = """async () => {
  const slider = document.querySelectorAll('.mx-slider')[0], times = [];
  for (let n = 0; n < 60; n++) {
    await new Promise((r) => requestAnimationFrame(r));
    const start = performance.now();
    slider.value = (n % 50) / 50;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    document.querySelector('.mx').getBoundingClientRect();  // forces the layout that a paint would need
    times.push(performance.now() - start);
  }
  return times;
}"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(address: str, seconds: float = 300) -> None:
    """Until the server answers. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"the page did not answer within {seconds} s")


def measure() -> dict:
    address = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), "--port", address.rsplit(":")[-1]], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        wait(address)
        serving = time.monotonic() - started
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            paints = [paint(browser, address) for _ in range(3)]
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            tab.goto(address)
            tab.wait_for_selector(".mx-slider", timeout=120_000)
            times = tab.evaluate(DRAG)[10:]
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    return {"server_start_s": serving, "first_paint_s": min(paints), "start_to_paint_s": serving + paints[0],
            "drag_to_loss_ms": statistics.median(times), "drag_to_loss_p95_ms": sorted(times)[int(0.95 * len(times))]}  # fmt: skip


def paint(browser, address: str) -> float:
    """Seconds from asking for the page to the first screen's headline."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    begun = time.monotonic()
    tab.goto(address, wait_until="commit")
    tab.wait_for_selector("#first-screen h2", timeout=120_000)
    taken = time.monotonic() - begun
    tab.close()
    return taken


def main() -> None:
    found = {key: round(value, 3) for key, value in measure().items()}
    print(json.dumps(found))
    limits = {"first_paint_s": 2.0, "drag_to_loss_ms": 30.0}
    for key, value in found.items():
        print(f"{key:22} {value:10.3f}" + (f"   (aim: below {limits[key]:g})" if key in limits else ""))


if __name__ == "__main__":
    main()
