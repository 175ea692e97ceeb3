"""The door from the page to drawing: samples of any method, their price, their recipes. Plain functions, no HTML."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusion import hosting, pace

from .engine import distance_form, ensemble, loaded, open_images

MOVED = "set on the page"  # how weights were found that someone moved in the mixer
YOURS = {"mix": "mixture", "blend": "scorefusion"}  # the method that the mixer's weights stand for, by mode


def settings(plan, chosen, **more):
    """The `SamplingPlan` of what Compare is asked to draw with these models: every prompt with every seed."""
    from fusion.methods import SamplingPlan

    return SamplingPlan.grid(plan.prompts, plan.seeds, steps=plan.steps, guidance=guidance(plan, chosen), negative_prompt=plan.negative,
                             clip_skip=plan.clip_skip, **more)  # fmt: skip


def guidance(plan, chosen) -> float:
    """The visitor's classifier-free guidance, else what these models are usually drawn with; 1 for none."""
    if plan.guidance is not None:
        return plan.guidance
    together = loaded(chosen)
    return together.guidance if together is not None else chosen[0].usual_guidance if chosen else 1.0


def warm(chosen) -> None:
    """Load the models and time one small forward pass of theirs, so that prices are told in time, too: while nobody else works."""
    from fusion.transfer.adapting import probe_all

    together = ensemble(chosen)
    if not hosting.zerogpu():
        probe_all(together)


def takes(chosen, method: str, plan, cost, images: int) -> float | None:
    """Seconds that a method takes for so many images of this plan on this machine, its search and its training among them; None while the
    models are not loaded, and before anything of theirs was measured here."""
    together = loaded(chosen)
    if together is None:
        return None
    name = YOURS["mix"] if method == "yours" else method
    drawing = pace.drawing(together, settings(plan, chosen), name, cost.evaluations, images)
    search = pace.searching(together, name, cost.preparation) if cost.preparation and not cost.training_seconds else 0.0
    return None if drawing is None or search is None else drawing + search + cost.training_seconds


def searches(chosen, method: str, evaluations: float) -> float | None:
    """Seconds of what a method looks for once; None as in `takes`."""
    together = loaded(chosen)
    return None if together is None else pace.searching(together, method, evaluations)


def reads(chosen, evaluations: float) -> float | None:
    """Seconds of measuring residuals with so many network evaluations; None as in `takes`."""
    together = loaded(chosen)
    return None if together is None else pace.reading(together, evaluations)


def samples(chosen, result, method: str, plan, weights, *, job):
    """Yields `Sample`s of one method; `yours` draws with the mixer's weights as (mode, values)."""
    from fusion.methods import METHODS

    name, own = _as_method(method, weights)
    asked = settings(plan, chosen, weights=own)
    wanted = len(asked.jobs)
    hosting.check(models=chosen, samples=wanted, steps=plan.steps)
    _check_training(chosen, result, [name], asked, job)
    held = hosting.seconds(len(chosen) * plan.steps * wanted * _halves(asked), wanted)
    start, images = pace.clock(), 0
    for sample in hosting.stream(_drawn, chosen, result, name, asked, job=job, seconds=held):
        images += 1
        yield sample
    if images and images == wanted and not hosting.zerogpu():  # there, waiting for a GPU counts as drawing
        together = ensemble(chosen)
        pace.drew(together, asked, name, METHODS[name].cost(together, result, asked).evaluations, images, pace.clock() - start)


def _drawn(chosen, result, name: str, asked, *, job):
    """Yields the samples of a method: what needs a GPU."""
    from fusion.methods import METHODS

    together = ensemble(chosen, job.loading)
    job.enter("drawing")
    yield from METHODS[name].run(together, result, asked.with_(stop=job.stopped, progress=job.report))


def _halves(asked) -> int:
    """Evaluations a network takes for one step of one image: with guidance the unconditional one, too."""
    return 2 if asked.guidance > 1 else 1


def _as_method(method: str, weights) -> tuple[str, np.ndarray | None]:
    """Name in METHODS and weights of a column; the mixer's own stands for a method, by its mode."""
    return (YOURS[weights[0]], np.asarray(weights[1])) if method == "yours" else (method, None)


