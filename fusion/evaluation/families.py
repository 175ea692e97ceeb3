"""Families of samples that descend from one particle: copies that parted late are no independent draws, so a family counts as a whole.

A method that resamples its images into one another (`fusion.methods.particles`) names on each the particle it descends from. What two of a
family have in common is no property of the population: pairs within a family are left out of means over pairs, and whole families are left
out or resampled where an interval is made (the cluster jackknife and bootstrap; Davison & Hinkley 1997, section 3.8).

Pairs of one prompt are left out as well, of samples and of held-out images and between them, in every method (`Descent`). They are alike
more than by population, and as rare as the design has them: a family has one prompt, and samples may have each prompt once, while the
held-out images have it with both. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

FEWEST = 3  # families without which nothing can be said of an interval


@dataclass(frozen=True)
class Descent:
    """What compared samples have in common beside their method. `families`: labels (N,) by method, where some descend from one particle.
    `prompts`: of every method's samples; `held_out`: of the images that they are compared with. All empty: nothing."""

    families: Mapping[str, Sequence | None] = field(default_factory=dict)
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    held_out: Sequence[str] = ()

    def of(self, method: str) -> dict:
        """`families` and `prompts` of one method, as `kid` and `diversity` take them; prompts only where every set has at least 3."""
        sets = [*self.prompts.values(), self.held_out]
        known = method in self.prompts and all(len(set(some)) >= FEWEST for some in sets)
        return {"families": self.families.get(method), "prompts": (self.prompts[method], self.held_out) if known else None}


def families_of(samples: Sequence) -> np.ndarray:
    """`(N,)` labels 0..F-1: samples of one `family` share one; those without a family that start from one seed under several prompts share
    their noise and so another one."""
    seen: dict = {}
    return np.array([seen.setdefault(s.seed if s.family is None else s.family, len(seen)) for s in samples], dtype=int)


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


def apart(families: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """`(N, M)`: 1 where the families (N,) and `others` (M,) (None: themselves) differ, 0 where they are one."""
    return (families[:, None] != (families if others is None else others)).astype(float)


def pairs_of(families: np.ndarray, prompts: tuple[Sequence[str], Sequence[str]] | None, others: int):
    """`(N, N)`, `(N, M)`, `(M, M)`: 1 for the pairs that count, of samples of these families with each other, with M held-out images, and
    of these; with `prompts` (of samples, of held-out images) only pairs of different ones. Raises ValueError for other numbers of them."""
    if prompts is None:
        return apart(families), np.ones((len(families), others)), 1.0 - np.eye(others)
    if (len(prompts[0]), len(prompts[1])) != (len(families), others):
        raise ValueError(f"{len(prompts[0])} and {len(prompts[1])} prompts for {len(families)} samples and {others} held-out images")
    x, y = np.split(np.unique(np.array([*prompts[0], *prompts[1]]), return_inverse=True)[1].reshape(-1), [len(families)])
    return apart(families) * apart(x), apart(x, y), apart(y)


def without(pairs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """`(G,)`: the sum of `pairs` (N, N), symmetric, without the rows and columns of each group of samples."""
    inside = (pairs * (groups[:, None] == groups)).sum(1)
    return pairs.sum() - np.bincount(groups, 2 * pairs.sum(1) - inside)


def resampled_means(x: np.ndarray, families: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """`(draws, D)`: means of `x` (N, D) over resampled families `drawn` (draws, F), each with all its samples."""
    sizes, sums = np.bincount(families), np.zeros((families.max() + 1, x.shape[1]))
    np.add.at(sums, families, x)
    return sums[drawn].sum(1) / sizes[drawn].sum(1)[:, None]
