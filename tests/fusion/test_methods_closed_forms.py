"""Sampling by particles and by densities against closed forms: Gaussians, whose averages, mixtures and equal densities are known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.methods.densities import superpose
from fusion.methods.particles import ancestors, average, effective, rate
from fusion.methods.reverse import ahead, schedule
from models.noise import NoisePath

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
PATHS = {
    "vp": NoisePath.variance_preserving((1 - BETAS).cumprod(0)),
    "flow": NoisePath.rectified_flow(),  # its highest level is infinite
    "ve": NoisePath("ve", "epsilon", tuple(np.linspace(-9, 9, 1000)), tuple(map(float, range(1000)))),
}


class Gaussians:
    """K members `N(mu_k, diag var_k)` at the levels of a path with n steps: exact clean samples and log densities."""

    def __init__(self, path, mu, var, steps):
        top, low = path.training_timesteps[-1], path.training_timesteps[0]
        self.levels = path.level(torch.linspace(top, low, steps + 1, dtype=torch.float64)[:-1])
        self.a, self.s = path.coefficients(self.levels)
        self.mu, self.var = (torch.as_tensor(x, dtype=torch.float64)[:, None] for x in (mu, var))  # (K, 1, D)
        self.steps, self.seen, self.generator = schedule(path, self.levels), [], torch.Generator().manual_seed(0)
        self.scale = float(torch.sqrt(self.a[0] ** 2 + self.s[0] ** 2))  # of unit noise at the first level: not 1 on a path that explodes

    def predict(self, x, i):
        self.seen.append(x)
        a, s = self.a[i], self.s[i]
        return self.mu + self.var * a / (a**2 * self.var + s**2) * (x - a * self.mu)

    def log_density(self, i):
        """`(K, B)` at the latents that were shown at level i."""
        spread = (self.a[i] ** 2 * self.var + self.s[i] ** 2).sqrt()
        return torch.distributions.Normal(self.a[i] * self.mu, spread).log_prob(self.seen[i]).sum(-1)

    def noise(self, count):
        shape = (count, self.mu.shape[-1])
        return lambda: torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def average(self, weights, count, resample=True):
        draw = self.noise(count)
        offset = (lambda group: float(torch.rand((), generator=self.generator))) if resample else None
        weights = torch.tensor(weights, dtype=torch.float64)
        return average(self.predict, self.scale * draw(), self.steps, weights, draw, [torch.arange(count)], offset)


MU, VAR, W = [[1.0, -1.0], [-1.0, 0.5], [0.0, 1.0]], [[0.2, 2.0], [1.5, 0.3], [1.0, 1.0]], [0.3, 0.5, 0.2]


def moments(w, mu=MU, var=VAR):
    """Mean and variance of the geometric average: precisions average."""
    w, mu, var = np.array(w)[:, None], np.array(mu), np.array(var)
    precision = (w / var).sum(0)
    return (w * mu / var).sum(0) / precision, 1 / precision


# ------------------------------------------------------------------------------------------------ steps

@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_a_step_is_the_posterior_of_the_path(path):
    """`keep, move, spread` against Bayes' rule for three jointly Gaussian variables, solved numerically."""
    levels = torch.tensor([3.0, 0.5, -2.0], dtype=torch.float64)
    a, s = (c.tolist() for c in path.coefficients(levels))
    for i, step in enumerate(schedule(path, levels)[:2]):
        ratio = (a[i] / a[i + 1]) ** 2  # x_s = (a_s / a_t) x_t + noise of variance s_s^2 - ratio s_t^2
        between = s[i] ** 2 - ratio * s[i + 1] ** 2
        precision = 1 / s[i + 1] ** 2 + ratio / between
        assert step.spread == pytest.approx(precision**-0.5)
        assert step.keep == pytest.approx(a[i] / a[i + 1] / between / precision)
        assert step.move == pytest.approx(a[i + 1] / s[i + 1] ** 2 / precision)


