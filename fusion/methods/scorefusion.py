"""The published method: one weight for each member, fitted by denoising loss (Liu, Ye, Blanchet, Si; arXiv 2406.19619)."""

from __future__ import annotations

from collections.abc import Iterator

from fusion.methods.drawing import checked_weights, constant_cost, draw, needs_fit
from fusion.methods.plan import Cost, Method, Sample, SamplingPlan


def _weights(ensemble, fit, plan: SamplingPlan):
    weights = plan.weights if plan.weights is not None else needs_fit(fit, "the published method").published.weights_
    return checked_weights(ensemble, weights)


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    yield from draw(ensemble, plan, _weights(ensemble, fit, plan), method="scorefusion")


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, fit, plan))


METHOD = Method(
    "scorefusion", "Published weights", run, cost, "Every sample averages all models, with the weights of lowest denoising loss."
)
