"""The mixture of the members, by weights that every sample finds on its way (SuperDiff OR; Skreta et al. 2025, arXiv 2412.17762).

At every step a sample averages the members with the probability, given its path so far, that it is theirs: the exact score of the mixture.
Where the members differ these probabilities soon become 0 and 1, and the sample is one member's, as if it had been routed to it; where
they agree it is everybody's. With guidance the densities are those of the guided models, which no diffusion has exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fusion.methods.densities import superpose
from fusion.methods.drawing import constant_cost, draw
from fusion.methods.mixture import proportions
from fusion.methods.plan import Cost, Method, Remark, Sample, SamplingPlan
from fusion.methods.stochastic import by_chain


def shares_told(names, kappa: np.ndarray) -> str:
    """`0.93 Harbor, 0.07 Summit`: the largest first, those that round to 0 left out."""
    order = [k for k in np.argsort(-kappa) if kappa[k] >= 0.005]
    return ", ".join(f"{kappa[k]:.2f} {names[k]}" for k in order)


def _images(ensemble, plan: SamplingPlan, weights: np.ndarray, batch, advance) -> tuple[list, list[Remark]]:
    names = [ensemble.names[k] for k in np.flatnonzero(weights > 0)]

    def chain(predict, x, steps, noise):
        def tell(_step, kappa):
            advance(f"superposition: {float(kappa.max(0).values.mean()):.0%} decided")

        x, odds = superpose(predict, x, steps, torch.from_numpy(weights[weights > 0]), noise, tell=tell)
        return x, [Remark(shares_told(names, kappa.numpy())) for kappa in torch.softmax(odds, 0).T]

    return by_chain(ensemble, plan, weights, batch, chain)


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    """Samples of the mixture with the plan's proportions, else with those that `mixture` routes by."""
    yield from draw(ensemble, plan, proportions(ensemble, fit, plan), method="superposition", images=_images)


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, proportions(ensemble, fit, plan))


METHOD = Method(
    "superposition", "Superposition (or)", run, cost, "Every sample weighs the models by how likely it is under each, step by step."
)
