"""One member for each range of noise levels, chosen by its denoising loss there: the cost of one member per step (cf. arXiv 2511.19434).

The ranges minimise `sum_l omega_l R_l[k_l, k_l] + penalty * (number of changes)` exactly, by dynamic programming. The penalty is the
largest whose held-out loss (leave-one-out over the images) is within one standard error of the best one's (Breiman et al. 1984), so a
change of member is made only where the images show that it pays. A single member over all levels is the limit of a large penalty.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.methods.drawing import by_pipeline, checked_weights, constant_cost, draw, needs_fit, values_of
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan
from fusion.weights import Weights, leave_one_out

PENALTIES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # in units of what changing freely saves; 1 allows no change


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


def ranges(errors: np.ndarray) -> np.ndarray:
    """Member of every level (L,) from per-image errors (N, L, K), level weights included; one image alone allows no change."""
    mean = errors.mean(0)
    if len(errors) == 1:
        return np.full(len(mean), mean.sum(0).argmin())
    others = leave_one_out(errors)  # (N, L, K)
    saved = others.sum(1).min(-1) - others.min(-1).sum(-1)  # (N,) by changing freely
    paths = [cheapest_path(others, penalty * saved) for penalty in PENALTIES]
    held_out = np.array([np.take_along_axis(errors, path[..., None], -1)[..., 0].sum(-1) for path in paths])  # (penalties, N)
    best = held_out[held_out.mean(1).argmin()]
    excess = held_out - best
    within = excess.mean(1) <= excess.std(1, ddof=1) / np.sqrt(len(errors)) + 1e-12
    penalty = PENALTIES[int(np.flatnonzero(within)[-1])]
    return cheapest_path(mean, penalty * (mean.sum(0).min() - mean.min(-1).sum()))


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
    images = lambda *asked: (by_pipeline(*asked)[0], [note] * plan.batch_size)  # noqa: E731
    yield from draw(ensemble, plan, weights, method="switch", images=images)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, fit, plan))


METHOD = Method(
    "switch", "Switched by noise level", run, cost, "Every step is made by one model: the one that denoises the target best at that noise."
)
