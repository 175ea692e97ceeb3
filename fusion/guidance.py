"""Where along the schedule classifier-free guidance is applied: only in an interval of the steps (Kynkaanniemi et al. 2024).

Guidance hurts at high noise, where it takes variety away, and does nothing at low noise (arXiv 2404.07724, sections 3 and 4). An interval
`(start, end)` is in shares of the sampling steps, 0 for the first step (noise) and 1 for the end (the image): step i of n is guided when
start <= i / n < end. Outside, sampling is that of guidance 1, which needs one evaluation of a network where guidance needs two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # plans are read without torch
    from torch import Tensor

Interval = tuple[float, float]


def checked(interval: Sequence[float] | None) -> Interval | None:
    """The interval as two floats, None for every step. Raises ValueError for anything but two rising shares."""
    if interval is None:
        return None
    try:
        start, end = (float(share) for share in interval)
    except (TypeError, ValueError):
        raise ValueError(f"a guidance interval is two numbers, where it starts and where it ends, not {interval!r}") from None
    if not 0 <= start <= end <= 1:
        raise ValueError(f"a guidance interval rises within 0 (noise) and 1 (image), and {start:g} to {end:g} does not: try 0.2 0.8")
    return start, end


def inside(interval: Interval | None, step: int, steps: int) -> bool:
    """Whether step number `step`, from 0, of `steps` is guided."""
    return interval is None or interval[0] <= step / steps < interval[1]


def guided_steps(interval: Interval | None, steps: int) -> int:
    """How many of `steps` are guided."""
    return sum(inside(interval, step, steps) for step in range(steps))


def place(t: Tensor | float, timesteps: Tensor) -> tuple[int, int]:
    """`(step, steps)` of the time `t` among a scheduler's falling `timesteps` (n,); repeated ones, of methods of higher order, count once.

    The nearest is taken: pipelines round what they tell the network.
    """
    falling = timesteps.detach().double().cpu().unique().flip(0)
    now = t.detach().double().cpu().flatten()[0] if hasattr(t, "detach") else float(t)
    return int((falling - now).abs().argmin()), len(falling)