def test_steps_are_finite_from_pure_noise_to_the_image():
    steps = schedule(PATHS["flow"], torch.tensor([math.inf, 2.0, -20.0]))
    assert steps[0].keep == 0 and steps[0].place == 1 and steps[0].spread > 0  # nothing of pure noise is kept
    assert (steps[-1].keep, steps[-1].move, steps[-1].spread) == (0, 1, 0)
    clean, before = torch.ones(1), torch.zeros(1)
    assert [float(ahead(steps, i, clean, before if i else None)) for i in range(3)] == [1, 1, 1]
    inner = schedule(PATHS["flow"], torch.tensor([2.0, 1.0, -1.0, -2.0]))
    assert float(ahead(inner, 1, clean, before)) == pytest.approx(1 + 0.5 * 2.0 / 1.0)  # half the ratio of the steps in log(s/a)


@pytest.mark.parametrize("levels", [[], [1.0, 1.0], [0.0, 1.0], [[1.0, 0.0]]])
def test_levels_that_do_not_fall_are_refused(levels):
    with pytest.raises(ValueError, match="fall"):
        schedule(PATHS["vp"], torch.tensor(levels))


# ------------------------------------------------------------------------------------------------ barycenter

@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_the_barycenter_of_gaussians_is_reached_and_the_uncorrected_chain_misses_it(path):
    mean, variance = moments(W)
    found = Gaussians(path, MU, VAR, 150).average(W, 4096)
    assert abs(found.x.mean(0).numpy() - mean).max() < 4 * math.sqrt(0.5 / 3000)
    assert abs(found.x.var(0).numpy() / variance - 1).max() < 4 * math.sqrt(2 / 3000)
    plain = Gaussians(path, MU, VAR, 150).average(W, 4096, resample=False)
    assert abs(plain.x.mean(0).numpy() - mean).max() > 0.3 and (plain.x.var(0).numpy() / variance).min() > 1.15
    weights = torch.softmax(plain.log_weights, 0)[:, None]  # ... and its weights know by how much
    assert abs((weights * plain.x).sum(0).numpy() - mean).max() < 4 * math.sqrt(0.5 / 3000)


def test_the_uncorrected_chain_is_right_where_theory_says_so():
    """Members of equal covariance: the average of noised scores is the noised score of the average, so all weights stay equal."""
    mu, var = [[2.0, 0.0], [-1.0, 1.0]], [[0.5, 0.8]] * 2
    found = Gaussians(PATHS["vp"], mu, var, 100).average([0.4, 0.6], 4096, resample=False)
    mean, variance = moments([0.4, 0.6], mu, var)
    assert effective(found.log_weights) > 0.999 * 4096
    assert abs(found.x.mean(0).numpy() - mean).max() < 0.05 and abs(found.x.var(0).numpy() / variance - 1).max() < 0.1


def test_few_steps_come_near_the_barycenter_too():
    mean, _ = moments(W)
    corrected, plain = (Gaussians(PATHS["vp"], MU, VAR, 20).average(W, 4096, resample=r) for r in (True, False))
    miss = [np.linalg.norm(found.x.mean(0).numpy() - mean) for found in (corrected, plain)]
    assert miss[0] < 0.06 and miss[1] > 0.3


def test_one_member_alone_is_never_resampled():
    found = Gaussians(PATHS["vp"], MU, VAR, 30).average([0.0, 1.0, 0.0], 512)
    assert found.resampled == [0] and found.lowest == [pytest.approx(512)] and found.lineage.tolist() == list(range(512))


def test_levels_below_the_quietest_gather_no_weight():
    weights, found = torch.tensor(W), []
    for quietest in (0.0, 0.5, 1.0):
        world = Gaussians(PATHS["vp"], MU, VAR, 60)
        draw = world.noise(256)
        run = average(world.predict, draw(), world.steps, weights, draw, [torch.arange(256)], None, quietest=quietest)
        found.append(run.log_weights)
    assert (found[2] == 0).all() and (found[1] < 0).all() and (found[0] < found[1]).all()
    world = Gaussians(PATHS["vp"], MU, VAR, 60)
    draw = world.noise(256)
    run = average(world.predict, draw(), world.steps, weights, draw, [torch.arange(256)], lambda group: 0.5, quietest=0.5)
    assert run.resampled[0] and run.log_weights.abs().max() == 0  # what was gathered is spent before the end


