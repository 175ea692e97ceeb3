"""A figure with its interval: what every kind of evidence is reported as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964  # half-width of a 95 % interval in standard errors


@dataclass(frozen=True)
class Estimate:
    """`value` and the ends of its 95 % interval; `floor`: what a perfect method would measure at this sample size, where that is not 0."""

    value: float
    low: float
    high: float
    floor: float | None = None

    def __str__(self) -> str:
        floor = "" if self.floor is None else f", chance alone {self.floor:.2f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}{floor})"


def bootstrap_mean(values: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of `values` (N,) with a percentile interval over resampled entries; one entry gives no interval (its ends are infinite)."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Estimate(float(values.mean()), -np.inf, np.inf)
    means = np.random.default_rng(seed).choice(values, size=(draws, len(values))).mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def inverted_interval(value: float, simulated: Callable[[np.ndarray], np.ndarray], *, level: float = 0.95, most: float = np.inf,
                      points: int = 32) -> tuple[float, float]:  # fmt: skip
    """Interval of a distance by inverting its test: the true distances under which measuring `value` would be no surprise.

    `simulated(shares)` (G,) -> (G, B): what B experiments measure where the truth is `share * value`, on the way from no difference (0) to
    the one that was seen (1) and beyond. Unlike a bootstrap it reaches 0 where a perfect sampler would measure as much by chance. The way
    through the difference as seen holds its noise for truth, so that far ends come out too near; the upper end is therefore the basic
    bootstrap's where that is larger. For 16 to 512 portraits in 18 cells it covers true distances of 0 to 0.5 in 90 to 97 % of draws.
    """
    beyond = 2.0 if not np.isfinite(most) else max(min(most / value, 2.0), 1.0) if value > 0 else 1.0
    shares = np.concatenate([np.linspace(0, 1, points + 1), np.linspace(1, beyond, points + 1)[1:]])
    low, high = np.quantile(simulated(shares), [(1 - level) / 2, (1 + level) / 2], axis=1)  # (G,)
    least = shares[value <= high].min(initial=1.0)  # nearer truths would rarely measure as much, farther ones rarely as little
    greatest = max(shares[low <= value].max(initial=1.0), 2 - low[points] / value if value > 0 else 1.0)
    return float(value * least), float(min(value * greatest, most))


def jackknife_variance(left_out: np.ndarray) -> float:
    """Variance of an estimate from its values without each entry (N,); on average never too small (Efron & Stein 1981)."""
    n = len(left_out)
    return float((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(N, M)` between rows `(N, F)` and `(M, F)`."""
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0.0)
