"""Weights against brute force and closed forms."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fusion.objective import fit_gram, residual_gram
from fusion.simplex import solve_simplex
from fusion.weights import LevelWeights, MixtureProportions, SimplexWeights, Weights
from tests.fusion.world import Path, World


@pytest.fixture(scope="module")
def gram():
    world = World(error=0.15)
    _, prompts, images = world.draw([0.5, 0.2, 0.3, 0.0], 12, seed=3)
    return fit_gram(world, images, [prompts[0]] * 12, levels=6)


def gaussians(means, deviation=1.0):
    """Exact noise predictors of `N(mean, deviation^2 I)`: (K, B, D)."""

    def predict(x_t, level):
        a, s = (c[:, None] for c in Path().coefficients(level))
        return torch.stack([s * (x_t - a * m) / (a**2 * deviation**2 + s**2) for m in means])

    return predict


def test_weights_minimise_the_loss(gram):
    fit = SimplexWeights().fit(gram)
    R = gram.mean()
    grid = np.random.default_rng(0).dirichlet(np.ones(4) * 0.7, size=20000)
    assert fit.weights_ @ R @ fit.weights_ <= np.einsum("ni,ij,nj->n", grid, R, grid).min()
    assert fit.loss_ == pytest.approx(fit.weights_ @ gram.mean(smooth=False) @ fit.weights_)


def test_leave_one_out_equals_brute_force(gram):
    fit = SimplexWeights(weighting="likelihood").fit(gram)
    uniform, single, base = [], [], []
    for n in range(12):
        others, own = gram.select(images=[m for m in range(12) if m != n]), gram.select(images=[n]).mean("likelihood")
        R = others.mean("likelihood")
        w = minimize(lambda v, R=R: v @ R @ v, np.full(4, 0.25), bounds=[(0, 1)] * 4, method="SLSQP", options={"ftol": 1e-15},
                     constraints={"type": "eq", "fun": lambda v: v.sum() - 1}).x  # fmt: skip
        uniform.append(own.mean() - w @ own @ w)
        k = R.diagonal().argmin()
        single.append(own[k, k] - w @ own @ w)
        base.append(own.mean())
    assert fit.gain_uniform_.mean == pytest.approx(np.mean(uniform), abs=1e-7)
    assert fit.gain_single_.mean == pytest.approx(np.mean(single), abs=1e-7)
    assert fit.gain_uniform_.relative == pytest.approx(np.mean(uniform) / np.mean(base), abs=1e-6)
    assert fit.gain_uniform_.interval[0] < fit.gain_uniform_.mean < fit.gain_uniform_.interval[1]


def test_barycenter_weights_of_gaussians_are_recovered():
    """Equal covariances: the fused score is that of N(sum w mu, S) at every level, so the target's own weights are the minimum."""
    means = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0], [-2, -2, 1]], dtype=torch.float64)
    truth = np.array([0.5, 0.2, 0.3, 0.0])
    x0 = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = x0 - x0.mean(0) + torch.tensor(truth) @ means
    gram = residual_gram(gaussians(means), x0, Path(), torch.linspace(-6, 6, 9), generator=torch.Generator().manual_seed(1))
    fit = SimplexWeights().fit(gram)
    np.testing.assert_allclose(fit.weights_, truth, atol=0.01)
    assert fit.determined_ and (fit.interval_[:, 0] <= truth + 0.01).all() and (fit.interval_[:, 1] >= truth - 0.01).all()