def price(chosen, result, method: str, plan, weights):
    """The method's `Cost` for this plan; None while the models are not loaded. Raises MethodError where it cannot run."""
    from fusion.methods import METHODS

    together = loaded(chosen)
    if together is None:
        return None
    name, own = _as_method(method, weights)
    return METHODS[name].cost(together, result, settings(plan, chosen, weights=own))


def samplers(chosen, method: str, plan, shares) -> list[str]:
    """Which sampler draws a method's images, one sentence each; none where all models sample alike, or are not loaded."""
    from fusion.methods.alone import sampler_words

    together = loaded(chosen)
    if together is None or (shares is not None and len(shares) != len(together)):
        return []
    return sampler_words(together, settings(plan, chosen), method, shares)


def prepared(chosen, result, method: str, plan, *, job, stage: str, work: Path | None = None):
    """`(fit, distance form)`: the fit with what this method finds or trains once, made now if this is the first time.

    The distance form of blends comes with `matched` only, else None. What was stopped goes on from `work`.
    Raises MethodError when stopped.
    """
    from fusion.methods import METHODS

    found = METHODS[method]
    if found.prepare is None or method in result.trained or (method == "matched" and result.matched is not None):
        return result, None
    asked = settings(plan, chosen, work=work)
    hosting.check(models=chosen, steps=plan.steps)
    cost = found.cost(ensemble(chosen, job.loading), result, asked)
    _check_training(chosen, result, [method], asked, job)
    held = hosting.seconds(cost.preparation, more=cost.training_seconds)
    return hosting.call(_prepared, chosen, result, method, asked, stage, job=job, seconds=held)


def _check_training(chosen, result, methods, asked, job) -> None:
    """Raise ValueError where these methods would train for longer than this page gives, before they begin, by whichever way they came."""
    from fusion.methods import METHODS

    if hosting.limits().training is None:
        return
    ahead = [m for m in methods if m in METHODS and METHODS[m].prepare is not None and m not in result.trained]
    costs = [METHODS[m].cost(ensemble(chosen, job.loading), result, asked) for m in ahead]
    hosting.check(training=math.ceil(sum(cost.training_seconds for cost in costs)))


def _prepared(chosen, result, method: str, asked, stage: str, *, job):
    """`prepared`, once it is known that there is something to do: what needs a GPU."""
    from fusion.methods import METHODS

    together = ensemble(chosen, job.loading)
    job.enter(stage)
    asked = asked.with_(stop=job.stopped, progress=job.report)
    cost = METHODS[method].cost(together, result, asked)
    with pace.timed(pace.networks_of(together), "search", 0 if cost.training_seconds else cost.preparation, name=method,
                    pixels=pace.pixels(together)):  # fmt: skip
        return _found(together, result, method, asked)


def _found(together, result, method: str, asked):
    """`(fit, distance form)`: what the method's search or training leaves."""
    from fusion.methods import METHODS

    if method == "matched":
        from fusion.methods.matched import match

        result, last = match(together, result, asked)
        return result, distance_form(result, last)
    return METHODS[method].prepare(together, result, asked), None


# ------------------------------------------------------------------------------------------------ recipes


def save(sample, chosen, settings_, path: Path) -> None:
    """The image as PNG, its recipe inside."""
    from fusion.recipe import Recipe

    Recipe.of_sample(ensemble(chosen), sample, settings_).save_png(sample.image, path)


def recipe_json(chosen, result, plan, mode: str, weights, metrics: dict) -> str:
    """What a user keeps: the mixer's weights as they are, with the fit's interval."""
    from fusion.recipe import Recipe

    kept = kept_weights(tuple(c.title for c in chosen), result, mode, weights)
    return Recipe.of(ensemble(chosen), YOURS[mode], settings(plan, chosen), kept, metrics=metrics).to_json()


