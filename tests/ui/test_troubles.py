"""Errors on screen are sentences of ours; a failing handler leaves no toast; what befalls one visitor's job leaves another's alone."""

from __future__ import annotations

import errno
import logging
import threading
import types

import gradio as gr
import httpx
import numpy as np
import pytest
import torch

from fusion import hosting
from fusion.ui import engine, events, fit, jobs, models_section, state, texts, troubles
from models import causes, hub
from models.errors import ModelError

WORDS = "operands could not be broadcast"
LIMIT = 60  # seconds until a thread that hangs fails its test


def raised(action) -> Exception:
    with pytest.raises(Exception) as caught:
        action()
    return caught.value


def throw(error: BaseException):
    raise error


TROUBLES = {  # kind -> an exception of it
    "memory": [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")],
    "connection": [httpx.ConnectError(WORDS), ConnectionResetError(WORDS), TimeoutError(WORDS), httpx.ReadTimeout(WORDS)],
    "download": [httpx.RemoteProtocolError(WORDS)],
    "permission": [PermissionError(errno.EACCES, WORDS, "/secret/place/a.png")],
    "missing": [FileNotFoundError(errno.ENOENT, WORDS, "/secret/place/a.png")],
    "gpu": [gr.Error(WORDS)],
    "unknown": [ValueError(WORDS), TypeError(WORDS), KeyError(WORDS), RuntimeError(WORDS), IndexError(WORDS)],
    "full": [OSError(errno.ENOSPC, WORDS)],
}


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, errors in TROUBLES.items() for error in errors])
def test_no_exception_speaks_for_itself(kind, error, language, caplog):
    session = state.Session(language=language)
    error = raised(lambda: throw(error))
    assert causes.kind(error) == kind
    said = troubles.explain(session, error)
    assert WORDS not in said and type(error).__name__ not in said and "/secret" not in said
    if kind not in ("memory", "full"):
        (record,) = caplog.records
        assert record.args[0] in said and record.exc_info[1] is error and WORDS in caplog.text
        name = {"name": "a.png"} if kind in ("permission", "missing") else {}
        assert said == texts.say(language, f"run.{kind}", reference=record.args[0], **name)


def test_a_sentence_of_ours_is_told_from_a_librarys_of_the_same_class():
    assert causes.ours(raised(lambda: throw(ModelError("cause and cure"))))
    assert not causes.ours(raised(lambda: np.zeros(2) + np.zeros(3)))
    assert not causes.ours(raised(lambda: texts.say("en", "run.progress", **{"done": 1})))
    assert not causes.ours(raised(lambda: engine.open_images(["/nowhere/a.png"])))


def test_int_of_a_word_inside_our_code_is_not_ours():
    made = types.FunctionType(compile("int('x')", "x", "exec"), {"__name__": "fusion.made"})
    wrote = types.FunctionType(compile("raise ValueError('cause and cure')", "x", "exec"), {"__name__": "fusion.made"})
    assert not causes.ours(raised(made)) and causes.ours(raised(wrote))


@pytest.mark.parametrize(("error", "kind"), [(TypeError(WORDS), "unknown"), (httpx.ConnectError(WORDS), "connection"),
                                             (torch.OutOfMemoryError(WORDS), "memory"), (ModelError("cause and cure"), "ours")])  # fmt: skip
def test_the_kind_of_a_failure_crosses_from_the_process_with_the_gpu(error, kind):
    wire = hosting.Wire()
    wire.work(lambda job: throw(error), ())
    name, content = wire.events.get_nowait()
    came = raised(lambda: hosting._heard(name, content, None))
    assert causes.kind(came) == kind
    said = troubles.explain(state.Session(), came)
    assert (said == "cause and cure") if kind == "ours" else WORDS not in said and type(error).__name__ not in said


