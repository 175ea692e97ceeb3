"""The quadratic programs against second solvers (non-negative least squares, SLSQP) and against their own optimality certificate."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from fusion.simplex import solve_blocks, solve_simplex


def value(R, c, w):
    return w @ R @ w - 2 * c @ w


def gap(R, c, w):
    """Upper bound of value(w) - minimum, by convexity: the most that the steepest vertex promises."""
    slope = 2 * (R @ w - c)
    return slope @ w - slope.min()


def by_nnls(R, c):
    """Second solver. On sum w = 1 the linear term joins the matrix; the least-norm point of a hull is a non-negative least squares."""
    shifted = R - c[:, None] - c[None, :]
    shifted = shifted + 2 * np.abs(shifted).sum() * np.ones_like(R)
    values, vectors = np.linalg.eigh(shifted)
    A = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    size = np.sqrt(np.abs(shifted).max())
    u = nnls(np.vstack([A / size, np.ones(len(R))]), np.append(np.zeros(len(R)), 1.0))[0]
    return u / u.sum()


def random_problems(rng, members, count, kind):
    A = rng.normal(size=(count, members, members + 2))
    if kind == "singular":
        A = A[:, :, : max(1, members - 2)]
    if kind == "duplicates":
        A[:, 1] = A[:, 0]
        A[:, -1] = A[:, -2]
    if kind == "ill-scaled":
        A = A * 10.0 ** rng.uniform(-3, 3, size=(count, members, 1))
    return A @ A.swapaxes(1, 2) + (kind == "noise floor") * 1e3, rng.normal(size=(count, members)) * rng.integers(0, 2, size=(count, 1))


@pytest.mark.parametrize("kind", ["plain", "singular", "duplicates", "ill-scaled", "noise floor"])
@pytest.mark.parametrize("members", [2, 3, 4, 6, 8])
def test_thousands_of_random_matrices_are_optimal(members, kind):
    rng = np.random.default_rng(members)
    R, c = random_problems(rng, members, 300 if members < 8 else 40, kind)
    w = solve_simplex(R, c)
    assert (w >= 0).all() and np.abs(w.sum(-1) - 1).max() < 1e-12
    scale = np.abs(R).max((1, 2)) + np.abs(c).max(1)
    gaps = np.array([gap(*each) for each in zip(R, c, w)])
    assert (gaps <= 1e-10 * scale).all()


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
def test_agrees_with_a_second_solver_on_thousands(kind):
    rng = np.random.default_rng(7)
    for members in (2, 3, 4, 5):
        R, c = random_problems(rng, members, 500, kind)
        w = solve_simplex(R, c)
        other = np.stack([by_nnls(*each) for each in zip(R, c)])
        ours = np.array([value(*each) for each in zip(R, c, w)])
        theirs = np.array([value(*each) for each in zip(R, c, other)])
        assert (ours <= theirs + 1e-12 * np.abs(R).max((1, 2))).all()
        assert np.abs(ours - theirs).max() < (1e-6 if kind == "plain" else 1e-3)  # a root of a singular matrix halves its digits
        if kind == "plain":
            assert np.quantile(np.abs(w - other).max(1), 0.99) < 1e-5


def test_agrees_with_slsqp():
    rng = np.random.default_rng(3)
    R, c = random_problems(rng, 4, 60, "plain")
    for r, b, w in zip(R, c, solve_simplex(R, c)):
        found = minimize(lambda v, r=r, b=b: value(r, b, v), np.full(4, 0.25), jac=lambda v, r=r, b=b: 2 * (r @ v - b), bounds=[(0, 1)] * 4,
                         constraints={"type": "eq", "fun": lambda v: v.sum() - 1}, method="SLSQP", options={"ftol": 1e-14})  # fmt: skip
        assert np.abs(found.x - w).max() < 1e-5


def test_zero_weights_are_exactly_zero_and_copies_share_nothing_needlessly():
    R = np.diag([1.0, 2.0, 1e6]) + 5
    R[2, :2] = R[:2, 2] = 900.0
    w = solve_simplex(R)
    assert w[2] == 0.0
    assert np.allclose(w[:2], [2 / 3, 1 / 3], atol=1e-12)  # inverse-variance weights of two independent errors
    twins = solve_simplex(np.ones((3, 3)))
    assert np.count_nonzero(twins) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(-4, 4))
def test_certificate_holds_for_any_rank_and_scale(members, rank, seed, power):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(members, rank)) * 10.0**power
    w = solve_simplex(A @ A.T)
    assert gap(A @ A.T, np.zeros(members), w) <= 1e-10 * np.abs(A @ A.T).max()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(range(4)), st.floats(0, 100))
def test_order_of_members_and_a_common_constant_do_not_matter(seed, order, constant):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(4, 6))
    R = A @ A.T
    order = list(order)
    assert np.allclose(solve_simplex(R[np.ix_(order, order)] + constant), solve_simplex(R)[order], atol=1e-7)


@pytest.mark.parametrize("finish", [True, False])
def test_chain_of_simplices_is_optimal_in_every_block(finish):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(20, 15, 18))
    Q, c = A @ A.swapaxes(1, 2), rng.normal(size=(20, 15))
    w = solve_blocks(Q, c, 5, finish=finish)
    slope = (2 * (np.einsum("bij,bj->bi", Q, w) - c)).reshape(20, 5, 3)
    parts = w.reshape(20, 5, 3)
    assert np.abs(parts.sum(-1) - 1).max() < 1e-10 and (parts >= 0).all()
    assert ((slope * parts).sum(-1) - slope.min(-1)).max() < 1e-8
    if finish:
        assert (parts == 0).any()


def test_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        solve_simplex(np.full((2, 2), np.nan))


def test_four_hundred_resamples_take_milliseconds():
    A = np.random.default_rng(0).normal(size=(400, 4, 6))
    R = A @ A.swapaxes(1, 2)
    solve_simplex(R)
    best = min(_seconds(solve_simplex, R) for _ in range(5))
    assert best < 0.05  # 3 ms alone on a core; the bound leaves room for a busy machine


def _seconds(f, *args):
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start
