"""The door from the page to drawing: samples of any method, their price, their recipes. Plain functions, no HTML."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .engine import distance_form, ensemble

YOURS = {"mix": "mixture", "blend": "scorefusion"}  # the method that the mixer's weights stand for, by mode


def settings(plan, **more):
    """The `SamplingPlan` of what Compare is asked to draw: every prompt with every seed."""
    from fusion.methods import SamplingPlan

    return SamplingPlan.grid(plan.prompts, plan.seeds, steps=plan.steps, **more)


def samples(chosen, result, method: str, plan, weights, *, job):
    """Yields `Sample`s of one method; `yours` draws with the mixer's weights as (mode, values)."""
    from fusion.methods import METHODS

    loaded = ensemble(chosen, job.report)
    job.enter("drawing")
    own = np.asarray(weights[1]) if method == "yours" else None
    name = YOURS[weights[0]] if method == "yours" else method
    yield from METHODS[name].run(loaded, result, settings(plan, stop=job.stopped, progress=job.report, weights=own))


def evaluations(chosen, result, method: str, plan, weights) -> float | None:
    """Network evaluations per image."""
    from fusion.methods import METHODS

    own = np.asarray(weights[1]) if method == "yours" else None
    name = YOURS[weights[0]] if method == "yours" else method
    return METHODS[name].cost(ensemble(chosen), result, settings(plan, weights=own)).evaluations


def matched(chosen, result, plan, *, job):
    """`(fit with matched weights, distance form of blends)`: draws about K + 4 batches. Raises MethodError without a calibration."""
    from fusion.methods import SamplingPlan
    from fusion.methods.matched import match

    loaded = ensemble(chosen, job.report)
    job.enter("matching")
    found, last = match(
        loaded, result, SamplingPlan(list(plan.prompts[:1]), [0], steps=plan.steps, stop=job.stopped, progress=job.report)
    )
    return found, distance_form(found, last)


# ------------------------------------------------------------------------------------------------ recipes


def save(sample, chosen, settings_, path: Path) -> None:
    """The image as PNG, its recipe inside."""
    from fusion.recipe import Recipe

    Recipe.of_sample(ensemble(chosen), sample, settings_).save_png(sample.image, path)


def recipe_json(chosen, result, plan, mode: str, weights, metrics: dict) -> str:
    """What a user keeps: the mixer's weights as they are, with the fit's interval."""
    from fusion.recipe import Recipe
    from fusion.weights import Weights

    source = None if result is None else result.calibrated if mode == "mix" else result.published
    interval = None if source is None else source.interval_
    kept = Weights(np.asarray(weights), interval, tuple(c.title for c in chosen), "set on the page")
    return Recipe.of(ensemble(chosen), YOURS[mode], settings(plan), kept, metrics=metrics).to_json()


def again(chosen, recipe, *, job):
    """Yields the images of a recipe: all, or the one it was found in. Raises MethodError where its method cannot run here."""
    loaded = ensemble(chosen, job.report)
    job.enter("drawing")
    yield from recipe.run(loaded, stop=job.stopped, progress=job.report)


def difference(one, other) -> int:
    """Largest difference of two pictures in levels, 0..255; 255 for pictures of different sizes."""
    if one.size != other.size:
        return 255
    a, b = (np.asarray(image.convert("RGB"), dtype=int) for image in (one, other))
    return int(abs(a - b).max())
