"""The exact geometric average of several densities: Feynman-Kac weights on particles, and resampling (Skreta et al. 2025, Prop. 3.1).

The score of `prod p_i^w_i` of noised densities is `sum w_i s_i`, but these products are not the noised versions of one density. A particle
that follows the fused score therefore carries a weight, `d log W = -(g^2/2) (sum w_i |s_i|^2 - |sum w_i s_i|^2) dt`, for weights that sum
to 1. With X_i the members' predicted clean samples this is `-1/2 V d(a^2/s^2)`, `V = sum w_i |X_i - sum w_j X_j|^2`: what the members
disagree about. Plain tensors; no network, no pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fusion.methods.reverse import Predict, Step, ahead, dots

ENOUGH = 0.5  # resample when the effective sample size falls below this share of the particles (Doucet & Johansen 2009)


@dataclass
class Particles:
    """What became of B particles. `log_weights` (B,): gathered since the last resampling, what the step to the image adds included.

    `lineage` (B,): which particle each descends from. `lowest` (G,): the smallest effective sample size of each group, before resampling.
    """

    x: Tensor
    log_weights: Tensor
    lineage: Tensor
    groups: Sequence[Tensor]
    lowest: list[float]
    resampled: list[int] = field(default_factory=list)  # (G,) how often

    def remaining(self, group: int) -> int:
        """Distinct ancestors of a group's particles."""
        return len(self.lineage[self.groups[group]].unique())


def effective(log_weights: Tensor) -> float:
    """Kish's effective sample size `(sum W)^2 / sum W^2`, from 1 to the number of particles."""
    w = torch.softmax(log_weights, 0)
    return float(1 / w.square().sum())


def ancestors(log_weights: Tensor, offset: float) -> Tensor:
    """Systematic resampling `(n,)`: which particle each place takes over. `offset` in [0, 1) is all its randomness.

    A particle of weight w is kept `floor(n w)` or `ceil(n w)` times. Survivors stay in their own places, copies fill the free ones.
    """
    n = len(log_weights)
    edges = torch.softmax(log_weights, 0).cumsum(0)
    points = (torch.arange(n, dtype=torch.float64) + offset) / n
    counts = torch.bincount(torch.searchsorted(edges, points, right=True).clamp(max=n - 1), minlength=n)
    order = torch.arange(n)
    order[counts == 0] = torch.repeat_interleave(torch.arange(n), (counts - 1).clamp(min=0))
    return order


def rate(clean: Tensor, weights: Tensor, step: Step) -> Tensor:
    """`d log W / du` (B,) where a step starts, with `u = s / (a + s)` falling: `V (1 - u) / u^3`; `clean` (K, B, ...).

    The place u makes a good clock: the rate vanishes at both of its ends, since V is bounded for pure noise and falls with s^4 near the
    image, so sums over few levels are accurate, and pure noise (an infinite level) is an ordinary point.
    """
    apart = clean - torch.einsum("k,k...->...", weights.to(clean), clean)
    return (weights.cpu().double() @ dots(apart, apart, 2)) * (1 - step.place) / step.place**3


def average(predict: Predict, x: Tensor, steps: list[Step], weights: Tensor, draw: Callable[[], Tensor], groups: Sequence[Tensor],
            offset: Callable[[int], float] | None, tell: Callable[[int, list[float]], None] | None = None,
            quietest: float = 0.0) -> Particles:  # fmt: skip
    """Draw from the normalised `prod p_k^w_k` with the particles `x` (B, ...), unit noise at the first level.

    weights (K,): sum 1. `draw() -> (B, ...)`: fresh unit noise. groups: indices of particles that may replace one another (one prompt's).
    `offset(group) -> [0, 1)`: the randomness of resampling; None: weigh, but never resample. `tell(i, sizes)`: after step i, with the
    groups' effective sample sizes. Groups are resampled below `ENOUGH`, and a last time before the last fresh noise, so that no two
    results are copies: then with what the last step will add, too, if the rate falls to 0 in a straight line. The difference to what it
    did add is left on the result. `quietest`: the place below which nothing is weighed; 0 is exact, more leaves out the low noise at which
    trained members differ by their errors.
    """
    gathered, before, last = torch.zeros(len(x), dtype=torch.float64), None, None  # gathered: log W
    found = Particles(x, gathered, torch.arange(len(x)), groups, [float(len(group)) for group in groups], [0] * len(groups))
    for i, step in enumerate(steps):
        clean = predict(x, i)
        mean = torch.einsum("k,k...->...", weights.to(clean), clean)
        now = rate(clean, weights, step) * (step.place > quietest)
        if last is not None:  # trapezium between the two levels
            gathered = gathered - 0.5 * (last + now) * (steps[i - 1].place - step.place)
        sizes = [effective(gathered[group]) for group in groups]
        found.lowest = [min(pair) for pair in zip(found.lowest, sizes)]
        order = torch.arange(len(x))
        if offset is not None and 0 < i < len(steps) - 1:
            coming = -0.5 * now * step.place if i == len(steps) - 2 else torch.zeros_like(now)
            for g, group in enumerate(groups):
                foreseen = (gathered + coming)[group]
                if sizes[g] < ENOUGH * len(group) or (i == len(steps) - 2 and effective(foreseen) < len(group) * (1 - 1e-9)):
                    order[group] = group[ancestors(foreseen, offset(g))]
                    gathered[group] = -coming[order[group]]
                    found.resampled[g] += 1
        on = order.to(x.device)
        x, mean, last, found.lineage = x[on], mean[on], now[order], found.lineage[order]
        x = step.apply(x, ahead(steps, i, mean, None if before is None else before[on]), draw() if step.spread else x)
        before = mean
        if tell is not None:
            tell(i, sizes)
    found.x, found.log_weights = x, gathered if last is None else gathered - 0.5 * last * steps[-1].place  # the rate ends at 0, see `rate`
    return found
