"""Makes the files of the first screen by a real run: `python -m fusion.ui.first_screen [--samples 512] [--steps 20] [TARGET ...]`.

For each example target: the fit of its twelve pictures, the matched blend, one row of images per method at the same prompts and seeds
(recipes inside), and the measured distance of every method's samples to the target's population, with its interval and the floor.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from . import engine, first_screen, target

ROW_PROMPTS = ("a portrait of a scientist", "a portrait of a farmer", "a portrait of an astronaut", "a portrait of an artist")
ROW_SEEDS = (0, 1, 2, 3)
MEASURED = ("scorefusion", "matched")
SHOWN = ("single", "scorefusion", "mixture", "matched")
BATCH = 64


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fusion.ui.first_screen", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"which of {', '.join(target.EXAMPLES)} (default: all)")
    parser.add_argument("--samples", type=int, default=512, help="images per method for the measured distances (default 512)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default 20)")
    parser.add_argument("--output", type=Path, default=first_screen.FOLDER, help="folder to write (default: assets/first_screen)")
    args = parser.parse_args(argv)
    unknown = set(args.targets) - set(target.EXAMPLES)
    if unknown:
        parser.error(f"there is no example target called {', '.join(sorted(unknown))}: choose from {', '.join(target.EXAMPLES)}")
    args.output.mkdir(parents=True, exist_ok=True)
    cards = [engine.cards()[name] for name in engine.DEFAULT_MODELS]
    ensemble = engine.ensemble(cards)
    singles = [_draw(ensemble, None, "single", args, weights=np.eye(len(cards))[k], label=card.title) for k, card in enumerate(cards)]
    for card, images in zip(cards, singles):
        _thumbnail(images[:6]).save(args.output / f"model-{card.id.rsplit('/')[-1]}.png")
    for name in args.targets or target.EXAMPLES:
        make(name, cards, ensemble, singles, args)


def make(name: str, cards, ensemble, singles: list[list], args) -> dict:
    """All files of one target; returns what was written to its JSON."""
    from fusion.fitting import fit_all
    from fusion.images import read_images
    from fusion.methods import SamplingPlan
    from fusion.methods.matched import match
    from fusion.objective import fit_gram

    folder = target.folder_of(name)
    files = sorted(folder.glob("*.png"))
    intakes, _ = read_images(files, target.captions_of(folder))
    gram = fit_gram(ensemble, [i.image for i in intakes], [i.caption for i in intakes], progress=_print(f"{name}: fit"))
    fit = fit_all(gram, engine.shipped_calibration(cards, gram))
    fit, found = match(ensemble, fit, SamplingPlan(ROW_PROMPTS[:1], [0], steps=args.steps, progress=_print(f"{name}: match")))
    gram.save(args.output / f"{name}.gram.safetensors")
    distances, best = measure(name, ensemble, fit, singles, args)
    rows = [_row(name, method, cards, ensemble, fit, best, args) for method in SHOWN]
    calibrated = fit.calibrated
    data = {
        "schema": first_screen.SCHEMA, "target": name, "members": [c.id for c in cards], "names": list(gram.names), "images": len(gram),
        "files": [i.name for i in intakes], "proportions": _list(calibrated.proportions_), "interval": _list(calibrated.interval_),
        "p_value": float(calibrated.p_value_), "outside": bool(calibrated.outside_), "published": _list(fit.published.weights_),
        "matched": {"values": _list(fit.matched.values), "interval": _list(fit.matched.interval)},
        "blend": engine.distance_form(fit, found),
        "prompts": list(ROW_PROMPTS), "seeds": list(ROW_SEEDS), "steps": args.steps, "rows": rows, "distances": distances,
    }  # fmt: skip
    (args.output / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{name}: {first_screen.headline('en', data)}", flush=True)
    return data


def measure(name: str, ensemble, fit, singles: list[list], args) -> tuple[list[dict], int]:
    """Distances of the truly nearest single model, of the blends and of the mix; and which single model that is."""
    from fusion.evaluation.population import population_distance
    from fusion.methods.mixture import route
    from models.portraits.population import TARGET_POPULATIONS

    population = TARGET_POPULATIONS[name]

    def entry(method: str, images: list, **more) -> dict:
        found = population_distance(images, population)
        return {
            "method": method,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "floor": found.floor,
            "samples": len(images),
            **more,
        }

    alone = [entry("single", images, member=ensemble.names[k]) for k, images in enumerate(singles)]
    best = int(np.argmin([d["value"] for d in alone]))
    routed = route(range(args.samples), fit.calibrated.proportions_)
    mixed = [singles[k][seed] for seed, k in enumerate(routed)]  # a routed sample is that member's own image of the seed
    blends = [entry(m, _draw(ensemble, fit, m, args, label=f"{name}: {m}")) for m in MEASURED]
    return [alone[best], *blends, entry("mixture", mixed)], best


def _draw(ensemble, fit, method: str, args, *, label: str, weights=None) -> list:
    """`args.samples` images of bare prompts, sample i from seed i and prompt i modulo 16."""
    import torch

    from fusion.methods import METHODS, SamplingPlan
    from models.portraits.population import BARE_PROMPTS

    images: list = []
    for begin in range(0, args.samples, BATCH):
        seeds = range(begin, min(begin + BATCH, args.samples))
        plan = SamplingPlan(
            [BARE_PROMPTS[s % len(BARE_PROMPTS)] for s in seeds], seeds, steps=args.steps, batch_size=BATCH, weights=weights
        )
        with torch.autocast(ensemble.device.type, torch.bfloat16):
            images += [s.image for s in sorted(METHODS[method].run(ensemble, fit, plan), key=lambda s: s.seed)]
        print(f"{time.strftime('%H:%M:%S')} {label}: {len(images)} of {args.samples}", flush=True)
    return images


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


def _print(label: str):
    last = [0.0]

    def report(done: int, total: int, message: str = "") -> None:
        if time.monotonic() - last[0] > 20:
            last[0] = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {label}: {done} of {total}", flush=True)

    return report
