"""Run several methods on the same prompts and seeds, and weigh them on the same held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fusion.evaluation.features import feature_distance
from fusion.evaluation.loss import held_out_gain, held_out_loss
from fusion.evaluation.population import is_countable, population_distance
from fusion.evaluation.report import Report, Row, verdict
from fusion.methods import METHODS, Method, MethodError, Sample, SamplingPlan
from fusion.methods.single import best_single
from fusion.objective import ResidualGram, fit_gram
from fusion.recipe import described


def compare(
    ensemble,
    methods: Mapping[str, Method] | Iterable[str] = METHODS,
    prompts: Sequence[str] | str = ("",),
    seeds: Sequence[int] = range(4),
    *,
    fit=None,
    held_out: ResidualGram | None = None,
    target=None,
    read_features: bool = True,
    keep: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    stop: Callable[[], bool] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
    **settings,
) -> Report:
    """Every method on the same prompts and seeds; `settings` are those of `SamplingPlan`, which also says how the two are paired.

    `methods`: a dictionary of methods, or names in METHODS. `fit`: how the target was fitted (`fusion.fitting`); a method that needs one
    and has none gets a row that says so. `held_out`: the statistic of held-out target images, for losses and features.
    `target`: a known population (3, 6) or held-out target images, for portraits. `read_features` runs the networks over the samples once
    more. `keep`: images kept a row (all). `on_sample` is called with every image as it is ready; `progress(done, total, message)` counts
    thousandths of a method. When `stop()` turns true the report holds what was done.
    """
    methods = dict(methods) if isinstance(methods, Mapping) else {name: METHODS[name] for name in methods}
    rows: list[Row] = []
    for number, method in enumerate(methods.values()):
        if stop is not None and stop():
            break
        plan = SamplingPlan(
            prompts, seeds, **settings, stop=stop, progress=_part(progress, number, len(methods), method.title)
        )
        row = _run(ensemble, method, fit, plan, on_sample)
        row = _weigh(ensemble, row, fit, held_out, target, read_features and not plan.stopped(), stop)
        rows.append(row if keep is None else replace(row, samples=row.samples[:keep]))
    drawn = SamplingPlan(prompts, seeds, **settings)
    return Report(
        tuple(rows), tuple(described(card) for card in ensemble.cards), tuple(p for p, _ in drawn.jobs), tuple(s for _, s in drawn.jobs),
        settings={"steps": drawn.steps, "guidance": drawn.guidance, "images a method": len(drawn.jobs)},
        fit={} if fit is None else fit.summary(), verdict=verdict(rows), stopped=bool(stop is not None and stop()),
    )  # fmt: skip


def _run(ensemble, method: Method, fit, plan: SamplingPlan, on_sample) -> Row:
    """Draw one method's samples and note its price; a method that cannot run says why."""
    samples: list[Sample] = []
    try:
        cost, start = method.cost(ensemble, fit, plan), time.perf_counter()
        for sample in method.run(ensemble, fit, plan):
            samples.append(sample)
            if on_sample is not None:
                on_sample(sample)
    except MethodError as error:
        return Row(method.name, method.title, {}, problem=str(error))
    if not samples:
        return Row(method.name, method.title, {}, cost, problem="stopped before its first batch was complete")
    seconds = (time.perf_counter() - start) / len(samples)
    return Row(method.name, method.title, dict(zip(ensemble.names, samples[0].weights.tolist())), cost, seconds, samples=tuple(samples))


def _weigh(ensemble, row: Row, fit, held_out, target, read_features: bool, stop) -> Row:
    """Add every kind of evidence that the arguments allow."""
    if not row.samples:
        return row
    images, found = [sample.image for sample in row.samples], {}
    if held_out is not None:
        weights, routed = _applied(row.samples[0], ensemble), row.method == "mixture"
        found["loss"] = held_out_loss(held_out, weights, routed=routed)
        if fit is not None:
            found["gain"] = held_out_gain(held_out, weights, np.eye(len(ensemble.names))[best_single(fit)], routed=routed)
    if target is not None and is_countable(ensemble.cards):
        found["population"] = population_distance(images, target)
    if read_features and held_out is not None and fit is not None and fit.calibrated is not None:
        prompts = [sample.prompt for sample in row.samples]
        try:
            samples = fit_gram(ensemble, images, prompts, levels=len(held_out.strata) - 1, draws=held_out.draws // 2, stop=stop)
        except RuntimeError:
            if stop is None or not stop():
                raise
            return replace(row, **found)  # stopped before the first image was read
        found["features"] = feature_distance(fit.calibrated, samples, held_out)
    return replace(row, **found)


def _applied(sample: Sample, ensemble):
    """The weights whose loss stands for a sample's method."""
    return np.eye(len(ensemble.names))[ensemble.names.index(sample.member)] if sample.method == "single" else sample.applied


def _part(progress, number: int, count: int, title: str):
    """Progress of one of several methods, in thousandths of a method."""
    if progress is None:
        return None
    return lambda done, total, _message: progress(int(1000 * (number + done / max(total, 1))), 1000 * count, title)
