"""What a browser sends is anything: values of every kind under every name, forged uploads, more than a page gives."""

from __future__ import annotations

import itertools
import json
import logging
import urllib.request

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from fusion import hosting
from fusion.ui import arriving, draw, events, measure, page, state, uploads
from fusion.ui.evidence import TABS
from fusion.ui.target import EXAMPLES

ANYTHING = [None, True, 5, -1, 10**4000, 0.5, float("nan"), float("inf"), 10**400, "", "0", "-1", "9" * 5000, "\ud800", "a\0b", "x" * 10**5,
            "٣", [1], [[]], ["id"], {}, {"id": 1}, [None] * 100]  # fmt: skip


@pytest.mark.parametrize("do", [*events.ACTIONS, None, [1], {"a": 1}, 5])
def test_no_value_under_any_name_raises(do, monkeypatch):
    monkeypatch.setattr("fusion.ui.models_section.details", lambda session, card: ([], []))
    for name, value in itertools.product(("id", "name", "value", "index", "side", "table"), ANYTHING):
        session = state.Session()
        session.pictures = [state.Picture(Image.new("RGB", (16, 16)), "a.png", "", "a.png", "", None)]
        action = events.ACTIONS.get(arriving.checked({"do": do, name: value}).get("do"))
        if action is not None:
            for other in ({}, {"name": "prompts"}, {"name": "guidance"}, {"name": "first_seed"}, {"index": 0}):
                action(session, arriving.checked({**other, "do": do, name: value}))
        assert session.language in ("en", "ja") and session.tab in TABS


@pytest.mark.parametrize("value", ANYTHING)
def test_the_handlers_answer_whatever_is_sent(value):
    session = state.Session()
    for sent in (value, {"do": value}, {"do": "toggle", "id": value}, {"do": "language", "value": value}):
        assert len(page.on_act(session, gr.EventData(None, sent))) == len(page.PANELS)
    for sent in (value, {"weights": value, "mode": "mix"}, {"mode": value}, {"count": value}):
        events.on_release(session, gr.EventData(None, sent))
        events.on_mode(session, gr.EventData(None, sent))


def test_what_is_of_its_kind_passes_unchanged():
    sent = {"do": "plan", "name": "steps", "value": "20", "index": "3", "weights": [0.5, 0.5], "count": 4, "id": "portraits/harbor"}
    assert arriving.checked(sent | {"unknown": 1}) == sent
    assert arriving.checked({"value": False, "index": 0}) == {"value": False, "index": 0}
    assert arriving.checked({"value": "a\ud800b\0c\n d"}) == {"value": "abc\n d"}


def test_a_forged_upload_is_one_line_of_the_log(tmp_path, caplog, capfd):
    built = page.build()
    _, address, _ = page.launch(built, prevent_thread_lock=True, server_port=None)
    try:
        at = next(i for i, fn in built.fns.items() if fn.api_name == "upload_target")
        forged = [[{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], [{"path": "x\ny", "url": "http://127.0.0.1:1/"}],
                  "/etc/passwd", 5, [[1]], {"path": ["a"]}]  # fmt: skip
        with caplog.at_level(logging.WARNING, logger="fusion.ui.arriving"):
            for n, files in enumerate(forged):
                body = json.dumps({"data": [None, files], "fn_index": at, "session_hash": f"forged{n}"}).encode()
                request = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request).read()
                events_ = urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=forged{n}").read().decode()
                assert '"success":false' in events_ and "passwd" not in events_
    finally:
        built.close()
    said = [r.getMessage() for r in caplog.records if r.name == "fusion.ui.arriving"]
    assert len(said) == len(forged) and all("\n" not in line and len(line) < 320 for line in said)
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.fixture
def demo(monkeypatch):
    hosting.target.cache_clear()
    monkeypatch.setenv(hosting.TARGET, "cpu-demo")
    monkeypatch.setenv("SPACE_ID", "owner/space")
    yield hosting.limits()
    hosting.target.cache_clear()


def test_pictures_beyond_a_hosted_page_s_limit_are_left_out_when_they_arrive(demo, tmp_path, monkeypatch):
    monkeypatch.setattr("fusion.ui.captions.proposed", lambda session, images: [""] * len(images))
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{n}.png" for n in range(demo.images + 3)]
    for file in files:
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file)
    session, other = state.Session(), state.Session()
    uploads.take(session, [str(file) for file in files])
    assert len(session.pictures) == demo.images
    assert ("bad", session.tell("target.most", most=demo.images, count=3)) in session.notes["target"]
    measure.upload(other, [str(file) for file in files])
    assert len(other.held) == demo.images


@pytest.mark.parametrize("way", ["prepared", "samples", "measured"])
def test_training_beyond_a_hosted_page_s_limit_is_refused_by_every_way_in(demo, tiny_ensemble, monkeypatch, way):
    from types import SimpleNamespace

    name = "finetune"
    cost = SimpleNamespace(training_seconds=1.5, preparation=0)
    method = SimpleNamespace(prepare=lambda *a: pytest.fail("it trained"), cost=lambda *a: cost)
    monkeypatch.setattr("fusion.methods.METHODS", {name: method})
    monkeypatch.setattr(hosting, "offered", lambda _name: True)
    monkeypatch.setattr(draw, "ensemble", lambda *a: tiny_ensemble("sd"))
    monkeypatch.setattr(hosting, "call", lambda *a, **k: pytest.fail("the work began"))
    cards, result = tiny_ensemble("sd").cards, SimpleNamespace(trained={}, matched=None, gram=SimpleNamespace(strata=[0, 1]))
    plan, job = state.Plan(prompts=("a dog",), count=1, steps=2, methods=(name,)), SimpleNamespace(loading=None)
    work = {"prepared": lambda: draw.prepared(cards, result, name, plan, job=job, stage="training"),
            "samples": lambda: list(draw.samples(cards, result, name, plan, None, job=job)),
            "measured": lambda: draw.measured(cards, result, plan, {}, [], count=1, first_seed=0, yours="uniform", job=job)}  # fmt: skip
    with pytest.raises(ValueError, match="no seconds of training"):
        work[way]()


def test_a_picture_with_a_recipe_is_decoded_under_the_intake_s_limit(tmp_path, monkeypatch):
    from fusion.recipe import RecipeError
    from fusion.ui import comeback

    Image.new("RGB", (20, 10)).save(tmp_path / "wide.png")
    assert comeback._pixels(str(tmp_path / "wide.png")).size == (20, 10)
    (tmp_path / "cut.png").write_bytes((tmp_path / "wide.png").read_bytes()[:50])
    with pytest.raises(RecipeError, match="cannot be read as PNG"):
        comeback._pixels(str(tmp_path / "cut.png"))
    monkeypatch.setattr("fusion.images.MAX_PIXELS", 199)
    monkeypatch.setattr(Image.Image, "convert", lambda *a, **k: pytest.fail("it was decoded"))
    with pytest.raises(RecipeError, match="20 x 10 pixels"):
        comeback._pixels(str(tmp_path / "wide.png"))


def test_examples_hold_no_more_than_the_smallest_page_gives(demo):
    from fusion.ui import target

    for name in EXAMPLES:
        if target.has_example(name):
            session = state.Session()
            target.take_example(session, {"name": name})
            assert len(session.pictures) <= demo.images
