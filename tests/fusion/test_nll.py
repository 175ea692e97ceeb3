"""Likelihoods by the probability-flow ODE against densities in closed form, and samples of the same flow."""

import math

import pytest
import torch

from fusion.evaluation.nll import bits_per_dimension, flow, log_density, samples
from models.noise import NoisePath

LEVELS = torch.linspace(-12, 10, 400, dtype=torch.float64)
PATHS = {
    "vp": NoisePath("vp", "epsilon", tuple(LEVELS.tolist()), tuple(map(float, range(400)))),
    "ve": NoisePath("ve", "epsilon", tuple(LEVELS.tolist()), tuple(map(float, range(400)))),
    "flow": NoisePath("flow", "flow", tuple(LEVELS.tolist()), tuple(map(float, range(400)))),
}


def gaussian(mean, covariance, path):
    """The exact noise prediction for data N(mean, covariance), any number of dimensions."""

    def noise(x, level):
        a, s = (c[0] for c in path.coefficients(level))
        C = a * a * covariance + s * s * torch.eye(len(mean), dtype=x.dtype)
        return s * torch.linalg.solve(C, (x - a * mean).T).T

    return noise


def mixture(means, deviation, shares, path):
    """The exact noise prediction for a mixture of normals in one dimension."""

    def noise(x, level):
        a, s = (c[:, None] for c in path.coefficients(level))
        variance = a * a * deviation**2 + s * s
        apart = x - a * means
        p = torch.softmax(shares.log() - apart.square() / (2 * variance), 1)
        return s / variance * (p * apart).sum(1, keepdim=True)

    return noise


MEAN, COVARIANCE = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([[0.9, 0.5], [0.5, 0.4]], dtype=torch.float64)
TRUTH = torch.distributions.MultivariateNormal(MEAN, COVARIANCE)
HADAMARD = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)  # its rows as probes give the exact trace


@pytest.mark.parametrize("kind", PATHS)
def test_the_density_of_a_gaussian_with_the_exact_trace(kind):
    path, x = PATHS[kind], MEAN + torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 0.7], [2.0, 2.0]], dtype=torch.float64)
    low, high = path.range
    keep = math.sqrt(1 / (1 + math.exp(low)))  # of the data in u, at the quiet end
    end, change = flow(gaussian(MEAN, COVARIANCE, path), path, x * keep, torch.linspace(low, high, 401),
                       probes=HADAMARD[:, None].expand(2, 4, 2))  # fmt: skip
    left = 1 / (1 + math.exp(high))
    covariance = left * COVARIANCE + (1 - left) * torch.eye(2, dtype=torch.float64)
    noised = torch.distributions.MultivariateNormal(math.sqrt(left) * MEAN, covariance)
    assert torch.allclose(noised.log_prob(end) - change + 2 * math.log(keep), TRUTH.log_prob(x), atol=2e-3)


def test_random_signs_have_the_right_mean():
    x = (MEAN + torch.tensor([1.0, 0.5])).expand(1500, 2)
    found = log_density(gaussian(MEAN, COVARIANCE, PATHS["vp"]), PATHS["vp"], x, steps=60, generator=torch.Generator().manual_seed(1),
                        batch=1500)  # fmt: skip
    error = float(found.mean() - TRUTH.log_prob(x[0]))
    assert found.std() > 0.05 and abs(error) < 4 * float(found.std()) / math.sqrt(1500) + 0.01, error


def test_a_diagonal_jacobian_needs_one_probe_and_steps_converge():
    mean, scale = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([0.5, 1.5], dtype=torch.float64)
    truth = torch.distributions.Independent(torch.distributions.Normal(mean, scale), 1)
    z = torch.linspace(-1.5, 1.5, 16, dtype=torch.float64)
    x = mean + scale * torch.stack([z, z.roll(5)], 1)
    noise = gaussian(mean, torch.diag(scale**2), PATHS["vp"])
    found = {steps: log_density(noise, PATHS["vp"], x, steps=steps) for steps in (10, 20, 200)}
    off = {steps: (found[steps] - found[200]).abs().max().item() for steps in (10, 20)}
    assert torch.allclose(found[200], truth.log_prob(x), atol=0.04)  # the noisiest level still holds 1/150 of a mean of 2
    assert off[20] < off[10] / 2.5 and off[20] < 0.03, off


def test_the_density_of_a_mixture_of_normals():
    means, shares = torch.tensor([-0.75, 0.75], dtype=torch.float64), torch.tensor([0.6, 0.4], dtype=torch.float64)
    x = torch.linspace(-1.2, 1.2, 25, dtype=torch.float64)[:, None]
    truth = torch.logsumexp(shares.log() + torch.distributions.Normal(means, 0.1).log_prob(x), 1)
    found = log_density(mixture(means, 0.1, shares, PATHS["ve"]), PATHS["ve"], x, steps=300)
    assert torch.allclose(found, truth, atol=0.02), (found - truth).abs().max()


def test_samples_have_the_moments_of_the_density():
    mean, covariance = torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 0.6], [0.6, 0.5]])
    drawn = samples(gaussian(mean, covariance, PATHS["vp"]), PATHS["vp"], (4000, 2), steps=40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.mean(0), mean, atol=0.06) and torch.allclose(drawn.T.cov(), covariance, atol=0.06)


def test_there_and_back_again_is_the_same_point_and_the_same_density():
    noise, path = gaussian(torch.zeros(2), torch.eye(2) * 0.3, PATHS["vp"]), PATHS["vp"]
    y, signs, levels = torch.randn(5, 2), torch.ones(1, 5, 2), torch.linspace(-6, 6, 121)
    there, gained = flow(noise, path, y, levels, probes=signs)
    back, lost = flow(noise, path, there, levels.flip(0), probes=signs)
    assert torch.allclose(back, y, atol=1e-3) and torch.allclose(gained, -lost, atol=1e-3) and not torch.allclose(there, y, atol=0.1)


def test_bits_of_bytes_drawn_at_random_are_eight():
    uniform = torch.full((4,), -784 * math.log(256.0), dtype=torch.float64)
    assert torch.allclose(bits_per_dimension(uniform, 784), torch.full((4,), 8.0, dtype=torch.float64))


def test_stopping_is_said():
    with pytest.raises(RuntimeError, match="stopped"):
        log_density(lambda x, level: x, PATHS["vp"], torch.zeros(2, 2), stop=lambda: True)
