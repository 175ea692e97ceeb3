"""Captions of target pictures: nothing is presumed of a population, proposals are the example's own words, lists find their pictures."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from fusion.images import MAX_CAPTION
from fusion.ui import captions, comeback, engine, first_screen, fit, measure, state, target, texts, uploads
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


def test_what_the_visitor_says_of_all_pictures_goes_before_proposals(session):
    session.default_caption = "a drawing"
    uploads.take(session, [str(file) for file in sorted(target.folder_of("valley").glob("*.png"))])
    assert {(p.caption, p.proposed) for p in session.pictures} == {("a drawing", False)}


def test_a_list_comes_after_its_pictures_wherever_it_is_dropped(session, tmp_path):
    uploads.take(session, noise(tmp_path, 2))
    session.pictures[1].name = "IMG 1.png"  # the server takes what shells could misread out of names
    written = [{"file": "fit/0.png", "prompt": "a hen"}, {"file": "fit\\IMG? 1.png", "prompt": "a cat"}]
    (tmp_path / "words.json").write_text(json.dumps(written))
    uploads.take_back(session, [str(tmp_path / "words.json")])
    assert [p.caption for p in session.pictures] == ["a hen", "a cat"] and session.loaded is None
    assert session.notes["comeback"] == session.notes["target"] == [("info", "Captions taken from the list: for 2 of 2.")]


def test_a_list_without_its_pictures_leaves_the_example_as_it_is(session, tmp_path):
    target.take_example(session, {"name": "valley"})
    before = [p.caption for p in session.pictures]
    (tmp_path / "captions.json").write_text(json.dumps({"000.png": "a hen"}))
    uploads.take(session, [str(tmp_path / "captions.json")])
    assert [p.caption for p in session.pictures] == before
    assert session.notes["target"] == [("warn", texts.say("en", "captions.first"))]


@pytest.mark.parametrize("content", ["[", "{", "[]", "{}", '[{"file": "0.png"}]', '{"0.png": 5}', "[1, 2]", "[" + "9," * 600_000 + "9]"])
def test_a_list_that_is_none_gets_one_sentence_in_both_languages(session, tmp_path, content):
    (tmp_path / "captions.json").write_text(content)
    uploads.take(session, noise(tmp_path, 1))
    for language in texts.LANGUAGES:
        session.language = language
        uploads.take(session, [str(tmp_path / "captions.json")])
        ((kind, sentence),) = session.notes["target"]
        assert kind == "bad" and sentence.startswith("captions.json: ") and "comeback" not in session.notes
        assert ("cannot be used" in sentence) == (language == "en")


def test_proposed_and_missing_captions_are_both_said(session, tmp_path):
    uploads.take(session, [str(file) for file in sorted(target.folder_of("valley").glob("*.png"))])
    uploads.take(session, noise(tmp_path, 1))
    assert captions.advice(session) == f"{texts.say('en', 'captions.proposed')} {texts.say('en', 'captions.empty')}"
    shown = target.render(session)
    assert shown.count(f">{texts.say('en', 'captions.guess')}</small>") == 12
    target.caption(session, {"index": "0", "value": "a hen"})
    assert target.render(session).count("data-proposed") == 11


def test_images_that_the_models_drew_get_proposals_although_some_are_blurred(session):
    uploads.take(session, [str(file) for file in sorted(first_screen.FOLDER.glob("valley-*-?.png"))])
    by_name = {p.name: p for p in session.pictures}
    assert len(by_name) > 10 and sum(p.proposed for p in session.pictures) > len(by_name) / 2
    assert all(p.caption in ("", comeback.jobs_of(p.recipe)[p.recipe.picture][0]) for p in session.pictures)


def test_captions_beside_pictures_come_with_them_or_after_them(session, tmp_path):
    files = noise(tmp_path, 3)
    (tmp_path / "0.txt").write_text("a hen")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "train/1.png", "text": "a cat"}\n')
    uploads.take(session, [*files, str(tmp_path / "0.txt"), str(tmp_path / "metadata.jsonl")])
    assert [p.caption for p in session.pictures] == ["a hen", "a cat", ""]
    assert session.notes["target"] == [("info", texts.say("en", "captions.taken", count=1, total=3))]
    (tmp_path / "2.caption").write_text("a dog")
    uploads.take(session, [str(tmp_path / "2.caption")])
    assert [p.caption for p in session.pictures] == ["a hen", "a cat", "a dog"] and "target" not in session.notes


def test_a_zip_of_a_folder_is_taken_with_its_captions(session, tmp_path):
    (file,) = noise(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(file, "set/0.png")
        archive.writestr("set/0.txt", "a hen")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    uploads.take(session, [str(tmp_path / "set.zip"), str(tmp_path / "bad.zip")])
    assert [(p.name, p.caption) for p in session.pictures] == [("0.png", "a hen")]
    assert [kind for kind, _ in session.notes["target"]] == ["bad"]


@pytest.mark.parametrize("take, kept", [(uploads.take, "pictures"), (measure.upload, "held")])
def test_target_and_held_out_pictures_are_taken_alike(session, tmp_path, take, kept):
    files = noise(tmp_path, 6)
    for n in (0, 1):
        (tmp_path / f"{n}.txt").write_text(f"a hen {n}")
    (tmp_path / "2.json").write_text('{"caption": "a cow"}')
    (tmp_path / "metadata.csv").write_text("file_name,text\n3.png,a cat\ngone.png,x\nlost.png,x\n")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(files[4], "set/cats/1.png")
        archive.writestr("set/cats/1.txt", "a cat in a zip")
        archive.write(files[5], "set/dogs/1.png")
    beside = [str(tmp_path / name) for name in ("0.txt", "1.txt", "2.json", "metadata.csv", "set.zip")]
    take(session, [*files[:4], *beside])
    found = [(p.name, p.caption) for p in getattr(session, kept)]
    assert found[:4] == [("0.png", "a hen 0"), ("1.png", "a hen 1"), ("2.png", "a cow"), ("3.png", "a cat")]
    assert found[4:] == [("1.png", "a cat in a zip"), ("1.png", "")]
    (tmp_path / "captions.json").write_text(json.dumps({"dogs/1.png": "a dog"}))
    (tmp_path / "9.txt").write_text("nobody")
    place = "target" if kept == "pictures" else "held"
    assert any("not here: 2, such as gone.png" in sentence for _, sentence in session.notes[place])
    take(session, [str(tmp_path / "captions.json"), str(tmp_path / "9.txt")])
    assert [p.caption for p in getattr(session, kept)][4:] == ["a cat in a zip", "a dog"]
    assert ("warn", f"9.txt: {texts.say('en', 'captions.alone')}") in session.notes[place]


def test_a_zip_with_kohyas_folders_and_masks(session, tmp_path):
    files = noise(tmp_path, 4)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(files[0], "10_a hen/1.png")
        archive.write(files[1], "5_a cat/1.png")
        archive.write(files[2], "5_a cat/1-masklabel.png")
        archive.write(files[3], "5_a cat/masks/1.png")
    uploads.take(session, [str(tmp_path / "set.zip")])
    assert [p.caption for p in session.pictures] == ["a hen", "a cat"]
    said = [sentence for _, sentence in session.notes["target"]]
    assert any(s.startswith("10_a hen: Its name gives the caption 'a hen'") for s in said)
    assert sum("Masks are not read" in s for s in said) == 1
    (tmp_path / "9.txt").write_text("x")
    uploads.take(session, [str(tmp_path / "9.txt")])
    assert [p.caption for p in session.pictures] == ["a hen", "a cat"] and len(session.notes["target"]) == 1  # said once


def test_files_of_no_use_are_passed_over_beside_pictures_and_said_alone(session, tmp_path):
    side = {"model.safetensors": b"\0\1\2" * 9, "Thumbs.db": b"\xd0", "0.npz": b"x", "README.txt": b"x", "README.md": b"x", "x.yaml": b"x"}
    for name, content in side.items():
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in side]
    uploads.take(session, [*noise(tmp_path, 1), *files])
    assert len(session.pictures) == 1 and "target" not in session.notes
    uploads.take(session, files[:1])
    assert [sentence.split(":")[0] for _, sentence in session.notes["target"]] == ["model.safetensors"]


def test_what_is_said_of_captions_is_said_in_japanese(session, tmp_path):
    session.language = "ja"
    files = noise(tmp_path, 3)
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a cat\ngone.png,x\n")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(files[1], "10_hen/1.png")
        archive.write(files[2], "10_hen/1_mask.png")
    uploads.take(session, [files[0], str(tmp_path / "metadata.csv"), str(tmp_path / "set.zip")])
    said = [sentence for _, sentence in session.notes["target"]]
    assert len(said) == 4 and all(any("\u3040" <= c <= "\u30ff" for c in sentence) for sentence in said), said


def test_a_typed_caption_that_is_cut_is_said_until_it_is_shorter(session, tmp_path):
    uploads.take(session, noise(tmp_path, 1))
    one = lambda text: target.caption(session, {"index": "0", "value": text})
    for act in (one, lambda text: captions.set_default(session, {"value": text})):
        act("x" * (MAX_CAPTION + 1))
        assert session.pictures[0].caption == "x" * MAX_CAPTION
        assert texts.say("en", "captions.cut", most=MAX_CAPTION) in target.render(session)
        act("x" * MAX_CAPTION)
        assert "caption" not in session.notes and "maxlength=\"4000\"" not in target.render(session)
        one("")


@pytest.mark.parametrize("take, kept", [(uploads.take, "pictures"), (measure.upload, "held")])
def test_pictures_of_one_name_from_two_folders_keep_their_captions(session, tmp_path, take, kept):
    for n, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name / "1.png")
        (tmp_path / name / "1.txt").write_text(name)
        take(session, [str(tmp_path / name / "1.png"), str(tmp_path / name / "1.txt")])
    assert [p.caption for p in getattr(session, kept)] == ["cats", "dogs"]
    (tmp_path / "cats" / "1.txt").write_text("two cats")
    take(session, [str(tmp_path / "cats" / "1.png"), str(tmp_path / "cats" / "1.txt")])
    assert [p.caption for p in getattr(session, kept)] == ["two cats", "dogs"]
