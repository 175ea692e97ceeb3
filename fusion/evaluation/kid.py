"""Kernel distance between two sets of images in features of theirs (KID): unbiased at any number of images, with jackknife intervals.

The squared maximum mean discrepancy with the cubic kernel `k(x, y) = (x.y / F + 1)^3` of Binkowski, Sutherland, Arbel & Gretton (2018,
"Demystifying MMD GANs"), which has no parameter to choose; the estimator is unbiased, so that a perfect sampler measures 0 on average,
with few images as with many (the Frechet distance does not). Where the published figure uses Inception features, ours come from
`denoiser_features` and need no download: figures compare methods on one target, not papers.

Plain numpy on features `(N, F)`; which features they are is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fusion.evaluation.estimate import Estimate, jackknife_variance
from fusion.evaluation.families import FEWEST, joined, labels, pairs_of, without

Prompts = tuple[Sequence[str], Sequence[str]] | None  # of the samples and of the held-out images


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(N, M)`: the cubic kernel of features `(N, F)` and `(M, F)`."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def kid(x: np.ndarray, y: np.ndarray, families: Sequence | None = None, prompts: Prompts = None) -> Estimate:
    """KID of samples `x` (N, F) against held-out images `y` (M, F), with a 95 % interval over both sets of images.

    It may come out below 0, as any unbiased estimate of 0 does. `families` (N,): samples with one label descend from one particle; None:
    all are independent. `prompts` (of `x`, of `y`): pairs of one prompt are left out, see `fusion.evaluation.families`. Raises ValueError
    for fewer than 3 images in a set, or 3 families.
    """
    sums = Sums.of(x, y, families, prompts)
    value, error = sums.value(), np.sqrt(jackknife_variance(sums.without_x()) + jackknife_variance(sums.without_y()))
    return _interval(value, error, 0.95)


def difference(a: np.ndarray, b: np.ndarray, y: np.ndarray, *, paired: bool = False, level: float = 0.95,
               families: tuple[Sequence | None, Sequence | None] = (None, None),
               prompts: tuple[Prompts, Prompts] = (None, None)) -> Estimate:  # fmt: skip
    """`KID(a, y) - KID(b, y)`: above 0 where `b` is the closer one, with an interval (relative similarity: Bounliphone et al. 2016).

    The held-out images `y` are the same on both sides, so what they share by chance cancels, and the interval is narrower than those of
    the two distances. `paired`: row i of `a` and of `b` come from one prompt and seed and are left out together. `families`, `prompts`:
    those of `a` and of `b`, see `kid`; where what must be left out together leaves fewer than 3 groups, the interval has no ends.
    """
    one, other = Sums.of(a, y, families[0], prompts[0]), Sums.of(b, y, families[1], prompts[1])
    variance = jackknife_variance(one.without_y() - other.without_y())
    if paired:
        if len(a) != len(b):
            raise ValueError(f"{len(a)} and {len(b)} samples cannot be paired: draw both methods with the same prompts and seeds")
        groups = joined(one.families, other.families)
        enough = groups.max() + 1 >= FEWEST
        variance += jackknife_variance(one.without_x(groups) - other.without_x(groups)) if enough else np.inf
    else:
        variance += jackknife_variance(one.without_x()) + jackknife_variance(other.without_x())
    value, error = one.value() - other.value(), np.sqrt(variance)
    return _interval(value, error, level)


class Sums:
    """Sums of the kernel within and between two sets: the distance, and that without any one image or family, cost no further kernel."""

    def __init__(self, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, families: Sequence | None = None, prompts: Prompts = None):
        (n, m), self.families = xy.shape, labels(families, len(xy))
        if n < 3 or m < 3:
            raise ValueError(f"a kernel distance between {n} and {m} images: give at least 3 on either side")
        if self.families.max() + 1 < FEWEST:
            raise ValueError(f"a kernel distance of {n} samples that descend from {self.families.max() + 1} particles: draw larger batches")
        self.pairs_x, self.pairs_xy, self.pairs_y = pairs_of(self.families, prompts, m)
        self.x, self.xy, self.y = xx * self.pairs_x, xy * self.pairs_xy, yy * self.pairs_y

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, families: Sequence | None = None, prompts: Prompts = None) -> Sums:
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise ValueError(f"features of shapes {x.shape} and {y.shape}: both must be (images, features), read by the same network")
        return cls(kernel(x, x), kernel(x, y), kernel(y, y), families, prompts)

    def value(self) -> float:
        """The unbiased squared discrepancy: means over the pairs that count."""
        return self._within_x() + self._within_y() - 2 * float(self.xy.sum() / self.pairs_xy.sum())

    def without_x(self, groups: np.ndarray | None = None) -> np.ndarray:
        """`(G,)`: the distance without the samples of each family, or of each of the larger `groups` (N,) of families."""
        groups = self.families if groups is None else groups
        within = without(self.x, groups) / without(self.pairs_x, groups)
        left = [one.sum() - np.bincount(groups, one.sum(1)) for one in (self.xy, self.pairs_xy)]
        return within + self._within_y() - 2 * left[0] / left[1]

    def without_y(self) -> np.ndarray:
        """`(M,)`: the distance without held-out image j."""
        each = np.arange(len(self.y))
        within = without(self.y, each) / without(self.pairs_y, each)
        left = [one.sum() - one.sum(0) for one in (self.xy, self.pairs_xy)]
        return self._within_x() + within - 2 * left[0] / left[1]

    def _within_x(self) -> float:
        return float(self.x.sum() / self.pairs_x.sum())

    def _within_y(self) -> float:
        return float(self.y.sum() / self.pairs_y.sum())


def _interval(value: float, error: float, level: float) -> Estimate:
    half = NormalDist().inv_cdf((1 + level) / 2) * float(error)
    return Estimate(value, value - half, value + half)
