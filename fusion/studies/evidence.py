"""Every method on the three example targets, over seeds: the full table of evidence, and what it recommends.

A seed is another set of sampling seeds and another draw of the noise in the target's statistic, so that weights and proportions vary, too;
the fitted and held-out images are the shipped ones, 48 and 96 of them. What a method searches or trains (`prepare`) is found once for
each target, with seed 0's fit, and used with every seed's samples. Each (target, seed, method) is kept in `work` as soon as it is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path

import numpy as np
from PIL import Image

from fusion.evaluation.columns import FIGURES
from fusion.evaluation.diversity import copies
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.features import distance_of_means
from fusion.evaluation.own_loss import own_losses
from fusion.evaluation.report import Row
from fusion.evaluation.weighing import copied, losses
from fusion.methods import METHODS, NAMES, TRAINED, Cost, Sample
from fusion.methods.coordinates import Coordinates
from fusion.methods.single import best_single, one_hot
from fusion.objective import ResidualGram, fit_gram
from fusion.studies import evidence_report
from fusion.studies.fidelity import portraits_ensemble
from fusion.studies.method_bench import Bench, applied
from fusion.studies.portrait_evidence import copying, families, judged, latents
from fusion.studies.portrait_samples import STEPS, Pictures, joined
from fusion.studies.shelf import Shelf, keep, kept, undamaged
from fusion.target import Target
from models.catalog import REPOSITORY
from models.portraits.population import TARGET_POPULATIONS

TITLE = "Every method on the example targets"
SAMPLES, SEEDS = 128, 3  # a method, target and seed
FITTED, HELD_OUT = 48, 96  # images of a target
PARTS = {"fitted": ("fit", "more"), "held out": ("held_out",)}  # folders below assets/targets/TARGET, in this order
RESIDUAL = 16  # samples, of seed 0, whose calibrated features are read: 128 evaluations each


def run(out: Path, work: Path, *, quick: bool = False, seeds: int | None = None, progress=None, stop=None,
        methods: tuple[str, ...] | None = None) -> dict:  # fmt: skip
    """The summary that evidence.json holds. Stopped early, it reports what there is and goes on from `work` the next time.

    `methods`: which take part (all; a quick run leaves out those that search or train).
    """
    count, steps, seeds, residual = (8, 2, seeds or 1, 2) if quick else (SAMPLES, STEPS, seeds or SEEDS, RESIDUAL)
    Shelf(work, {"samples": count, "steps": steps, "residual": residual}, 0)  # refuses parts of other settings
    ensemble, results = portraits_ensemble("cpu"), []
    most = {"fitted": 4 if quick else FITTED, "held out": 4 if quick else HELD_OUT}
    benches = {target: Bench(ensemble, target, *(_images(target, part, most[part]) for part in PARTS), work, count, steps)
               for target in list(TARGET_POPULATIONS)[: 1 if quick else None]}  # fmt: skip
    methods = methods or tuple(name for name in NAMES if not (quick and METHODS[name].prepare is not None))
    jobs, drawn = [(target, seed, name) for name in methods for target in benches for seed in range(seeds)], {}
    for number, (target, seed, name) in enumerate(jobs):
        if stop is not None and stop():
            break
        drawn[target, seed, name] = benches[target].cell(name, seed, stop)
        if progress is not None:
            progress(number + 1, len(jobs), f"{target}, {name}, seed {seed}")
    together = {}  # target: what all its seeds show, which is what is recommended
    for target, bench in benches.items():
        pictures = {}  # of all seeds, since one trained network draws for all of them
        for (_, _, name), cell in (item for item in drawn.items() if item[0][0] == target and item[1] is not None):
            pictures.setdefault(name, []).extend([] if cell[0] is None else [cell[0]])
        chances = copying(bench.ensemble, pictures, bench.fitted_pictures, bench.held_pictures)
        for seed in range(seeds):
            cells = {n: cell for (t, s, n), cell in drawn.items() if (t, s) == (target, seed) and cell is not None}
            if len(cells) > 1:
                results.append(_weighed(bench, seed, cells, residual if seed == 0 else 0, chances) | {"alone": _alone(bench, seed, stop)})
        if any(one["target"] == target for one in results):
            costs = {row["method"]: Cost(**row["cost"]) for one in results if one["target"] == target for row in one["rows"]}
            together[target] = _together(bench, {name: parts for name, parts in pictures.items() if parts}, costs, chances)
    return evidence_report.write(out, results, together, {
        "samples": count, "seeds": seeds, "steps": steps, "fitted": len(bench.fitted), "held_out": len(bench.held), "residual": residual,
        "methods": list(methods), "complete": len(drawn) == len(jobs) and None not in drawn.values()})  # fmt: skip


def _images(target: str, part: str, most: int) -> Target:
    found = []
    for folder in (REPOSITORY / "assets" / "targets" / target / name for name in PARTS[part]):
        found += [(folder / record["file"], record["prompt"]) for record in json.loads((folder / "captions.json").read_text())]
    found = found[:most]
    return Target(tuple(Image.open(file).convert("RGB") for file, _ in found), tuple(prompt for _, prompt in found))


def _weighed(bench: Bench, seed: int, cells: Mapping[str, tuple[Pictures | None, dict]], residual: int, chances: Mapping) -> dict:
    """All evidence of one target and seed as plain values, with the recommendation made from its samples; `chances`: of `copying`."""
    fit, population = bench.fit(seed), TARGET_POPULATIONS[bench.name]
    drawn = {name: pictures for name, (pictures, _) in cells.items() if pictures is not None}
    costs = {name: Cost(**told["cost"]) for name, (pictures, told) in cells.items() if pictures is not None}
    known = [latents(bench.ensemble, one) for one in (bench.fitted_pictures, bench.held_pictures)]
    seen = {name: copies(latents(bench.ensemble, one), *known, families(name, one)) for name, one in drawn.items()}
    rows, recommendation = judged(drawn, bench.held_pictures, population, costs, chances)
    found = []
    for row in rows:
        told, pictures = cells[row.method][1], drawn[row.method]
        weights = applied(told, bench.ensemble.names)
        loss = losses(bench.held_out, fit, row.method, weights) or _own_losses(bench, fit, row.method, seed, weights)
        row = replace(row, seconds=told["seconds"], copies=copied(seen[row.method], row.method)[0], **loss)
        if residual:
            row = replace(row, features=_features(bench, fit, row.method, pictures, residual))
        found.append(_plain(row, told, pictures) | {"copied": chances.get(row.method), "training": bench.found(row.method, fit)})
    problems = {name: told["problem"] for name, (_, told) in cells.items() if "problem" in told}
    return {"target": bench.name, "seed": seed, "rows": found, "problems": problems, "recommendation": asdict(recommendation),
            "fit": fit.summary()}  # fmt: skip


def _together(bench: Bench, parts: Mapping[str, list[Pictures]], costs: Mapping[str, Cost], chances: Mapping) -> dict:
    """The recommendation from the samples of all seeds, and each method's distances by them: one truth for sentence and table."""
    drawn = {name: reduce(joined, some) for name, some in parts.items()}
    rows, recommendation = judged(drawn, bench.held_pictures, TARGET_POPULATIONS[bench.name], costs, chances)
    return {"recommendation": asdict(recommendation), "kid": {row.method: asdict(row.kid) for row in rows},
            "diversity": {row.method: asdict(row.diversity) for row in rows}}  # fmt: skip


