"""Score matching on one population, against sums written out and closed forms."""

import numpy as np
import pytest
import torch

from fusion.transfer.task import Task, posterior_means, same, stratified_levels
from models.noise import NoisePath
from tests.fusion.transfer import world

PATHS = {
    "vp": NoisePath.variance_preserving(torch.linspace(0.999, 0.01, 50).double(), "v_prediction"),
    "flow": NoisePath.rectified_flow(50),
    "terminal": NoisePath.variance_preserving(torch.tensor([0.9, 0.5, 0.1, 0.0]).double(), "v_prediction"),
}


@pytest.mark.parametrize("name", PATHS)
def test_levels_are_uniform_in_the_training_timestep_one_in_each_stratum(name):
    path = PATHS[name]
    table = np.array(path.training_levels[:-1] if path.terminal else path.training_levels)
    levels = stratified_levels(path, 200, 5, torch.Generator().manual_seed(0))
    place = np.interp(levels.double().numpy(), table, np.linspace(0, 1, len(table)))
    assert levels.shape == (200, 5) and np.isfinite(levels).all()
    assert (np.sort((place * 5 - 1e-6).clip(0).astype(int), axis=1) == np.arange(5)).all()
    assert abs(place[:, 0].mean() - 0.5) < 0.08  # strata come in random order


def test_posterior_means_against_sums_written_out():
    g = torch.Generator().manual_seed(0)
    samples, groups = torch.randn(6, 2, 3, generator=g), torch.tensor([0, 0, 1, 0, 1, 2])
    x_t, of = torch.randn(4, 2, 3, generator=g), torch.tensor([0, 1, 2, 0])
    a, s = (torch.rand(4, 1, 1, generator=g) + 0.3 for _ in range(2))
    found = posterior_means(x_t, a, s, samples, groups, of)
    for b in range(4):
        own = samples[groups == of[b]]
        p = torch.stack([torch.exp(-((x_t[b] - a[b] * x).square().sum()) / (2 * s[b].squeeze() ** 2)) for x in own])
        assert torch.allclose(found[b], sum(w * x for w, x in zip(p / p.sum(), own)), atol=1e-5)


def task(prediction="epsilon", count=64):
    """Gaussian samples whose best prediction is known, in three parametrisations."""
    path = NoisePath.variance_preserving(torch.linspace(0.999, 0.01, 50).double(), prediction)
    x, y = world.draw(0, True, count, 0)

    def predict(x_t, level, condition):
        centre = world.mean(condition["y"], *world.conditional(0, True))
        return path.from_noise(world.noise_of(x_t, level, centre, path), x_t, level)

    return Task("t", x, {"y": y}, torch.arange(count), predict, path)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_of_an_exact_network_is_the_irreducible_one(prediction):
    one = task(prediction, 2048)
    levels = np.linspace(0, 1, 4001)
    table = one.path.training_levels
    level = torch.tensor(np.interp(levels, np.linspace(0, 1, len(table)), table))
    a, s = one.path.coefficients(level)
    left = world.SPREAD**2 * s**2 / (a**2 * world.SPREAD**2 + s**2)  # variance of x0 given x_t
    scale = {"epsilon": a**2 / s**2, "v_prediction": 1 / s**2, "sample": torch.ones_like(a)}[prediction]
    expected = float((left * scale).mean())
    assert float(one.measure(same, levels=16).mean()) == pytest.approx(expected, rel=0.03)


def test_measuring_is_paired_and_depends_on_seed_and_place_alone():
    one = task()
    assert torch.allclose(one.measure(same, batch=7), one.measure(same, batch=64), rtol=1e-4)
    assert torch.equal(one.measure(same), one.measure(same))
    assert not torch.equal(one.measure(same), one.measure(same, seed=1))
    with pytest.raises(RuntimeError, match="stopped"):
        one.measure(same, stop=lambda: True)


def test_a_training_draw_estimates_what_is_measured():
    one = task(count=256)
    drawn = torch.stack([one.loss(same, torch.Generator().manual_seed(i), 32).errors(slice(None)).mean() for i in range(200)])
    measured = one.measure(same, levels=16)
    assert abs(drawn.mean() - measured.mean()) < 4 * (drawn.std() / 200**0.5 + measured.std() / 256**0.5)


def test_few_samples_are_repeated_in_a_batch():
    assert one_batch(3, 7) == [2, 2, 3]


def one_batch(count, batch):
    """How often each of `count` samples comes in one batch."""
    seen = []
    x, y = world.draw(0, True, count, 0)
    one = Task("t", x, {"y": torch.arange(count)[:, None].float()}, torch.arange(count),
               lambda x_t, level, c: (seen.extend(c["y"][:, 0].int().tolist()), x_t)[1], world.PATH)  # fmt: skip
    one.loss(same, torch.Generator().manual_seed(0), batch).errors(slice(None))
    return sorted(seen.count(i) for i in range(count))


def test_samples_without_conditions_are_refused():
    with pytest.raises(ValueError, match="each with its own"):
        Task("t", torch.zeros(2, 3), {}, torch.zeros(1), lambda *a: a, world.PATH)
