"""Each sample comes from one member, chosen with the fitted proportions: exact where the target is a mixture of the members.

Routing. A sample's member is a function of its seed and the proportions alone, so a recipe draws the same image in any company. The
seed is mapped to `u = frac(seed / golden ratio)`, the additive recurrence of lowest discrepancy, and the member is the one whose
stretch of `[0, 1)` holds `u`. Consecutive seeds so meet the proportions within about `log(n)/n` and not the `1/sqrt(n)` of independent
draws; seeds picked at random are independent draws. Small changes of the proportions move few samples, which keeps sweeps readable.
One seed under several prompts is routed alike, as it starts from the same noise.
Every image is drawn as its member's own pipeline draws it (`fusion.methods.alone`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.methods.alone import as_drawn, cost_alone, draw_alone
from fusion.methods.drawing import checked_weights, needs_fit, values_of
from fusion.methods.plan import Cost, Method, Sample, SamplingPlan

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: Knuth's multiplicative hash is the recurrence in exact integers


def route(seeds, proportions) -> np.ndarray:
    """Index of the member that draws each seed: `(n,)` whole numbers of any size, `(K,)` proportions -> `(n,)`."""
    u = np.array([((int(seed) * GOLDEN) % 2**64) / 2**64 for seed in seeds])
    edges = np.cumsum(np.clip(proportions, 0.0, None))
    return np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), np.flatnonzero(np.asarray(proportions) > 0)[-1])


def proportions(ensemble, fit, plan: SamplingPlan) -> np.ndarray:
    """The plan's; else the calibrated proportions; else, without a calibration, those of the likelihood mixture."""
    if plan.weights is not None:
        return values_of(checked_weights(ensemble, plan.weights))
    fit = needs_fit(fit, "the mixture")
    return np.asarray(fit.calibrated.proportions_ if fit.calibrated is not None else fit.mixture.proportions_)


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    """Samples member by member: all seeds of one member are drawn together, so no more networks run than images need."""
    shares = proportions(ensemble, fit, plan)
    jobs = plan.jobs
    routed = route([seed for _, seed in jobs], shares)
    lists, parts = [[job for job, k in zip(jobs, routed) if k == index] for index in range(len(shares))], [plan]
    for own in lists:
        parts.append(parts[-1].after(len(own)))
    steps = [len(part.batches(own)) * as_drawn(ensemble, plan, k).steps for k, (part, own) in enumerate(zip(parts, lists))]
    for index, own in enumerate(lists):
        if steps[index] and not plan.stopped():
            part = parts[index].with_(progress=_shifted(plan, sum(steps[:index]), sum(steps)))
            yield from draw_alone(ensemble, part, index, method="mixture", jobs=own, shown=shares)


def _shifted(plan: SamplingPlan, offset: int, total: int):
    """The plan's progress for one member's share of the steps."""
    return None if plan.progress is None else lambda done, _total, message: plan.progress(offset + done, total, message)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return cost_alone(ensemble, plan, proportions(ensemble, fit, plan))


METHOD = Method("mixture", "Mix", run, cost, "Every sample comes from one model; the models take turns in the fitted proportions.")