def test_the_step_to_the_image_adds_its_weight():
    world, weights = Gaussians(PATHS["vp"], MU, VAR, 1), torch.tensor(W, dtype=torch.float64)
    draw = world.noise(64)
    run = average(world.predict, draw(), world.steps, weights, draw, [torch.arange(64)], None)
    step, clean = world.steps[0], world.predict(world.seen[0], 0)  # one step is all there is: from its level to none, the rate falls to 0
    assert torch.allclose(run.log_weights, -0.5 * step.place * rate(clean, weights, step)) and run.log_weights.std() > 0


def test_particles_replace_only_those_of_their_group():
    world, count = Gaussians(PATHS["vp"], MU, VAR, 12), 60
    groups = [torch.arange(0, count, 2), torch.arange(1, count, 2)]
    draw, weights = world.noise(count), torch.tensor(W)
    found = average(world.predict, draw(), world.steps, weights, draw, groups, lambda group: 0.5)
    assert sum(found.resampled) >= 2 and found.remaining(0) < 30
    assert (found.lineage % 2 == torch.arange(count) % 2).all()
    assert len(found.x.unique(dim=0)) == count  # copies part again before the end


# ------------------------------------------------------------------------------------------------ resampling

LOGS = st.lists(st.floats(-8, 8), min_size=1, max_size=40)


@given(LOGS, st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, deadline=None)
def test_systematic_resampling_keeps_shares_to_one_copy_and_survivors_in_place(logs, offset):
    log_weights = torch.tensor(logs, dtype=torch.float64)
    order, share = ancestors(log_weights, offset), torch.softmax(log_weights, 0) * len(logs)
    counts = torch.bincount(order, minlength=len(logs))
    assert (counts >= (share - 1e-9).floor()).all() and (counts <= (share + 1e-9).floor() + 1).all()
    assert all(order[i] == i for i in range(len(logs)) if counts[i])


def test_systematic_resampling_is_unbiased():
    log_weights = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = sum(torch.bincount(ancestors(log_weights, (i + 0.5) / 2000), minlength=12) for i in range(2000)) / 2000
    assert torch.allclose(counts.double(), torch.softmax(log_weights, 0) * 12, atol=2e-3)


def test_effective_sample_size():
    assert effective(torch.zeros(7)) == pytest.approx(7) and effective(torch.tensor([0.0, -800.0, -900.0])) == pytest.approx(1)
    assert effective(torch.log(torch.tensor([3.0, 1.0]))) == pytest.approx(16 / 10)


# ------------------------------------------------------------------------------------------------ superposition