def answered(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://hub")
    return httpx.HTTPStatusError(WORDS, request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("language", texts.LANGUAGES)
@pytest.mark.parametrize(("error", "said"), [
    (httpx.ConnectError(WORDS), "no answer from the hub"), (httpx.ReadTimeout(WORDS), "took too long"), (answered(429), "too often"),
    (answered(403), "refuses access"), (answered(503), "fault of its own"), (httpx.RemoteProtocolError(WORDS), "broke off"),
    (PermissionError(errno.EACCES, WORDS), "cannot be written"),
])  # fmt: skip
def test_a_hub_that_is_not_reached_is_told_without_its_clients_words(error, said, language, monkeypatch):
    def details(session, card):
        with hub.explained("owner/name", None):
            raise error

    monkeypatch.setattr(models_section, "details", details)
    monkeypatch.setattr(engine, "cards", dict)
    session = state.Session(language=language)
    models_section.add(session, {"value": "owner/name"})
    ((tone, shown),) = session.notes["models"]
    assert tone == "bad" and WORDS not in shown and type(error).__name__ not in shown and "owner/name" in shown
    assert said in shown if language == "en" else said not in shown and "取得できません" in shown


# ------------------------------------------------------------------------------------------------ events that raise

def test_a_handler_that_raises_is_said_in_its_place_and_the_next_event_clears_it(monkeypatch, caplog):
    session = state.Session()
    events.refresh(session)
    monkeypatch.setitem(events.ACTIONS, "toggle", lambda session, sent: throw(TypeError(WORDS)))
    out = events.on_act(session, types.SimpleNamespace(_data={"do": "toggle"}))
    ((tone, said),) = session.notes["page"]
    assert tone == "bad" and WORDS not in said and "TypeError" not in said and WORDS in caplog.text
    hero = out[list(events.PANELS).index("hero")]
    assert said in hero and len(out) == len(events.PANELS)
    events.on_act(session, types.SimpleNamespace(_data={"do": "sort"}))
    assert "page" not in session.notes


@pytest.mark.parametrize(("name", "inside", "before"), [
    ("on_upload", "uploads.take", 1), ("on_held", "measure.upload", 1), ("on_recipe", "uploads.take_back", 1),
])  # fmt: skip
def test_an_upload_that_raises_empties_its_field(name, inside, before, monkeypatch):
    session = state.Session()
    monkeypatch.setattr(f"fusion.ui.{inside}", lambda *_: throw(KeyError(WORDS)))
    out = getattr(events, name)(session, ["a.png"])
    assert out[:before] == [None] * before and len(out) == before + len(events.PANELS)
    assert WORDS not in session.notes["page"][0][1]


def test_a_panel_that_cannot_be_shown_leaves_the_others(monkeypatch):
    session = state.Session()
    monkeypatch.setitem(events.PANELS, "fit", lambda session: throw(TypeError(WORDS)))
    out = dict(zip(events.PANELS, events.refresh(session)))
    assert out["fit"] == gr.skip() and isinstance(out["models"], str)
    assert session.notes["page"][0][1] in out["hero"] and WORDS not in out["hero"]


def test_long_work_that_raises_around_its_job_ends_in_a_sentence(monkeypatch):
    def broken(session):
        yield
        raise TypeError(WORDS)

    monkeypatch.setitem(events.LONG, "fit", broken)
    session = state.Session(waiting="fit")
    list(events.long("fit")(session, types.SimpleNamespace(session_hash="x")))
    assert WORDS not in session.notes["fit"][0][1] and session.waiting == "" and session.job is None


# ------------------------------------------------------------------------------------------------ two visitors

@pytest.mark.parametrize("end", ["stop", MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), TypeError(WORDS)])
def test_the_end_of_one_visitors_job_is_not_anothers(end, monkeypatch):
    kept = object()
    monkeypatch.setattr(engine, "_ensembles", type(engine._ensembles)({("cpu", "a"): kept}))
    inside, go = threading.Event(), threading.Event()

    def long_work(job):
        inside.set()
        assert go.wait(LIMIT)
        return "whole"

    first, second = state.Session(), state.Session()
    one = jobs.Job("fit", long_work)
    two = jobs.Job("fit", lambda job: throw(end) if isinstance(end, Exception) else job.loading(1, 2))
    working = threading.Thread(target=lambda: list(fit.follow(first, one)))
    working.start()
    assert inside.wait(LIMIT)
    failing = threading.Thread(target=lambda: list(fit.follow(second, two)))
    failing.start()
    if end == "stop":  # while it waits for the device
        while second.job is None:
            failing.join(0.01)
        events.on_stop(second)
        failing.join(LIMIT)
        assert not failing.is_alive() and one.running
    assert not one.stopped()
    go.set()
    working.join(LIMIT)
    failing.join(LIMIT)
    assert one.result == "whole" and one.error is None and first.notes == {}
    assert two.error is not None and second.notes["fit"][0][0] == ("warn" if end == "stop" else "bad")
    assert engine._ensembles == {("cpu", "a"): kept}


def test_work_that_outlives_its_event_keeps_the_device_until_it_ends():
    inside, go, order = threading.Event(), threading.Event(), []

    def slow(job):
        inside.set()
        assert go.wait(LIMIT)
        order.append("slow")

    first, second = jobs.Job("fit", slow), jobs.Job("fit", lambda job: order.append("next"))
    first._thread.start()
    assert inside.wait(LIMIT)
    second._thread.start()
    with jobs.alone(wait=False) as free:
        assert not free
    go.set()
    for job in (first, second):
        job._thread.join(LIMIT)
    assert order == ["slow", "next"]


def test_models_are_not_warmed_up_while_another_draws(monkeypatch):
    session, loaded = state.Session(), []
    session.fit = object()
    monkeypatch.setattr(models_section, "chosen", lambda session: [])
    monkeypatch.setattr(state.Session, "stale", lambda self: False)
    monkeypatch.setattr(engine, "ensemble", loaded.append)
    monkeypatch.setattr(events, "refresh", lambda session: [])
    inside, go = threading.Event(), threading.Event()
    job = jobs.Job("fit", lambda job: (inside.set(), go.wait(LIMIT)))
    job._thread.start()
    assert inside.wait(LIMIT)
    events.on_warm(session)
    assert loaded == []
    go.set()
    job._thread.join(LIMIT)
    events.on_warm(session)
    assert loaded == [[]]


def test_what_a_failed_job_filled_is_let_go(monkeypatch):
    import weakref

    freed, held = [], []

    class Tensor:
        pass

    def work(job):
        big = Tensor()
        held.append(weakref.ref(big))
        raise MemoryError

    monkeypatch.setattr("fusion.memory.free", lambda: freed.append(held[0]() is None))
    session, job = state.Session(), jobs.Job("fit", work)
    list(fit.follow(session, job))
    assert freed == [True] and session.notes["fit"][0][1] == texts.say("en", "run.memory")


def test_the_log_is_where_the_reference_leads(caplog):
    with caplog.at_level(logging.ERROR):
        said = troubles.explain(state.Session(), raised(lambda: throw(KeyError("x"))))
    assert caplog.records[0].args[0] in said and len(caplog.records[0].args[0]) == 6
