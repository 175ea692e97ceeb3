"""Makes the files of the first screen by a real run: `python -m fusion.ui.first_screen [--steps 20] [TARGET ...]`.

For each example: the statistic of all its pictures, the fit of the first 48 with its matched blend, and one row of images per method at
the same prompts and seeds, recipes inside; beside them the models' thumbnails. Distances are not made here: those that the first screen
shows are section 5's, from the study `evidence`. About five minutes a target on two cores; what was found stays in `--work`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import engine, first_screen, target

ROW_PROMPTS = ("a portrait of a scientist", "a portrait of a farmer", "a portrait of an astronaut", "a portrait of an artist")
ROW_SEEDS = (0, 1, 2, 3)
SHOWN = ("single", "scorefusion", "mixture", "matched")
MATCH_STEPS = 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fusion.ui.first_screen", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"which of {', '.join(target.EXAMPLES)} (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of the rows (default 20)")
    parser.add_argument("--work", type=Path, default=Path(".train/first-screen"), help="where findings stay (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=first_screen.FOLDER, help="folder to write (default: assets/first_screen)")
    args = parser.parse_args(argv)
    unknown = set(args.targets) - set(target.EXAMPLES)
    if unknown:
        parser.error(f"there is no example target called {', '.join(sorted(unknown))}: choose from {', '.join(target.EXAMPLES)}")
    for folder in (args.work, args.output):
        folder.mkdir(parents=True, exist_ok=True)
    cards = [engine.cards()[name] for name in engine.DEFAULT_MODELS]
    ensemble = engine.ensemble(cards)
    for k, card in enumerate(cards):
        images = [sample.image for sample in _drawn(ensemble, None, "single", args.steps, np.eye(len(cards))[k])]
        _thumbnail(images).save(args.output / f"model-{card.id.rsplit('/')[-1]}.png")
    for name in args.targets or target.EXAMPLES:
        make(name, cards, ensemble, args)


def make(name: str, cards, ensemble, args) -> dict:
    """All files of one target; returns what was written to its JSON."""
    from fusion.calibration import Calibration
    from fusion.objective import ResidualGram, fit_gram

    from . import hero

    files = target.files_of(name)
    statistic = args.work / f"{name}.gram.safetensors"
    if not statistic.is_file():
        images, prompts = engine.open_images([file for file, _ in files]), [prompt for _, prompt in files]
        fit_gram(ensemble, images, prompts).save(statistic)
    gram = ResidualGram.load(statistic)
    gram.save(args.output / f"{name}.gram.safetensors")
    calibration = Calibration.load(engine.ASSETS / "calibration" / "portraits.safetensors")
    fit, blend = _fitted(ensemble, calibration, gram.select(range(target.FIRST)), args.work / f"{name}.matched.json")
    rows = [_row(name, method, ensemble, fit, args) for method in _shown(name)]
    calibrated, folder = fit.calibrated, target.folder_of(name).parent
    answer = {"images": len(fit.gram), "proportions": _list(calibrated.proportions_), "interval": _list(calibrated.interval_),
              "outside": bool(calibrated.outside_)}  # fmt: skip
    data = {
        "schema": first_screen.SCHEMA, "target": name, "members": [c.id for c in cards], "names": list(fit.gram.names),
        "images": len(gram), "fitted": len(fit.gram), "files": [str(file.relative_to(folder)) for file, _ in files], "answer": answer,
        "matched": {"values": _list(fit.matched.values), "interval": _list(fit.matched.interval)}, "blend": blend,
        "prompts": list(ROW_PROMPTS), "seeds": list(ROW_SEEDS), "steps": args.steps, "rows": rows,
    }  # fmt: skip
    (args.output / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{name}: {hero.headline('en', answer | {'names': data['names']})}", flush=True)
    return data


def _shown(name: str) -> tuple[str, ...]:
    """The methods of the rows: those of `SHOWN`, and the one that the study `evidence` recommends where it needs no training."""
    from fusion.methods import METHODS

    from . import measure

    report = measure.stored(name)
    best = report and report["recommendation"].get("method")
    return SHOWN if not best or best in SHOWN or METHODS[best].prepare is not None else (*SHOWN, best)


def _fitted(ensemble, calibration, gram, kept: Path):
    """`(fit, blend)`: the fit with its matched blend, and the blend's distance form; the search is kept in the file `kept`."""
    from fusion.fitting import fit_all
    from fusion.methods import SamplingPlan
    from fusion.methods.matched import match
    from fusion.methods.matching import distance_form
    from fusion.weights import Weights
    from models.portraits.population import BARE_PROMPTS

    fit = fit_all(gram, calibration)
    if not kept.is_file():
        found, last = match(ensemble, fit, SamplingPlan(prompts=BARE_PROMPTS, seeds=(0,), steps=MATCH_STEPS))
        matched = {"values": found.matched.values.tolist(), "interval": found.matched.interval.tolist()}
        kept.write_text(json.dumps({"matched": matched, "blend": distance_form(found, last)}))
    stored = json.loads(kept.read_text())
    weights = Weights(np.array(stored["matched"]["values"]), np.array(stored["matched"]["interval"]), fit.gram.names, "matched")
    return replace(fit, matched=weights), stored["blend"]


def _drawn(ensemble, fit, method: str, steps: int, weights=None) -> list:
    """The row's samples, in its order."""
    from fusion.methods import METHODS, SamplingPlan

    plan = SamplingPlan(ROW_PROMPTS, ROW_SEEDS, steps=steps, weights=weights)
    return sorted(METHODS[method].run(ensemble, fit, plan), key=lambda s: s.seed)


def _row(name: str, method: str, ensemble, fit, args) -> dict:
    """Four images at the row's prompts and seeds, written with their recipes."""
    from fusion.methods import SamplingPlan
    from fusion.recipe import Recipe

    plan, shots = SamplingPlan(ROW_PROMPTS, ROW_SEEDS, steps=args.steps), []
    samples = _drawn(ensemble, fit, method, args.steps)
    for n, sample in enumerate(samples):
        file = f"{name}-{method}-{n}.png"
        Recipe.of_sample(ensemble, sample, plan).save_png(sample.image, args.output / file)
        shots.append({"file": file, "seed": int(sample.seed), "prompt": sample.prompt, "member": sample.member})
    member = samples[0].member if method == "single" else None
    return {"method": method, "member": member, "weights": _list(samples[0].weights), "shots": shots}


def _thumbnail(images: list):
    """A row of samples, for a model's card."""
    from PIL import Image

    side = images[0].height
    sheet = Image.new("RGB", (side * len(images), side), "white")
    for n, image in enumerate(images):
        sheet.paste(image, (side * n, 0))
    return sheet


def _list(values) -> list:
    return np.asarray(values, float).round(6).tolist()
