"""Makes the files of the first screen from measurements: `python -m fusion.ui.first_screen [--steps 20] [TARGET ...]`.

The fit of the twelve pictures, the matched blend and the distances of every method's samples come from `fusion.studies.fidelity` (run its
stage `samples` first); drawn here: one row of images per method at the same prompts and seeds, recipes inside, and the models' thumbnails.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from . import engine, first_screen, target

ROW_PROMPTS = ("a portrait of a scientist", "a portrait of a farmer", "a portrait of an astronaut", "a portrait of an artist")
ROW_SEEDS = (0, 1, 2, 3)
SHOWN = {"single": None, "scorefusion": "published", "mixture": "mixture", "matched": "matched"}  # method: row in the study's table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fusion.ui.first_screen", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"which of {', '.join(target.EXAMPLES)} (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of the rows (default 20)")
    parser.add_argument("--work", type=Path, default=Path(".train"), help="where the study keeps its measurements (default: .train)")
    parser.add_argument("--output", type=Path, default=first_screen.FOLDER, help="folder to write (default: assets/first_screen)")
    args = parser.parse_args(argv)
    unknown = set(args.targets) - set(target.EXAMPLES)
    if unknown:
        parser.error(f"there is no example target called {', '.join(sorted(unknown))}: choose from {', '.join(target.EXAMPLES)}")
    missing = [name for name in args.targets or target.EXAMPLES if not _measured(args.work, name).is_file()]
    if missing:
        parser.error(f"nothing measured yet for {', '.join(missing)}: run `python -m fusion.studies.fidelity samples` first")
    args.output.mkdir(parents=True, exist_ok=True)
    cards = [engine.cards()[name] for name in engine.DEFAULT_MODELS]
    ensemble = engine.ensemble(cards)
    for k, card in enumerate(cards):
        images = _draw(ensemble, None, "single", args.steps, np.eye(len(cards))[k])
        _thumbnail(images).save(args.output / f"model-{card.id.rsplit('/')[-1]}.png")
    for name in args.targets or target.EXAMPLES:
        make(name, cards, ensemble, args)


def _measured(work: Path, name: str) -> Path:
    return work / f"samples-{name}.json"


def make(name: str, cards, ensemble, args) -> dict:
    """All files of one target; returns what was written to its JSON."""
    from fusion.calibration import Calibration
    from fusion.studies.fidelity_samples import fitted

    calibration = Calibration.load(engine.ASSETS / "calibration" / "portraits.safetensors")
    fit, blend = fitted(ensemble, calibration, name, engine.ASSETS, args.work)
    fit.gram.save(args.output / f"{name}.gram.safetensors")
    distances, best = _distances(json.loads(_measured(args.work, name).read_text()), ensemble.names)
    rows = [_row(name, method, cards, ensemble, fit, best, args) for method in SHOWN]
    calibrated = fit.calibrated
    data = {
        "schema": first_screen.SCHEMA, "target": name, "members": [c.id for c in cards], "names": list(fit.gram.names),
        "images": len(fit.gram), "files": sorted(file.name for file in target.folder_of(name).glob("*.png")),
        "proportions": _list(calibrated.proportions_), "interval": _list(calibrated.interval_),
        "p_value": float(calibrated.p_value_), "outside": bool(calibrated.outside_), "published": _list(fit.published.weights_),
        "matched": {"values": _list(fit.matched.values), "interval": _list(fit.matched.interval)}, "blend": blend,
        "prompts": list(ROW_PROMPTS), "seeds": list(ROW_SEEDS), "steps": args.steps, "rows": rows, "distances": distances,
    }  # fmt: skip
    (args.output / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{name}: {first_screen.headline('en', data)}", flush=True)
    return data


def _distances(measured: dict, names) -> tuple[list[dict], int]:
    """Of the truly nearest single model, of the blends and of the mix; and which single model that is."""
    alone = [measured["methods"][f"single {name.lower()}"] for name in names]
    best = int(np.argmin([entry["total_variation"] for entry in alone]))
    entries = {"single": alone[best]} | {method: measured["methods"][row] for method, row in SHOWN.items() if row}
    found = []
    for method, entry in entries.items():
        low, high = entry["interval"]
        found.append({"method": method, "value": entry["total_variation"], "low": low, "high": high, "floor": entry["floor"],
                      "samples": measured["samples"], **({"member": names[best]} if method == "single" else {})})  # fmt: skip
    return found, best


def _draw(ensemble, fit, method: str, steps: int, weights=None) -> list:
    """The row's images, in its order."""
    from fusion.methods import METHODS, SamplingPlan

    plan = SamplingPlan(ROW_PROMPTS, ROW_SEEDS, steps=steps, weights=weights)
    return [s.image for s in sorted(METHODS[method].run(ensemble, fit, plan), key=lambda s: s.seed)]


def _row(name: str, method: str, cards, ensemble, fit, best: int, args) -> dict:
    """Four images at the row's prompts and seeds, written with their recipes."""
    from fusion.methods import METHODS, SamplingPlan
    from fusion.recipe import Recipe

    weights = np.eye(len(cards))[best] if method == "single" else None
    plan = SamplingPlan(ROW_PROMPTS, ROW_SEEDS, steps=args.steps, weights=weights)
    samples = sorted(METHODS[method].run(ensemble, fit, plan), key=lambda s: s.seed)
    shots = []
    for n, sample in enumerate(samples):
        file = f"{name}-{method}-{n}.png"
        Recipe.of_sample(ensemble, sample, plan).save_png(sample.image, args.output / file)
        shots.append({"file": file, "seed": int(sample.seed), "prompt": sample.prompt, "member": sample.member})
    member = ensemble.names[best] if method == "single" else None
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
