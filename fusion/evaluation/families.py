"""Families of samples that descend from one particle: copies that parted late are no independent draws, so a family counts as a whole.

A method that resamples its images into one another (`fusion.methods.particles`) names on each the particle it descends from. What two of a
family have in common is no property of the population: pairs within a family are left out of means over pairs, and whole families are left
out or resampled where an interval is made (the cluster jackknife and bootstrap; Davison & Hinkley 1997, section 3.8). Plain numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEWEST = 3  # families without which nothing can be said of an interval


def families_of(samples: Sequence) -> np.ndarray:
    """`(N,)` labels 0..F-1: samples of one `family` share one, and a sample without a family is a family of its own."""
    seen: dict = {}
    return np.array([seen.setdefault((place,) if s.family is None else s.family, len(seen)) for place, s in enumerate(samples)], dtype=int)


def labels(families: Sequence | None, count: int) -> np.ndarray:
    """`(N,)` labels 0..F-1 of any labels; None: `count` families of one. Raises ValueError for another number of labels."""
    if families is None:
        return np.arange(count)
    if len(families) != count:
        raise ValueError(f"{len(families)} families for {count} samples: give one label for each")
    return np.unique(np.asarray(families), return_inverse=True)[1].reshape(-1)


def effective(families: np.ndarray) -> float:
    """Kish's number of independent samples, `N^2 / sum of squared family sizes`, from 1 to N."""
    return float(len(families) ** 2 / (np.bincount(families) ** 2).sum())


def joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`(N,)` labels of the finest families that hold those of both labellings whole: what paired samples are left out by."""
    found = np.array(one)
    while True:
        before = found
        for families in (one, other):
            least = np.full(len(found), len(found))
            np.minimum.at(least, families, found)
            found = least[families]
        if np.array_equal(found, before):
            return np.unique(found, return_inverse=True)[1].reshape(-1)


def apart(families: np.ndarray) -> np.ndarray:
    """`(N, N)`: 1 for two samples of different families, 0 for two of one."""
    return (families[:, None] != families).astype(float)


def without(pairs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`(G,)`: the sum of `pairs` (N, N), symmetric, without the rows and columns of each group of samples."""
    inside = (pairs * (groups[:, None] == groups)).sum(1)
    return pairs.sum() - np.bincount(groups, 2 * pairs.sum(1) - inside)


def resampled_means(x: np.ndarray, families: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """`(draws, D)`: means of `x` (N, D) over resampled families `drawn` (draws, F), each with all its samples."""
    sizes, sums = np.bincount(families), np.zeros((families.max() + 1, x.shape[1]))
    np.add.at(sums, families, x)
    return sums[drawn].sum(1) / sizes[drawn].sum(1)[:, None]