def _alone(bench: Bench, seed: int, stop) -> dict[str, list[int]]:
    """What every member draws alone, as counts by kind; the fit takes one of them for the best. Nothing when stopped."""
    drawn = {name: bench.alone(k, seed, stop) for k, name in enumerate(bench.ensemble.names)}
    return {} if None in drawn.values() else {name: np.bincount(one.cells, minlength=18).tolist() for name, one in drawn.items()}


def _own_losses(bench: Bench, fit, name: str, seed: int, weights) -> dict:
    """Losses of a method that merged or trained a network, kept in `work`: a trained one serves all seeds, a merged one its own."""
    if name != "merge" and name not in TRAINED:
        return {}
    best = best_single(fit)
    file = bench.work / f"{bench.name}-{name if name in TRAINED else f'{seed}-{name}'}-against-{best}.losses.json"
    if not file.is_file():
        sample = Sample(None, name, "", 0, None, applied=weights, trained=bench.trained(name, fit))
        found = own_losses(bench.ensemble, sample, name, bench.held_out, bench.held, one_hot(len(bench.ensemble), best))
        keep(file, {key: asdict(one) for key, one in found.items()})
    return {key: Estimate(**one) for key, one in kept(file).items()}


def _features(bench: Bench, fit, name: str, pictures: Pictures, count: int) -> Estimate:
    """Distance in calibrated features of the first `count` samples, whose statistic is kept in `work`."""
    file = bench.work / f"{bench.name}-{name}.residuals.safetensors"
    if not file.is_file():
        one = pictures.take(slice(count))
        fit_gram(bench.ensemble, one.pil(), list(one.prompts), **bench.calibration.settings, seeds="place").save(file)
    space = Coordinates.of(fit.calibrated, bench.ensemble.names)
    with undamaged(file):
        return distance_of_means(space.read(ResidualGram.load(file)), space.read(bench.held_out))


def _plain(row: Row, told: dict, pictures: Pictures) -> dict:
    figures = {name: None if getattr(row, name) is None else asdict(getattr(row, name)) for name in FIGURES}
    return {"method": row.method, "title": row.title, "cost": asdict(row.cost), "seconds": row.seconds, "preparing": told["preparing"],
            "effective": row.effective, "cells": np.bincount(pictures.cells, minlength=18).tolist(), **figures}  # fmt: skip
