"""Switching by noise level: the ranges against exhaustive search, planted changes found, chance ones not, and what is drawn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.methods import METHODS, MethodError, SamplingPlan
from fusion.methods.switch import cheapest_path, choose, dearest_change, ranges, told
from fusion.weights import Weights
from tests.fusion import small


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def fit(ensemble):
    return small.fit(ensemble, calibrated=False)


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1], "steps": 4, "batch_size": 2} | changes)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_path_is_the_best_of_all(seed, levels, members, penalty):
    errors = np.random.default_rng(seed).random((levels, members))

    def total(path):
        return sum(errors[level, k] for level, k in enumerate(path)) + penalty * sum(a != b for a, b in itertools.pairwise(path))

    best = min(total(path) for path in itertools.product(range(members), repeat=levels))
    assert total(cheapest_path(errors, penalty)) == pytest.approx(best)
    stacked = cheapest_path(np.stack([errors, errors[::-1]]), np.array([penalty, penalty]))
    assert total(stacked[0]) == pytest.approx(best) and total(stacked[1][::-1]) == pytest.approx(best)


def planted(rng, gap, images=12, levels=10, change=6):
    """Errors (N, L, 2) of two members that change places at one level, under noise that both share and noise of their own."""
    mean = np.where((np.arange(levels) < change)[:, None], [0, gap], [gap, 0])
    return 1 + mean + 0.3 * rng.normal(size=(images, levels, 1)) + 0.1 * rng.normal(size=(images, levels, 2))


def test_a_planted_change_is_found_and_chance_makes_few():
    rng = np.random.default_rng(0)
    paths = [ranges(planted(rng, gap=0.2)) for _ in range(30)]
    ideal = np.repeat([0, 1], [6, 4])
    assert np.mean([(path != ideal).sum() <= 1 for path in paths]) > 0.9
    chance = [ranges(planted(rng, gap=0.0)) for _ in range(80)]
    changes = np.array([(np.diff(path) != 0).sum() for path in chance])
    assert (changes > 0).mean() < 0.1
    free = np.array([(np.diff(planted(rng, gap=0.0).mean(0).argmin(-1)) != 0).sum() for _ in range(50)])
    assert free.mean() > 3  # what choosing every level by itself would do


def test_the_dearest_change_is_where_the_path_stops_changing():
    errors = np.random.default_rng(3).random((5, 6, 3))
    for one, penalty in zip(errors, dearest_change(errors)):
        assert (np.diff(cheapest_path(one, penalty * 0.999)) != 0).any() and not (np.diff(cheapest_path(one, penalty * 1.001)) != 0).any()


def test_one_image_allows_no_change_and_one_member_none():
    errors = planted(np.random.default_rng(1), gap=0.5, images=1)
    assert (ranges(errors) == errors.mean(0).sum(0).argmin()).all()
    assert (ranges(planted(np.random.default_rng(1), 0.5)[..., :1]) == 0).all()


def test_choose_reads_the_diagonal_of_the_statistic(fit):
    weights = choose(fit.gram)
    errors = np.einsum("nlkk,l->nlk", fit.gram.smooth, fit.gram.level_weights["simple"])
    assert np.array_equal(weights.values.argmax(1), ranges(errors)) and np.isin(weights.values, (0, 1)).all()
    assert np.array_equal(weights.strata, fit.gram.strata) and weights.how


def test_it_is_told_from_clean_to_noisy():
    rows = np.eye(3)[[2, 2, 0, 1]]
    weights = Weights(rows, None, ("Ada", "Bea", "Cyd"), "test", np.array([-6.0, -2.0, 0.5, 3.0, 9.0]))
    assert told(weights.names, weights) == "Cyd up to level 0.5, then Ada up to level 3.0, then Bea"
    assert told(("Ada", "Bea"), np.array([0.0, 1.0])) == "Bea"


def test_it_draws_what_weights_by_level_draw_at_the_cost_of_one(ensemble, fit, monkeypatch):
    calls, member = [], type(ensemble.members[0])
    forward = member.__call__
    monkeypatch.setattr(member, "__call__", lambda self, *a, **k: (calls.append(self.name), forward(self, *a, **k))[1])
    weights = Weights(np.eye(3)[[0, 0, 2, 2]], None, ensemble.names, "test", np.array([-8.0, -3.0, 0.0, 3.0, 9.0]))
    ours = list(METHODS["switch"].run(ensemble, None, plan(weights=weights)))
    assert len(calls) == 4 and set(calls) == {"Ada", "Cyd"}  # one member a step
    theirs = list(METHODS["scorefusion_levels"].run(ensemble, None, plan(weights=weights)))
    assert all(np.array_equal(np.asarray(a.image), np.asarray(b.image)) for a, b in zip(ours, theirs))
    assert METHODS["switch"].cost(ensemble, None, plan(weights=weights)).evaluations == 4
    for name in ("switch", "scorefusion_levels"):
        with pytest.raises(MethodError, match="with its strata"):
            METHODS[name].cost(ensemble, None, plan(weights=weights.values))
    assert {sample.note for sample in ours} == {"Ada up to level 0.0, then Cyd"}
    assert METHODS["switch"].cost(ensemble, fit, plan()).evaluations == 4  # with the fit's own ranges


def test_weights_in_between_are_refused(ensemble, fit):
    with pytest.raises(MethodError, match="one weight must be 1"):
        list(METHODS["switch"].run(ensemble, fit, plan(weights=[0.5, 0.5, 0])))
    with pytest.raises(MethodError, match="needs a fit"):
        METHODS["switch"].cost(ensemble, None, plan())
