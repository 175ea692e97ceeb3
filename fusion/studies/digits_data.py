"""Sevens and nines of the study `digits`: who gets which images, and the map between pixels and what networks see.

Pixels are dequantised uniformly, `v = (x + u) / 256`, and pushed through a logit: `z = logit(a + (1 - 2a) v) / logit(1 - a)`, in -1..1.
An almost binary image becomes smooth at the scale of the dequantisation noise, so small networks and coarse solvers suffice for a
density (Dinh et al. 2017, section 4.1); the map is invertible and its volume is counted exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SEVENS = {"10 %": 0.1, "30 %": 0.3, "70 %": 0.7, "90 %": 0.9}  # members, and their share of sevens
TARGET = 0.6
EDGE = 1e-3  # a of the logit
REACH = math.log((1 - EDGE) / EDGE)


@dataclass(frozen=True)
class Split:
    """Disjoint sets of images `(N, 1, 28, 28)` uint8, with exact shares of sevens.

    members: for each member, all from one pool, so that they overlap as the paper's do; calibration: for each member, from a pool that no
    network sees; evaluation: of the target's population; target: sevens and nines that targets are drawn from; sizes: targets that fit;
    reader: labelled images to teach the reader with, seen by no network; check: labelled images to check it with.
    """

    members: tuple[Tensor, ...]
    calibration: tuple[Tensor, ...]
    evaluation: Tensor
    target: tuple[Tensor, Tensor]
    sizes: tuple[int, ...]
    reader: tuple[Tensor, Tensor]
    check: tuple[Tensor, Tensor]

    def drawn(self, n: int, seed: int) -> Tensor:
        """A target of n images, 60 % sevens; with one seed the smaller ones are part of the larger."""
        own = torch.Generator().manual_seed(10_000 + seed)
        parts = [pile[torch.randperm(len(pile), generator=own)[: _part(n, TARGET, i)]] for i, pile in enumerate(self.target)]
        together = torch.cat(parts)
        return together[torch.randperm(len(together), generator=own)]


def split(images: np.ndarray, labels: np.ndarray, *, sizes: tuple[int, ...], evaluation: int, calibration: int, least: int,
          most: int, seed: int = 0) -> Split:  # fmt: skip
    """Share out the sevens and nines among `images` (N, 28, 28); `sizes` that would leave members fewer than `least` images are left out.

    Each member gets at most `most` images. ValueError where even the smallest target leaves too few.
    """
    if images.shape[1:] != (28, 28):
        raise ValueError(f"this study needs digits of 28 x 28 pixels, not {images.shape[1]} x {images.shape[2]}")
    rng = np.random.default_rng(seed)
    piles = [rng.permutation(np.flatnonzero(labels == digit)) for digit in (7, 9)]
    widest = max(SEVENS.values())  # the largest share that any member has of a digit
    apart = _part(calibration, widest, 0)
    left = {n: min(len(pile) - apart - _part(evaluation, TARGET, i) - _part(n, TARGET, i) for i, pile in enumerate(piles)) for n in sizes}
    fitting = tuple(n for n in sizes if left[n] >= widest * least)
    if not fitting:
        counts = " and ".join(f"{len(pile)} {name}" for pile, name in zip(piles, ("sevens", "nines")))
        raise ValueError(f"{counts} are too few: members need {least} images each beside {min(sizes)} target images and the tests'")
    own = min(most, int(left[fitting[-1]] / widest))
    wanted = [(_part(evaluation, TARGET, i), apart, _part(fitting[-1], TARGET, i), _part(own, widest, 0)) for i in (0, 1)]
    # piles[digit][part]: evaluation, calibration pool, target pool, members' pool
    piles = [np.split(pile, np.cumsum(parts))[:4] for pile, parts in zip(piles, wanted)]
    pools = [[piles[digit][part] for digit in (0, 1)] for part in range(4)]
    sets = lambda pool, count: tuple(_set(images, pool, count, share, rng) for share in SEVENS.values())  # noqa: E731
    evaluated, labelled = _set(images, pools[0], evaluation, TARGET, rng), lambda pool: _labelled(images, labels, np.concatenate(pool))
    target = tuple(torch.from_numpy(images[pile])[:, None] for pile in pools[2])
    return Split(sets(pools[3], own), sets(pools[1], calibration), evaluated, target, fitting, labelled(pools[1]), labelled(pools[3]))


def _part(count: int, share: float, digit: int) -> int:
    """How many of `count` images are sevens (digit 0) or nines (1) at this share of sevens."""
    sevens = round(count * share)
    return sevens if digit == 0 else count - sevens


def _set(images: np.ndarray, pool, count: int, share: float, rng) -> Tensor:
    """`count` images of a pool `(sevens, nines)`, in random order, from the top of both piles."""
    chosen = np.concatenate([pool[digit][: _part(count, share, digit)] for digit in (0, 1)])
    return torch.from_numpy(images[rng.permutation(chosen)])[:, None]


def _labelled(images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    """Images and whether they are nines."""
    return torch.from_numpy(images[chosen])[:, None], torch.from_numpy((labels[chosen] == 9).astype(np.int64))


# ------------------------------------------------------------------------------------------------ pixels and what networks see


def encode(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Bytes to z, float32, with fresh dequantisation noise."""
    v = (pixels.float() + torch.rand(pixels.shape, generator=generator)) / 256
    v = EDGE + (1 - 2 * EDGE) * v
    return (v.log() - torch.log1p(-v)) / REACH


def decode(z: Tensor) -> Tensor:
    """z to brightness 0..1 (not rounded to bytes)."""
    return ((torch.sigmoid(z * REACH) - EDGE) / (1 - 2 * EDGE)).clamp(0, 1)


def log_volume(z: Tensor) -> Tensor:
    """`(N,)` nats: log |dz / d(x + u)|, so that the log density of bytes is `log p(z) + log_volume(z)`."""
    v = torch.sigmoid(z.double() * REACH)
    return (math.log((1 - 2 * EDGE) / 256 / REACH) - v.log() - torch.log1p(-v)).flatten(1).sum(1)
