"""The quadratic programs against a second solver and against their optimality certificate, both in exact rational arithmetic.

The problems are made of whole numbers and powers of two, whose products floats hold exactly: every processor is asked the same question,
copies are copies to the last bit, and a matrix that should be singular is. What remains is the solver's own rounding. It is bounded in
units of the terms that the slope is summed from, `|R| w + |c|`: a sum of K products is off by at most K units in the last place of those.
"""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion import simplex
from fusion.simplex import solve_blocks, solve_simplex

ROUNDING = 1e-13  # about 450 units in the last place: a few dozen operations each, and what a nearly singular support loses
KINDS = ["plain", "singular", "duplicates", "nearly duplicates", "ill-scaled", "ill-scaled duplicates", "noise floor", "tiny", "huge"]


def exactly(x) -> np.ndarray:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, dtype=float))


def value(R, c, w) -> Fraction:
    R, c, w = exactly(R), exactly(c), w if np.asarray(w).dtype == object else exactly(w)
    return w @ R @ w - 2 * (c @ w)


def missed(R, c, w) -> float:
    """Upper bound of value(w) - minimum, by convexity (the most that the steepest vertex promises), in units of the slopes' own terms."""
    R, c, w = exactly(R), exactly(c), exactly(w)
    w = w / w.sum()
    slope, terms = R @ w - c, abs(R) @ w + abs(c)
    return max(float((w @ slope - s) / (w @ terms + t)) if w @ terms + t else 0.0 for s, t in zip(slope, terms))


def exact_minimiser(R, c) -> np.ndarray:
    """Second solver: Gaussian elimination in rationals on every support. A singular support is passed over: a smaller one is as good."""
    R, c, members, best = exactly(R), exactly(c), len(c), None
    for size in range(1, members + 1):
        for support in map(list, itertools.combinations(range(members), size)):
            system = np.full((size + 1, size + 2), Fraction(0))
            system[:size, :size], system[:size, -1] = R[np.ix_(support, support)], c[support]
            system[:size, size] = system[size, :size] = system[size, -1] = Fraction(1)
            inner = eliminated(system)
            if inner is not None and min(inner[:size]) >= 0:
                w = np.full(members, Fraction(0))
                w[support] = inner[:size]
                best = w if best is None or value(R, c, w) < value(R, c, best) else best
    return best


def eliminated(system):
    for j in range(len(system)):
        pivot = next((i for i in range(j, len(system)) if system[i, j]), None)
        if pivot is None:
            return None
        system[[j, pivot]] = system[[pivot, j]]
        system[j] = system[j] / system[j, j]
        for i in set(range(len(system))) - {j}:
            system[i] = system[i] - system[i, j] * system[j]
    return system[:, -1]


def whole_problems(rng, members, count, kind):
    """`R` (count, K, K), positive semi-definite without any rounding, and `c` (count, K)."""
    A = rng.integers(-30, 31, size=(count, members, members + 2)).astype(float)
    if kind == "singular":
        A = A[:, :, : max(1, members - 2)]
    if "duplicates" in kind:
        A[:, 1] = A[:, 0]
        A[:, -1] = A[:, -2]
    if kind == "nearly duplicates":
        A[:, 1, 0] += 2.0**-10
    if "ill-scaled" in kind:
        A = A * 2.0 ** rng.integers(-8, 9, size=(count, members, 1))
    R, c = A @ A.swapaxes(1, 2), rng.integers(-30, 31, size=(count, members)) * rng.integers(0, 2, size=(count, 1)).astype(float)
    power = {"tiny": 2.0**-600, "huge": 2.0**600}.get(kind, 1.0)
    return (R + (2.0**20 if kind == "noise floor" else 0.0)) * power, c * power


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("members", [2, 3, 4, 6, 8])
def test_random_matrices_are_optimal(members, kind):
    rng = np.random.default_rng(members)
    R, c = whole_problems(rng, members, 120 if members < 8 else 30, kind)
    w = solve_simplex(R, c)
    assert (w >= 0).all() and np.abs(w.sum(-1) - 1).max() < 1e-14 * members
    assert max(missed(*each) for each in zip(R, c, w)) < ROUNDING


@pytest.mark.parametrize("kind", ["plain", "singular", "duplicates", "ill-scaled"])
def test_agrees_with_an_exact_solver_on_hundreds(kind):
    rng = np.random.default_rng(7)
    for members in (2, 3, 4):
        R, c = whole_problems(rng, members, 80, kind)
        for r, b, w in zip(R, c, solve_simplex(R, c)):
            other, v = exact_minimiser(r, b), exactly(w) / exactly(w).sum()
            terms = v @ abs(exactly(r)) @ v + 2 * (abs(exactly(b)) @ v)
            assert 0 <= value(r, b, v) - value(r, b, other) <= Fraction(ROUNDING) * terms
            if kind == "plain":  # a curved loss, so that its minimum is one place: missed by as much as the value allows
                assert np.abs(w - other.astype(float)).max() ** 2 <= float(Fraction(ROUNDING) * terms) / curvature(r)


