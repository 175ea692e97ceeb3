"""The statistics toolbox against other people's implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression

from fusion.likelihood import expansion, ledoit_wolf, log_likelihood, logistic, profile_intervals, shares, softmax


def best_by_slsqp(f, held=None):
    start = np.full(f.shape[1], 1 / f.shape[1])
    rules = [{"type": "eq", "fun": lambda v: v.sum() - 1}]
    if held is not None:
        rules.append({"type": "eq", "fun": lambda v: v[held[0]] - held[1]})
    found = minimize(lambda v: -np.log(np.maximum(f @ v, 1e-12)).sum(), start, bounds=[(0, 1)] * f.shape[1], constraints=rules,
                     jac=lambda v: -(f / np.maximum(f @ v, 1e-12)[:, None]).sum(0), method="SLSQP",
                     options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
    return found.x, -found.fun


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.floats(0.1, 6), st.integers(0, 2**32 - 1))
def test_shares_satisfy_the_optimality_conditions(members, count, sharpness, seed):
    """Mean responsibility ratio at most 1 everywhere, exactly 1 on the support: Karush-Kuhn-Tucker for this concave problem."""
    f = np.exp(sharpness * np.random.default_rng(seed).normal(size=(3, count, members)))
    pi = shares(f)
    slope = expansion(pi, f)[1]
    assert np.abs(pi.sum(-1) - 1).max() < 1e-12 and (pi >= 0).all()
    assert slope.max() < 1 + 1e-5
    assert np.abs((slope - 1) * pi).max() < 1e-5


def test_the_prior_counts_as_images_of_each_member():
    f = np.exp(2 * np.random.default_rng(6).normal(size=(5, 12, 4)))
    pi = np.full((5, 4), 0.25)
    for _ in range(3000):  # EM with pseudo-images
        pi = ((pi[:, None] * f / np.einsum("bnk,bk->bn", f, pi)[..., None]).sum(1) + 0.1) / 12.4
    np.testing.assert_allclose(shares(f, 0.1), pi, atol=1e-5)


def test_shares_agree_with_slsqp():
    rng = np.random.default_rng(0)
    for _ in range(20):
        f = np.exp(2 * rng.normal(size=(12, 4)))
        assert log_likelihood(shares(f), f) * 12 >= best_by_slsqp(f)[1] - 1e-7


def test_expansion_has_its_minimum_at_the_shares():
    from fusion.simplex import solve_simplex

    f = np.exp(np.random.default_rng(1).normal(size=(50, 12, 4)))
    pi = shares(f)
    np.testing.assert_allclose(solve_simplex(*expansion(pi, f)), pi, atol=1e-4)


def test_profile_intervals_cross_where_brute_force_says():
    f = np.exp(1.5 * np.random.default_rng(2).normal(size=(20, 3)))
    pi = shares(f)
    top = log_likelihood(pi, f) * 20
    for k, (low, high) in enumerate(profile_intervals(f, pi)):
        assert low <= pi[k] <= high
        for edge in (low, high):
            drop = top - best_by_slsqp(f, (k, edge))[1]
            assert drop == pytest.approx(1.9207, abs=0.05) if 0 < edge < 1 else drop < 1.9207 + 1e-6


def test_one_member_has_all():
    f = np.ones((5, 1))
    assert shares(f).tolist() == [1.0] and profile_intervals(f, np.ones(1)).tolist() == [[1, 1]]


def test_ledoit_wolf_agrees_with_scikit_learn():
    X = np.random.default_rng(3).normal(size=(60, 25)) @ np.diag(np.linspace(0.2, 3, 25))
    np.testing.assert_allclose(ledoit_wolf(X), LedoitWolf(assume_centered=True).fit(X).covariance_, rtol=1e-6, atol=1e-8)


def test_logistic_agrees_with_scikit_learn():
    rng = np.random.default_rng(4)
    owner = np.repeat(np.arange(3), 60)
    X = np.concatenate([np.ones((180, 1)), rng.normal(size=(180, 2)) + 0.8 * np.stack([owner == 1, owner == 2], 1)], axis=1)
    ours = softmax(X @ logistic(X, owner, np.ones(180)))
    theirs = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-9, max_iter=5000).fit(X, owner).predict_proba(X)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_logistic_batches_are_separate_fits():
    rng = np.random.default_rng(5)
    owner, X = np.repeat(np.arange(2), 40), np.concatenate([np.ones((80, 1)), rng.normal(size=(80, 1))], axis=1)
    weight = rng.integers(0, 3, size=(4, 80)).astype(float)
    together = logistic(X, owner, weight)
    for w, theta in zip(weight, together):
        np.testing.assert_allclose(logistic(X, owner, w), theta, atol=1e-6)
