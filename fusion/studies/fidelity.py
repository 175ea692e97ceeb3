"""Does the fit see the population, and do samples show it? Measured on the shipped portraits, whose populations are known.

    python -m fusion.studies.fidelity calibrate       # the shipped calibration, from 192 renderings of each member's population
    python -m fusion.studies.fidelity proportions     # 12 and 48 images of known mixtures: error, coverage, warnings
    python -m fusion.studies.fidelity samples         # 2,048 samples per method and example target: distance to the target's population
    python -m fusion.studies.fidelity report          # both as assets/fidelity/README.md

Every stage resumes from `--work`. The oracle reads the same images' true attributes and fits the proportions by maximum likelihood.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from fusion.calibration import CalibratedProportions, Calibration
from fusion.likelihood import shares as maximum_likelihood
from fusion.objective import ResidualGram, fit_gram
from fusion.weights import SimplexWeights
from models.catalog import catalog
from models.loading import load_ensemble
from models.portraits.population import MEMBER_POPULATIONS, TARGET_POPULATIONS, caption, draw, render

NAMES = ("harbor", "summit", "meadow", "delta")
TABLES = np.stack([MEMBER_POPULATIONS[name].ravel() for name in NAMES])  # (K, 18)
MIXTURES = {
    "harbor": (1, 0, 0, 0), "summit": (0, 1, 0, 0), "meadow": (0, 0, 1, 0), "delta": (0, 0, 0, 1),
    "harbor + summit": (0.5, 0.5, 0, 0), "harbor + meadow": (0.7, 0, 0.3, 0), "summit + delta": (0, 0.3, 0, 0.7),
    "valley": (0.61, 0.27, 0.12, 0), "three": (0, 0.34, 0.33, 0.33), "uniform": (0.25, 0.25, 0.25, 0.25),
}  # fmt: skip
CALIBRATION, POOL, CHUNK, DRAWS = 192, 96, 48, 24
SIZES = (12, 48)  # images in a target


def portraits_ensemble(device: str = "auto"):
    return load_ensemble([catalog[f"portraits/{name}"] for name in NAMES], device=device)


def calibrate(assets: Path, work: Path) -> None:
    """Measure the members on fresh renderings of their own populations and write `assets/calibration/portraits.safetensors`."""
    ensemble = portraits_ensemble()
    grams = [pool(ensemble, f"own-{n}", MEMBER_POPULATIONS[n], work, 40_000 + 1000 * i, CALIBRATION)[0] for i, n in enumerate(NAMES)]
    target = assets / "calibration" / "portraits.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    Calibration.from_grams(grams).save(target)


def pool(ensemble, name: str, population: np.ndarray, work: Path, seed: int, count: int = POOL) -> tuple[ResidualGram, np.ndarray]:
    """The statistic of `count` fresh renderings drawn from `population`, and their cells `(count,)`; in resumable chunks."""
    rng = np.random.default_rng(seed)
    portraits = draw(population, count, rng)
    images = [render(portrait, rng) for portrait in portraits]
    grams = []
    for begin in range(0, count, CHUNK):
        file = work / f"pool-{name}-{begin}.safetensors"
        if not file.is_file():
            part = slice(begin, begin + CHUNK)
            gram = fit_gram(ensemble, images[part], [caption(p.profession) for p in portraits[part]], seed=seed + begin,
                            seeds="place")
            gram.save(file)
            print(f"{time.strftime('%H:%M:%S')} {name}: {min(begin + CHUNK, count)} of {count} images", flush=True)
        grams.append(ResidualGram.load(file))
    return ResidualGram.merge(*grams), np.array([p.cell for p in portraits])


def proportions(assets: Path, work: Path) -> dict:
    """Calibrated, plain and oracle proportions over `DRAWS` draws of `SIZES` images from every mixture, and warnings inside and outside."""
    calibration = Calibration.load(assets / "calibration" / "portraits.safetensors")
    ensemble = portraits_ensemble()
    members = [pool(ensemble, name, MEMBER_POPULATIONS[name], work, 50_000 + 1000 * i) for i, name in enumerate(NAMES)]
    outside, _ = pool(ensemble, "island", TARGET_POPULATIONS["island"], work, 60_000)
    result = {"draws": DRAWS, "sizes": {}}
    for images in SIZES:
        rng = np.random.default_rng(images)
        rows = [_one_draw(calibration, members, label, images, rng) for label in MIXTURES for _ in range(DRAWS)]
        far = [outside.select(images=rng.choice(POOL, images, replace=False)) for _ in range(2 * DRAWS)]
        result["sizes"][str(images)] = {"rows": rows, "outside_fired": [bool(_fit(calibration, gram).outside_) for gram in far]}
    (work / "proportions.json").write_text(json.dumps(result))
    return result


def _target(members, truth: np.ndarray, images: int, rng: np.random.Generator) -> tuple[ResidualGram, np.ndarray]:
    """Statistic and cells of `images` pool images, members chosen with shares `truth`."""
    owners = rng.choice(len(truth), size=images, p=truth)
    chosen = {k: rng.choice(POOL, size=int((owners == k).sum()), replace=False) for k in np.unique(owners)}
    grams = [members[k][0].select(images=rows) for k, rows in chosen.items()]
    return ResidualGram.merge(*grams), np.concatenate([members[k][1][rows] for k, rows in chosen.items()])


def _fit(calibration: Calibration, gram: ResidualGram) -> CalibratedProportions:
    return CalibratedProportions(calibration).fit(gram)


def _one_draw(calibration: Calibration, members, mixture: str, images: int, rng: np.random.Generator) -> dict:
    truth = np.array(MIXTURES[mixture], dtype=float)
    gram, cells = _target(members, truth, images, rng)
    share, plain = _fit(calibration, gram), SimplexWeights(smooth=False, bootstrap=2).fit(gram)
    oracle = maximum_likelihood(TABLES[:, cells].T)
    covered = (share.interval_[:, 0] - 1e-9 <= truth) & (truth <= share.interval_[:, 1] + 1e-9)
    return {"mixture": mixture, "truth": truth.tolist(), "calibrated": share.proportions_.tolist(), "oracle": oracle.tolist(),
            "plain": plain.weights_.tolist(), "covered": covered.tolist(), "width": float(np.diff(share.interval_).mean()),
            "p": float(share.p_value_), "outside": bool(share.outside_)}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    from fusion.studies import fidelity_report, fidelity_samples

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m fusion.studies.fidelity", description=__doc__, formatter_class=raw)
    parser.add_argument("stage", nargs="+", choices=["calibrate", "proportions", "samples", "report"])
    parser.add_argument("--assets", type=Path, default=Path("assets"))
    parser.add_argument("--work", type=Path, default=Path(".train"), help="partial results (default: .train)")
    parser.add_argument("--samples", type=int, default=2048, help="samples per method and target (default: 2048)")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps (default: 10)")
    parser.add_argument("--targets", nargs="+", default=list(TARGET_POPULATIONS), choices=list(TARGET_POPULATIONS), help="for `samples`")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if "calibrate" in arguments.stage:
        calibrate(arguments.assets, arguments.work)
    if "proportions" in arguments.stage:
        proportions(arguments.assets, arguments.work)
    if "samples" in arguments.stage:
        fidelity_samples.run(arguments.assets, arguments.work, arguments.samples, arguments.steps, arguments.targets)
    if "report" in arguments.stage:
        fidelity_report.write(arguments.assets, arguments.work)


if __name__ == "__main__":
    main()
