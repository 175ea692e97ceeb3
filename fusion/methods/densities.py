"""Weights from the members' densities along the way of each sample: SuperDiff (Skreta et al. 2025, arXiv 2412.17762), OR and AND.

Their Ito density estimator (Theorem 1) follows `log p_k(x_t)` along a stochastic trajectory without a divergence. Its exact form for the
Gaussian kernels of a sampler with finite steps is Bayes' rule, `p_k(x_t) = p_k(x_s) p_k(x_t | x_s) / p(x_s | x_t)`, whose last factor is
the same for all members: the differences between members change by those of `-|x_t - keep x_s - move X_k|^2 / (2 spread^2)`, finite
at every level. Each sample is weighed by its own path alone. Plain tensors; no network, no pipeline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fusion.methods.reverse import Predict, Step, ahead, dots, per_row

LONGEST = 8.0  # standard deviations of a step's noise that AND may move a sample by in one step


def superpose(predict: Predict, x: Tensor, steps: list[Step], weights: Tensor, draw: Callable[[], Tensor], *, equal: bool = False,
              tell: Callable[[int, Tensor], None] | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(samples (B, ...), log odds (K, B) at the last level)` from `x` (B, ...), unit noise at the first level.

    OR (`equal=False`): every step uses `sum_k kappa_k X_k` with `kappa = softmax(log weights_k + log p_k)`, the posterior of the member:
    the exact score of the mixture with proportions `weights` (K,). AND (`equal=True`): kappa sums to 1 and keeps all log p_k equal;
    what that leaves open, and the last step, which adds no noise, follow `weights`. `draw() -> (B, ...)`: fresh unit noise.
    `tell(i, kappa (K, B))` after step i.
    """
    start = torch.zeros_like(weights) if equal else weights.log()
    odds, before = start.double().cpu()[:, None].expand(-1, len(x)), None
    for i, step in enumerate(steps):
        clean = predict(x, i)
        guess, before = ahead(steps, i, clean, before), clean
        noise = draw() if step.spread else x
        if not equal:
            kappa = torch.softmax(odds, 0)
        else:
            kappa = _equalising(guess, noise, odds, weights, step) if step.spread else weights.double().cpu()[:, None].expand_as(odds)
        mean = (per_row(kappa, guess) * guess).sum(0)
        x = step.apply(x, mean, noise)
        if step.spread:
            odds = odds + _gained(guess - mean, noise, step.pull)
            odds = odds - odds.mean(0)
        if tell is not None:
            tell(i, kappa)
    return x, odds


def _gained(apart: Tensor, noise: Tensor, pull: float) -> Tensor:
    """Change of log p_k `(K, B)` up to a number common to all k: `apart` = X_k - the X used, `noise` = the noise added."""
    return pull * dots(apart, noise.expand_as(apart), 2) - 0.5 * pull**2 * dots(apart, apart, 2)


def _equalising(guess: Tensor, noise: Tensor, odds: Tensor, weights: Tensor, step: Step) -> Tensor:
    """`kappa` (K, B), sum 1, after whose step with this noise all log p_k are equal; the one nearest to `weights` where many do so.

    With d_k = X_k - sum_j weights_j X_j the step `kappa = weights + delta` changes log p_k by `b_k + pull^2 <d_k, sum_j delta_j d_j>`:
    a linear system in delta, solved among those that sum to 0. Usually the move undoes what the noise did to the odds. Where no point
    nearby has equal densities it is cut at `LONGEST`, and later steps go on from there.
    """
    base = weights.to(guess)
    apart = guess - torch.einsum("k,k...->...", base, guess)  # (K, B, ...)
    flat = apart.flatten(2).transpose(0, 1).cpu().double()  # (B, K, D)
    gram = flat @ flat.transpose(1, 2)
    uneven = (odds + _gained(apart, noise, step.pull)).T[..., None]  # (B, K, 1)
    centre = torch.eye(len(weights), dtype=torch.float64) - 1 / len(weights)
    delta = torch.linalg.pinv(centre @ gram @ centre, rtol=1e-10, hermitian=True) @ (centre @ -uneven) / step.pull**2
    length = step.pull * (delta.transpose(1, 2) @ gram @ delta).clamp(min=0).sqrt()  # of the move, in standard deviations of the noise
    delta = delta * (LONGEST / length.clamp(min=LONGEST))
    return (weights.double().cpu() + delta[..., 0]).T
