"""Words that text encoders do not read: named at the field, under the picture and in the report, once the models are in memory."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from fusion.evaluation import compare as weigh
from fusion.ui import compare, engine, measured, models_section, report, state, target, texts, unread
from models import reading

LONG = "a cat with a very long tail"  # the tiny tokenizer spells, and reads 14 letters


@pytest.fixture
def visitor(tiny_ensemble, tiny_cards, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))

    def made(kind: str, there: bool = True, **plan):
        together = tiny_ensemble(kind)
        cards = {card.id: card for card in tiny_cards(kind)}
        monkeypatch.setattr(engine, "cards", lambda: cards)
        monkeypatch.setattr(engine, "loaded", lambda chosen: together if there else None)
        session = state.Session(selected=list(cards), plan=state.Plan(**plan))
        assert len(models_section.chosen(session)) == len(together.members)
        return session

    return made


def test_prompts_are_named_where_a_family_cuts_them(visitor):
    session = visitor("sd3", prompts=("a cat", LONG), negative="a dog with a very long tail <b>")
    drawn = compare._plan(session)
    assert drawn.count('role="status"') == 2 and "cannot read “long tail”" in drawn and "long tail &lt;b&gt;" in drawn
    (sentence,) = unread.sentences(session, "prompt", session.plan.prompts)
    assert re.fullmatch(r"The prompt is too long; .*'s text_encoder and .*'s text_encoder_2 cannot read “long tail”\.", sentence)
    session.language = "ja"
    (sentence,) = unread.sentences(session, "negative", [session.plan.negative])
    assert "「long tail <b>」を読みません" in sentence and "ネガティブ" in sentence


def test_nothing_is_said_where_all_is_read_or_nobody_can_tell(visitor, monkeypatch):
    assert "unread-" not in compare._plan(visitor("sd", prompts=(LONG,), negative=LONG)), "read whole, in stretches"
    assert "unread-" not in compare._plan(visitor("sd3", prompts=("a cat",)))
    monkeypatch.setattr(engine, "ensemble", lambda *_: pytest.fail("loaded"))
    assert "unread-" not in compare._plan(visitor("sd3", there=False, prompts=(LONG,)))


def test_captions_are_named_under_their_picture_whatever_the_family(visitor, tmp_path):
    session = visitor("sd")
    image = Image.new("RGB", (16, 16))
    session.pictures = [state.Picture(image, "a.png", LONG, "a"), state.Picture(image, "b.png", "a cat", "b")]
    drawn = target.render(session)
    assert drawn.count("cannot read “long tail”") == 1 and 'aria-describedby="said-0"' in drawn and "said-1" not in drawn


def test_a_text_is_looked_at_once(visitor, monkeypatch):
    session, looks = visitor("sd3", prompts=("a fox with a very long tail",)), []
    real = reading.dropped
    monkeypatch.setattr(reading, "dropped", lambda *given, **more: looks.append(given[1]) or real(*given, **more))
    first = compare._plan(session)
    assert compare._plan(session) == first and looks == [["a fox with a very long tail"]]
    session.plan.prompts += ("a hen",)
    assert "long tail" in compare._plan(session) and looks[1:] == [["a hen"]]
    monkeypatch.setattr(unread, "KEPT", 1)
    assert len(unread.rows(session, "prompt", [LONG, "b" * 30, "c" * 30])) == 6, "more texts than are kept"


def test_many_texts_are_a_short_list(visitor):
    session = visitor("sd3", prompts=tuple(f"{letter} cat with a very long tail" for letter in "abcdefg"))
    assert unread.at_field(session, "prompt", session.plan.prompts).count("<li>") == unread.LINES + 1


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_report_lists_them(visitor, language):
    session = visitor("sd3", prompts=("a cat", LONG))
    session.language = language
    session.pictures = [state.Picture(Image.new("RGB", (16, 16)), "a.png", LONG, "a")] * 2
    heading, *said = report._unread(session)
    assert heading == ("heading", texts.say(language, "unread.title")) and len(said) == 2
    assert all(kind == "text" and LONG in text and text.count("long tail") == 2 for kind, text in said)
    session.pictures, session.plan.prompts = [], ("a cat",)
    assert report._unread(session) == []


def test_a_comparison_keeps_what_was_not_read_in_all_its_forms(visitor, tiny_ensemble):
    session, together = visitor("sd3"), tiny_ensemble("sd3")
    found = weigh(together, ["uniform"], [LONG], [0], steps=1, guidance=2.0, negative_prompt="a dog with a very long tail")
    rows = found.to_dict()["not_read"]
    assert {(row["what"], row["not_read"], row["by"]) for row in rows} == {
        (what, "long tail", by) for what in ("prompt", "negative prompt") for by in ("text_encoder", "text_encoder_2")}  # fmt: skip
    assert json.loads(found.to_json())["not_read"] == rows
    (prompt, negative) = found.unread_words()
    assert prompt.startswith(f'The prompt "{LONG}" is too long; not read by ') and prompt.endswith(': "long tail"')
    assert negative.startswith("The negative prompt") and prompt in found.to_text() and "<h2>Not read</h2>" in found.to_html()
    assert len(measured._unread(session, found.to_dict())) == 2
    assert "Not read" not in weigh(together, ["uniform"], ["a cat"], [0], steps=1).to_html()


def test_every_kind_has_its_words():
    assert {f"unread.{kind}" for kind in unread.KINDS} <= set(texts.table())
