"""How different a method's samples are from each other, and whether they repeat the images that were fitted. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion.evaluation.estimate import Z95, Estimate, jackknife_variance, squared_distances
from fusion.evaluation.families import FEWEST, labels, pairs_of, without


def diversity(x: np.ndarray, y: np.ndarray, families: Sequence | None = None,
              prompts: tuple[Sequence[str], Sequence[str]] | None = None) -> Estimate:  # fmt: skip
    """Mean distance between two samples `x` (N, F), over that between two held-out images `y` (M, F): 1 is as diverse as the target.

    `families` (N,): samples with one label descend from one particle, and only samples of different ones are compared; None: all are
    independent. `prompts` (of `x`, of `y`): only pictures of different ones are compared, see `fusion.evaluation.families`. 95 % interval
    by jackknife over both sets. Raises ValueError for fewer than 3 images in a set, or 3 families.
    """
    kin = labels(families, len(x))
    if len(x) < 3 or len(y) < 3 or kin.max() + 1 < FEWEST:
        found = f"{len(x)} samples of {len(set(kin))} particles against {len(y)} held-out images"
        raise ValueError(f"the diversity of {found}: give at least 3 of each")
    pairs, _, others = pairs_of(kin, prompts, len(y))
    own, own_without = _mean_distance(np.asarray(x, dtype=float), pairs, kin)
    target, target_without = _mean_distance(np.asarray(y, dtype=float), others, np.arange(len(y)))
    if target <= 0:
        raise ValueError("all held-out images are the same picture, so there is no diversity to compare with: hold out different ones")
    error = np.sqrt(jackknife_variance(own_without / target) + jackknife_variance(own / np.maximum(target_without, 1e-300)))
    return Estimate(own / target, max(own / target - Z95 * error, 0.0), own / target + Z95 * error)


@dataclass(frozen=True)
class Copies:
    """`which`: samples that lie nearer to a fitted image than any held-out image does. `share`: of all; `chance`: the share expected of
    fresh images of the target. `p_value`: how often these would show as many; below 0.01 the method repeats what it was fitted to."""

    which: tuple[int, ...]
    share: float
    chance: float
    p_value: float

    @property
    def flagged(self) -> bool:
        return self.p_value < 0.01


def copies(samples: np.ndarray, fitted: np.ndarray, held_out: np.ndarray, families: Sequence | None = None) -> Copies:
    """Data copying, after the three-sample test of Meehan, Chaudhuri & Dasgupta (2020), from rows of pixels or latents.

    Where samples are fresh images of the target, they and the held-out images are exchangeable, so the number of samples that come before
    the nearest held-out image in the order of distance to the fitted ones is at least k with probability C(N, k) / C(N + M, k), exactly.
    Of `families` (see `diversity`) the probability counts the first sample of each: near-copies of one copy are no further evidence.
    """
    near, known = _nearest(samples, fitted), _nearest(held_out, fitted)
    which = np.flatnonzero(near < known.min())
    first = np.unique(labels(families, len(near)), return_index=True)[1]
    n, m, steps = len(first), len(known), np.arange(np.isin(which, first).sum())
    return Copies(tuple(which.tolist()), len(which) / len(near), 1.0 / (m + 1), float(np.prod((n - steps) / (n + m - steps))))


def _nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(N,)`: distance of every row of `x` to the nearest row of `y`."""
    x, y = (np.asarray(one, dtype=float).reshape(len(one), -1) for one in (x, y))
    return np.sqrt(squared_distances(x, y).min(1))


def _mean_distance(x: np.ndarray, pairs: np.ndarray, families: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean distance of two rows over the `pairs` (N, N) that count, and the same without each family."""
    distance = np.sqrt(squared_distances(x, x)) * pairs
    return float(distance.sum() / pairs.sum()), without(distance, families) / without(pairs, families)
