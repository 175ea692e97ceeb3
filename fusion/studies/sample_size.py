"""How many target images does each method need? Every method at 4, 8, 16, 32 and 64 images of one population, on one plot.

The images are fresh renderings of the population `valley` (a mixture of three members), nested: the 8 contain the 4. Quality is the total
variation between a method's samples and the population, by the probe, with KID against 96 further images beside it. From the curves follows
what a business asks: how many images each method needs to reach a given quality, and what has to be spent before the first target comes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from fusion.methods import METHODS, NAMES, Cost
from fusion.studies import sample_size_report
from fusion.studies.fidelity import portraits_ensemble
from fusion.studies.method_bench import Bench
from fusion.studies.portrait_evidence import copying, judged
from fusion.studies.portrait_samples import STEPS
from fusion.studies.shelf import Shelf
from fusion.target import Target
from models.portraits.population import TARGET_POPULATIONS, caption, draw, render, sampling_floor

TITLE = "How many target images each method needs"
TARGET, SIZES, HELD_OUT, SAMPLES = "valley", (4, 8, 16, 32, 64), 96, 128


def run(out: Path, work: Path, *, quick: bool = False, seeds: int | None = None, progress=None, stop=None,
        methods: tuple[str, ...] | None = None) -> dict:  # fmt: skip
    """`seeds`: other target images and other sampling seeds (1). `methods`: which take part (all). Returns what sample-size.json holds."""
    sizes, held_out, count, steps = ((3, 4), 4, 8, 2) if quick else (SIZES, HELD_OUT, SAMPLES, STEPS)
    Shelf(work, {"sizes": sizes, "held_out": held_out, "samples": count, "steps": steps}, 0)  # refuses parts of other settings
    methods = methods or tuple(name for name in NAMES if not (quick and METHODS[name].prepare is not None))
    ensemble, rows, seeds = portraits_ensemble("cpu"), [], seeds or 1
    jobs = [(seed, size) for seed in range(seeds) for size in sizes]
    for number, (seed, size) in enumerate(jobs):
        bench = _bench(ensemble, work, seed, size, max(sizes), held_out, count, steps)
        cells = {}
        for name in methods:
            if stop is None or not stop():
                cells[name] = bench.cell(name, seed, stop)
            if progress is not None:
                done = number * len(methods) + list(methods).index(name) + 1
                progress(done, len(jobs) * len(methods), f"{size} images, {name}")
        if None not in cells.values() and len(cells) == len(methods):
            rows += _weighed(bench, seed, size, cells)
    settings = {"sizes": list(sizes), "seeds": seeds, "samples": count, "steps": steps, "held_out": held_out, "target": TARGET,
                "methods": list(methods), "floor": sampling_floor(TARGET_POPULATIONS[TARGET], count),
                "complete": len(rows) == len(jobs) * len(methods)}  # fmt: skip
    return sample_size_report.write(out, rows, settings | {"before": _before(ensemble, bench)})


def _bench(ensemble, work: Path, seed: int, size: int, most: int, held_out: int, count: int, steps: int) -> Bench:
    """The first `size` of a seed's target images, with fresh images held out."""
    rng = np.random.default_rng(3000 + seed)
    portraits = draw(TARGET_POPULATIONS[TARGET], most + held_out, rng)
    images, prompts = [render(portrait, rng) for portrait in portraits], [caption(portrait.profession) for portrait in portraits]
    part = lambda rows: Target(tuple(images[rows]), tuple(prompts[rows]))  # noqa: E731
    return Bench(ensemble, f"{TARGET}-{seed}-of-{size}", part(slice(size)), part(slice(most, None)), work, count, steps)


def _weighed(bench: Bench, seed: int, size: int, cells: dict) -> list[dict]:
    """A row for every method: distances with their intervals, cost, and what preparing took."""
    drawn = {name: pictures for name, (pictures, _) in cells.items() if pictures is not None}
    costs = {name: Cost(**cells[name][1]["cost"]) for name in drawn}
    chances = copying(bench.ensemble, {name: [one] for name, one in drawn.items()}, bench.fitted_pictures, bench.held_pictures)
    rows, told = judged(drawn, bench.held_pictures, TARGET_POPULATIONS[TARGET], costs, chances)
    return [{"seed": seed, "size": size, "method": row.method, "title": row.title, "population": asdict(row.population),
             "kid": asdict(row.kid), "cost": asdict(row.cost), "preparing": cells[row.method][1]["preparing"],
             "recommended": told.method == row.method} for row in rows]  # fmt: skip


def _before(ensemble, bench: Bench) -> dict:
    """What is spent before any target comes, as its stated price: network evaluations of the calibration, the source phase of transfer."""
    from fusion.methods.training import shipped

    calibration, members = bench.calibration, len(ensemble)
    measured = int(calibration.counts.sum()) * (len(calibration.strata) - 1) * calibration.draws * members
    found = shipped(ensemble, 0)
    phase = None if found is None else {"seconds": sum(course["seconds"] for course in found.about.settings["courses"].values())}
    return {"calibration": {"evaluations": measured, "images": int(calibration.counts.sum())}, "source phase": phase}
