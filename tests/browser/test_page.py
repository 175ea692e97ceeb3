"""What a visitor does, from the first screen to the report."""

from __future__ import annotations

import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from fusion.ui import engine, jobs, texts
from tests.browser.conftest import WAIT
from tests.browser.test_comeback import DROP


def weights(tab) -> list[float]:
    return [float(t) for t in tab.locator(".mx-number").all_text_contents()]


def fit(tab) -> None:
    tab.click("#fit-button")
    tab.wait_for_selector("#answer")


def unfold(tab, key: str) -> None:
    tab.locator(f"details[data-key={key}] > summary").click()


def drag(tab, row: int, value: float) -> None:
    """Move a slider as a hand would: press, move in steps, release."""
    box = tab.locator(".mx-slider").nth(row).bounding_box()
    now = float(tab.locator(".mx-slider").nth(row).input_value())
    at = lambda v: box["x"] + 11 + v * (box["width"] - 22)
    tab.mouse.move(at(now), box["y"] + box["height"] / 2)
    tab.mouse.down()
    tab.mouse.move(at(value), box["y"] + box["height"] / 2, steps=5)
    tab.mouse.up()


def test_first_screen(open_page):
    tab = open_page()
    assert tab.locator("h2").first.inner_text() == texts.say("en", "hero.empty")
    assert tab.locator("section.section").count() == 6
    assert tab.locator("[role=checkbox].model[aria-checked=true]").count() == 3
    assert tab.locator(".thumbs img").count() == 4
    assert tab.title() == "ScoreFusion Studio"
    assert "models=portraits" in tab.evaluate("location.search")


def test_fit_then_drag_with_a_lock(open_page):
    tab = open_page()
    fit(tab)
    answer = tab.locator("#answer").inner_text()
    assert answer.index(texts.say("en", "fit.proportions")) < answer.index(texts.say("en", "fit.published"))
    assert tab.locator("#answer .val small").count() == 6  # an interval beside every number
    tab.get_by_role("button", name="Uniform").click()
    tab.locator(".mx-row").nth(1).get_by_role("button", name=re.compile("Lock")).click()
    loss = tab.locator("[data-read=loss] b").inner_text()
    drag(tab, 0, 0.6)
    shown = weights(tab)
    assert shown[1] == 0.33 and round(sum(shown), 9) == 1.0
    assert abs(shown[0] - 0.6) < 0.03 and abs(shown[2] - (1 - 0.33 - shown[0])) < 0.02
    assert tab.locator("[data-read=loss] b").inner_text() != loss
    drag(tab, 0, 1.0)
    assert weights(tab)[0] == pytest.approx(0.67, abs=0.011) and weights(tab)[2] == 0.0
    tab.wait_for_function("location.search.includes('weights=0.66')")  # Python projected again and put them into the address
    tab.locator(".mx-row").nth(2).get_by_role("button", name=re.compile("Only")).click()
    assert weights(tab) == [0.0, 0.33, 0.67]  # a button leaves a locked weight where it is, too
    tab.get_by_role("button", name="Undo").click()
    assert weights(tab)[1] == 0.33


def test_the_mixer_by_keyboard(open_page):
    tab = open_page()
    fit(tab)
    tab.get_by_role("button", name="Uniform").click()
    tab.locator(".mx-slider").nth(2).focus()
    for _ in range(10):
        tab.keyboard.press("ArrowRight")
    assert weights(tab)[2] == pytest.approx(0.43, abs=0.011) and round(sum(weights(tab)), 9) == 1.0
    before = weights(tab)
    tab.locator(".mx-map").focus()
    tab.keyboard.press("ArrowUp")
    assert weights(tab) != before and round(sum(weights(tab)), 9) == 1.0
    tab.locator(".mx-modes button").nth(1).click()
    tab.wait_for_selector(".mx-modes button[data-mode=blend][aria-checked=true]")
    assert tab.locator("[data-read=distance] .mx-gap").inner_text() == texts.say("en", "mixer.unknown")


