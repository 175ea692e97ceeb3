"""What all members find equally likely, by weights that keep their densities equal (SuperDiff AND; Skreta et al. 2025, arXiv 2412.17762).

The weights of a step are the solution of a linear system with sum 1; they may be negative or above 1. They look at no target. Members of
weight 0 in the plan take no part; among the others its weights decide only what the system leaves open.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fusion.methods.densities import superpose
from fusion.methods.drawing import checked_weights, constant_cost, draw, values_of
from fusion.methods.plan import Cost, Method, Remark, Sample, SamplingPlan
from fusion.methods.stochastic import by_chain


def _images(ensemble, plan: SamplingPlan, weights: np.ndarray, batch, advance) -> tuple[list, list[Remark]]:
    def chain(predict, x, steps, noise):
        active = torch.from_numpy(weights[weights > 0])
        tell = lambda _step, _kappa: advance("superposition: equal densities")  # noqa: E731
        x, odds = superpose(predict, x, steps, active, noise, equal=True, tell=tell)
        gaps = (odds.max(0).values - odds.min(0).values).tolist()
        return x, [Remark(f"log densities equal to {gap:.2g}") for gap in gaps]

    return by_chain(ensemble, plan, weights, batch, chain)


def _weights(ensemble, plan: SamplingPlan) -> np.ndarray:
    if plan.weights is not None:
        return values_of(checked_weights(ensemble, plan.weights))
    return np.full(len(ensemble.members), 1.0 / len(ensemble.members))


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    yield from draw(ensemble, plan, _weights(ensemble, plan), method="superposition_and", images=_images)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, plan))


METHOD = Method(
    "superposition_and", "Superposition (and)", run, cost, "Every sample is steered to be equally likely under all models."
)
