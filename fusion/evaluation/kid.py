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
from fusion.evaluation.families import FEWEST, apart, joined, labels, without


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`(N, M)`: the cubic kernel of features `(N, F)` and `(M, F)`."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def kid(x: np.ndarray, y: np.ndarray, families: Sequence | None = None) -> Estimate:
    """KID of samples `x` (N, F) against held-out images `y` (M, F), with a 95 % interval over both sets of images.

    It may come out below 0, as any unbiased estimate of 0 does. `families` (N,): samples with one label descend from one particle; None:
    all are independent. Raises ValueError for fewer than 3 images in a set, or 3 families.
    """
    sums = Sums.of(x, y, families)
    value, error = sums.value(), np.sqrt(jackknife_variance(sums.without_x()) + jackknife_variance(sums.without_y()))
    return _interval(value, error, 0.95)


def difference(a: np.ndarray, b: np.ndarray, y: np.ndarray, *, paired: bool = False, level: float = 0.95,
               families: tuple[Sequence | None, Sequence | None] = (None, None)) -> Estimate:  # fmt: skip
    """`KID(a, y) - KID(b, y)`: above 0 where `b` is the closer one, with an interval (relative similarity: Bounliphone et al. 2016).

    The held-out images `y` are the same on both sides, so what they share by chance cancels, and the interval is narrower than those of
    the two distances. `paired`: row i of `a` and of `b` come from one prompt and seed and are left out together. `families`: those of `a`
    and of `b`, see `kid`; where what must be left out together leaves fewer than 3 groups, the interval has no ends.
    """
    one, other = Sums.of(a, y, families[0]), Sums.of(b, y, families[1])
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

    def __init__(self, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, families: Sequence | None = None):
        (n, m), self.families = xy.shape, labels(families, len(xy))
        if n < 3 or m < 3:
            raise ValueError(f"a kernel distance between {n} and {m} images: give at least 3 on either side")
        if self.families.max() + 1 < FEWEST:
            raise ValueError(f"a kernel distance of {n} samples that descend from {self.families.max() + 1} particles: draw larger batches")
        self.n, self.m = n, m
        self.pairs = apart(self.families)  # (N, N): two samples of one family say nothing of the population's spread
        self.x = xx * self.pairs
        self.y = yy.sum(1) - np.diag(yy)
        self.to_y, self.to_x = xy.sum(1), xy.sum(0)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, families: Sequence | None = None) -> Sums:
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise ValueError(f"features of shapes {x.shape} and {y.shape}: both must be (images, features), read by the same network")
        return cls(kernel(x, x), kernel(x, y), kernel(y, y), families)

    def value(self) -> float:
        """The unbiased squared discrepancy."""
        n, m = self.n, self.m
        return float(self.x.sum() / self.pairs.sum() + self.y.sum() / (m * (m - 1)) - 2 * self.to_y.sum() / (n * m))

    def without_x(self, groups: np.ndarray | None = None) -> np.ndarray:
        """`(G,)`: the distance without the samples of each family, or of each of the larger `groups` (N,) of families."""
        groups, m = self.families if groups is None else groups, self.m
        n = self.n - np.bincount(groups)
        within = without(self.x, groups) / without(self.pairs, groups)
        between = (self.to_y.sum() - np.bincount(groups, self.to_y)) / (n * m)
        return within + self.y.sum() / (m * (m - 1)) - 2 * between

    def without_y(self) -> np.ndarray:
        """`(M,)`: the distance without held-out image j."""
        n, m = self.n, self.m - 1
        within, between = (self.y.sum() - 2 * self.y) / (m * (m - 1)), (self.to_x.sum() - self.to_x) / (n * m)
        return self.x.sum() / self.pairs.sum() + within - 2 * between


def _interval(value: float, error: float, level: float) -> Estimate:
    half = NormalDist().inv_cdf((1 + level) / 2) * float(error)
    return Estimate(value, value - half, value + half)
