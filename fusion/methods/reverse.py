"""The reverse diffusion of several members at once, in plain tensors: steps from noise to an image with fresh noise in each.

One step from level s down to level t has the kernel `N(keep x + move X, spread^2)`, X being the predicted clean sample: it integrates
`dx = (-f x + g^2 score) dt + g dW` exactly for constant X (ancestral sampling, Ho et al. 2020, eq. 7), and with X extrapolated from the
step before to second order (SDE-DPM-Solver++(2M), Lu et al. 2022, arXiv 2211.01095). Written with `a`, `s` of both levels it needs no
schedule, and it is finite where a is 0 (pure noise) and where s is 0 (the image). This module knows no network and no pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Predict = Callable[[Tensor, int], Tensor]
"""`predict(x, i) -> (K, B, ...)`: the members' predicted clean samples for latents `x` (B, ...) at level i of the schedule."""


@dataclass(frozen=True)
class Step:
    """From one level to the next. `place`: s / (a + s) of the level it starts from, 1 for pure noise. `ratio`: r = (s/a)_t / (s/a)_s."""

    keep: float
    move: float
    spread: float
    place: float
    ratio: float

    @property
    def pull(self) -> float:
        """What a unit of clean sample moves the latent by, in units of the fresh noise: `move / spread`. Not defined for the last step."""
        return self.move / self.spread

    def apply(self, x: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """`x` (B, ...) at the next level; `clean`: the predicted clean sample, `noise`: fresh, unit variance."""
        return self.keep * x + self.move * clean + self.spread * noise if self.spread else self.keep * x + self.move * clean


def schedule(noise, levels: Tensor) -> list[Step]:
    """One step for each of the falling `levels` (n,), the last one to the image itself. `noise.coefficients(level) -> (a, s)`.

    Raises ValueError for levels that do not fall. The highest may be infinite.
    """
    levels = torch.as_tensor(levels, dtype=torch.float64)
    if levels.ndim != 1 or not len(levels) or not bool((levels.diff() < 0).all()):
        raise ValueError("sampling needs at least one noise level, and levels that fall: check the scheduler's timesteps")
    a, s = (c.tolist() for c in noise.coefficients(levels))
    steps = []
    for a_s, s_s, a_t, s_t in zip(a, s, [*a[1:], 1.0], [*s[1:], 0.0]):
        ratio = s_t * a_s / (a_t * s_s)  # 0 from pure noise and to the image
        steps.append(Step(s_t / s_s * ratio, a_t * (1 - ratio**2), s_t * math.sqrt(1 - ratio**2), s_s / (a_s + s_s), ratio))
    return steps


def ahead(steps: list[Step], i: int, clean: Tensor, before: Tensor | None) -> Tensor:
    """The clean sample that step i should be given: `clean` at its start, extrapolated with `before` at the start of the step before.

    First order where there is nothing to extrapolate from or to: the first step, the last, and after pure noise.
    """
    if before is None or not steps[i].ratio or not steps[i - 1].ratio:
        return clean
    return clean + 0.5 * math.log(steps[i].ratio) / math.log(steps[i - 1].ratio) * (clean - before)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """`(..., B)` shaped to multiply `like` `(..., B, *latent)`, in its dtype and on its device."""
    return values.to(like).reshape(*values.shape, *[1] * (like.ndim - values.ndim))


def dots(one: Tensor, other: Tensor, rows: int) -> Tensor:
    """Inner products over all but the first `rows` dimensions, summed in float32 or better where they lie; float64 on the CPU."""
    wide = torch.promote_types(one.dtype, torch.float32)
    return (one.to(wide) * other.to(wide)).flatten(rows).sum(-1).cpu().double()
