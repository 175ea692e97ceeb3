"""Distance between samples and held-out target images in the calibrated residual features: needs no labels, so it works for any models."""

from __future__ import annotations

import numpy as np

from fusion.calibration import CalibratedProportions
from fusion.evaluation.estimate import Estimate, basic_interval
from fusion.methods.coordinates import Coordinates
from fusion.objective import ResidualGram


def feature_distance(calibrated: CalibratedProportions, samples: ResidualGram, held_out: ResidualGram, *, draws: int = 1000,
                     seed: int = 0) -> Estimate:  # fmt: skip
    """Distance of the two means, in standard deviations of one picture; interval over both sets of images.

    `floor`: the mean distance of two sets of these sizes from one population.
    """
    space = Coordinates.of(calibrated, held_out.names)
    return distance_of_means(space.read(samples), space.read(held_out), draws=draws, seed=seed)


def distance_of_means(u: np.ndarray, v: np.ndarray, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """The same from coordinates `(N, F)` and `(M, F)`."""
    rng = np.random.default_rng(seed)
    value = float(np.linalg.norm(u.mean(0) - v.mean(0)))

    def means(x: np.ndarray) -> np.ndarray:
        return x[rng.integers(len(x), size=(draws, len(x)))].mean(1)

    moved = means(u) - means(v)
    low, high = basic_interval(value, np.linalg.norm(moved, axis=1))
    chance = np.linalg.norm(moved - moved.mean(0), axis=1).mean()
    return Estimate(value, low, high, float(chance))


def difference_of_distances(a: np.ndarray, b: np.ndarray, v: np.ndarray, *, paired: bool = False, level: float = 0.95, draws: int = 1000,
                            seed: int = 0) -> Estimate:  # fmt: skip
    """`|mean a - mean v| - |mean b - mean v|`: above 0 where `b` is the closer one. Basic bootstrap interval over all three sets.

    `paired`: row i of `a` and of `b` come from one prompt and seed and are drawn together.
    """
    if paired and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} samples cannot be paired: draw both methods with the same prompts and seeds")
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(a), size=(draws, len(a)))
    others = rows if paired else rng.integers(len(b), size=(draws, len(b)))
    centre = v[rng.integers(len(v), size=(draws, len(v)))].mean(1)
    far = [np.linalg.norm(x[at].mean(1) - centre, axis=1) for x, at in ((a, rows), (b, others))]
    value = float(np.linalg.norm(a.mean(0) - v.mean(0)) - np.linalg.norm(b.mean(0) - v.mean(0)))
    low, high = np.quantile(far[0] - far[1], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(2 * value - high), float(2 * value - low))