def test_smooth_rows_say_the_same_with_less_noise():
    means = torch.tensor([[2.0, 0], [0, 2.0], [-1.0, -1.0]], dtype=torch.float64)
    truth = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    errors = {True: [], False: []}
    for seed in range(8):
        x0 = torch.randn(60, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x0 = x0 - x0.mean(0) + truth @ means
        gram = residual_gram(gaussians(means), x0, Path(), torch.linspace(-2, 6, 3), generator=torch.Generator().manual_seed(99 + seed),
                             antithetic=False)  # fmt: skip
        for smooth in errors:
            errors[smooth].append(SimplexWeights(smooth=smooth, bootstrap=10).fit(gram).weights_ - truth.numpy())
    assert np.mean(np.square(errors[True])) < 0.6 * np.mean(np.square(errors[False]))


def test_intervals_cover_the_weights_of_all_images():
    """Bootstrap on the Rao-Blackwell rows: honest, though those rows share draws."""
    means = torch.tensor([[2.0, 0], [0, 2.0]], dtype=torch.float64)
    hits = []
    for seed in range(40):
        x0 = torch.randn(24, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + torch.tensor([0.8, 1.2])
        gram = residual_gram(gaussians(means), x0, Path(), torch.linspace(-2, 6, 3), generator=torch.Generator().manual_seed(seed))
        low, high = SimplexWeights(bootstrap=200).fit(gram).interval_[0]
        hits.append(low <= 0.4 <= high)
    assert np.mean(hits) >= 0.85


@pytest.mark.parametrize("count, word", [(1, "One image does not"), (3, "3 images do not")])
def test_few_images_do_not_determine_weights(gram, count, word):
    fit = SimplexWeights().fit(gram.select(images=range(count)))
    assert not fit.determined_ and fit.verdict_.startswith(word)
    if count == 1:
        assert fit.interval_.tolist() == [[0, 1]] * 4 and fit.gain_uniform_ is None


def test_copies_among_the_members_are_named(gram):
    fit = SimplexWeights().fit(gram.select(members=[0, 1, 1]))
    assert not fit.determined_ and "summit and summit predict the same" in fit.verdict_


def test_clear_images_determine_weights(gram):
    fit = SimplexWeights().fit(gram)
    assert fit.determined_ == (np.ptp(fit.interval_, axis=1).max() <= 0.5)


# ------------------------------------------------------------------------------------------------ per level

def test_no_smoothing_solves_every_level_and_much_smoothing_the_whole(gram):
    rows = gram.weights_of("simple")[:, None, None] * gram.per_level()
    free, stiff = (LevelWeights(smoothings=(rho,)).fit(gram).weights_ for rho in (1e-9, 1e7))
    np.testing.assert_allclose(free, solve_simplex(rows), atol=1e-4)
    np.testing.assert_allclose(stiff, np.tile(SimplexWeights().fit(gram).weights_, (6, 1)), atol=1e-4)
    constant = LevelWeights(smoothings=(np.inf,)).fit(gram)
    np.testing.assert_allclose(constant.weights_, np.tile(SimplexWeights().fit(gram).weights_, (6, 1)), atol=1e-12)
    assert (np.abs(constant.weights_.sum(1) - 1) < 1e-12).all()


def test_smoothing_is_chosen_by_leave_one_out(gram):
    fit = LevelWeights(smoothings=(0.1, 10.0)).fit(gram)
    omega = gram.weights_of("simple")
    for rho, claimed in zip((0.1, 10.0), fit.losses_):
        scores = []
        for n in range(12):
            w = LevelWeights(smoothings=(rho,))._solve(omega[:, None, None] * gram.select(images=np.arange(12) != n).per_level(), rho)
            scores.append(np.einsum("l,li,lij,lj->", omega, w, gram.smooth[n], w))
        assert claimed == pytest.approx(np.mean(scores), abs=1e-7)
    assert fit.smoothing_ == (0.1, 10.0)[int(np.argmin(fit.losses_))]
    assert fit.as_weights().at(-100.0) == pytest.approx(fit.weights_[0])


def test_the_chain_is_optimal(gram):
    """No feasible move of one level, or of all, lowers the penalised loss."""
    omega, rho = gram.weights_of("simple"), 1.0
    rows = omega[:, None, None] * gram.per_level()
    w = LevelWeights._solve(rows, rho)
    curvature = np.einsum("lij,ij->", rows, np.eye(4) - 0.25) / (6 * 3)

    def loss(v):
        return np.einsum("li,lij,lj->", v, rows, v) + rho * curvature * (np.diff(v, axis=0) ** 2).sum()

    rng = np.random.default_rng(0)
    for _ in range(300):
        other = rng.dirichlet(np.ones(4) * 0.3, size=6)
        mask = rng.random(6) < rng.choice([0.2, 1.0])
        moved = np.where(mask[:, None], w + 0.05 * rng.random() * (other - w), w)
        assert loss(w) <= loss(moved) + 1e-13


# ------------------------------------------------------------------------------------------------ mixtures

def test_log_likelihoods_match_the_closed_form():
    """`log p = -1/2 integral E||r||^2 dlogSNR + const` for exact Gaussian members."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    x0 = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
    gram = residual_gram(gaussians(means), x0, Path(), torch.linspace(-12, 14, 53), generator=torch.Generator().manual_seed(1), draws=8)
    fit = MixtureProportions().fit(gram)
    exact = -0.5 * ((x0[:, None] - means) ** 2).sum(-1).numpy()
    difference = (fit.log_likelihood_ - exact) - (fit.log_likelihood_ - exact).mean(1, keepdims=True)
    assert np.abs(difference).max() < 0.25
    pi = np.full(3, 1 / 3)
    for _ in range(2000):
        pi = (pi * np.exp(exact) / (np.exp(exact) @ pi)[:, None]).mean(0)
    np.testing.assert_allclose(fit.proportions_, pi, atol=0.05)
    np.testing.assert_allclose(fit.responsibilities_.sum(1), 1)
    np.testing.assert_allclose(fit.responsibilities_.mean(0), fit.proportions_, atol=1e-4)


def test_an_outlier_is_shown():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    x0 = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0[7] = 25.0
    gram = residual_gram(gaussians(means), x0, Path(), torch.linspace(-6, 8, 15), generator=torch.Generator().manual_seed(1))
    assert MixtureProportions().fit(gram).outliers_.tolist() == [n == 7 for n in range(12)]


# ------------------------------------------------------------------------------------------------ the record

def test_weights_know_their_level():
    w = Weights(np.array([[1.0, 0.0], [0.5, 0.5]]), None, ("a", "b"), "test", np.array([-1.0, 0.0, 1.0]))
    assert w.at(-5).tolist() == [1, 0] and w.at(0.5).tolist() == [0.5, 0.5]
    assert w.at(torch.tensor([-0.5, 7.0])).tolist() == [[1, 0], [0.5, 0.5]]
    assert Weights(np.array([0.3, 0.7]), None, ("a", "b"), "test").at(3.0).tolist() == [0.3, 0.7]
    assert w.summary()["members"]["a"]["weight"] == 0.75 and len(w.summary()["levels"]) == 2


@pytest.mark.parametrize("values", [[np.nan, 1.0], [0.7, 0.7], [-0.2, 1.2], [1.0], [[1.0, 0.0]]])
def test_weights_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="weights"):
        Weights(np.array(values), None, ("a", "b"), "test")
