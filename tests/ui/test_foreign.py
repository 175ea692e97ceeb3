"""Pictures of other programs on the page: fields of section 4 filled, the rest named in both languages, everything else as it was."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from fusion import foreign as reading
from fusion.foreign import KINDS, Foreign
from fusion.ui import comeback, comeback_card, engine, foreign, state, target, texts, uploads
from tests.fusion.test_foreign import COMFY, NOVELAI, TEXT, png, with_comment


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    shared = {"population": None, "usual_guidance": 1.0}
    offered = {name: SimpleNamespace(id=name, title=name, family=name, **shared) for name in ("sd", "sdxl", "flux")}
    monkeypatch.setattr(engine, "cards", lambda: offered)
    monkeypatch.setattr(engine, "loaded", lambda chosen: None)
    return state.Session(selected=["sd"], plan=state.Plan(prompts=("a hen",), first_seed=1, count=3, steps=5, negative="old"))


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_a_web_uis_picture_fills_section_four_and_the_rest_stays(session, tmp_path, language):
    session.language = language
    session.weights["mix"], before = [1.0], replace(session.plan)
    assert comeback.load(session, str(png(tmp_path / "a.png", parameters=TEXT)))
    plan = session.plan
    assert plan == replace(before, prompts=("masterpiece, (a lighthouse:1.2) at dusk, storm BREAK waves",), negative="blurred, two heads",
                           first_seed=3141592653, steps=28, guidance=6.5, clip_skip=2)  # fmt: skip
    assert session.selected == ["sd"] and session.weights == {"mix": [1.0]} and session.loaded is None
    (kind, sentence), (_, differs) = session.notes["comeback"]
    assert kind == "info" and "A1111" in sentence and "a.png" in sentence
    for word in ("DPM++ 2M (Karras)", "v1-5-pruned", "film_grain:0.8", "bad-hands:1", "512 x 768", "vae-ft", "ControlNet", "Hires fix"):
        assert word in sentence, word
    if language == "en":
        assert "filled in: prompt, negative prompt, first seed, steps, guidance and clip skip; without a place here: " in sentence
    else:
        assert re.search(r"[\u3040-\u30ff]", sentence) and re.search(r"[\u3040-\u30ff]", differs) and "variation" not in sentence
    assert 'data-do="recipe_undo"' in comeback_card.render(session)
    comeback.undo(session, {})
    assert session.plan == before and "comeback" not in session.notes and "recipe_undo" not in comeback_card.render(session)


@pytest.mark.parametrize(("models", "asked", "set_to", "named"), [
    (["sd"], 2, 2, False), (["sd"], None, 0, False), (["sdxl"], 2, 0, False), (["sdxl"], 3, 0, True),
    (["flux"], 2, 0, True), ([], 2, 2, False),
])  # fmt: skip
def test_clip_skip_is_set_where_it_means_the_same(session, models, asked, set_to, named):
    session.selected, session.plan.clip_skip = models, 5
    foreign.take(session, Foreign("A1111", "a cat", clip_skip=asked), "a.png")
    (_, sentence), _ = session.notes["comeback"]
    assert session.plan.clip_skip == set_to and (f"clip skip {asked}" in sentence) == named


def test_a_negative_prompt_is_named_for_models_that_take_none(session):
    session.selected = ["flux"]
    foreign.take(session, Foreign("A1111", "a cat", "blurred"), "a.png")
    assert session.plan.negative == "" and "; without a place here: the negative prompt." in session.notes["comeback"][0][1]


def test_numbers_that_the_fields_do_not_hold_are_named_and_not_set(session):
    foreign.take(session, Foreign("A1111", "a cat", seed=2**60, steps=150, guidance=0.5), "a.png")
    (_, sentence), _ = session.notes["comeback"]
    assert (session.plan.first_seed, session.plan.steps, session.plan.guidance) == (1, 5, None)
    for words in (f"first seed {2**60}, which", "steps 150, which", "guidance 0.5, which", "no negative prompt"):
        assert words in sentence
    assert session.plan.negative == ""


def test_a_size_that_the_models_draw_is_not_named(session, monkeypatch):
    monkeypatch.setattr(engine, "loaded", lambda chosen: SimpleNamespace(size=(768, 512)))
    foreign.take(session, Foreign("A1111", "a cat", size=(512, 768)), "a.png")
    assert "512" not in session.notes["comeback"][0][1]
    foreign.take(session, Foreign("A1111", "a cat", size=(768, 512)), "a.png")
    assert "size 768 x 512" in session.notes["comeback"][0][1]


def test_nothing_to_fill_in_is_said(session):
    session.plan.negative = ""
    foreign.take(session, Foreign("A1111", left=(("sampler", "Euler"),)), "a.png")
    assert session.notes["comeback"][0] == (
        "warn", "a.png holds settings of A1111, of which none could be filled in; without a place here: sampler Euler.")  # fmt: skip


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_a_graph_of_comfyui_is_named_and_nothing_is_changed(session, tmp_path, language):
    session.language, before = language, replace(session.plan)
    assert not comeback.load(session, str(png(tmp_path / "c.png", prompt=json.dumps(COMFY))))
    ((kind, sentence),) = session.notes["comeback"]
    assert kind == "bad" and "ComfyUI" in sentence and session.plan == before and session.filled is None
    assert bool(re.search(r"[\u3040-\u30ff]", sentence)) == (language == "ja") and ("graph" in sentence) == (language == "en")
    assert comeback.load(session, str(png(tmp_path / "n.png", Software="NovelAI", Comment=json.dumps(NOVELAI))))
    assert session.plan.prompts == ("1girl, {smile}",)
    assert not comeback.load(session, str(png(tmp_path / "x.png", Software="NovelAI", Comment="{}")))
    assert ("settings" in session.notes["comeback"][0][1]) == (language == "en")
    assert not comeback.load(session, str(png(tmp_path / "y.png", parameters="x" * 200_001)))
    assert ("characters" in session.notes["comeback"][0][1]) == (language == "en")
    assert not comeback.load(session, str(png(tmp_path / "z.png", "zTXt", workflow="{" * 2_000_000)))
    assert ("larger" in session.notes["comeback"][0][1]) == (language == "en")


def test_target_pictures_offer_what_they_say(session, tmp_path):
    from PIL import Image

    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "plain.png")
    comment = b"UNICODE\0" + TEXT.encode("utf-16-be")
    uploads.take(session, [str(with_comment(tmp_path / "a.jpg", comment)), str(tmp_path / "plain.png")])
    assert [picture.recipe is None for picture in session.pictures] == [False, True]
    assert texts.say("en", "foreign.use") in target.render(session) and texts.say("en", "target.use_recipe") not in target.render(session)
    target.take_recipe(session, {"index": "0"})
    assert session.plan.steps == 28 and "a.jpg" in session.notes["comeback"][0][1]


def test_every_kind_has_its_words():
    for language in texts.LANGUAGES:
        for kind in (*KINDS, "size"):
            words = foreign.left_words(state.Session(language=language), kind, "x")
            assert words and (language == "ja" or kind in ("size", "lora") or words == KINDS[kind].format("x"))
    assert reading.of_infotext(TEXT).left
