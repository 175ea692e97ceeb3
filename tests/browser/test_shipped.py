"""The shipped portraits as a new visitor meets them: the stored answer, a fit by the real networks, two methods side by side."""

from __future__ import annotations

import re

import pytest

from fusion.ui import engine, first_screen, measure, target, texts
from fusion.ui import page as page_module
from tests.browser.conftest import strict

SHIPPED = [(module, name, getattr(module, name)) for module, name in (
    (engine, "cards"), (engine, "ASSETS"), (engine, "DEFAULT_MODELS"), (first_screen, "FOLDER"), (measure, "FOLDER"))]  # fmt: skip


@pytest.fixture
def shipped(browser, tmp_path, monkeypatch):
    """A tab on the page as it ships: its own models, examples and first screen."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for module, name, value in SHIPPED:  # other browser tests put tiny models in their place
        monkeypatch.setattr(module, name, value)
    first_screen.stored.cache_clear()
    blocks, said = page_module.build(), []
    _, url, _ = page_module.launch(blocks, prevent_thread_lock=True, server_port=None)
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    tab = strict(context, said)
    tab.goto(url + "?images=2&steps=3", wait_until="domcontentloaded")
    tab.wait_for_function("window.scoreFusionReady === true")
    yield tab
    context.close()
    blocks.close()
    first_screen.stored.cache_clear()
    assert said == []


def shares(tab) -> list[float]:
    return [float(t.split("\u202f")[0]) for t in tab.locator("#answer .card").first.locator(".val b").all_text_contents()]


def intervals(tab) -> list[float]:
    """Widths of the intervals that the first screen shows, in points."""
    ends = [text.split("\u202f")[0].split("–") for text in tab.locator("#first-screen .shares .val small").all_text_contents()]
    return [float(high) - float(low) for low, high in ends]


def near(found: list[float], stored: list[float]) -> bool:
    """Shares in whole percent that agree but for rounding: a picture's noise is its own, wherever it is measured."""
    return len(found) == len(stored) and max(abs(a - b) for a, b in zip(found, stored)) <= 1


def twelve(tab) -> None:
    """The example's first twelve pictures, which networks measure in seconds."""
    tab.click("#first-screen [data-count='12']")
    tab.wait_for_function("document.querySelectorAll('.thumbs img').length === 12")
    tab.wait_for_function("document.querySelector('#first-screen h2').innerText.includes('from 12 images')")


def test_own_portraits_are_fitted_under_their_own_captions_without_a_word_typed(shipped):
    tab = shipped
    twelve(tab)
    stored = shares(tab)  # of the same pictures under the captions they were drawn for
    files = sorted(target.folder_of("valley").glob("*.png"))
    tab.set_input_files("#drop input[type=file]", [str(file) for file in files])
    tab.wait_for_function("document.querySelectorAll('.thumbs textarea[data-proposed]').length === 12")
    tab.click("#fit-button")
    tab.wait_for_selector("[data-running=fit]")
    tab.wait_for_selector("#fit-button:not([disabled])")
    assert near(shares(tab), stored) and "like none of these models" not in " ".join(tab.locator("#answer ~ .note").all_inner_texts())
    assert tab.locator("#first-screen h2").inner_text().startswith("Which mix these are cannot be told from 12 images yet")


def test_fit_and_compare_two_methods_on_the_shipped_portraits(shipped):
    tab = shipped
    assert tab.locator("#first-screen h2").inner_text().startswith("The largest part of what these 48 images show is Harbor")
    before = intervals(tab)
    twelve(tab)
    assert max(intervals(tab)) > 2 * max(before), "more pictures make the intervals shorter"
    stored = shares(tab)  # the first screen's fit, from its stored statistic
    assert len(stored) == 4 and abs(sum(stored) - 100) <= 2
    tab.wait_for_selector("[data-price=uniform]:has-text('evaluations')")  # the models are loaded after the first paint
    for name in ("uniform", "scorefusion"):  # two methods are left
        tab.click(f"[data-do=method][data-name={name}]")
        tab.wait_for_selector(f"[data-do=method][data-name={name}][aria-checked=false]")
    assert re.search(r"4 images, 12 network", tab.locator("#compare-cost").inner_text())
    tab.locator("details[data-key=settings] > summary").click()
    tab.select_option("[data-do=levels]", "8")
    tab.wait_for_selector("#answer ~ p:has-text('older'), p .badge.old")
    tab.select_option("[data-do=levels]", "16")
    tab.click("#fit-button")
    tab.wait_for_selector("[data-running=fit]")
    tab.wait_for_selector("#fit-button:not([disabled])")
    assert tab.locator("[data-place=fit]").count() == 0
    assert near(shares(tab), stored), "the networks say again what the file says"
    tab.click("#compare-button")
    tab.wait_for_function("document.querySelectorAll('#grid .shot img').length === 4")
    tab.wait_for_selector("#compare-button:not([disabled])")
    heads = tab.locator("#grid .col strong").all_inner_texts()
    assert heads == [texts.say("en", "method.single"), texts.say("en", "method.mixture")]
    tab.wait_for_function("[...document.querySelectorAll('#grid .shot img')].every((n) => n.naturalWidth === 64)")  # all are served
