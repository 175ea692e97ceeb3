"""What a visitor sees of an error is a sentence: kinds with cause and cure, others with a reference to the log; nobody else is touched."""

import logging
import re
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from fusion.methods import MethodError
from fusion.ui import engine, events, fit, jobs, state, texts, troubles
from models.causes import kind


def raised(make) -> Exception:
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def fails(error: Exception):
    def work(*_):
        raise error
    return work


STRANGE = {
    "connection": httpx.ConnectError("[Errno -2] Name or service not known"),
    "download": httpx.ReadError("peer closed connection without sending complete message body"),
    "permission": PermissionError(13, "Permission denied", "/secret/place/picture.png"),
    "missing": FileNotFoundError(2, "No such file or directory", "/secret/place/model.safetensors"),
    "memory": MemoryError("cannot allocate 3.2 GiB"),
    "unknown": KeyError("unet.down_blocks.0"),
}


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize("name", STRANGE)
def test_words_of_an_exception_never_reach_the_screen(name, language, caplog):
    session, error = state.Session(language=language), STRANGE[name]
    with caplog.at_level(logging.ERROR):
        said = troubles.explain(session, raised(fails(error)))
    assert kind(error) == name and type(error).__name__ not in said and "Errno" not in said and "/secret" not in said
    assert "down_blocks" not in said and "3.2 GiB" not in said and len(said) > 15
    assert bool(re.search(r"[\u3040-\u30ff]", said)) == (language == "ja")
    if name != "memory":
        reference = re.search(r"[0-9a-f]{6}", said).group()
        assert f"reference {reference}" in caplog.text and type(error).__name__ in caplog.text  # where the whole of it is


@pytest.mark.parametrize("make", [lambda: int("x"), lambda: np.zeros(2) + np.zeros(3), lambda: [][1], lambda: None.weights])
def test_a_libraries_own_words_are_no_sentence_of_ours(make):
    said = troubles.explain(state.Session(), raised(make))
    assert not re.search("invalid literal|broadcast|out of range|NoneType", said)


def test_sentences_of_ours_are_shown():
    assert "give numbers" in troubles.explain(state.Session(), raised(fails(MethodError("nothing to add: give numbers"))))


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return state.Session()


def test_a_handler_that_raises_leaves_a_sentence_and_the_page(session, monkeypatch):
    monkeypatch.setitem(events.ACTIONS, "tab", fails(TypeError("unhashable type: 'list'")))
    out = events.on_act(session, SimpleNamespace(_data={"do": "tab", "name": "level"}))
    assert len(out) == len(events.PANELS) and session.notes["page"][0][0] == "bad"
    assert "unhashable" not in str(out) and session.notes["page"][0][1] in str(out[list(events.PANELS).index("hero")])
    monkeypatch.setitem(events.ACTIONS, "tab", lambda *a: None)
    events.on_act(session, SimpleNamespace(_data={"do": "tab", "name": "level"}))
    assert "page" not in session.notes


def test_a_panel_that_cannot_be_drawn_leaves_the_others(session, monkeypatch):
    monkeypatch.setitem(events.PANELS, "evidence", fails(ZeroDivisionError("division by zero")))
    out = events.refresh(session)
    assert len(out) == len(events.PANELS) and "division by zero" not in str(out)
    assert session.notes["page"][0][0] == "bad" and "Models" in str(out[list(events.PANELS).index("models")])


def followed(session, job):
    """Run a job to its end, as a page's event does."""
    for _ in fit.follow(session, job):
        pass


@pytest.mark.parametrize("error", [MemoryError("x"), RuntimeError("CUDA out of memory"), KeyError("x"), ValueError("y")])
def test_one_visitors_failure_or_stop_never_reaches_another(session, monkeypatch, error):
    """The other's work goes on and ends, its ensemble stays loaded, and nothing is said to it."""
    kept = dict(engine._ensembles)
    other = state.Session()
    mine, theirs = jobs.Job("fit", fails(error)), jobs.Job("fit", lambda job: "whole")
    followed(session, mine)
    followed(other, theirs)
    assert theirs.result == "whole" and theirs.error is None and not theirs.stopped() and "fit" not in other.notes
    assert session.notes["fit"][0][0] == "bad" and dict(engine._ensembles) == kept
    mine.stop()
    assert not theirs.stopped() and jobs._device.acquire(blocking=False) and jobs._device.release() is None
