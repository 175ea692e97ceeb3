"""One member alone, as its own pipeline draws it: the best one, or a chosen one. What every other method has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion.methods.alone import cost_alone, draw_alone
from fusion.methods.coordinates import Coordinates
from fusion.methods.drawing import checked_weights, mean_weights, needs_fit
from fusion.methods.plan import Cost, Method, Sample, SamplingPlan


def best_single(fit) -> int:
    """Index of the member closest to the target.

    With a calibration: the one whose own images have features nearest the target's. Without: the one with the lowest denoising
    loss, which is weaker evidence, since losses hardly see the population (design: "the ensemble effect").
    """
    needs_fit(fit, "the best single model")
    if fit.calibrated is None or len(fit.gram.names) == 1:
        return int(fit.published.best_single_)
    space = Coordinates.of(fit.calibrated, fit.gram.names)
    return int(np.linalg.norm(space.corners - space.read(fit.gram).mean(0), axis=1).argmin())


def _chosen(ensemble, fit, plan: SamplingPlan) -> int:
    if plan.weights is None:
        return best_single(fit)
    return int(np.argmax(mean_weights(checked_weights(ensemble, plan.weights))))


def one_hot(count: int, index: int) -> np.ndarray:
    return np.eye(count)[index]


def run(ensemble, fit, plan: SamplingPlan) -> Iterator[Sample]:
    """Samples of the best single member, or of the member that `plan.weights` points at."""
    index = _chosen(ensemble, fit, plan)
    yield from draw_alone(ensemble, plan, index, method="single")


def cost(ensemble, fit, plan: SamplingPlan) -> Cost:
    return cost_alone(ensemble, plan, one_hot(len(ensemble.members), _chosen(ensemble, fit, plan)))


METHOD = Method("single", "Best single model", run, cost, "Every sample comes from the one model closest to the target.")


def singles(ensemble) -> dict[str, Method]:
    """One method for every member of an ensemble, named `single/<member>`: for grids that show each alone."""

    def bound(index: int, name: str) -> Method:
        hot = one_hot(len(ensemble.members), index)
        return Method(
            f"single/{name}",
            name,
            lambda ens, fit, plan: draw_alone(ens, plan, index, method="single"),
            lambda ens, fit, plan: cost_alone(ens, plan, hot),
            f"Every sample comes from {name}.",
        )

    return {f"single/{name}": bound(index, name) for index, name in enumerate(ensemble.names)}