def kept_weights(names: tuple[str, ...], result, mode: str, weights):
    """The mixer's weights as `Weights`: those of an estimator of the fit where they were left alone, otherwise set on the page.

    Weights that were moved keep the interval that the mixer shows behind the handles.
    """
    from fusion.weights import Weights

    if result is None:
        return Weights(np.asarray(weights), None, names, MOVED)
    first = (result.calibrated or result.mixture).as_weights() if mode == "mix" else result.matched
    for found in (first, result.published.as_weights()):
        if found is not None and np.allclose(found.values, weights, atol=1e-9):  # a round trip through the browser costs the last digits
            return replace(found, names=names)
    shown = result.calibrated if mode == "mix" else result.published
    return Weights(np.asarray(weights), None if shown is None else shown.interval_, names, MOVED)


def again(chosen, recipe, *, job):
    """Yields the images of a recipe: all, or the one it was found in. Raises MethodError where its method cannot run here."""
    wanted = len(recipe.plan().jobs)
    hosting.check(models=chosen, samples=wanted, steps=recipe.steps)
    held = hosting.seconds(len(chosen) * recipe.steps * wanted, wanted)
    yield from hosting.stream(_again, chosen, recipe, job=job, seconds=held)


def _again(chosen, recipe, *, job):
    """Yields the images of a recipe: what needs a GPU."""
    together = ensemble(chosen, job.loading)
    job.enter("drawing")
    yield from recipe.run(together, stop=job.stopped, progress=job.report)


def difference(one, other) -> int:
    """Largest difference of two pictures in levels, 0..255; 255 for pictures of different sizes."""
    if one.size != other.size:
        return 255
    a, b = (np.asarray(image.convert("RGB"), dtype=int) for image in (one, other))
    return int(abs(a - b).max())


# ------------------------------------------------------------------------------------------------ evidence


def measured(chosen, result, plan, own, held, *, count: int, first_seed: int, yours: str, job,
             work: Path | None = None) -> tuple[dict, object]:  # fmt: skip
    """`(report as plain values, fit)`: every chosen method's `count` samples against held-out `(path, caption)` images.

    Prompts are the held-out images' own, in turn. `fit` holds what the methods prepared, and goes on from
    `work`. RuntimeError when stopped before the first.
    """
    from fusion.target import Target

    hosting.check(models=chosen, images=len(held), samples=count, steps=plan.steps)
    _check_training(chosen, result, plan.methods, settings(plan, chosen), job)
    pictures = Target(tuple(open_images([path for path, _ in held])), tuple(caption for _, caption in held))
    looks = 2 * (len(result.gram.strata) - 1) * (len(held) + 32 * len(plan.methods))
    drawn = plan.steps * count * len(plan.methods) * _halves(settings(plan, chosen))
    time_ = hosting.seconds(len(chosen) * (drawn + looks), count * len(plan.methods))
    return hosting.call(_measured, chosen, result, plan, own, pictures, count, first_seed, yours, work, job=job, seconds=time_)


def _measured(chosen, result, plan, own, pictures, count: int, first_seed: int, yours: str, work: Path | None, *,
              job) -> tuple[dict, object]:  # fmt: skip
    """`measured`: what needs a GPU."""
    from fusion.evaluation import compare
    from fusion.objective import fit_gram

    together = ensemble(chosen, job.loading)
    job.enter("reading")
    gram = fit_gram(together, pictures.images, pictures.prompts, **result.gram.settings, seed=1, progress=job.report, stop=job.stopped)
    job.enter("measuring")
    prompts = [pictures.prompts[n % len(pictures)] for n in range(count)]
    report = compare(
        together, {m: _method(m, own, yours) for m in plan.methods}, prompts, range(first_seed, first_seed + count), fit=result,
        held_out=gram, target=list(pictures.images), pictures=pictures, keep=0, steps=plan.steps, guidance=guidance(plan, chosen),
        negative_prompt=plan.negative, clip_skip=plan.clip_skip,
        work=work, progress=job.report, stop=job.stopped,
    )  # fmt: skip
    return report.to_dict(), report.fitted


def _method(name: str, own, yours: str):
    """A method by its name; the mixer's as a method of its own."""
    from fusion.methods import METHODS, Method

    if name != "yours":
        return METHODS[name]
    base, weights = METHODS[YOURS[own[0]]], np.asarray(own[1])

    def run(together, result, asked):
        return base.run(together, result, asked.with_(weights=weights))

    def cost(together, result, asked):
        return base.cost(together, result, asked.with_(weights=weights))

    return Method("yours", yours, run, cost)
