"""The second half of `fusion.studies.fidelity`: what the samples of every method show of the target's population."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusion.calibration import Calibration
from fusion.fitting import Fit, fit_all
from fusion.methods import METHODS, SamplingPlan
from fusion.methods.matched import match
from fusion.methods.matching import distance_form
from fusion.methods.mixture import route
from fusion.methods.single import one_hot
from fusion.objective import ResidualGram, fit_gram
from fusion.weights import Weights
from models.portraits import probe
from models.portraits.population import BARE_PROMPTS, TARGET_POPULATIONS, sampling_floor, total_variation

from .fidelity import NAMES, portraits_ensemble

BATCH, MATCH_STEPS = 64, 10
BLENDS = {"published": "scorefusion", "per level": "scorefusion_levels", "matched": "matched"}  # row in the table: method


def run(assets: Path, work: Path, samples: int, steps: int, targets: list[str]) -> None:
    """Measure `samples` images per method and target, in `work/samples-TARGET.json`. Single members are drawn once for all targets."""
    ensemble = portraits_ensemble()
    calibration = Calibration.load(assets / "calibration" / "portraits.safetensors")
    singles = [_cells(work, f"single-{name}", steps, samples, _drawer("single", ensemble, None, k)) for k, name in enumerate(NAMES)]
    for target in targets:
        population = TARGET_POPULATIONS[target]
        fit, _ = fitted(ensemble, calibration, target, assets, work)
        cells = {f"single {name}": singles[k] for k, name in enumerate(NAMES)}
        cells["mixture"] = _mixture(fit, singles)
        for row, method in BLENDS.items():
            cells[row] = _cells(work, f"{target}-{row}", steps, samples, _drawer(method, ensemble, fit))
        result = {"samples": samples, "steps": steps, "fit": _summary(fit), "gain": _gain(cells, population)}
        result["methods"] = {row: _distance(found, population) for row, found in cells.items()}
        (work / f"samples-{target}.json").write_text(json.dumps(result, indent=1))


def _drawer(method: str, ensemble, fit: Fit | None, member: int | None = None):
    """`plan -> samples` of a method; `member` fixes which single one."""
    weights = None if member is None else one_hot(len(ensemble.members), member)
    return lambda plan: METHODS[method].run(ensemble, fit, plan.with_(weights=weights))


def fitted(ensemble, calibration: Calibration, target: str, assets: Path, work: Path) -> tuple[Fit, dict]:
    """The fit of an example target's 12 images with its matched blend, and the blend's distance form; kept in `work`."""
    folder, kept, statistic = assets / "targets" / target / "fit", work / f"fit-{target}.json", work / f"fit-{target}.safetensors"
    if not statistic.is_file():
        records = json.loads((folder / "captions.json").read_text())
        images = [Image.open(folder / record["file"]).convert("RGB") for record in records]
        fit_gram(ensemble, images, [record["prompt"] for record in records]).save(statistic)
    fit = fit_all(ResidualGram.load(statistic), calibration)
    if not kept.is_file():
        fit, found = match(ensemble, fit, SamplingPlan(prompts=BARE_PROMPTS, seeds=(0,), steps=MATCH_STEPS))
        matched = {"values": fit.matched.values.tolist(), "interval": fit.matched.interval.tolist()}
        kept.write_text(json.dumps({"matched": matched, "blend": distance_form(fit, found)}))
    stored = json.loads(kept.read_text())
    weights = Weights(np.array(stored["matched"]["values"]), np.array(stored["matched"]["interval"]), fit.gram.names, "matched")
    shares = f"shares {fit.calibrated.proportions_.round(3)}, matched {weights.values.round(3)}"
    print(f"{time.strftime('%H:%M:%S')} {target}: {shares}", flush=True)
    return replace(fit, matched=weights), stored["blend"]


def _cells(work: Path, name: str, steps: int, samples: int, draw) -> np.ndarray:
    """Cells `(samples,)` that the probe reads off a method's images, a batch of prompts and seeds at a time, resuming from `work`."""
    file = work / f"cells-{name}-{steps}.json"
    cells: list[int] = json.loads(file.read_text()) if file.is_file() else []
    while len(cells) < samples:
        begin = len(cells)
        images = list(_images(draw, begin, min(BATCH, samples - begin), steps))
        cells += [portrait.cell for portrait in probe.read(images)]
        file.write_text(json.dumps(cells))
        if begin % (8 * BATCH) == 0:
            print(f"{time.strftime('%H:%M:%S')} {name}: {len(cells)} of {samples}", flush=True)
    return np.array(cells[:samples])


def _images(draw, begin: int, count: int, steps: int) -> Iterator[Image.Image]:
    """Bare prompts in turn, one seed each: seed i always meets prompt i modulo 16, whatever the method."""
    seeds = range(begin, begin + count)
    prompts = [BARE_PROMPTS[seed % len(BARE_PROMPTS)] for seed in seeds]
    with torch.autocast("cpu", torch.bfloat16):
        samples = list(draw(SamplingPlan(prompts=prompts, seeds=seeds, steps=steps, batch_size=BATCH)))
    yield from (sample.image for sample in sorted(samples, key=lambda sample: sample.seed))


def _mixture(fit: Fit, singles: list[np.ndarray]) -> np.ndarray:
    """Routed samples are the members' own: the image that the member of seed i drew for seed i."""
    routed = route(range(len(singles[0])), fit.calibrated.proportions_)
    return np.array([singles[k][seed] for seed, k in enumerate(routed)])


def _distance(cells: np.ndarray, population: np.ndarray) -> dict:
    """Total variation to the target's population with a 95 % bootstrap interval over samples."""
    resampled = _resample(cells)
    distances = [total_variation(row, population) for row in resampled]
    return {"total_variation": total_variation(np.bincount(cells, minlength=18) / len(cells), population),
            "interval": np.quantile(distances, [0.025, 0.975]).tolist(), "floor": sampling_floor(population, len(cells)),
            "cells": np.bincount(cells, minlength=18).tolist()}  # fmt: skip


def _resample(cells: np.ndarray, draws: int = 1000) -> np.ndarray:
    """`(draws, 18)` histograms of bootstrap resamples."""
    share = np.bincount(cells, minlength=18) / len(cells)
    return np.random.default_rng(0).multinomial(len(cells), share, size=draws) / len(cells)


def _gain(cells: dict[str, np.ndarray], population: np.ndarray) -> dict:
    """How much nearer than the truly nearest single member each method comes, with a 95 % interval over samples of both."""
    nearest = min((row for row in cells if row.startswith("single")), key=lambda row: _distance(cells[row], population)["total_variation"])
    base = np.array([total_variation(row, population) for row in _resample(cells[nearest])])
    gains = {}
    for row, found in cells.items():
        if not row.startswith("single"):
            other = np.random.default_rng(1).permutation([total_variation(r, population) for r in _resample(found)])
            gains[row] = {"gain": float((base - other).mean()), "interval": np.quantile(base - other, [0.025, 0.975]).tolist()}
    return {"nearest_single": nearest, "methods": gains}


def _summary(fit: Fit) -> dict:
    calibrated = fit.calibrated
    return {"proportions": calibrated.proportions_.tolist(), "interval": calibrated.interval_.tolist(),
            "p_value": float(calibrated.p_value_),
            "published": fit.published.weights_.tolist(), "published_interval": fit.published.interval_.tolist(),
            "levels": fit.levels.weights_.tolist(),
            "matched": fit.matched.values.tolist()}  # fmt: skip
