"""The address round trip, and that one visitor's state is never another's."""

from __future__ import annotations

import copy
from urllib.parse import parse_qsl

import numpy as np
import pytest

from fusion.ui import address, state

KNOWN = {"a", "b", "c"}


def made() -> state.Session:
    session = state.Session(language="ja", selected=["a", "c"], mode="blend", example="valley")
    session.weights["blend"] = np.array([0.25, 0.75])
    session.plan = state.Plan(prompts=("one & two", "three"), first_seed=7, count=2, steps=9)
    return session


def test_the_address_restores_the_state():
    session = state.Session()
    assert address.restore(session, dict(parse_qsl(address.query(made())[1:])), KNOWN) == []
    assert (session.language, session.selected, session.mode) == ("ja", ["a", "c"], "blend")
    np.testing.assert_allclose(session.weights["blend"], [0.25, 0.75])
    assert (session.plan.prompts, session.plan.seeds, session.plan.steps) == (("one & two", "three"), (7, 8), 9)


@pytest.mark.parametrize(
    ("params", "bad"),
    [
        ({"models": "a,nonsense"}, ["nonsense"]),
        ({"models": "a,b", "weights": "1,2,3"}, ["weights"]),
        ({"models": "a,b", "weights": "nan,1"}, ["weights"]),
        ({"models": "a,b", "weights": "-1,2"}, ["weights"]),
        ({"models": "a,b", "weights": "0,0"}, ["weights"]),
        ({"models": "a,b", "weights": "x,y"}, ["weights"]),
        ({"mode": "other", "lang": "xx", "seed": "many", "steps": "1e99"}, []),
    ],
)
def test_a_broken_address_is_used_as_far_as_it_goes(params, bad):
    session = state.Session()
    assert address.restore(session, params, KNOWN) == bad
    assert session.mode == "mix" and session.language == "en" and 2 <= session.plan.steps <= 100


def test_a_copy_is_a_fresh_visitor():
    session = made()
    other = copy.deepcopy(session)
    assert other.selected == [] and other.token != session.token and other.weights is not session.weights


def test_closing_stops_the_job_and_removes_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    session, stopped = state.Session(), []
    session.job = type("Job", (), {"stop": lambda self: stopped.append(True)})()
    (session.folder / "x.png").write_bytes(b"1")
    session.close()
    assert stopped == [True] and not (tmp_path / "scorefusion" / session.token).exists()


def test_closing_a_tab_stops_only_its_own_job():
    stopped = []
    for name in ("one", "two"):
        state.register(name, type("Job", (), {"stop": lambda self, name=name: stopped.append(name)})())
    state.tab_closed("one")
    state.tab_closed("unknown")
    assert stopped == ["one"]
    state.register("two", None)
    state.tab_closed("two")
    assert stopped == ["one"]


def test_whole():
    assert [state.whole(v, 5, 0, 9) for v in ("3", 12, -4, "x", None, "nan", "inf", 2.7)] == [3, 9, 0, 5, 5, 5, 5, 2]


def test_guidance_is_the_models_own_until_the_visitor_says_one():
    from fusion.ui import compare, draw

    cards = [type("Card", (), {"usual_guidance": 5.0, "id": "x", "source": "x", "revision": None, "adapter": None})()]
    session = state.Session()
    assert draw.guidance(session.plan, cards) == 5.0 and "guidance" not in address.query(session)
    for typed, kept in (("7.5", 7.5), ("nan", 7.5), ("much", 7.5), ("-3", 1.0), ("1e9", 30.0), ("", None)):
        compare.set_plan(session, {"name": "guidance", "value": typed})
        assert session.plan.guidance == kept
    session.plan.guidance = 3.5
    assert draw.guidance(session.plan, cards) == 3.5 and "guidance=3.5" in address.query(session)
    again = state.Session()
    address.restore(again, dict(parse_qsl(address.query(session)[1:])), KNOWN)
    assert again.plan.guidance == 3.5 and again.column_key("single") != state.Session().column_key("single")