def curvature(R) -> float:
    """Least eigenvalue of `R` along the simplex."""
    basis = np.linalg.qr(np.column_stack([np.ones(len(R)), np.eye(len(R))[:, 1:]]))[0][:, 1:]
    return float(np.linalg.eigvalsh(basis.T @ R @ basis)[0])


@pytest.mark.parametrize("members", [5, 9])
def test_members_of_very_different_errors_are_weighed_as_exactly_as_alone(members):
    """The minimum of the small ones lies 15 digits below the largest number of the matrix."""
    rng = np.random.default_rng(1)
    A = rng.integers(-30, 31, size=(members, members + 2)).astype(float)
    A[1::2] *= 2.0**25
    w = solve_simplex(A @ A.T)
    assert missed(A @ A.T, np.zeros(members), w) < ROUNDING


def test_zero_weights_are_exactly_zero_and_copies_share_nothing_needlessly():
    R = np.diag([1.0, 2.0, 1e6]) + 5
    R[2, :2] = R[:2, 2] = 900.0
    w = solve_simplex(R)
    assert w[2] == 0.0
    assert np.allclose(w[:2], [2 / 3, 1 / 3], atol=1e-12)  # inverse-variance weights of two independent errors
    for members in (3, 8):
        assert np.count_nonzero(solve_simplex(np.ones((members, members)))) == 1


@settings(max_examples=60)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(-40, 40))
def test_certificate_holds_for_any_rank_and_scale(members, rank, seed, power):
    A = np.random.default_rng(seed).integers(-99, 100, size=(members, rank)) * 2.0**power
    assert missed(A @ A.T, np.zeros(members), solve_simplex(A @ A.T)) < ROUNDING


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.permutations(range(4)), st.integers(0, 100))
def test_order_of_members_and_a_common_constant_do_not_matter(seed, order, constant):
    A = np.random.default_rng(seed).integers(-30, 31, size=(4, 6)).astype(float)
    R, order = A @ A.T, list(order)
    apart = solve_simplex(R[np.ix_(order, order)] + constant) - solve_simplex(R)[order]
    assert np.abs(apart).max() <= ROUNDING * (np.abs(R).max() + constant) / curvature(R)  # rounding over curvature


@pytest.mark.parametrize("finish", [True, False])
def test_chain_of_simplices_is_optimal_in_every_block(finish):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(20, 15, 18))
    Q, c = A @ A.swapaxes(1, 2), rng.normal(size=(20, 15))
    w = solve_blocks(Q, c, 5, finish=finish)
    slope = (2 * (np.einsum("bij,bj->bi", Q, w) - c)).reshape(20, 5, 3)
    parts = w.reshape(20, 5, 3)
    assert np.abs(parts.sum(-1) - 1).max() < 1e-10 and (parts >= 0).all()
    terms = (2 * (np.einsum("bij,bj->bi", np.abs(Q), w) + np.abs(c))).reshape(20, 5, 3)
    promised = ((slope * parts).sum(-1) - slope.min(-1)) / terms.max(-1)
    assert promised.max() < (ROUNDING if finish else 1e-8)  # the interior point alone ends at 1e-9 of the largest number
    if finish:
        assert (parts == 0).any()


@pytest.mark.parametrize("finish", [True, False])
def test_chain_of_ill_scaled_simplices_is_optimal_at_its_own_scale(finish):
    rng = np.random.default_rng(2)
    A = rng.integers(-30, 31, size=(6, 12, 14)) * 2.0 ** rng.integers(-8, 9, size=(6, 12, 1))
    Q = A @ A.swapaxes(1, 2)
    w = solve_blocks(Q, np.zeros(12), 4, finish=finish)
    slope, terms = ((np.einsum("bij,bj->bi", M, w)).reshape(6, 4, 3) for M in (Q, np.abs(Q)))
    parts = w.reshape(6, 4, 3)
    short = (slope * parts).sum(-1, keepdims=True) - slope
    if finish:
        assert (short / ((terms * parts).sum(-1, keepdims=True) + terms)).max() < ROUNDING
    else:
        assert short.max() < 1e-8 * np.abs(Q).max()


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        solve_simplex(np.full((2, 2), np.nan))


def test_resamples_are_solved_together(monkeypatch):
    """Four hundred problems need as many calls as one: time is not measured, for a machine may be busy."""
    calls, plain = [], simplex._stationary
    monkeypatch.setattr(simplex, "_stationary", lambda R, c: calls.append(len(R)) or plain(R, c))
    A = np.random.default_rng(0).integers(-30, 31, size=(400, 4, 6)).astype(float)
    together = solve_simplex(A @ A.swapaxes(1, 2))
    assert calls == [400] * 15
    np.testing.assert_array_equal(together[7], solve_simplex(A[7] @ A[7].T))
