"""Times told against times taken, on the shipped portraits: `python -m tests.benchmarks.times [--all]`.

For each kind of work: what was told before it ran, what it took, and the ratio; the first line of a kind is told by a probe or by another
kind of work, the second by the first run. Aim: within 1.5 after the first run. `--all` adds the search of a blend, some minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

from PIL import Image

from fusion import pace
from fusion.calibration import Calibration
from fusion.fitting import fit_all
from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram
from fusion.target import Target
from fusion.transfer.adapting import probe_all
from models.catalog import REPOSITORY, catalog
from models.loading import load_ensemble

MEMBERS = ("harbor", "summit", "meadow", "delta")
PROMPTS = ("a portrait of a scientist", "a portrait of a farmer")


def target(name: str, count: int) -> Target:
    folder = REPOSITORY / "assets" / "targets" / name / "fit"
    records = json.loads((folder / "captions.json").read_text())[:count]
    return Target(tuple(Image.open(folder / r["file"]).convert("RGB") for r in records), tuple(r["prompt"] for r in records))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def drawing(ensemble, fit, name: str, images: int, steps: int) -> tuple[float | None, float]:
    plan = SamplingPlan.grid(PROMPTS, range(images // 2), steps=steps)
    cost = METHODS[name].cost(ensemble, fit, plan)
    told = pace.drawing(ensemble, plan, name, cost.evaluations, len(plan.jobs))
    taken, _ = timed(lambda: list(METHODS[name].run(ensemble, fit, plan)))
    pace.drew(ensemble, plan, name, cost.evaluations, len(plan.jobs), taken)
    return told, taken


def reading(ensemble, name: str, count: int) -> tuple[float | None, float]:
    pictures = target(name, count)
    told = pace.reading(ensemble, 2 * 16 * count * len(ensemble))
    return told, timed(lambda: fit_gram(ensemble, pictures.images, list(pictures.prompts)))[0]


def training(ensemble, fit, name: str) -> tuple[float, float]:
    plan = SamplingPlan(PROMPTS, (0,), steps=10)
    told = METHODS[name].cost(ensemble, fit, plan).training_seconds
    return told, timed(lambda: METHODS[name].prepare(ensemble, fit, plan))[0]


def search(ensemble, fit) -> tuple[float | None, float]:
    plan = SamplingPlan(PROMPTS, (0,), steps=10)
    count = METHODS["matched"].cost(ensemble, fit, plan).preparation
    told = pace.searching(ensemble, "matched", count)
    begun = time.perf_counter()
    with pace.timed(pace.networks_of(ensemble), "search", count, name="matched", pixels=pace.pixels(ensemble)):
        METHODS["matched"].prepare(ensemble, fit, plan)
    return told, time.perf_counter() - begun


def rows(everything: bool) -> list[tuple[str, float | None, float]]:
    """`(what, told, taken)`, in the order in which a visitor would meet them."""
    ensemble = load_ensemble([catalog[f"portraits/{name}"] for name in MEMBERS])
    calibration = Calibration.load(REPOSITORY / "assets" / "calibration" / "portraits.safetensors")
    probe_all(ensemble)
    found = [("fit, 6 pictures (by a probe)", *reading(ensemble, "valley", 6)), ("fit, 12 pictures", *reading(ensemble, "coast", 12))]
    fits = [fit_all(fit_gram(ensemble, (one := target(name, count)).images, list(one.prompts)), calibration, one)
            for name, count in (("valley", 12), ("island", 8))]  # fmt: skip
    for images, steps, note in ((4, 6, " (by the fit)"), (8, 20, ""), (2, 10, "")):
        for name in ("single", "scorefusion", "mixture"):
            found.append((f"{name}, {images} images, {steps} steps{note}", *drawing(ensemble, fits[0], name, images, steps)))
    for fit, note in zip(fits, (" (at most)", "")):
        found.append((f"fine-tune, {len(fit.target)} pictures{note}", *training(ensemble, fit, "finetune")))
    for fit, note in zip(fits if everything else (), (" (by drawing)", "")):
        found.append((f"search for a blend{note}", *search(ensemble, fit)))
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.times", description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="the search of a blend, too: some minutes")
    print("| work | told, s | taken, s | told / taken |\n| --- | --- | --- | --- |")
    for what, told, taken in rows(parser.parse_args(argv).all):
        print(f"| {what} | {'-' if told is None else f'{told:.1f}'} | {taken:.1f} | {'-' if told is None else f'{told / taken:.2f}'} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
