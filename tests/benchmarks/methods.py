"""What every method costs against one single run: time, network evaluations and memory, as stated before it runs and as measured.

    python -m tests.benchmarks.methods                        # tiny random models, for a quick check
    python -m tests.benchmarks.methods --portraits            # the shipped portraits (methods that train only with --train)
    python -m tests.benchmarks.methods --methods merge barycenter --json > methods.json

Everything is a ratio to the same number of images from the best single model, measured in the same run, in turns. Time includes reading the
prompts and decoding. Preparation (a search, a training) is done before and reported apart. Measured memory counts the distinct weights of
all models that were called and of the pipelines around them; merging holds its members besides, once, while they are averaged.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from fusion.fitting import Fit, fit_all
from fusion.methods import METHODS, NAMES, TRAINED, Method, SamplingPlan
from fusion.objective import fit_gram
from fusion.target import Target
from fusion.weights import Weights
from models.catalog import catalog
from models.ensemble import Member
from models.loading import load_ensemble

TOLERANCE = 0.01  # of evaluations and memory, stated against measured


@contextmanager
def counted():
    """Counts rows that go through networks, and the members that were called, while it holds: `(rows, members)`, filled as it goes."""
    rows, members, forward = [], {}, Member.__call__

    def call(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        rows.append(len(out))
        members[id(self)] = self
        return out

    Member.__call__ = call
    try:
        yield rows, members
    finally:
        Member.__call__ = forward


def weight_bytes(members) -> int:
    """Bytes of the distinct parameters and buffers of members' networks and of the other parts of their pipelines."""
    seen = {}
    for member in members:
        for module in (member.network, *member.components.values()):
            if isinstance(module, torch.nn.Module):
                seen |= {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in module.state_dict().values()}
    return sum(seen.values())


def measure(ensemble, fit: Fit, methods: dict[str, Method], plan: SamplingPlan, repeats: int) -> list[dict]:
    """One row per method: seconds, evaluations and memory against those of `single`, stated and measured."""
    rows, images = {}, len(plan.jobs)
    for name, method in methods.items():
        start = time.perf_counter()
        if method.prepare is not None and not (name == "matched" and fit.matched is not None):
            fit = method.prepare(ensemble, fit, plan)
        rows[name] = {"method": name, "cost": method.cost(ensemble, fit, plan), "prepared": time.perf_counter() - start, "seconds": []}
        with counted() as (called, members):  # also warms caches
            drawn = list(method.run(ensemble, fit, plan))
        rows[name] |= {"evaluations": sum(called) / images, "bytes": weight_bytes(members.values()), "images": len(drawn)}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            list(method.run(ensemble, fit, plan))
            rows[name]["seconds"].append(time.perf_counter() - start)
    return [_ratios(row, rows["single"]) for row in rows.values()]


def _ratios(row: dict, single: dict) -> dict:
    cost, base = row["cost"], single["cost"]
    found = {"method": row["method"], "time": statistics.median(row["seconds"]) / statistics.median(single["seconds"]),
             "evaluations": row["evaluations"] / single["evaluations"], "evaluations_stated": cost.evaluations / base.evaluations,
             "memory": row["bytes"] / single["bytes"], "memory_stated": cost.memory / base.memory,
             "preparation_seconds": row["prepared"], "training_seconds_stated": cost.training_seconds}  # fmt: skip
    pairs = [(found[name], found[f"{name}_stated"]) for name in ("evaluations", "memory")]
    return found | {"kept": all(real <= stated * (1 + TOLERANCE) for real, stated in pairs)}  # not dearer than stated


def tiny_world(folder: Path):
    """Three tiny members and a fit that already holds a blend and, hastily trained, what the methods that train would find."""
    from tests.fusion import small

    ensemble = small.ensemble(folder)
    fit = replace(small.fit(ensemble), matched=Weights([0.2, 0.3, 0.5], None, ensemble.names, "given"))
    return ensemble, replace(fit, trained={name: small.trained(ensemble, name) for name in TRAINED}), "a cat"


def portraits_world(device: str):
    """Four shipped members and their fit to the valley's 12 images, with the shipped calibration."""
    from PIL import Image

    from fusion.calibration import Calibration
    from models.catalog import REPOSITORY

    ensemble = load_ensemble([catalog[f"portraits/{name}"] for name in ("harbor", "summit", "meadow", "delta")], device=device)
    folder = REPOSITORY / "assets" / "targets" / "valley" / "fit"
    records = json.loads((folder / "captions.json").read_text())
    target = Target([Image.open(folder / one["file"]).convert("RGB") for one in records], [one["prompt"] for one in records])
    calibration = Calibration.load(REPOSITORY / "assets" / "calibration" / "portraits.safetensors")
    gram = fit_gram(ensemble, target.images, list(target.prompts), **calibration.settings)
    return ensemble, fit_all(gram, calibration, target), "a portrait of a scientist"


def table(rows: list[dict]) -> str:
    """The ratios as a Markdown table."""
    lines = ["| method | time | evaluations (stated) | memory (stated) | prepared in | dearer than stated |", "|" + " --- |" * 6]
    for row in rows:
        pairs = [f"{row[name]:.2f} ({row[f'{name}_stated']:.2f})" for name in ("evaluations", "memory")]
        cells = [row["method"], f"{row['time']:.2f}", *pairs, f"{row['preparation_seconds']:.1f} s", "no" if row["kept"] else "YES"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.methods", description=__doc__.split("\n")[0])
    parser.add_argument("--portraits", action="store_true", help="the shipped portraits instead of tiny random models")
    parser.add_argument("--train", action="store_true", help="with --portraits: the methods that train as well (minutes each)")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=None)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    args = parser.parse_args(argv)
    chosen = args.methods or [name for name in NAMES if name not in TRAINED or not args.portraits or args.train]
    with tempfile.TemporaryDirectory() as folder:
        ensemble, fit, prompt = portraits_world(args.device) if args.portraits else tiny_world(Path(folder))
        plan = SamplingPlan([prompt], range(args.images), steps=args.steps, batch_size=args.images)
        rows = measure(ensemble, fit, {name: METHODS[name] for name in dict.fromkeys(["single", *chosen])}, plan, args.repeats)
    print(json.dumps(rows, indent=2))
    if not args.json:
        print(f"\n{table(rows)}")
    return 0 if all(row["kept"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
