"""Does any mixture of the members explain these images? Two resampling tests in one p-value.

What the members say of each image: its coordinates are centred log-likelihood ratios, and the statistic is the squared maximum mean
discrepancy (Gretton et al. 2012, eq. 5, biased) between the target's images and the members' own, mixed with the fitted shares. It finds
kinds of images that the members make, but not in such shares. What the ratios leave out: the mean features against those of the mixture;
that finds images which no member makes. Both null distributions come from drawing as many of the members' own images with the fitted
shares and refitting, so they are honest at any number of images; the smaller of the two ranks is ranked among those of the same draws.
Plain numpy.
"""

from __future__ import annotations

import numpy as np

from fusion.likelihood import shares

BANDWIDTH = 0.3  # of the median squared distance: fine enough for several kinds of image within one member
WORLDS = 64  # resamples of the members' mean features


def coordinates(f: np.ndarray) -> np.ndarray:
    """Centred log-ratios of likelihoods `(..., N, K)`, each bounded by a ratio of one to a million."""
    logs = np.log(np.maximum(f / f.sum(-1, keepdims=True), 1e-6))
    return logs - logs.mean(-1, keepdims=True)


class MixtureTest:
    """The test for one calibration: likelihoods `own` (M, K), cross-fitted, and features `phi` (M, F) of the members' own images.

    `owner` (M,): whose image each row is.
    """

    def __init__(self, own: np.ndarray, phi: np.ndarray, owner: np.ndarray):
        self.own, self.phi, self.owner, self.members = own, phi, owner, own.shape[1]
        self.means = np.stack([phi[owner == k].mean(0) for k in range(self.members)])  # (K, F)
        self.at = coordinates(own)
        distances = _squared(self.at, self.at)
        self.width = BANDWIDTH * max(float(np.median(distances[~np.eye(len(own), dtype=bool)])), 1e-12)
        self.kernel = np.exp(-distances / self.width)  # (M, M)
        self.to_members = self._per_member(self.kernel)  # (M, K)
        self.between = np.stack([self.to_members[owner == k].mean(0) for k in range(self.members)])  # (K, K)

    def _per_member(self, kernel: np.ndarray) -> np.ndarray:
        """Mean kernel of rows `(N, M)` to each member's own images, `(N, K)`."""
        return np.stack([kernel[:, self.owner == k].mean(1) for k in range(self.members)], axis=1)

    def discrepancy(self, within: np.ndarray, to_members: np.ndarray, pi: np.ndarray) -> np.ndarray:
        """Squared discrepancy from kernels among the images `(..., N, N)`, to the members `(..., N, K)`, at shares `(..., K)`."""
        cross = np.einsum("...nk,...k->...n", to_members, pi).mean(-1)
        return within.mean((-1, -2)) - 2 * cross + np.einsum("...j,jk,...k->...", pi, self.between, pi)

    def p_value(self, f: np.ndarray, phi: np.ndarray, pi: np.ndarray, draws: int, rng: np.random.Generator) -> float:
        """How many of `draws` resamples of own images at shares `pi` lie as far as images with likelihoods `f` (N, K), features `phi`."""
        at = coordinates(f)
        to_own = self._per_member(np.exp(-_squared(at, self.at) / self.width))
        seen = self.discrepancy(np.exp(-_squared(at, at) / self.width), to_own, pi), self.unexplained(phi, pi, self.means)
        drawn = self._draw(pi, (draws, len(f)), rng)
        refitted = shares(self.own[drawn])
        alone = self.to_members[drawn]  # an own image is left out of the mean it is compared with
        sizes = np.bincount(self.owner, minlength=self.members)[self.owner[drawn]][..., None]
        is_own = np.arange(self.members) == self.owner[drawn][..., None]
        alone = np.where(is_own, (alone * sizes - 1) / np.maximum(sizes - 1, 1), alone)
        means = self._resampled_means(rng)[rng.integers(WORLDS, size=draws)]
        null = (self.discrepancy(self.kernel[drawn[..., :, None], drawn[..., None, :]], alone, refitted),
                self.unexplained(self.phi[drawn], refitted, means))  # fmt: skip
        ranks = np.stack([_exceeding(np.append(s, n), n) for s, n in zip(seen, null)]).min(0)  # (1 + draws,)
        return float((1 + (ranks[1:] <= ranks[0]).sum()) / (1 + draws))

    @staticmethod
    def unexplained(phi: np.ndarray, pi: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Squared length of what mean features `(..., N, F)` differ from the mixture's, with members' `means` `(..., K, F)`."""
        return ((phi.mean(-2) - np.einsum("...k,...kf->...f", pi, means)) ** 2).sum(-1)

    def _resampled_means(self, rng: np.random.Generator) -> np.ndarray:
        """`(WORLDS, K, F)`: the members' mean features, resampled, because the real ones come from a finite calibration."""
        rows = [np.flatnonzero(self.owner == k) for k in range(self.members)]
        return np.stack([np.stack([self.phi[rng.choice(r, len(r))].mean(0) for r in rows]) for _ in range(WORLDS)])

    def _draw(self, pi: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Indices of own images, members chosen with shares `pi`."""
        member = rng.choice(self.members, p=pi, size=shape)
        rows = [np.flatnonzero(self.owner == k) for k in range(self.members)]
        drawn = np.stack([r[rng.integers(len(r), size=shape)] for r in rows])
        return np.take_along_axis(drawn, member[None], 0)[0]


def _exceeding(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """For each value, the share of `null` that lies at least as far."""
    return 1 - np.searchsorted(np.sort(null), values, side="left") / len(null)


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances `(N, M)`."""
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)
