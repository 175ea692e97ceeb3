"""The first screen says what was measured, also when a blend loses, and is honest without its files."""

from __future__ import annotations

import copy
import json
import re

import pytest
from PIL import Image

from fusion.ui import engine, evidence, first_screen, state, texts

DATA = {
    "schema": 1,
    "target": "valley",
    "members": ["a", "b", "c"],
    "names": ["Harbor", "Summit", "Meadow"],
    "images": 12,
    "files": ["000.png"],
    "proportions": [0.61, 0.27, 0.12],
    "interval": [[0.4, 0.8], [0.1, 0.5], [0.0, 0.3]],
    "p_value": 0.4,
    "outside": False,
    "published": [0.36, 0.33, 0.31],
    "prompts": ["p"],
    "seeds": [0],
    "steps": 20,
    "rows": [
        {
            "method": m,
            "member": "Harbor" if m == "single" else None,
            "weights": [0.6, 0.3, 0.1],
            "shots": [{"file": "x.png", "seed": 0, "prompt": "p", "member": None}],
        }
        for m in ("single", "scorefusion", "mixture")
    ],
    "distances": [
        {"method": m, "value": v, "low": v - 0.02, "high": v + 0.02, "floor": 0.04, "samples": 512}
        for m, v in (("single", 0.31), ("scorefusion", 0.25), ("mixture", 0.07))
    ],
}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """`shown(data, language) -> text` of the first screen with these measurements; None for none."""

    def render(data: dict | None, language: str = "en") -> str:
        first_screen.stored.cache_clear()
        folder = tmp_path / "first_screen"
        folder.mkdir(exist_ok=True)
        (folder / "valley.json").unlink(missing_ok=True)
        if data is not None:
            (folder / "valley.json").write_text(json.dumps(data))
        monkeypatch.setattr(first_screen, "FOLDER", folder)
        monkeypatch.setattr(engine, "ASSETS", tmp_path)
        return re.sub(r"<[^>]+>", "", first_screen.render(state.Session(language=language, example="valley"))).replace("\u202f", " ")

    yield render
    first_screen.stored.cache_clear()


def changed(**distances) -> dict:
    data = copy.deepcopy(DATA)
    for entry in data["distances"]:
        value = distances.get(entry["method"], entry["value"])
        entry.update(value=value, low=value - 0.02, high=value + 0.02)
    return data


def test_it_answers(shown):
    text = shown(DATA)
    assert "Which mix these are cannot be told from 12 images yet; likeliest is 61 % Harbor, 27 % Summit and 12 % Meadow." in text
    assert "come within 0.07 of that population. The nearest single model: 0.31." in text
    assert "512 samples" in text and "0.04" in text


def test_the_headline_states_what_is_settled_and_no_more(shown):
    narrow = copy.deepcopy(DATA) | {"interval": [[0.55, 0.7], [0.2, 0.35], [0.05, 0.2]], "images": 48}
    assert "These 48 images look like 61 % Harbor, 27 % Summit and 12 % Meadow." in shown(narrow)
    most = narrow | {"interval": [[0.52, 0.9], [0.0, 0.4], [0.0, 0.3]]}
    assert "More than half of what these 48 images show is Harbor (52 to 90 %)." in shown(most)
    outside = narrow | {"outside": True, "p_value": 0.002}
    assert "No mix of these models explains these 48 images." in shown(outside) and "61 % Harbor," not in shown(outside)
    assert "cannot be told from one image" in shown(copy.deepcopy(DATA) | {"images": 1, "interval": [[0, 1]] * 3})


def test_it_says_so_when_fusion_loses_or_ties(shown):
    assert "Here one single model is closer: 0.02" in shown(changed(single=0.02))
    assert "Here fusion gains little" in shown(changed(single=0.08))


def test_it_says_so_when_the_images_decide_nothing_or_lie_outside(shown):
    wide = copy.deepcopy(DATA) | {"interval": [[0.0, 0.9], [0.0, 0.9], [0.0, 0.3]]}
    assert texts.say("en", "fit.undecided") in shown(wide) and texts.say("en", "fit.undecided") not in shown(DATA)
    assert "Part of these images is like none of these models" in shown(copy.deepcopy(DATA) | {"outside": True, "p_value": 0.002})


def test_the_evidence_calls_the_nearest_single_model_as_the_first_screen_does(shown):
    shown(DATA)
    table = evidence._measured(state.Session(example="valley"))
    assert "Nearest single model" in table and "Best single model" not in table and "Mix" in table


def test_ties_lead_together_and_what_is_far_is_called_far(shown):
    tie = changed(scorefusion=0.08)
    assert "Samples made by Mix and Published weights come within 0.07" in shown(tie) and "Nothing comes close" not in shown(tie)
    assert len(first_screen._leading(tie)) == 2 and len(first_screen._leading(DATA)) == 1
    assert "Nothing comes close" in shown(changed(single=0.7, scorefusion=0.6, mixture=0.55))


def test_own_pictures_have_an_answer_of_their_own_until_an_example_is_chosen(shown, tmp_path, monkeypatch):
    from tests.fusion import small

    shown(DATA)
    found = small.fit(small.ensemble(tmp_path / "models"))
    session = state.Session(selected=["a", "b", "c"])
    session.pictures = [state.Picture(image, "x.png", "a cat", f"{tmp_path}/{n}.png") for n, image in enumerate(small.pictures(3))]
    assert "Harbor" in first_screen.render(session)  # not fitted yet: the example's
    session.take_fit(found, ("a", "b", "c"))
    text = first_screen.render(session)
    assert "Your images" in text and "Harbor" not in text and text.count("width=\"52\"") == 3 and "come within" not in text
    session.selected = ["a", "b"]
    assert "Harbor" in first_screen.render(session)  # older settings: no answer to these


def test_in_japanese(shown):
    text = shown(DATA, "ja")
    assert "12 枚では、どの混合かはまだ分かりません" in text
    assert not re.search(r"[a-z]{5,}", text.replace("Harbor", "").replace("Summit", "").replace("Meadow", ""))


@pytest.mark.parametrize("data", [None, DATA | {"schema": 99}])
def test_without_files_it_asks_the_question_and_names_one_action(shown, data):
    text = shown(data)
    assert texts.say("en", "hero.empty") in text and texts.say("en", "hero.own") in text


def test_a_name_from_outside_reads_no_other_file(shown):
    shown(DATA)
    assert first_screen.stored("../first_screen/valley") is None


def test_the_thumbnail_is_a_row():
    from fusion.ui.first_screen_make import _thumbnail

    assert _thumbnail([Image.new("RGB", (64, 64))] * 6).size == (384, 64)
