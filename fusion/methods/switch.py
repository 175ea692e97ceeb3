"""One member for each range of noise levels, chosen by its denoising loss there: the cost of one member per step (cf. arXiv 2511.19434).

The ranges minimise `sum_l omega_l R_l[k_l, k_l] + penalty * (number of changes)` exactly, by dynamic programming. The penalty is what a
change saves by chance where all members are equally good: the 95 % point of that saving when the images' deviations from their mean are
drawn anew (multiplier bootstrap, all levels and members together). So a change is made only where the images show that it pays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.methods.drawing import by_pipeline, checked_weights, constant_cost, draw, needs_fit, values_of
from fusion.methods.plan import Cost, Method, MethodError, Remark, Sample, SamplingPlan
from fusion.weights import Weights


def cheapest_path(errors: np.ndarray, penalty: float | np.ndarray) -> np.ndarray:
    """Member of every level, `(..., L)` indices: the least sum of `errors` (..., L, K) and of `penalty` (...) per change (Viterbi)."""
    errors, penalty = np.asarray(errors, dtype=float), np.asarray(penalty, dtype=float)[..., None]
    levels, total, came_from = errors.shape[-2], errors[..., 0, :], []
    for level in range(1, levels):
        best = total.argmin(-1)[..., None]
        change = np.take_along_axis(total, best, -1) + penalty
        stay = total <= change  # (..., K)
        came_from.append(np.where(stay, np.arange(errors.shape[-1]), best))
        total = np.where(stay, total, change) + errors[..., level, :]
    path = [total.argmin(-1)]
    for step in reversed(came_from):
        path.append(np.take_along_axis(step, path[-1][..., None], -1)[..., 0])
    return np.stack(path[::-1], -1)


def dearest_change(errors: np.ndarray) -> np.ndarray:
    """`(...)`: the largest penalty at which the cheapest path of `errors` (..., L, K) still changes; 0 where it never does. Bisection."""
    low, high = np.zeros(errors.shape[:-2]), errors.sum(-2).min(-1) - errors.min(-1).sum(-1)
    for _ in range(20):
        middle = (low + high) / 2
        changes = (np.diff(cheapest_path(errors, middle), axis=-1) != 0).any(-1)
        low, high = np.where(changes, middle, low), np.where(changes, high, middle)
    return low


def ranges(errors: np.ndarray, level: float = 0.95, draws: int = 400, seed: int = 0) -> np.ndarray:
    """Member of every level (L,) from per-image errors (N, L, K), level weights included; one image alone allows no change."""
    count, mean = len(errors), errors.mean(0)
    if count == 1:
        return np.full(len(mean), mean.sum(0).argmin())
    signs = np.random.default_rng(seed).normal(size=(draws, count)) / np.sqrt(count * (count - 1))
    by_chance = dearest_change(np.einsum("dn,nlk->dlk", signs, errors - mean))
    return cheapest_path(mean, np.quantile(by_chance, level))


def choose(gram, weighting: str = "simple") -> Weights:
    """One-hot weights by level from a statistic's diagonal."""
    rows = gram.rows(gram.smooth is not None)
    errors = np.einsum("nlkk,l->nlk", rows, gram.weights_of(weighting))
    path = ranges(errors)
    changes = int((np.diff(path) != 0).sum())
    how = f"the model of least denoising loss for each of {changes + 1} ranges of noise levels" if changes else "one model of least loss"
    return Weights(np.eye(len(gram.names))[path], None, gram.names, how, gram.strata)


def told(names, weights) -> str:
    """`Harbor up to level -1.5, then Summit`, from clean to noisy."""
    path = np.atleast_2d(values_of(weights)).argmax(1)
    edges = [level + 1 for level in np.flatnonzero(np.diff(path))]
    parts = [f"{names[path[edge - 1]]} up to level {weights.strata[edge]:.1f}" for edge in edges]
    return ", then ".join([*parts, names[path[-1]]])


def _weights(ensemble, fit, plan: SamplingPlan):
    weights = choose(needs_fit(fit, "switching").gram) if plan.weights is None else checked_weights(ensemble, plan.weights, levels=True)
    if not np.isin(values_of(weights), (0.0, 1.0)).all():
        raise MethodError("switching uses one model at a time, so at every noise level one weight must be 1 and the others 0: "
                          "use scorefusion_levels for weights in between")  # fmt: skip
    return weights


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    weights = _weights(ensemble, fit, plan)
    note = told(ensemble.names, weights)
    images = lambda *asked: (by_pipeline(*asked)[0], [Remark(note)] * plan.batch_size)  # noqa: E731
    yield from draw(ensemble, plan, weights, method="switch", images=images)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, fit, plan))


METHOD = Method(
    "switch", "Switched by noise level", run, cost, "Every step is made by one model: the one that denoises the target best at that noise."
)
