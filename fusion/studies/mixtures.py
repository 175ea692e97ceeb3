"""Mixtures of normals on the line: their noise predictions, distances and geometric averages in closed form or by quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from fusion.studies.training import even_path
from models.noise import NoisePath

PATH = even_path(-11.0, 7.0)  # for data of about unit scale
PUBLISHED_SIGMA = 25.0  # of the authors' variance-exploding path


@dataclass(frozen=True)
class Mixture:
    """Normals with the given means, one deviation, and shares that sum to 1."""

    means: tuple[float, ...]
    deviation: float
    shares: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.dot(self.means, self.shares))

    @property
    def spread(self) -> float:
        """Standard deviation of the whole mixture."""
        return float(np.sqrt(np.dot(np.square(self.means), self.shares) - self.mean**2 + self.deviation**2))

    def moved(self, shift: float, scale: float) -> Mixture:
        """The mixture of `(x - shift) / scale`."""
        return Mixture(tuple((m - shift) / scale for m in self.means), self.deviation / scale, self.shares)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:  # (count,)
        owner = rng.choice(len(self.shares), size=count, p=self.shares)
        return np.asarray(self.means)[owner] + self.deviation * rng.standard_normal(count)

    def density(self, x: np.ndarray) -> np.ndarray:
        return sum(p * norm.pdf(x, m, self.deviation) for p, m in zip(self.shares, self.means))

    def noise(self, x: Tensor, level: Tensor) -> Tensor:
        """The exact noise prediction `(B, 1)` for `x_t` on `PATH`: minus s times the score of the noised mixture."""
        a, s = (c[:, None] for c in PATH.coefficients(level))
        variance = (a * self.deviation) ** 2 + s * s
        apart = x - a * torch.tensor(self.means, dtype=x.dtype)
        p = torch.softmax(torch.tensor(self.shares, dtype=x.dtype).log() - apart.square() / (2 * variance), 1)
        return s / variance * (p * apart).sum(1, keepdim=True)

    def distance(self, samples: np.ndarray) -> float:
        """W1 between `samples` (N,) and the mixture, exact up to the grid of the quantile function."""
        samples = np.sort(np.asarray(samples, dtype=np.float64))
        return float(np.abs(samples - self.quantiles((np.arange(len(samples)) + 0.5) / len(samples))).mean())

    def quantiles(self, p: np.ndarray) -> np.ndarray:
        reach = 12 * self.deviation
        x = np.linspace(min(self.means) - reach, max(self.means) + reach, 40_001)
        return np.interp(p, sum(q * norm.cdf(x, m, self.deviation) for q, m in zip(self.shares, self.means)), x)


def distance_of_densities(p: np.ndarray, q: np.ndarray, x: np.ndarray) -> float:
    """W1 of two densities on an even grid, each normalised: the area between their distribution functions."""
    one, other = np.cumsum(p) / p.sum(), np.cumsum(q) / q.sum()
    return float(np.abs(one - other).sum() * (x[1] - x[0]))


def geometric_average(members: list[Mixture], weights, x: np.ndarray) -> np.ndarray:
    """`prod p_k^w_k` on an even grid, normalised: what the barycenter is."""
    log = sum(w * np.log(np.maximum(member.density(x), 1e-300)) for w, member in zip(weights, members))
    p = np.exp(log - log.max())
    return p / (p.sum() * (x[1] - x[0]))


def published_path(points: int = 4001) -> NoisePath:
    """`PATH` with the level weights of the authors' training: t even in [1e-5, 1], `sigma(t)^2 = (25^2t - 1) / (2 log 25)`."""
    t = np.linspace(1e-5, 1, points)
    sigma = np.sqrt((PUBLISHED_SIGMA ** (2 * t) - 1) / (2 * np.log(PUBLISHED_SIGMA)))
    return NoisePath("vp", "v_prediction", tuple((2 * np.log(sigma)).tolist()), tuple((1000 * t).tolist()))