def test_loss_in_the_browser_is_the_loss_in_python(open_page, world):
    from fusion.objective import fit_gram

    tab = open_page()
    fit(tab)
    folder = world.root / "assets" / "targets" / "valley" / "fit"
    records = json.loads((folder / "captions.json").read_text())
    gram = fit_gram(
        engine.ensemble(world.cards.values()),
        [Image.open(folder / r["file"]).convert("RGB") for r in records],
        [r["prompt"] for r in records],
    )
    matrix = gram.mean("simple", smooth=False)
    tab.get_by_role("button", name="Uniform").click()
    assert float(tab.locator("[data-read=loss] b").inner_text()) == pytest.approx(np.full(3, 1 / 3) @ matrix @ np.full(3, 1 / 3), abs=2e-5)


@pytest.fixture
def held_until_stop(monkeypatch, world):
    """From its second batch on a fit waits until Stop is heard: however fast or busy the machine, a press is never too late."""
    heard, called, stop = threading.Event(), [], jobs.Job.stop
    kind = type(engine.ensemble(world.cards.values()))
    predictor = kind.predictor

    def held(ensemble, prompts):
        ask = predictor(ensemble, prompts)

        def predict(*arguments, **more):
            called.append(1)
            if len(called) > 1:
                assert heard.wait(WAIT / 1000)
            return ask(*arguments, **more)

        return predict

    monkeypatch.setattr(kind, "predictor", held)
    monkeypatch.setattr(jobs.Job, "stop", lambda job: (stop(job), heard.set()))


def test_stop_keeps_what_was_finished_and_the_page_usable(open_page, tmp_path, held_until_stop):
    rng = np.random.default_rng(0)
    for n in range(40):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    tab = open_page()
    tab.set_input_files("#drop input[type=file]", [str(tmp_path / f"{n}.png") for n in range(40)])
    tab.wait_for_function("document.querySelectorAll('.thumbs img').length === 40")
    unfold(tab, "settings")
    tab.select_option("[data-do=draws]", "8")
    tab.wait_for_selector("text=30,720 network")
    assert tab.locator("[data-do=draws]").is_visible()  # still unfolded after the panel was renewed
    tab.click("#fit-button")
    tab.wait_for_selector("[data-running=fit]")  # stopped in its queue it would have nothing to say
    pressed = "(button => button && (button.click(), true))(document.querySelector('[data-running=fit] [data-do=stop]'))"
    tab.wait_for_function(pressed)  # in one go: the panel is renewed while a hand would press
    tab.wait_for_selector("[data-place=fit]")
    tab.wait_for_function("!document.querySelector('[data-running]')")
    assert tab.locator("#fit-button").is_enabled() and tab.locator(".thumbs img").count() == 40


