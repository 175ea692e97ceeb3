"""Samples of small models: the product's stochastic chains (`fusion.methods.particles`, `.densities`) on plain noise predictions.

One chain for all methods of a study, so that what differs is the method. This module knows no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.methods.densities import superpose
from fusion.methods.particles import average
from fusion.methods.reverse import Predict, schedule


def drawn(members, path, weights, shape: tuple[int, ...], steps: int, *, seed: int, correct: bool = False, posterior=None, batch: int = 96,
          stop=None) -> Tensor:  # fmt: skip
    """`(N, ...)` clean samples of shape `shape` by SDE-DPM-Solver++(2M) with `steps` calls of each member.

    `weights` (K,): average the members' predictions; `correct`: to the exact geometric average, with particles that are resampled within a
    batch; `posterior` (K,): instead, SuperDiff's OR with these proportions. A sample depends on its place, its batch and the seed.
    """
    levels = torch.linspace(*reversed(path.range), steps + 1, dtype=torch.float64)[:-1]
    own, found = torch.Generator().manual_seed(seed), []
    for begin in range(0, shape[0], batch):
        x = torch.randn(min(batch, shape[0] - begin), *shape[1:], generator=own)
        way = (schedule(path, levels), lambda x=x: torch.randn(x.shape, generator=own))
        predict = _clean(members, path, levels, stop)
        if posterior is not None:
            found.append(superpose(predict, x, way[0], torch.as_tensor(posterior), way[1])[0])
            continue
        offset = (lambda group: float(torch.rand((), generator=own))) if correct else None
        found.append(average(predict, x, way[0], torch.as_tensor(weights), way[1], [torch.arange(len(x))], offset).x)
    return torch.cat(found)


def _clean(members, path, levels: Tensor, stop) -> Predict:
    """The members' predicted clean samples at level i, from their predicted noise."""

    def predict(x: Tensor, i: int) -> Tensor:
        if stop is not None and stop():
            raise RuntimeError("stopped while drawing")
        level = levels[i].to(x.dtype).expand(len(x))
        a, s = (c[0] for c in path.coefficients(level))
        with torch.no_grad():
            return torch.stack([(x - s * member(x, level)) / a for member in members])

    return predict
