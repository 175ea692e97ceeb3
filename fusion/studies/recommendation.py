"""Does the recommendation name the method that is truly closest? Measured on drawn targets whose populations are known.

Every target is a population of portraits: a mixture of the members', a barycenter of them, or one partly outside. From 12 images the
methods are fitted, from 48 others and samples of each method the recommendation is made, as for anybody's images; the truth is the total
variation between further samples of each method, counted by the probe, and the known population: no chance is shared by the two. Six
methods take part that need no training or search; the single models' samples serve all targets (the mixture's are among them).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from fusion.calibration import Calibration
from fusion.evaluation.estimate import Estimate
from fusion.fitting import Fit, fit_all
from fusion.methods import METHODS, SamplingPlan
from fusion.methods.single import best_single, one_hot
from fusion.objective import ResidualGram, fit_gram
from fusion.studies import portrait_samples, recommendation_report
from fusion.studies.fidelity import NAMES, portraits_ensemble
from fusion.studies.portrait_evidence import judged, population_lead, share_of_cells
from fusion.studies.shelf import Shelf
from models.catalog import REPOSITORY
from models.portraits.population import barycenter, mixture, total_variation

TITLE = "Does the recommendation name the method that is truly closest?"
FITTED, HELD_OUT, SAMPLES, TRUTH = 12, 48, 128, 512  # images to fit and to weigh, samples that recommend and that tell the truth
CHEAP = ("single", "uniform", "scorefusion", "mixture", "merge", "switch")
KINDS = ("mixture", "barycenter", "outside")


@dataclass(frozen=True)
class Sizes:
    """Samples of a method that recommend and that tell the truth; images of a target to fit and held out."""

    samples: int = SAMPLES
    truth: int = TRUTH
    fitted: int = FITTED
    held_out: int = HELD_OUT

    @property
    def drawn(self) -> int:
        return self.samples + self.truth


def run(out: Path, work: Path, *, quick: bool = False, seeds: int | None = None, progress=None, stop=None) -> dict:
    """`seeds`: drawn targets (24); the kinds take turns. Returns the summary that recommendation.json holds."""
    targets, sizes = seeds or (3 if quick else 24), Sizes(8, 8, 4, 8) if quick else Sizes()
    Shelf(work, asdict(sizes) | {"steps": portrait_samples.STEPS}, targets)  # refuses parts of other settings
    calibration = Calibration.load(REPOSITORY / "assets" / "calibration" / "portraits.safetensors")
    ensemble, results = portraits_ensemble("cpu"), []
    pools = _pools(ensemble, work, sizes.drawn, progress, stop)
    for number in range(targets if pools is not None else 0):
        result = _target(ensemble, calibration, pools, number, sizes, work, stop)
        if result is None:
            break
        results.append(result)
        if progress is not None:
            progress(number + 1, targets, f"target {number + 1} of {targets}")
    titles = [METHODS[name].title for name in CHEAP]
    return recommendation_report.write(out, results, asdict(sizes) | {"targets": targets, "methods": titles})


def population(number: int) -> tuple[str, np.ndarray]:
    """Kind and (3, 6) population of a drawn target: shares and weights from a flat Dirichlet distribution over the members."""
    rng, kind = np.random.default_rng(1000 + number), KINDS[number % len(KINDS)]
    shares = dict(zip(NAMES, rng.dirichlet(np.ones(len(NAMES)))))
    if kind == "barycenter":
        return kind, barycenter(shares)
    if kind == "mixture":
        return kind, mixture(shares)
    inside = rng.uniform(0.3, 0.6)
    return kind, inside * mixture(shares) + (1 - inside) * rng.dirichlet(np.full(18, 0.3)).reshape(3, 6)


def _pools(ensemble, work: Path, samples: int, progress, stop):
    """Samples of every single member, then of the plain average: what all targets share. None when stopped."""
    found = []
    for k, name in enumerate([*NAMES, "uniform"]):
        weights = one_hot(len(NAMES), k) if k < len(NAMES) else None
        method = METHODS["single" if k < len(NAMES) else "uniform"]
        draw = lambda plan, method=method, weights=weights: method.run(ensemble, None, plan.with_(weights=weights))  # noqa: E731
        file = work / f"pool-{name}.safetensors"
        one = portrait_samples.samples(ensemble, draw, file, range(samples), progress=progress, stop=stop, label=name)
        if one is None:
            return None
        found.append(one)
    return found


def _target(ensemble, calibration, pools, number: int, sizes: Sizes, work: Path, stop) -> dict | None:
    """Everything measured on one drawn target, kept in `work`; None when stopped."""
    kept = work / f"target-{number}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    kind, truth = population(number)
    rng = np.random.default_rng(2000 + number)
    images, prompts, _ = portrait_samples.population_images(ensemble, truth, sizes.fitted, rng)
    held = portrait_samples.population_images(ensemble, truth, sizes.held_out, rng)[2]
    fit = fit_all(_gram(ensemble, images, prompts, number, work), calibration)
    drawn = _drawn(ensemble, fit, pools, number, sizes.drawn, work, stop)
    if drawn is None:
        return None
    costs = {name: METHODS[name].cost(ensemble, fit, SamplingPlan("", [0], steps=portrait_samples.STEPS)) for name in drawn}
    result = {"kind": kind, "number": number, **_judged(drawn, held, truth, costs, sizes.samples), **_found(fit)}
    kept.write_text(json.dumps(result))
    return result


def _gram(ensemble, images, prompts, number: int, work: Path) -> ResidualGram:
    file = work / f"target-{number}.gram.safetensors"
    if not file.is_file():
        with torch.autocast("cpu", torch.bfloat16):
            fit_gram(ensemble, images, prompts, seed=number).save(file)
    return ResidualGram.load(file)


def _drawn(ensemble, fit: Fit, pools, number: int, samples: int, work: Path, stop) -> dict | None:
    """Samples of every cheap method that there is; those that would be the same pictures are not drawn twice."""
    drawn = {"single": pools[best_single(fit)], "uniform": pools[-1],
             "mixture": portrait_samples.routed(pools[: len(NAMES)], fit.calibrated.proportions_)}  # fmt: skip
    for name in CHEAP:
        if name in drawn or name not in METHODS:
            continue
        draw = lambda plan, name=name: METHODS[name].run(ensemble, fit, plan)  # noqa: E731
        found = portrait_samples.samples(ensemble, draw, work / f"target-{number}-{name}.safetensors", range(samples), stop=stop)
        if found is None:
            return None
        drawn[name] = found
    return {name: drawn[name] for name in CHEAP if name in drawn}


def _judged(drawn: dict, held, truth: np.ndarray, costs: dict, samples: int) -> dict:
    """The recommendation from the first `samples` of every method, the truth from the others, and what an oracle would have named that
    reads the kinds of the held-out images and of the first samples."""
    first, rest = ({name: one.take(part) for name, one in drawn.items()} for part in (slice(samples), slice(samples, None)))
    rows, told = judged(first, held, truth, costs)
    far = {name: total_variation(share_of_cells(one), truth.ravel()) for name, one in rest.items()}
    seen = share_of_cells(held)
    oracle = {name: total_variation(share_of_cells(one), seen) for name, one in first.items()}
    nearest = min(far, key=far.get)
    apart = [name for name in drawn if not np.array_equal(drawn[name].cells, drawn[nearest].cells)]
    second = min(apart, key=far.get)
    lead = Estimate(*population_lead(rest[nearest], rest[second], truth))
    return {"distance": far, "kid": {row.method: row.kid.value for row in rows}, "oracle_distance": oracle,
            "recommended": told.method, "ties": list(told.ties), "decided": told.decided, "sentence": told.sentence,
            "truth": nearest, "as_near": [name for name in drawn if name not in apart], "second": second,
            "lead": lead.value, "lead_low": lead.low, "oracle": min(oracle, key=oracle.get)}  # fmt: skip


def _found(fit: Fit) -> dict:
    return {"proportions": fit.calibrated.proportions_.tolist(), "published": fit.published.weights_.tolist()}
