"""A recipe comes back into the page: from recipe.json, from a drawn image, by drop anywhere; and what is wrong with it is said."""

from __future__ import annotations

import json

from fusion.ui import texts

DROP = """([name, text]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([text], name, { type: 'application/json' }));
  document.getElementById('fit').dispatchEvent(new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""


def fit_and_draw(tab) -> None:
    tab.click("#fit-button")
    tab.wait_for_selector("#answer")
    tab.click("#compare-button")
    tab.wait_for_function("document.querySelectorAll('#grid .shot img').length === 8")
    tab.wait_for_selector("#compare-button:not([disabled])")


def values(tab) -> list:
    names = ("prompts", "count", "first_seed", "steps")
    return [tab.locator(f"[data-do=plan][data-name={n}]").input_value() for n in names] + tab.locator(".mx-number").all_text_contents()


def test_an_image_and_a_recipe_restore_the_state_and_the_pixels(open_page, tmp_path):
    tab = open_page(query="?images=2&steps=2&seed=5&prompt=a portrait of a cook")
    fit_and_draw(tab)
    source = tab.evaluate("document.querySelector('#grid .shot img').src")
    (tmp_path / "shot.png").write_bytes(tab.context.request.get(source).body())
    tab.click("[data-do=report]")
    with tab.expect_download() as download:
        tab.click("a[download='recipe.json']")
    download.value.save_as(tmp_path / "recipe.json")
    before = values(tab)

    other = open_page()  # another visitor, who has only the files
    assert values(other) != before
    other.set_input_files("#recipe-drop input[type=file]", str(tmp_path / "recipe.json"))
    other.wait_for_selector("#recipe-card")
    assert values(other) == before and other.locator("[data-place=comeback]:not(.bad)").count() == 1
    other.click("#redraw-button")
    other.wait_for_function("document.querySelectorAll('#redrawn img').length === 2")
    other.wait_for_selector("#redraw-button:not([disabled])")
    other.set_input_files("#recipe-drop input[type=file]", str(tmp_path / "shot.png"))
    other.wait_for_selector("#recipe-card h3:has-text('shot.png')")
    other.click("#redraw-button")
    assert other.wait_for_selector("#sameness").inner_text() == texts.say("en", "comeback.same")
    other.wait_for_selector("#redraw-button:not([disabled])")
    other.click("[data-do=recipe_undo]")
    other.wait_for_function("!document.querySelector('#recipe-card')")
    assert other.locator(".thumbs img").count() == 4


def test_broken_recipes_are_refused_in_place_and_nothing_is_lost(open_page, tmp_path):
    tab = open_page()
    before = values(tab)
    good = {"models": [{"id": "portraits/harbor"}, {"id": "portraits/summit"}], "weights": [0.5, 0.5], "method": "mixture",
            "prompts": ["a portrait of a cook"], "seeds": [3], "version": 1}  # fmt: skip
    for name, content, word in (
        ("torn.json", "{", "no valid JSON"),
        ("newer.json", json.dumps(good | {"version": 2}), "update ScoreFusion Studio"),
        ("foreign.json", json.dumps(good | {"models": [{"id": "some/model"}, {"id": "portraits/summit"}]}), "some/model"),
    ):
        (tmp_path / name).write_text(content)
        tab.set_input_files("#recipe-drop input[type=file]", str(tmp_path / name))
        note = tab.wait_for_selector(f"[data-place=comeback]:has-text('{name}')")
        assert word in note.inner_text() and "bad" in note.get_attribute("class")
        assert values(tab) == before and tab.locator("#recipe-card").count() == 0
    tab.evaluate(DROP, ["hashless.json", json.dumps(good)])  # on section 3: a drop anywhere
    tab.wait_for_selector("#recipe-card h3:has-text('hashless.json')")
    assert "Harbor and Summit" in tab.locator("[data-place=comeback].warn").inner_text()  # no hashes to compare
    assert tab.locator(".thumbs img").count() == 4 and tab.locator("#fit-button").is_enabled()
