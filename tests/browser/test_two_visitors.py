"""Two browsers at once draw what each would draw alone, whatever the other does meanwhile."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

DONE = "document.querySelectorAll('#grid .shot img').length === {} && !document.querySelector('[data-running]')"

WATCH = """() => {
  window.ran = false;
  new MutationObserver(() => { window.ran = window.ran || !!document.querySelector('[data-running=compare]'); })
    .observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def prepare(tab, *methods: str) -> None:
    """Fit, and leave these methods chosen."""
    tab.click("#fit-button")
    tab.wait_for_selector("#answer")
    tab.wait_for_selector("#compare-button:not([disabled])")
    chosen = tab.locator("[data-do=method][aria-checked=true]").evaluate_all("(found) => found.map((n) => n.dataset.name)")
    for name in set(chosen) ^ set(methods):
        tab.click(f"[data-do=method][data-name={name}]")
        tab.wait_for_selector(f"[data-do=method][data-name={name}][aria-checked={'true' if name in methods else 'false'}]")


def drawn(tab, count: int) -> dict[str, bytes]:
    """What the grid shows once it is whole: label -> pixels."""
    tab.wait_for_function(DONE.format(count))
    tab.wait_for_selector("#compare-button:not([disabled])")
    found = tab.evaluate("[...document.querySelectorAll('#grid .shot img')].map((n) => [n.alt, n.src])")
    pixels = lambda source: np.asarray(Image.open(io.BytesIO(tab.context.request.get(source).body()))).tobytes()  # noqa: E731
    return {label: pixels(source) for label, source in found}


def again(tab, count: int) -> dict[str, bytes]:
    """The same drawn once more, by this visitor alone. However short the run is, an observer sees it."""
    tab.evaluate(WATCH)
    tab.click("#compare-button")
    tab.wait_for_function("window.ran === true")
    return drawn(tab, count)


def test_two_browsers_at_once_draw_what_each_draws_alone(open_page):
    one = open_page(query="?images=2&steps=6&seed=5&prompt=a portrait of a cook")
    other = open_page(query="?images=3&steps=4&seed=9&prompt=a portrait of a pilot")
    prepare(one, "single", "uniform", "scorefusion")
    prepare(other, "mixture", "uniform")
    one.click("#compare-button")
    other.click("#compare-button")
    open_page()  # a third one opens the page in the middle of it
    together = drawn(one, 6), drawn(other, 6)
    assert len(together[0]) == len(together[1]) == 6 and not set(together[0].values()) & set(together[1].values())
    assert again(one, 6) == together[0] and again(other, 6) == together[1]


def test_ones_stop_and_ones_error_leave_the_others_drawing_alone(open_page):
    one = open_page(query="?images=2&steps=8&seed=5&prompt=a portrait of a cook")
    other = open_page(query="?images=4&steps=100&seed=9&prompt=a portrait of a pilot")
    prepare(one, "single", "uniform", "scorefusion")
    prepare(other, "uniform")
    other.click("#compare-button")
    other.wait_for_selector("[data-running=compare], [data-do=stop]")
    one.click("#compare-button")
    other.evaluate("document.querySelector('[data-do=stop], [data-event=stop]').click()")
    other.set_input_files("#drop input[type=file]", {"name": "note.png", "mimeType": "image/png", "buffer": b"no picture"})
    other.wait_for_selector("[data-place=target]")
    whole = drawn(one, 6)
    assert one.locator(".note.bad").count() == 0 and "Error" not in other.locator("[data-place=target]").inner_text()
    assert again(one, 6) == whole
