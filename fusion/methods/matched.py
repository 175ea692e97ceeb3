"""A blend whose own samples have the target's calibrated features: every sample averages all members, at the weights found by drawing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fusion.methods.drawing import checked_weights, constant_cost, draw
from fusion.methods.matching import search, search_evaluations
from fusion.methods.plan import Cost, Method, MethodError, Sample, SamplingPlan, Unfinished


def match(ensemble, fit, plan: SamplingPlan, **settings):
    """Run the search to its end: `(fit with its `matched` weights, last Match)`. Raises Unfinished when stopped before."""
    state = None
    for current in search(ensemble, fit, plan, **settings):
        state = current
    if state is None or state.weights is None:
        raise Unfinished("the search was stopped before its first batch was complete: start it again, or sample with another method")
    found = replace(fit, matched=state.weights)
    if state.done < state.total:
        raise Unfinished("the search was stopped before its end: start it again, or sample with another method", found)
    return found, state


def prepare(ensemble, fit, plan: SamplingPlan):
    """The fit with its `matched` weights: as they are when a search has found them before or the plan brings its own."""
    if plan.weights is not None or getattr(fit, "matched", None) is not None:
        return fit
    return match(ensemble, fit, plan)[0]


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    """Samples at the plan's weights, else at the fit's matched weights, else at those that a search finds first."""
    weights = plan.weights if plan.weights is not None else getattr(fit, "matched", None)
    if weights is None:
        try:
            weights = prepare(ensemble, fit, plan).matched
        except MethodError:
            if plan.stopped():  # asked to stop before there was an answer: nothing to keep, nothing wrong
                return
            raise
    yield from draw(ensemble, plan, checked_weights(ensemble, weights), method="matched")


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    """Before the search the weights are unknown, so all members are counted."""
    weights = plan.weights if plan.weights is not None else getattr(fit, "matched", None)
    if weights is not None:
        return constant_cost(ensemble, plan, checked_weights(ensemble, weights))
    if fit is None or fit.calibrated is None:
        raise MethodError("matching needs a calibration: calibrate these models once, then fit again")
    every = constant_cost(ensemble, plan, [1.0 / len(ensemble.members)] * len(ensemble.members))
    return replace(every, preparation=search_evaluations(ensemble, fit, plan))


METHOD = Method(
    "matched", "Blend", run, cost, "Every sample averages all models, with weights whose own samples look like the target.", prepare
)
