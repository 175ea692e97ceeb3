"""Distance between samples and held-out target images in the calibrated residual features: needs no labels, so it works for any models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion.calibration import CalibratedProportions
from fusion.evaluation.estimate import Estimate, inverted_interval
from fusion.evaluation.families import FEWEST, joined, labels, resampled_means
from fusion.methods.coordinates import Coordinates
from fusion.objective import ResidualGram


def feature_distance(calibrated: CalibratedProportions, samples: ResidualGram, held_out: ResidualGram, *, draws: int = 1000,
                     seed: int = 0) -> Estimate:  # fmt: skip
    """Distance of the two means, in standard deviations of one picture; interval over both sets of images.

    `floor`: the mean distance of two sets of these sizes from one population.
    """
    space = Coordinates.of(calibrated, held_out.names)
    return distance_of_means(space.read(samples), space.read(held_out), draws=draws, seed=seed)


def distance_of_means(u: np.ndarray, v: np.ndarray, *, families: Sequence | None = None, draws: int = 1000, seed: int = 0) -> Estimate:
    """The same from coordinates `(N, F)` and `(M, F)`.

    `families` (N,): samples with one label descend from one particle and are resampled together; None: all are independent. Of fewer than
    3 families, or of fewer than 3 held-out images, nothing is known but the value.
    """
    rng, kin = np.random.default_rng(seed), labels(families, len(u))
    way = u.mean(0) - v.mean(0)
    value = float(np.linalg.norm(way))
    if min(kin.max() + 1, len(v)) < FEWEST:
        return Estimate(value, 0.0, np.inf)
    moved = resampled_means(u, kin, _drawn(rng, draws, kin)) - resampled_means(v, np.arange(len(v)), _drawn(rng, draws, np.arange(len(v))))
    chance = moved - moved.mean(0)  # (draws, F): what sampling both sets adds to the way between their populations
    wide = chance * _widened(min(kin.max() + 1, len(v)))  # for the ends alone: the mean that is the floor needs no quantile
    low, high = inverted_interval(value, lambda shares: np.linalg.norm(shares[:, None, None] * way + wide, axis=2))
    return Estimate(value, low, high, float(np.linalg.norm(chance, axis=1).mean()))


def difference_of_distances(a: np.ndarray, b: np.ndarray, v: np.ndarray, *, paired: bool = False, level: float = 0.95, draws: int = 1000,
                            seed: int = 0, families: tuple[Sequence | None, Sequence | None] = (None, None)) -> Estimate:  # fmt: skip
    """`|mean a - mean v| - |mean b - mean v|`: above 0 where `b` is the closer one. Basic bootstrap interval over all three sets.

    `paired`: row i of `a` and of `b` come from one prompt and seed and are drawn together. `families`: those of `a` and of `b`, see
    `distance_of_means`; with fewer than 3 groups or held-out images to draw the interval has no ends.
    """
    if paired and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} samples cannot be paired: draw both methods with the same prompts and seeds")
    rng, kin = np.random.default_rng(seed), [labels(own, len(x)) for own, x in zip(families, (a, b))]
    kin = [joined(*kin)] * 2 if paired else kin
    first = _drawn(rng, draws, kin[0])
    drawn = [first, first if paired else _drawn(rng, draws, kin[1])]
    centre = resampled_means(v, np.arange(len(v)), _drawn(rng, draws, np.arange(len(v))))
    far = [np.linalg.norm(resampled_means(x, own, at) - centre, axis=1) for x, own, at in zip((a, b), kin, drawn)]
    value = float(np.linalg.norm(a.mean(0) - v.mean(0)) - np.linalg.norm(b.mean(0) - v.mean(0)))
    fewest = min(*(own.max() + 1 for own in kin), len(v))
    if fewest < FEWEST:
        return Estimate(value, -np.inf, np.inf)
    low, high = value + _widened(fewest, level) * (np.quantile(far[0] - far[1], [(1 - level) / 2, (1 + level) / 2]) - value)
    return Estimate(value, float(2 * value - high), float(2 * value - low))


def _widened(count: int, level: float = 0.95) -> float:
    """By how much a bootstrap over so few is too narrow: its variance divides by n and not by n - 1, and its quantiles are a normal's and
    not Student's (Efron & Tibshirani 1993, section 12.5)."""
    from scipy.stats import norm, t

    return float(np.sqrt(count / (count - 1)) * t.ppf((1 + level) / 2, count - 1) / norm.ppf((1 + level) / 2))


def _drawn(rng: np.random.Generator, draws: int, families: np.ndarray) -> np.ndarray:
    """`(draws, F)`: families drawn with replacement, as many as there are."""
    count = int(families.max()) + 1
    return rng.integers(count, size=(draws, count))
