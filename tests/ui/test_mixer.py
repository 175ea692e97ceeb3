"""The arithmetic of the mixer, run by node, against Python; and what Python accepts from a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fusion.ui
from fusion.ui import mixer

SCRIPT = Path(fusion.ui.__file__).with_name("mixer_weights.js")


def node() -> str:
    """The system's node, or the one that Playwright brings along."""
    from playwright._impl._driver import compute_driver_executable

    return shutil.which("node") or str(compute_driver_executable()[0])


def run(calls: list[tuple[str, list]]) -> list:
    """Results of functions of mixer_weights.js, all in one process."""
    program = "const m = require(process.argv[1]), c = JSON.parse(require('fs').readFileSync(0));"
    program += "console.log(JSON.stringify(c.map(([f, a]) => m[f](...a))));"
    done = subprocess.run([node(), "-e", program, str(SCRIPT)], input=json.dumps(calls), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def rescaled(weights, locked, index, value):
    """The rule of the design, written again: the moved weight is clamped to what the locked ones leave, the others share the rest."""
    weights, locked = np.array(weights, float), np.array(locked, bool)
    others = ~locked & (np.arange(len(weights)) != index)
    if locked[index] or not others.any():
        return weights
    room = max(0.0, 1 - weights[locked].sum())
    out = weights.copy()
    out[index] = np.clip(value, 0, room)
    share = weights[others] / weights[others].sum() if weights[others].sum() > 1e-12 else np.full(others.sum(), 1 / others.sum())
    out[others] = (room - out[index]) * share
    return out


def cases(count: int = 400):
    rng = np.random.default_rng(0)
    for _ in range(count):
        size = int(rng.integers(2, 7))
        weights = rng.dirichlet(np.full(size, rng.choice([0.2, 1.0, 5.0])))
        if rng.random() < 0.2:
            weights = np.eye(size)[rng.integers(size)]
        yield weights.tolist(), (rng.random(size) < 0.3).tolist(), int(rng.integers(size)), float(rng.uniform(-0.2, 1.2))


def test_rescale_keeps_the_sum_the_locks_and_the_proportions():
    every = list(cases())
    for case, got in zip(every, run([("rescale", list(c)) for c in every])):
        np.testing.assert_allclose(got, rescaled(*case), atol=1e-12)
        assert abs(sum(got) - 1) < 1e-9 and min(got) >= 0
        for w, held, was in zip(got, case[1], case[0]):
            assert not held or w == was


def test_rescale_examples():
    got = run(
        [
            ("rescale", [[0.5, 0.3, 0.2], [False] * 3, 0, 0.75]),
            ("rescale", [[1, 0, 0], [False] * 3, 0, 0.4]),
            ("rescale", [[0.5, 0.3, 0.2], [False, True, False], 0, 0.9]),
            ("rescale", [[0.5, 0.5], [False, True], 0, 0.9]),
        ]
    )
    np.testing.assert_allclose(got[:3], [[0.75, 0.15, 0.1], [0.4, 0.3, 0.3], [0.7, 0.3, 0.0]], atol=1e-12)
    assert got[3] == [0.5, 0.5]


def test_buttons_leave_locked_weights_where_they_are():
    """Against the rule of a slider: setting everything at once is moving one slider after another, the locked ones out of the way."""
    rng = np.random.default_rng(4)
    every = [(w, locked, rng.dirichlet(np.ones(len(w))).tolist()) for w, locked, _, _ in cases()]
    for (weights, locked, wanted), got in zip(every, run([("within", list(case)) for case in every])):
        got, held = np.array(got), np.array(locked)
        assert (got[held] == np.array(weights)[held]).all() and got.min() >= 0
        if not held.all():
            assert abs(got.sum() - 1) < 1e-9
            np.testing.assert_allclose(got[~held] * np.array(wanted)[~held].sum(), np.array(wanted)[~held] * got[~held].sum(), atol=1e-9)
    assert run([("within", [[0.2, 0.3, 0.5], [False, False, True], [0, 0, 1]])])[0] == [0.25, 0.25, 0.5]


def test_largest_remainder_sums_to_one_and_stays_near():
    rng = np.random.default_rng(1)
    weights = [rng.dirichlet(np.ones(rng.integers(2, 9))).tolist() for _ in range(300)] + [[1 / 3] * 3, [1 / 7] * 7, [1.0, 0.0]]
    for exact, shown in zip(weights, run([("largestRemainder", [w, 2]) for w in weights])):
        assert round(sum(shown), 9) == 1.0
        assert max(abs(a - b) for a, b in zip(exact, shown)) < 0.01


def test_quadratic_and_distance_agree_with_numpy():
    rng = np.random.default_rng(2)
    calls, expected = [], []
    for _ in range(50):
        k, points = int(rng.integers(2, 6)), 5
        q, c, w = rng.normal(size=(k, k)), rng.normal(size=k), rng.dirichlet(np.ones(k))
        calls.append(("quadratic", [q.tolist(), c.tolist(), 0.7, w.tolist()]))
        expected.append(w @ q @ w - 2 * c @ w + 0.7)
        a, b, at, amounts = (
            rng.normal(size=(k, k - 1)),
            rng.normal(size=k - 1),
            rng.dirichlet(np.ones(k), points),
            rng.normal(size=(points, k - 1)),
        )
        form = {"a": a.tolist(), "b": b.tolist(), "at": at.tolist(), "amounts": amounts.tolist(), "length": 0.5}
        calls.append(("mapped", [form, w.tolist()]))
        kernel = np.exp(-((w - at) ** 2).sum(1) / (2 * 0.5**2))
        expected.append(np.linalg.norm(w @ a + b + kernel @ amounts))
    np.testing.assert_allclose(run(calls), expected, rtol=1e-9)


def test_the_map_and_back():
    rng = np.random.default_rng(3)
    points = [w.tolist() for w in rng.dirichlet(np.ones(3), 50)]
    plane = run([("toPlane", [p]) for p in points])
    np.testing.assert_allclose(run([("fromPlane", p) for p in plane]), points, atol=1e-9)


# ------------------------------------------------------------------------------------------------ the map of three models


def maps(count: int = 300):
    """Weights of 3 to 6 models, locks, three corners and a point of the map; often with corners that hold nothing."""
    rng = np.random.default_rng(6)
    for _ in range(count):
        size = int(rng.integers(3, 7))
        corners = rng.permutation(size)[:3].tolist()
        weights = np.eye(size)[rng.integers(size)] if rng.random() < 0.4 else rng.dirichlet(np.ones(size))
        yield weights.tolist(), (rng.random(size) < 0.25).tolist(), corners, rng.dirichlet(np.ones(3)).tolist()


def test_a_click_on_the_map_does_what_is_seen():
    every = list(maps())
    for (weights, locked, corners, t), got in zip(every, run([("placed", list(case)) for case in every])):
        got, was, held = np.array(got), np.array(weights), np.array(locked)
        free = [i for i in corners if not locked[i]]
        others = [i for i in range(len(was)) if i not in corners]
        assert (got[held] == was[held]).all() and got.min() >= 0 and abs(got.sum() - 1) < 1e-9
        if free:  # they lie in the proportions of the place that was clicked
            wanted = np.array([t[corners.index(i)] for i in free])
            np.testing.assert_allclose(got[free], got[free].sum() * wanted / wanted.sum(), atol=1e-9)
        if was[free].sum() >= 0.005 or not free:
            np.testing.assert_array_equal(got[others], was[others])
        else:  # what the unlocked others held has gone to the corners
            assert got[[i for i in others if not locked[i]]].sum() == pytest.approx(0, abs=0.005)


def test_the_map_is_coloured_where_its_clicks_lead():
    """The slice at the ring is the very weights that the numbers above the map are of, and at any place what a click there gives."""
    every = list(maps())
    slices = run([("mapSlice", list(case[:3])) for case in every])
    clicks = run([("placed", list(case)) for case in every])
    for (weights, locked, corners, t), cut, click in zip(every, slices, clicks):
        room, here = np.array(weights)[corners].sum(), np.array(cut["others"], float)
        if not cut["empty"] and room > 0.005:
            here[corners] += cut["room"] * np.array(weights)[corners] / room
            np.testing.assert_allclose(here, weights, atol=1e-9)
        if not any(locked):
            there = np.array(cut["others"], float)
            there[corners] += cut["room"] * np.array(t)
            np.testing.assert_allclose(there, click, atol=1e-9)


@pytest.mark.parametrize("step", [[0.02, -0.02, 0], [-0.02, 0.02, 0], [-0.01, -0.01, 0.02], [0.01, 0.01, -0.02]])
def test_an_arrow_key_moves_at_most_its_step(step):
    every = [(weights, locked, corners, step) for weights, locked, corners, _ in maps()]
    moved = 0
    for (weights, locked, _, _), got in zip(every, run([("stepped", list(case)) for case in every])):
        got, was, held = np.array(got), np.array(weights), np.array(locked)
        assert (got[held] == was[held]).all() and got.min() >= 0 and abs(got.sum() - 1) < 1e-9
        assert np.abs(got - was).sum() / 2 <= 0.02 + 1e-12
        moved += not np.allclose(got, was)
    assert moved > len(every) / 2


def test_arrow_key_examples():
    up, left, free = [-0.01, -0.01, 0.02], [0.02, -0.02, 0], [False] * 4
    got = run([
        ("stepped", [[0, 0, 1, 0], free, [0, 1, 3], up]),  # only Meadow, which is no corner of the map
        ("stepped", [[0, 0, 1, 0], [False, False, True, False], [0, 1, 3], up]),
        ("stepped", [[0.3, 0.3, 0.2, 0.2], free, [0, 1, 3], up]),
        ("stepped", [[0.3, 0.3, 0.2, 0.2], [False, False, False, True], [0, 1, 3], up]),
        ("stepped", [[0.5, 0.01, 0.49], [False] * 3, [0, 1, 2], left]),  # along the edge, once the second holds nothing
    ])  # fmt: skip
    expected = [[0, 0, 0.98, 0.02], [0, 0, 1, 0], [0.29, 0.29, 0.2, 0.22], [0.3, 0.3, 0.2, 0.2], [0.52, 0, 0.48]]
    for one, other in zip(got, expected):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    "bad", [None, "abc", [0.5], [0.5, 0.5, float("nan")], [0, 0, 0], [-1, -1, -1], [1, 2, "x"], [float("inf"), 0, 0], {"a": 1}]
)
def test_python_refuses_what_is_no_weights(bad):
    assert mixer.checked(bad, 3) is None


def test_python_projects_again():
    np.testing.assert_allclose(mixer.checked([0.2, 0.2, 0.1], 3), [0.4, 0.4, 0.2])
    np.testing.assert_allclose(mixer.checked(["0.5", -0.1, 0.5], 3), [0.5, 0.0, 0.5])
