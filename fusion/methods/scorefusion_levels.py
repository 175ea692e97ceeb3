"""The published method with weights that change with the noise level (design: "per-level weights")."""

from __future__ import annotations

from collections.abc import Iterator

from fusion.methods.drawing import checked_weights, constant_cost, draw, needs_fit
from fusion.methods.plan import Cost, Method, Sample, SamplingPlan


def _weights(ensemble, fit, plan: SamplingPlan):
    weights = plan.weights if plan.weights is not None else needs_fit(fit, "weights by noise level").levels.as_weights()
    return checked_weights(ensemble, weights, levels=True)


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    yield from draw(ensemble, plan, _weights(ensemble, fit, plan), method="scorefusion_levels")


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return constant_cost(ensemble, plan, _weights(ensemble, fit, plan))


METHOD = Method(
    "scorefusion_levels", "Weights by noise level", run, cost, "Every sample averages all models, with other weights at other noise levels."
)
