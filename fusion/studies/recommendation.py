"""Does the recommendation name the method that is truly closest? Measured on drawn targets whose populations are known.

Every target is a population of portraits: a mixture of the members', a barycenter of them, or one partly outside. From 12 images the
methods are fitted, from 48 others and samples of each method the recommendation is made, as for anybody's images, and once more from 96;
the truth is the total variation between further samples of each method, counted by the probe, and the known population: no chance is
shared by the two. Eight methods take part, of every kind one at least: single models, averages of scores and of parameters, routing,
resampling, training. What would draw the same pictures is drawn once: the single models' samples serve all targets.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fusion.evaluation.estimate import Estimate
from fusion.fitting import Fit
from fusion.methods import METHODS, Unfinished
from fusion.methods.single import one_hot
from fusion.studies import portrait_samples, recommendation_report
from fusion.studies.fidelity import NAMES, portraits_ensemble
from fusion.studies.method_bench import Bench, one_member
from fusion.studies.portrait_evidence import copying, judged, population_lead, share_of_cells
from fusion.studies.shelf import Shelf, keep, kept
from fusion.target import Target
from models.portraits.population import barycenter, mixture, total_variation

TITLE = "Does the recommendation name the method that is truly closest?"
FITTED, HELD_OUT, SAMPLES, TRUTH = 12, 48, 128, 512  # images to fit and to weigh, samples that recommend and that tell the truth
COMPARED = ("single", "uniform", "scorefusion", "mixture", "merge", "switch", "barycenter", "transfer")
KINDS = ("mixture", "barycenter", "outside")
TWICE = ("recommended", "ties", "decided", "oracle")  # what is kept of the recommendation from twice as many held-out images
DRAWS = 20  # an hour on two cores
SEEN = 24  # whoever revises the rule with results on more targets at hand raises this


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
    """`seeds`: drawn targets (20), in the order of `numbers`. Returns the summary that recommendation.json holds."""
    targets, sizes = seeds or (3 if quick else DRAWS), Sizes(8, 8, 4, 8) if quick else Sizes()
    methods = tuple(name for name in COMPARED if not (quick and METHODS[name].prepare is not None))
    Shelf(work, asdict(sizes) | {"steps": portrait_samples.STEPS}, targets)  # refuses parts of other settings
    ensemble, results = portraits_ensemble("cpu"), []
    pools = _pools(ensemble, work, sizes.drawn, progress, stop)
    for number in numbers(targets) if pools is not None else ():
        result = _target(ensemble, pools, methods, number, sizes, work, stop)
        if result is None:
            break
        results.append(result)
        if progress is not None:
            progress(len(results), targets, f"target {len(results)} of {targets}")
    titles = [METHODS[name].title for name in methods]
    return recommendation_report.write(out, results, asdict(sizes) | {"targets": targets, "seen": SEEN, "methods": titles})


def numbers(count: int) -> list[int]:
    """Which targets are drawn: first those that no version of the rule was revised with, then the first `SEEN`, then any number more.
    The kinds take turns."""
    return [*range(SEEN, 2 * SEEN), *range(SEEN), *range(2 * SEEN, count)][:count]


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


def _target(ensemble, pools, methods: tuple[str, ...], number: int, sizes: Sizes, work: Path, stop) -> dict | None:
    """Everything measured on one drawn target, kept in `work`; None when stopped."""
    file = work / f"target-{number}.json"
    if file.is_file():
        return kept(file)
    kind, truth = population(number)
    rng = np.random.default_rng(2000 + number)
    images, prompts, fitted = portrait_samples.population_images(ensemble, truth, sizes.fitted, rng)
    again = deepcopy(rng)
    held, more = (portrait_samples.population_images(ensemble, truth, count, chance)[2]
                  for count, chance in ((sizes.held_out, rng), (2 * sizes.held_out, again)))  # fmt: skip
    target = Target(tuple(images), tuple(prompts))
    bench = Bench(ensemble, f"target-{number}", target, target, work, sizes.drawn, portrait_samples.STEPS)
    costs = {name: METHODS[name].cost(ensemble, bench.fit(0), bench.plan()) for name in methods}
    drawn = _drawn(bench, pools, methods, sizes, stop)
    if drawn is None:
        return None
    found, twice = (_judged(ensemble, drawn, fitted, some, truth, costs, sizes.samples) for some in (held, more))
    result = {"kind": kind, "number": number, **found, "twice": {key: twice[key] for key in TWICE}, **_found(bench.fit(0))}
    keep(file, result)
    return result


def _drawn(bench: Bench, pools, methods: tuple[str, ...], sizes: Sizes, stop) -> dict | None:
    """Samples of every method, as many at once as make a recommendation; those that would be the same pictures are not drawn twice."""
    fit, members = bench.fit(0), pools[: len(NAMES)]
    drawn = {"uniform": pools[-1], "mixture": portrait_samples.routed(members, fit.calibrated.proportions_)}
    drawn |= {name: members[k] for name in methods if (k := one_member(name, fit)) is not None}
    for name in methods:
        if name in drawn:
            continue
        try:
            ready = fit if METHODS[name].prepare is None or (stop is not None and stop()) else bench.prepared(name, fit, stop)[0]
        except Unfinished:
            return None
        draw = lambda plan, name=name, ready=ready: METHODS[name].run(bench.ensemble, ready, plan)  # noqa: E731
        found = portrait_samples.samples(bench.ensemble, draw, bench.work / f"{bench.name}-{name}.safetensors", range(sizes.drawn),
                                         at_once=sizes.samples, stop=stop)  # fmt: skip
        if found is None:
            return None
        drawn[name] = found
    return {name: drawn[name] for name in methods}


def _judged(ensemble, drawn: dict, fitted, held, truth: np.ndarray, costs: dict, samples: int) -> dict:
    """The recommendation from the first `samples` of every method, the truth from the others, and what an oracle would have named that
    reads the kinds of the held-out images and of the first samples."""
    first, rest = ({name: one.take(part) for name, one in drawn.items()} for part in (slice(samples), slice(samples, None)))
    rows, told = judged(first, held, truth, costs, copying(ensemble, {name: [one] for name, one in first.items()}, fitted, held))
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
