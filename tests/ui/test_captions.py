"""Captions of target pictures: nothing is presumed of a population, proposals are the example's own words, lists find their pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fusion.ui import captions, engine, fit, state, target, texts, uploads
from models.portraits.population import PRESENTATIONS


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    return state.Session(selected=list(engine.DEFAULT_MODELS))


def noise(folder, count: int) -> list[str]:
    for n in range(count):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"{n}.png")
    return [str(folder / f"{n}.png") for n in range(count)]


@pytest.mark.parametrize("example", target.EXAMPLES)
def test_portraits_dropped_without_captions_get_the_very_captions_of_the_example(session, example):
    folder = target.folder_of(example)
    uploads.take(session, [str(file) for file in sorted(folder.glob("*.png"))])
    known = target.captions_of(folder)
    assert len(session.pictures) == 12
    assert {p.name: p.caption for p in session.pictures} == known and all(p.proposed for p in session.pictures)
    assert not any(word in p.caption.split() for p in session.pictures for word in PRESENTATIONS)
    assert "italics" in target.render(session) and target.render(session).count("data-proposed") == 12


def test_nothing_is_proposed_for_other_pictures_or_models(session, tmp_path):
    uploads.take(session, noise(tmp_path, 8))
    assert {p.caption for p in session.pictures} == {""} and "no caption" in target.render(session)
    session.selected, session.pictures = [], []
    uploads.take(session, [str(file) for file in sorted(target.folder_of("valley").glob("*.png"))])
    assert {p.caption for p in session.pictures} == {""}


def test_what_the_visitor_writes_is_no_proposal_and_the_default_fills_what_is_empty(session, tmp_path):
    uploads.take(session, noise(tmp_path, 3))
    target.caption(session, {"index": "1", "value": "a hen"})
    captions.set_default(session, {"value": "a cat"})
    assert [p.caption for p in session.pictures] == ["a cat", "a hen", "a cat"]
    target.caption(session, {"index": "1", "value": " "})
    assert session.pictures[1].caption == "a cat" and captions.advice(session) == texts.say("en", "captions.same")
    captions.set_default(session, {"value": ""})
    assert {p.caption for p in session.pictures} == {""}


@pytest.mark.parametrize("content", [
    [{"file": "0.png", "prompt": "a hen"}, {"file": "gone.png", "prompt": "x"}], {"0.png": "a hen", "gone.png": "x"},
])  # fmt: skip
def test_a_list_of_captions_finds_its_pictures(session, tmp_path, content):
    (tmp_path / "captions.json").write_text(json.dumps(content))
    uploads.take(session, [*noise(tmp_path, 2), str(tmp_path / "captions.json")])
    assert [p.caption for p in session.pictures] == ["a hen", ""]
    assert [kind for kind, _ in session.notes["target"]] == ["warn", "info"] and "gone.png" in session.notes["target"][0][1]
    assert "comeback" not in session.notes  # it is no broken recipe


def test_a_broken_list_is_said_and_changes_nothing(session, tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps([{"file": "0.png"}]))
    uploads.take(session, [*noise(tmp_path, 1), str(tmp_path / "captions.json")])
    assert session.pictures[0].caption == "" and "an entry lacks" in session.notes["target"][0][1]


def test_the_warning_names_captions_that_make_pictures_look_foreign(session):
    class Calibrated:
        outside_, p_value_, captions_ = True, 0.002, 1
        interval_ = np.array([[0.0, 0.1], [0.2, 0.3]])

    class Found:
        calibrated, gram, undecided = Calibrated, [1, 2, 3], False
        published = type("Published", (), {"determined_": True})

    session.fit = Found
    assert texts.say("en", "fit.captions") in fit.verdicts(session)[0][1]
    Calibrated.captions_ = 3
    assert texts.say("en", "fit.captions") not in fit.verdicts(session)[0][1]