@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_or_weighs_by_the_analytic_posterior_at_every_level(path):
    world, count = Gaussians(path, MU, VAR, 300), 400
    draw, prior, kappas = world.noise(count), torch.tensor(W, dtype=torch.float64), []
    x, odds = superpose(world.predict, world.scale * draw(), world.steps, prior, draw, tell=lambda i, kappa: kappas.append(kappa))
    for i in (0, 75, 150, 225, 299):
        posterior = torch.softmax(world.log_density(i) + prior.log()[:, None], 0)
        assert (kappas[i] - posterior).abs().mean() < 0.015 and (kappas[i] - posterior).abs().max() < 0.2, i
    assert torch.equal(torch.softmax(odds, 0), kappas[-1])
    mean = (prior[:, None] * world.mu[:, 0]).sum(0)  # of the mixture
    variance = (prior[:, None] * (world.var + world.mu**2)[:, 0]).sum(0) - mean**2
    assert ((x.mean(0) - mean).abs() < 4 * (variance / count).sqrt()).all() and ((x.var(0) / variance - 1).abs() < 0.3).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_and_keeps_the_densities_equal(path):
    rng = np.random.default_rng(5)
    mu, var = rng.normal(size=(3, 16)), 0.5 + rng.random((3, 16))
    world, count, kappas = Gaussians(path, mu, var, 300), 100, []
    draw, weights = world.noise(count), torch.full((3,), 1 / 3, dtype=torch.float64)
    x, odds = superpose(world.predict, world.scale * draw(), world.steps, weights, draw, equal=True,
                        tell=lambda i, kappa: kappas.append(kappa))  # fmt: skip
    assert torch.isfinite(x).all() and odds.abs().max() < 1e-6  # equal by the sampler's own account ...
    fixed = Gaussians(path, mu, var, 300)
    fixed.seen = world.seen
    for i in (75, 150, 225, 299):
        uneven = fixed.log_density(i) - fixed.log_density(i).mean(0)
        assert uneven.abs().mean() < 0.08, i  # ... and in truth; members drawn alone differ by several nats:
    single = Gaussians(path, mu, var, 300)
    single.average([1.0, 0.0, 0.0], count)
    assert (single.log_density(299) - single.log_density(299).mean(0)).abs().mean() > 1.5
    assert all(torch.allclose(kappa.sum(0), torch.ones(count, dtype=torch.float64)) for kappa in kappas)


def test_and_solves_the_linear_system_of_its_paper():
    """Two members, one step: kappa against the condition solved by bisection on the change of the log densities."""
    world = Gaussians(PATHS["vp"], [[1.0, 0.0, 0.3], [-1.0, 0.5, 0.0]], [[0.5, 1.0, 2.0], [1.0, 1.0, 0.4]], 20)
    draw, step = world.noise(1), world.steps[5]
    x, noise = draw(), draw()
    clean = world.predict(x, 5)
    found = []
    superpose(lambda *_: clean, x, [step, world.steps[-1]], torch.full((2,), 0.5), lambda: noise, equal=True,
              tell=lambda i, kappa: found.append(float(kappa[0, 0])))  # fmt: skip

    def gap(kappa):  # log p_0 - log p_1 after the step, by the Gaussian kernels themselves
        moved = step.apply(x, kappa * clean[0] + (1 - kappa) * clean[1], noise)
        ends = [torch.distributions.Normal(step.keep * x + step.move * c, step.spread).log_prob(moved).sum() for c in clean]
        return float(ends[0] - ends[1])

    low, high = -1e3, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (gap(middle) < 0) == (gap(low) < 0) else (low, middle)
    assert found[0] == pytest.approx(middle, rel=1e-6) and found[1] == 0.5


@pytest.mark.parametrize("equal", [False, True])
def test_equal_members_share_equally_and_stay_finite(equal):
    world = Gaussians(PATHS["flow"], [[0.5, -0.5]] * 2, [[0.7, 0.2]] * 2, 20)
    draw, kappas = world.noise(50), []
    x, _ = superpose(world.predict, draw(), world.steps, torch.tensor([0.5, 0.5], dtype=torch.float64), draw, equal=equal,
                     tell=lambda i, kappa: kappas.append(kappa))  # fmt: skip
    assert torch.isfinite(x).all() and all(torch.allclose(kappa, torch.full_like(kappa, 0.5)) for kappa in kappas)


@pytest.mark.parametrize("equal", [False, True])
def test_weights_of_a_sample_do_not_depend_on_its_company(equal):
    noise = [torch.randn(8, 2, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(13)]

    def run(rows):
        world, source = Gaussians(PATHS["vp"], MU, VAR, 12), iter(noise)
        draw = lambda: next(source)[rows]  # noqa: E731
        return superpose(world.predict, draw(), world.steps, torch.tensor(W, dtype=torch.float64), draw, equal=equal)

    together, alone = run(slice(None)), run(slice(2, 3))
    assert torch.allclose(together[0][2:3], alone[0], atol=1e-9) and torch.allclose(together[1][:, 2:3], alone[1], atol=1e-7)
