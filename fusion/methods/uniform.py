"""The plain average of all members' scores: fusion that has looked at no target."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.methods.drawing import checked_weights, constant_cost, draw
from fusion.methods.plan import Cost, Method, Sample, SamplingPlan


def _weights(ensemble, plan: SamplingPlan):
    if plan.weights is not None:
        return checked_weights(ensemble, plan.weights)
    return np.full(len(ensemble.members), 1.0 / len(ensemble.members))


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    yield from draw(ensemble, plan, _weights(ensemble, plan), method="uniform")


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, plan))


METHOD = Method("uniform", "Equal weights", run, cost, "Every sample averages all models equally; the target is not looked at.")