def test_bad_upload_is_said_beside_the_pictures(open_page, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'></svg>")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "good.png")
    tab = open_page()
    tab.set_input_files("#drop input[type=file]", [str(tmp_path / n) for n in ("notes.png", "drawing.svg", "good.png")])
    note = tab.wait_for_selector("[data-place=target]").inner_text()
    assert "notes.png: This is a text file" in note and "drawing.svg: This is an SVG" in note
    assert tab.locator(".thumbs img").count() == 1 and tab.locator("#fit-button").is_enabled()
    unfold(tab, "add")
    tab.fill("#add-model", "/etc")
    tab.click("#add-button")
    assert len(tab.wait_for_selector("[data-place=models]").inner_text()) > 20
    assert tab.locator(".thumbs img").count() == 1


def test_captions_are_seen_whole_and_a_list_dropped_anywhere_finds_its_pictures(open_page, tmp_path):
    rng = np.random.default_rng(1)
    for n in range(2):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    tab = open_page()
    tab.set_input_files("#drop input[type=file]", [str(tmp_path / f"{n}.png") for n in range(2)])
    tab.wait_for_function("document.querySelectorAll('.thumbs img').length === 2")
    assert [tab.locator(".thumbs textarea").nth(n).input_value() for n in range(2)] == ["", ""]
    long = "a portrait of a factory worker who carries a heavy wrench"
    tab.locator(".thumbs textarea").first.fill(long)
    tab.keyboard.press("Enter")  # as in a field of one line
    tab.wait_for_selector(f".thumbs img[alt='{long}']")
    box = "[...document.querySelectorAll('.thumbs textarea')].map((n) => n.scrollHeight - n.clientHeight)"
    assert max(tab.evaluate(box)) <= 1
    for name in ("captions.json", "words.json"):  # the second goes through the place for recipes
        text = json.dumps([{"file": "0.png", "prompt": name}, {"file": "1.png", "prompt": "a hen"}, {"file": "7.png", "prompt": "x"}])
        tab.evaluate(DROP, [name, text])
        tab.wait_for_selector(f".thumbs img[alt='{name}']")
        assert [tab.locator(".thumbs textarea").nth(n).input_value() for n in range(2)] == [name, "a hen"]
        assert "7.png" in tab.locator("[data-place=target].warn").inner_text()
    assert "for 2 of 2" in tab.locator("[data-place=comeback].info").inner_text()


def test_no_image_and_one_model_say_what_is_next(open_page):
    tab = open_page()
    tab.click("[data-do=clear]")
    tab.wait_for_selector(f"text={texts.say('en', 'fit.need_images')}")
    assert tab.locator("#fit-button").is_disabled()
    for n in range(2):
        tab.locator(".model").nth(n).click()
        tab.wait_for_function(f"document.querySelectorAll('.model[aria-checked=true]').length === {2 - n}")
    tab.wait_for_selector(f"text={texts.say('en', 'fit.need_models')}")


def test_japanese_is_complete(open_page):
    tab = open_page(locale="ja-JP")
    assert tab.evaluate("document.documentElement.lang") == "ja"
    fit(tab)
    for tab_name in ("explains", "correlation", "metrics", "population"):
        tab.click(f"#tab-{tab_name}")
        tab.wait_for_selector(f"#tab-{tab_name}[aria-selected=true]")
    seen = tab.locator("body").inner_text()
    left = [
        entry["en"]
        for key, entry in texts.table().items()
        if len(entry["en"]) > 8 and entry["en"] != entry["ja"] and "{" not in entry["en"] and entry["en"] in seen
    ]
    assert left == []
    tab.select_option("[data-do=language]", "en")
    tab.wait_for_selector("text=Calibrated proportions")
    assert tab.evaluate("document.documentElement.lang") == "en"


def test_phone(open_page):
    tab = open_page(390, height=844)
    fit(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.locator(".mx-sticky").is_visible()
    columns = tab.evaluate("getComputedStyle(document.querySelector('.cards')).gridTemplateColumns.split(' ').length")
    assert columns == 2
    steps = tab.evaluate("[...document.querySelectorAll('.sf-steps a')].map((n) => n.getBoundingClientRect().right)")
    assert len(steps) == 6 and max(steps) <= 390
    tab.locator(".mx-open").click()
    assert tab.locator(".mx.mx-sheet").is_visible()
    small = tab.evaluate("""[...document.querySelectorAll('.sf button, .sf select, .sf a.btn, .mx button, .mx input')]
        .filter(n => n.offsetParent && n.getBoundingClientRect().height < 43.5).map(n => n.outerHTML.slice(0, 80))""")
    assert small == []


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_dark_and_light_differ_and_nothing_overflows(open_page, width):
    light, dark = open_page(width), open_page(width, color_scheme="dark")
    colours = [t.evaluate("getComputedStyle(document.querySelector('.gradio-container')).backgroundColor") for t in (light, dark)]
    assert colours == ["rgb(250, 249, 246)", "rgb(18, 19, 24)"]
    assert [t.evaluate("document.documentElement.scrollWidth") for t in (light, dark)] == [width, width]


def test_compare_labels_recipes_and_older_settings(open_page, tmp_path):
    from fusion.recipe import Recipe

    tab = open_page(query="?images=2&steps=2&seed=5")
    fit(tab)
    tab.click("#compare-button")
    tab.wait_for_selector("#compare-button:not([disabled])")
    tab.wait_for_function("document.querySelectorAll('#grid .shot img').length === 8")
    captions = tab.locator("#grid figcaption").all_inner_texts()
    assert sum("seed 5" in c for c in captions) == 4 and sum("seed 6" in c for c in captions) == 4
    assert all(re.search(r"0\.\d\d|1\.00", c) for c in captions) and any("from " in c for c in captions)
    source = tab.evaluate("document.querySelector('#grid .shot img').src")
    (tmp_path / "shot.png").write_bytes(tab.context.request.get(source).body())
    recipe = Recipe.from_png(tmp_path / "shot.png")
    assert recipe.steps == 2 and set(recipe.seeds) == {5, 6}
    assert tab.locator("[data-place=compare]").count() == 0  # nothing went wrong and nothing was stopped
    tab.fill("[data-name=steps]", "3")
    tab.press("[data-name=steps]", "Tab")
    tab.wait_for_selector("#grid .badge.old")
    assert tab.locator("#grid .shot.old").count() == 8


def test_report(open_page, tmp_path):
    tab = open_page()
    fit(tab)
    tab.click("[data-do=report]")
    with tab.expect_download() as download:
        tab.click("a[download='recipe.json']")
    download.value.save_as(tmp_path / "recipe.json")
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert len(recipe["models"]) == 3 and abs(sum(recipe["weights"]) - 1) < 1e-6
    with tab.expect_download() as download:
        tab.click("a[download='scorefusion-report.html']")
    download.value.save_as(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "data:image/png" in text and not re.search(r"(src|href)=.https?:", text)


def test_two_visitors_and_a_reload_in_mid_fit(open_page, tmp_path):
    one, two = open_page(), open_page()
    rng = np.random.default_rng(3)
    for n in range(5):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"own-{n}.png")
    two.set_input_files("#drop input[type=file]", [str(tmp_path / f"own-{n}.png") for n in range(5)])
    two.wait_for_function("document.querySelectorAll('.thumbs img').length === 5")
    two.locator(".thumbs textarea").first.fill("a portrait of a hen")
    two.keyboard.press("Tab")
    unfold(two, "settings")
    two.select_option("[data-do=draws]", "8")
    two.click("#fit-button")
    two.wait_for_selector("[data-running=fit]")
    one.locator(".model").nth(2).click()
    one.wait_for_function("document.querySelectorAll('.model[aria-checked=true]').length === 2")
    two.reload(wait_until="domcontentloaded")
    two.wait_for_function("window.scoreFusionReady === true")
    assert two.locator(".model[aria-checked=true]").count() == 3
    assert two.locator(".thumbs img").count() == 5  # the visitor's own pictures and words outlive the reload
    assert two.locator(".thumbs textarea").first.input_value() == "a portrait of a hen"
    two.wait_for_function("[...document.querySelectorAll('.thumbs img')].every((i) => i.naturalWidth > 0)")  # the files are still served
    assert one.locator(".thumbs img").count() == 4  # and are nobody else's
    fit(one)
    fit(two)
    left = ("AbortError", "Connection errored out")  # Gradio's client says so when a page leaves in mid-stream
    two.context.said[:] = [s for s in two.context.said if not any(word in s for word in left)]
    assert one.locator("#answer .card").first.locator("li").count() == 2 and two.locator("#answer .card").first.locator("li").count() == 3


def test_the_address_restores_models_weights_and_seeds(open_page):
    tab = open_page(query="?models=portraits/harbor,portraits/meadow&weights=0.25,0.75&seed=9&lang=ja")
    assert weights(tab) == [0.25, 0.75]
    assert tab.locator("[data-name=first_seed]").input_value() == "9"
    assert tab.evaluate("document.documentElement.lang") == "ja"
    broken = open_page(query="?models=portraits/harbor,unknown/thing&weights=nan,1")
    assert "unknown/thing" in broken.locator("[data-place=page]").inner_text()
