"""The page's wiring: nothing is public by accident, the server is closed, unknown events do nothing."""

from __future__ import annotations

import inspect
import socket

import gradio as gr
import pytest

import app
from fusion.ui import engine, page, reading, server, state


@pytest.fixture(scope="module")
def built():
    return page.build()


def test_no_event_is_public(built):
    events = [e for e in built.config["dependencies"]]
    assert len(events) > 20
    assert all(e["api_visibility"] == "private" for e in events if e["targets"] and e["targets"][0][1] != "unload"), [
        e["api_name"] for e in events
    ]


def test_one_device_queue(built):
    long = [f for f in built.fns.values() if f.concurrency_id == "device"]
    assert {f.api_name for f in long} == set(page.LONG)
    assert all(f.concurrency_limit == 1 for f in long)


def test_a_port_that_cannot_be_served_at_is_refused_before_the_page_is_built(monkeypatch, capsys):
    monkeypatch.setattr(app, "build", lambda: pytest.fail("the page was built"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=f"error: port {port} is taken: choose another with --port, or leave --port out"):
            app.main(["--port", str(port)])
    server.refuse_taken(port)  # free again at once
    for typed in ("0", "65536", "99999", "-1", "x"):
        with pytest.raises(SystemExit):
            app.main([f"--port={typed}"])
        assert "must be a whole number from 1 to 65535" in capsys.readouterr().err


def test_the_probe_is_not_built_while_a_model_is_loaded(monkeypatch):
    """Loading patches torch for every thread, so a probe that was built meanwhile would hold no numbers, for every visitor."""
    import threading

    import numpy as np
    from accelerate import init_empty_weights
    from PIL import Image

    from models.portraits import probe

    loading, go, read = threading.Event(), threading.Event(), []

    def load_ensemble(chosen, **_settings):
        with init_empty_weights():
            loading.set()
            go.wait(600)

    monkeypatch.setattr("models.loading.load_ensemble", load_ensemble)
    monkeypatch.setattr(engine, "_ensembles", engine.OrderedDict())
    probe.load.cache_clear()
    image = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    visitors = [threading.Thread(target=engine.ensemble, args=([],)),
                threading.Thread(target=lambda: read.append(reading.audit([("one", [image], 1)])))]  # fmt: skip
    visitors[0].start()
    assert loading.wait(600)
    visitors[1].start()
    visitors[1].join(0.3)
    assert not read
    go.set()
    for visitor in visitors:
        visitor.join(600)
    assert read[0][0]["count"] == 1 and next(probe.load().parameters()).device.type == "cpu"


def test_the_server_is_closed(monkeypatch):
    seen = {}
    monkeypatch.delenv("SPACE_ID", raising=False)
    page.launch(type("Fake", (), {"queue": lambda self, **k: None, "launch": lambda self, **k: seen.update(k)})())
    expected = dict(
        server_name="127.0.0.1",
        share=False,
        show_error=False,
        allowed_paths=[],
        enable_monitoring=False,
        ssr_mode=False,
        strict_cors=True,
        run_history=False,
        footer_links=[],
        mcp_server=False,
    )
    assert {k: seen[k] for k in expected} == expected and seen["max_file_size"]
    assert set(seen) <= set(inspect.signature(gr.Blocks.launch).parameters)
    monkeypatch.setenv("SPACE_ID", "owner/space")
    page.launch(type("Fake", (), {"queue": lambda self, **k: None, "launch": lambda self, **k: seen.update(k)})())
    assert seen["server_name"] == "0.0.0.0"


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"do": "nonsense"},
        {"do": None},
        {"do": "toggle"},
        {"do": "toggle", "id": "../x"},
        {"do": "levels", "value": "9999"},
        {"do": "plan", "name": "steps", "value": "-5"},
        {"do": "tab", "name": "<x>"},
        {"do": "vote", "side": "7"},
        {"do": "language", "value": "xx"},
        "text",
        None,
    ],
)
def test_odd_events_do_no_harm(sent):
    session = state.Session()
    out = page.on_act(session, gr.EventData(None, sent))
    assert len(out) == len(page.PANELS) and session.language == "en" and session.level_count == 16


def test_only_changes_travel():
    session = state.Session()
    first, second = page.refresh(session), page.refresh(session)
    assert all(not _skipped(v) for v in first) and all(_skipped(v) for v in second)
    page.on_act(session, gr.EventData(None, {"do": "tab", "name": "metrics"}))
    assert session.tab == "metrics"


def _skipped(value) -> bool:
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def test_visitors_share_nothing():
    one, other = state.Session(), state.Session()
    page.on_act(one, gr.EventData(None, {"do": "language", "value": "ja"}))
    page.on_act(one, gr.EventData(None, {"do": "method", "name": "uniform"}))
    assert other.language == "en" and other.plan.methods == state.Plan().methods
