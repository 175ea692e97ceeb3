"""Exact likelihood of score models by the probability-flow ODE, and the ODE itself, which also draws samples.

In `u = x_t / r`, `r^2 = a^2 + s^2`, every noise path has the same flow, `du / d level = (s noise(x_t) / r - (s / r)^2 u) / 2` (Song et al.
2021, eq. 13, for the variance-preserving path; level = -logSNR), and data of unit variance stays where it is. The density changes by
`d log p / d level = -div_u`. The divergence is Hutchinson's estimate with random signs, exact for one dimension and wherever the Jacobian
is diagonal. A model of bytes has a density after uniform dequantisation (Theis et al. 2016). This module takes tensors and a function that
predicts noise, and knows no network.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Noise = Callable[[Tensor, Tensor], Tensor]  # (x_t, level) -> predicted noise


def flow(noise: Noise, path, u: Tensor, levels: Tensor, *, probes: Tensor | None = None, stop=None) -> tuple[Tensor, Tensor]:
    """Carry `u = x_t / r` (B, ...) through `levels` (S + 1,), in the order given, by Heun's method: two calls of `noise` a step.

    `probes` (P, B, ...), random signs: also integrate the divergence. Returns u at the last level and `change` (B,), float64:
    `log p_last(u_last) - log p_first(u_first)`; zeros without probes. RuntimeError when stopped.
    """
    levels = torch.as_tensor(levels, dtype=torch.float64)
    change = torch.zeros(len(u), dtype=torch.float64)
    for here, there in zip(levels[:-1], levels[1:]):
        if stop is not None and stop():
            raise RuntimeError("stopped while following the probability flow")
        step = float(there - here)
        first, spread = _slope(noise, path, u, here, probes)
        second, spread_there = _slope(noise, path, u + step * first, there, probes)
        u = u + step / 2 * (first + second)
        change -= step / 2 * (spread + spread_there)
    return u, change


def _slope(noise: Noise, path, u: Tensor, level: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """`du / d level` (B, ...) and its divergence (B,), averaged over the probes."""
    level = level.to(u.dtype).expand(len(u))
    a, s = (c[0] for c in path.coefficients(level))
    r = (a * a + s * s).sqrt()

    def slope(at: Tensor) -> Tensor:
        return (s / r * noise(r * at, level) - (s / r) ** 2 * at) / 2

    if probes is None:
        with torch.no_grad():
            return slope(u), torch.zeros(len(u), dtype=torch.float64)
    with torch.enable_grad():
        at = u.detach().requires_grad_()
        out = slope(at)
        spread = torch.zeros(len(u), dtype=torch.float64)
        for place, probe in enumerate(probes):
            pulled = torch.autograd.grad((out * probe).sum(), at, retain_graph=place + 1 < len(probes))[0]
            spread += (pulled * probe).flatten(1).sum(1).double() / len(probes)
    return out.detach(), spread


def log_density(noise: Noise, path, x0: Tensor, *, steps: int = 24, probes: int = 1, generator: torch.Generator | None = None,
                batch: int = 64, stop=None) -> Tensor:  # fmt: skip
    """`(N,)` nats, float64: log density of clean samples `x0` (N, ...) under the model whose noise prediction is given.

    Between the ends of `path.range` the flow is followed in `steps` even steps of level. At the noisiest end `u` is taken to be standard
    normal, at the quietest the data is smoothed by its noise: choose a path, and a scale of the data near 1, that make both mild.
    """
    levels = torch.linspace(*path.range, steps + 1, dtype=torch.float64)
    keep = float(torch.sigmoid(-levels[0]).sqrt())  # a / r at the quiet end
    found = []
    for part in x0.split(batch):
        signs = torch.randint(0, 2, (probes, *part.shape), generator=generator).to(part.dtype) * 2 - 1
        end, change = flow(noise, path, part * keep, levels, probes=signs, stop=stop)
        prior = -0.5 * (end.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)
        found.append(prior - change + part[0].numel() * math.log(keep))
    return torch.cat(found)


def samples(noise: Noise, path, shape: tuple[int, ...], *, steps: int = 18, generator: torch.Generator | None = None,
            batch: int = 128, stop=None) -> Tensor:  # fmt: skip
    """Clean samples of the given shape `(N, ...)`, float32, by the same flow backwards. A sample depends on its place and `generator`."""
    levels = torch.linspace(*path.range, steps + 1, dtype=torch.float64).flip(0)
    keep = float(torch.sigmoid(-levels[-1]).sqrt())
    start = torch.randn(shape, generator=generator)
    return torch.cat([flow(noise, path, part, levels, stop=stop)[0] / keep for part in start.split(batch)])


def bits_per_dimension(log_density_of_bytes: Tensor, dimensions: int) -> Tensor:
    """`-log2 p / D` of log densities in nats: the usual figure for images of bytes, uniformly dequantised."""
    return -log_density_of_bytes / (dimensions * math.log(2))
