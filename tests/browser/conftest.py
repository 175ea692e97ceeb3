"""The real page in real Chromium, over three tiny models. Any console error and any request that leaves this host fails the test."""

from __future__ import annotations

import os
import shutil
import types
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from fusion.ui import engine, first_screen, measure, target
from fusion.ui import page as page_module
from tests import tiny
from tests.conftest import tiny_card

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
NAMES = ("Harbor", "Summit", "Meadow")
WAIT = 180_000  # ms; the machine may be busy


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        raise RuntimeError("the browser tests need Chromium: install it (apt-get install chromium) or name it in CHROMIUM")
    return found


def write_target(folder: Path, count: int, seed: int) -> None:
    """`count` small pictures with captions, as the example targets have them."""
    import json

    folder.mkdir(parents=True)
    rng, records = np.random.default_rng(seed), []
    for n in range(count):
        flat = np.broadcast_to(rng.integers(0, 255, 3), (32, 32, 3)) + rng.integers(-20, 20, (32, 32, 3))
        Image.fromarray(np.clip(flat, 0, 255).astype(np.uint8)).save(folder / f"{n:03}.png")
        records.append({"file": f"{n:03}.png", "prompt": f"a portrait of a {['cook', 'pilot', 'judge'][n % 3]}"})
    (folder / "captions.json").write_text(json.dumps(records))


@pytest.fixture(scope="package")
def world(tmp_path_factory):
    """Three tiny models as cards of the catalog, their calibration, and one example target; in place of the shipped ones."""
    from fusion.calibration import Calibration
    from fusion.objective import fit_gram

    root = tmp_path_factory.mktemp("world")
    first = tiny.portraits(root / "Harbor")
    folders = [first] + [tiny.portraits(root / name, seed + 1, sibling=first) for seed, name in enumerate(NAMES[1:])]
    cards = {name: tiny_card("sd", f, id=name, title=f.name, guidance=1.0)
             for name, f in zip((f"portraits/{f.name.lower()}" for f in folders), folders)}  # fmt: skip
    for seed, name in enumerate(target.EXAMPLES[:2]):
        write_target(root / "assets" / "targets" / name / "fit", 4, seed)
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(root / "served"))
    patch.setattr(engine, "cards", lambda: cards)
    patch.setattr(engine, "ASSETS", root / "assets")
    patch.setattr(engine, "DEFAULT_MODELS", tuple(cards))
    patch.setattr(first_screen, "FOLDER", root / "assets" / "first_screen")
    patch.setattr(measure, "FOLDER", root / "assets" / "evidence")
    first_screen.stored.cache_clear()  # other tests may have read the shipped answers
    loaded = engine.ensemble(cards.values())
    rng = np.random.default_rng(5)
    pictures = [[Image.fromarray(rng.integers(60 * k, 60 * k + 100, (32, 32, 3), dtype=np.uint8)) for _ in range(12)] for k in range(3)]
    grams = [fit_gram(loaded, images, ["a portrait of a cook"] * len(images)) for images in pictures]
    (root / "assets" / "calibration").mkdir()
    Calibration.from_grams(grams).save(root / "assets" / "calibration" / "portraits.safetensors")
    yield types.SimpleNamespace(root=root, cards=cards)
    patch.undo()  # the tests of other rooms see the shipped models again
    first_screen.stored.cache_clear()


@pytest.fixture(scope="package")
def address(world):
    blocks = page_module.build()
    _, url, _ = page_module.launch(blocks, prevent_thread_lock=True, server_port=None)
    yield url
    blocks.close()


@pytest.fixture(scope="package")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


def strict(context, said: list[str]):
    """A tab of `context` whose console errors and requests to elsewhere are written into `said`."""
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    tab.on("console", lambda m: said.append(f"console: {m.text}") if m.type == "error" else None)
    tab.on("pageerror", lambda e: said.append(f"error: {e}"))
    tab.on(
        "request",
        lambda r: said.append(f"leaves the host: {r.url}") if urlparse(r.url).hostname not in ("127.0.0.1", "localhost", None) else None,
    )
    tab.on("response", lambda r: said.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    return tab


@pytest.fixture
def open_page(browser, address):
    """`open_page(width=1440, query="", **context)` -> a ready tab. What went wrong in any of them fails the test at its end."""
    said, contexts = [], []

    def opened(width: int = 1440, query: str = "", height: int = 900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **{"locale": "en-US", **options})
        contexts.append(context)
        context.said = said
        tab = strict(context, said)
        tab.goto(address + query, wait_until="domcontentloaded")
        tab.wait_for_function("window.scoreFusionReady === true")
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert said == []
