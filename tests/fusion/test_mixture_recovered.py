"""Samples of a known mixture of Gaussians, members in closed form: EM on their residuals recovers the proportions."""

import numpy as np
import pytest
import torch

from fusion.objective import residual_gram
from fusion.weights import MixtureProportions
from tests.fusion.world import Path

MEANS = torch.tensor([[-2.0, 0.0, 1.0], [2.0, 0.5, 0.0], [0.0, 3.0, -1.0]], dtype=torch.float64)
STRATA = torch.linspace(-10, 12, 33)


def denoisers(x_t, level):
    """Exact noise predictions of `N(mean, I)`: (K, B, D)."""
    a, s = (c[:, None] for c in Path().coefficients(level))
    return torch.stack([s * (x_t - a * mean) / (a**2 + s**2) for mean in MEANS])


@pytest.mark.parametrize("truth", [(0.6, 0.3, 0.1), (0.0, 0.5, 0.5), (1.0, 0.0, 0.0)])
def test_em_recovers_the_proportions_of_a_known_mixture(truth):
    rng, count = np.random.default_rng(5), 500
    owner = rng.choice(3, size=count, p=truth)
    x0 = MEANS[owner] + torch.from_numpy(rng.normal(size=(count, 3)))
    gram = residual_gram(denoisers, x0, Path(), STRATA, generator=torch.Generator().manual_seed(2), draws=2, batch_size=4096,
                         smooth_target=False)  # fmt: skip
    found = MixtureProportions().fit(gram)
    drawn = np.bincount(owner, minlength=3) / count
    assert found.proportions_ == pytest.approx(drawn, abs=0.04)  # what no sampling noise excuses
    density = torch.exp(-0.5 * ((x0[:, None] - MEANS) ** 2).sum(-1)).numpy()
    pi = np.full(3, 1 / 3)
    for _ in range(3000):  # EM on the exact densities
        pi = (pi * density / (density @ pi)[:, None]).mean(0)
    assert found.proportions_ == pytest.approx(pi, abs=0.02)
    # responsibilities name the owner as often as the exact posterior does
    posterior = (pi * density).argmax(1)
    assert np.mean(found.responsibilities_.argmax(1) == posterior) > 0.95
