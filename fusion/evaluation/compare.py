"""Run several methods on the same prompts and seeds, and weigh them on the same held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fusion import pace
from fusion.evaluation.report import Report, Row
from fusion.evaluation.weighing import RESIDUAL_SAMPLES, weigh
from fusion.methods import METHODS, SINGLES, Method, MethodError, Sample, SamplingPlan
from fusion.methods.alone import sampler_words
from fusion.methods.drawing import size_of
from fusion.methods.single import singles
from fusion.methods.training import found_of, verdict_of
from fusion.objective import ResidualGram
from fusion.recipe import described
from fusion.target import Target
from models.reading import dropped


def compare(
    ensemble,
    methods: Mapping[str, Method] | Iterable[str] = METHODS,
    prompts: Sequence[str] | str = ("",),
    seeds: Sequence[int] = range(4),
    *,
    fit=None,
    held_out: ResidualGram | None = None,
    target=None,
    pictures: Target | None = None,
    measured: Target | None = None,
    read_features: bool | int = True,
    keep: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
    **settings,
) -> Report:
    """Every method on the same prompts and seeds; `settings` are those of `SamplingPlan`, which also says how the two are paired.

    `methods`: a dictionary of methods, or names, see `chosen`. `fit`: how the target was fitted (`fusion.fitting`); a method that needs one
    and has none gets a row that says so. A method with long work to do once does it before it draws; `Report.fitted` holds the fit with
    what they found. `held_out`: the statistic of held-out target images, for losses and calibrated features; `pictures`: these images with
    their prompts, for KID, diversity and copies (default: `target`, where that is images, with the statistic's prompts); `measured`: those
    of them that the statistic was measured on, where not on all. `target`: a known population (3, 6) or held-out target images, for the
    population of portraits. `read_features`: of how many samples a method the calibrated features are read (True: 32; every image takes
    2 L K evaluations). `keep`: images kept a row (all).
    `on_sample` is called with every image as it is ready; `progress(done, total, message)` counts thousandths of a method, and of the
    weighing at the end. When `stop()` turns true the report holds what was done.
    Raises MethodError for a size that no method can draw, ValueError for images or held-out pictures that would all be one.
    """
    methods = dict(methods) if isinstance(methods, Mapping) else chosen(ensemble, methods)
    _check(ensemble, SamplingPlan(prompts, seeds, **settings), pictures.images if pictures is not None else target)
    rows: list[Row] = []
    for number, method in enumerate(methods.values()):
        if stop is not None and stop():
            break
        tell = _part(progress, number, len(methods) + 1, method.title)
        row, fit = _run(ensemble, method, fit, SamplingPlan(prompts, seeds, **settings, stop=stop, progress=tell), on_sample)
        rows.append(row)
    if pictures is None and held_out is not None and target is not None and not isinstance(target, np.ndarray):
        pictures = Target(tuple(target), held_out.prompts)
    rows, told = weigh(
        ensemble, rows, fit=fit, held_out=held_out, pictures=pictures, population=target, measured=measured, stop=stop,
        residual_samples=RESIDUAL_SAMPLES if read_features is True else int(read_features),
        progress=_part(progress, len(methods), len(methods) + 1, "weighing"),
    )  # fmt: skip
    drawn = SamplingPlan(prompts, seeds, **settings)
    if keep is not None:  # the same places of the plan in every row, whatever order a method drew in
        kept = set(drawn.jobs[:keep])
        rows = [replace(row, samples=tuple(one for one in row.samples if (one.prompt, one.seed) in kept)) for row in rows]
    return Report(
        tuple(rows), tuple(described(card) for card in ensemble.cards), tuple(p for p, _ in drawn.jobs), tuple(s for _, s in drawn.jobs),
        settings={"steps": drawn.steps, "guidance": drawn.guidance, "images a method": len(drawn.jobs)}
        | ({"negative prompt": drawn.negative_prompt} if drawn.negative_prompt else {})
        | ({"clip skip": drawn.clip_skip} if drawn.clip_skip else {})
        | ({} if drawn.interval is None else {"guidance interval": list(drawn.interval)})
        | ({} if not (said := _samplers(ensemble, methods, drawn)) else {"samplers": said})
        | ({} if pictures is None else {"held-out images": len(pictures)}),
        fit={} if fit is None else fit.summary(), recommendation=told, stopped=bool(stop is not None and stop()),
        unread=tuple(_unread(ensemble, drawn, fit, pictures)), fitted=fit,
    )  # fmt: skip


def _unread(ensemble, plan: SamplingPlan, fit, pictures: Target | None) -> list[dict]:
    """What text encoders did not read: of what was drawn, and of the captions of fitted and held-out pictures."""
    captions = [*(pictures.prompts if pictures is not None else ()), *(fit.gram.prompts if fit is not None else ())]
    negative = [plan.negative_prompt] if plan.negative_prompt else []
    parts = {"prompt": dropped(ensemble, [p for p, _ in plan.jobs], plan.reading),
             "negative prompt": dropped(ensemble, negative, plan.reading, templates=False), "caption": dropped(ensemble, captions)}
    return [{"what": what, **row} for what, rows in parts.items() for row in rows]


def _samplers(ensemble, methods: Iterable[str], plan: SamplingPlan) -> str:
    """Which samplers the methods used, where the members' own differ."""
    return "; ".join(dict.fromkeys(one for name in methods for one in sampler_words(ensemble, plan, name)))


def _check(ensemble, plan: SamplingPlan, held_out) -> None:
    """Refuse, before anything is drawn, what no figure could be made of."""
    size_of(ensemble, plan)
    if len(set(plan.jobs)) < len(plan.jobs):
        raise ValueError("some images have one prompt and seed, so they would be one image: give every image of a prompt a seed of its own")
    if held_out is None or isinstance(held_out, np.ndarray) or len(held_out) < 2:
        return
    if len({np.asarray(image).tobytes() for image in held_out}) == 1:
        raise ValueError("all held-out images are the same picture, so nothing can be told of a population: hold out different ones")


def chosen(ensemble, names: Iterable[str]) -> dict[str, Method]:
    """Methods by their names in METHODS; `SINGLES` stands for every member alone, in rows of their own. Raises KeyError for other names."""
    found: dict[str, Method] = {}
    for name in names:
        found |= singles(ensemble) if name == SINGLES else {name: METHODS[name]}
    return found


def _run(ensemble, method: Method, fit, plan: SamplingPlan, on_sample) -> tuple[Row, object]:
    """Draw one method's samples and note its price; a method that cannot run says why. Also the fit, with what the method prepared."""
    samples: list[Sample] = []
    try:
        cost, start = method.cost(ensemble, fit, plan), pace.clock()
        if method.prepare is not None:
            with pace.timed(pace.networks_of(ensemble), "search", 0 if cost.training_seconds else cost.preparation, name=method.name,
                            pixels=pace.pixels(ensemble)):  # fmt: skip
                fit = method.prepare(ensemble, fit, plan)
        prepared = pace.clock()
        for sample in method.run(ensemble, fit, plan):
            samples.append(sample)
            if on_sample is not None:
                on_sample(sample)
    except MethodError as error:
        return Row(method.name, method.title, {}, problem=str(error)), fit
    if not samples:
        return Row(method.name, method.title, {}, cost, problem="stopped before its first batch was complete"), fit
    drawing = pace.clock() - prepared
    if len(samples) == len(plan.jobs):
        pace.drew(ensemble, plan, method.name, cost.evaluations, len(samples), drawing)
    seconds, weights = drawing / len(samples), dict(zip(ensemble.names, samples[0].weights.tolist()))
    notes = _once(prepared - start, samples[0].trained)
    return Row(method.name, method.title, weights, cost, seconds, samples=tuple(samples), notes=notes), fit


def _once(seconds: float, trained) -> dict[str, str]:
    """What is to be said of the work before the first image: how long it took, whether it found anything, and whether what a transfer
    rests on is there."""
    told = [] if seconds < 1 else [f"Preparing took {seconds:.0f} s here."]
    told += [found_of(trained)] if trained is not None and found_of(trained) else []
    if trained is not None and trained.notes.get("representation") == "shared":
        told.append(verdict_of(trained.representation))
    return {"training_seconds": " ".join(told)} if told else {}


def _part(progress, number: int, count: int, title: str):
    """Progress of one of several methods, in thousandths of a method."""
    if progress is None:
        return None
    return lambda done, total, _message: progress(int(1000 * (number + done / max(total, 1))), 1000 * count, title)
