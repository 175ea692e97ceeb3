"""A small world of conditionals in closed form: `x = B_k g(W y) + N(0, s^2)`, with one W for all sources or one for each.

`y` has many numbers, `W y` few. Every source's network is exact and reads all of y, as the members of an ensemble read whole prompts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.transfer.learning import Source
from fusion.transfer.task import Task
from models.noise import NoisePath

Y, X, CODE, SPREAD = 24, 8, 2, 0.3
PATH = NoisePath.variance_preserving((1 - torch.linspace(1e-3, 0.05, 100, dtype=torch.float64)).cumprod(0))


def orthonormal(rows: int, seed: int) -> Tensor:
    """`(rows, Y)`."""
    return torch.linalg.qr(torch.randn(Y, rows, generator=torch.Generator().manual_seed(seed)))[0].T.contiguous()


def conditional(k: int, shared: bool) -> tuple[Tensor, Tensor]:
    """`(B (X, CODE), W (CODE, Y))` of population k."""
    return 2 * torch.randn(X, CODE, generator=torch.Generator().manual_seed(100 + k)), orthonormal(CODE, 0 if shared else 1 + k)


def mean(y: Tensor, B: Tensor, W: Tensor) -> Tensor:
    return torch.tanh(y @ W.T * 1.5) @ B.T


def noise_of(x_t: Tensor, level: Tensor, centre: Tensor, path=PATH) -> Tensor:
    """The exact `E[noise | x_t]` of `x0 ~ N(centre, SPREAD^2)`."""
    a, s = (c[:, None] for c in path.coefficients(level))
    return s * (x_t - a * centre) / (a**2 * SPREAD**2 + s**2)


def draw(k: int, shared: bool, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`(x (count, X), y (count, Y))`."""
    g = torch.Generator().manual_seed(1000 * k + seed)
    y = torch.randn(count, Y, generator=g)
    return mean(y, *conditional(k, shared)) + SPREAD * torch.randn(count, X, generator=g), y


def source(k: int, shared: bool, count: int = 512, held_out: int = 128) -> Source:
    """Population k with its exact network."""
    x, y = draw(k, shared, count + held_out, 0)
    B, W = conditional(k, shared)

    def predict(x_t: Tensor, level: Tensor, condition) -> Tensor:
        return noise_of(x_t, level, mean(condition["y"], B, W))

    return Source.of(Task(f"source {k}", x, {"y": y}, torch.arange(len(x)), predict, PATH), held_out)


BLANK = {"y": torch.zeros(1, Y)}
