"""What fusion costs: K members fused against K single runs, K LoRA members on one network, and guidance in an interval of the steps.

    python -m tests.benchmarks.sampling                     # the shipped portraits
    python -m tests.benchmarks.sampling --tiny              # tiny random models, for a quick check
    python -m tests.benchmarks.sampling --json > sampling.json

All figures are ratios of what is measured in one run on one machine, so that they can be compared between machines. Aims: time at most
1.0 (text is encoded once and latents are decoded once, where K single runs do so K times), memory at most 1.15 (adapters are small).
Guidance: network evaluations per image, counted in the networks, and seconds, in `INTERVAL` of the steps against all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from fusion.methods import METHODS, SamplingPlan
from fusion.methods.drawing import memory_ratio
from fusion.methods.single import singles
from models.catalog import ModelCard, catalog
from models.loading import load_ensemble

AIMS = {"time": 1.0, "memory": 1.15}
GUIDANCE, INTERVAL = 5.0, (0.2, 0.8)


def time_ratio(ensemble, plan: SamplingPlan, repeats: int) -> dict:
    """Seconds of one fused run and of K single runs, in turns, medians of `repeats`; the ratio of the medians."""
    alone = list(singles(ensemble).values())
    runs = {
        "fused": lambda: list(METHODS["uniform"].run(ensemble, None, plan)),
        "single": lambda: [list(method.run(ensemble, None, plan)) for method in alone],
    }
    seconds = {name: [] for name in runs}
    for repeat in range(repeats + 1):  # the first round warms caches and is not counted
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {"members": len(ensemble), "fused_seconds": median["fused"], "single_runs_seconds": median["single"],
            "ratio": median["fused"] / median["single"], "spread": float(np.ptp(seconds["fused"]) / median["fused"])}  # fmt: skip


def guidance_ratio(ensemble, plan: SamplingPlan, repeats: int) -> dict:
    """Network evaluations per image and seconds (the least of `repeats`) of a fused run, guided at every step and in `INTERVAL`."""
    name, rows, found = ensemble.family.sample, [], {}

    def count(_network, args: tuple, given: dict) -> None:
        rows.append(len(given[name] if name in given else args[0]))

    networks = {id(member.network): member.network for member in ensemble.members}.values()
    hooks = [network.register_forward_pre_hook(count, with_kwargs=True) for network in networks]
    for way, interval in [("every_step", None), ("interval", INTERVAL)] * repeats:
        guided = plan.with_(guidance=GUIDANCE, guidance_interval=interval)
        rows.clear()
        start = time.perf_counter()
        list(METHODS["uniform"].run(ensemble, None, guided))
        seconds, stated = time.perf_counter() - start, METHODS["uniform"].cost(ensemble, None, guided)
        found[way] = {"evaluations": sum(rows) / len(plan.jobs), "seconds": min(seconds, found.get(way, {}).get("seconds", seconds)),
                      "stated": stated.evaluations, "saved": stated.saved}  # fmt: skip
    for hook in hooks:
        hook.remove()
    whole, part = found["every_step"], found["interval"]
    return found | {"members": len(ensemble), "interval_of_steps": INTERVAL, "ratio": part["evaluations"] / whole["evaluations"],
                    "ratio_of_seconds": part["seconds"] / whole["seconds"]}  # fmt: skip


def tiny_cards(folder: Path) -> tuple[list[ModelCard], list[ModelCard]]:
    """Four full models, and a base with two adapters."""
    from tests import tiny

    base = tiny.portraits(folder / "base", 0)
    full = [base] + [tiny.portraits(folder / f"full-{k}", k, sibling=base) for k in (1, 2, 3)]
    adapters = [tiny.lora(folder / f"lora-{k}", base, k) for k in (1, 2)]
    card = lambda name, **more: ModelCard(name, name, "sd", **more)
    members = [card(path.name, source=str(path)) for path in full]
    return members, [members[0], *(card(path.name, source=str(base), adapter=str(path)) for path in adapters)]


def shipped_cards() -> tuple[list[ModelCard], list[ModelCard]]:
    full = [catalog[f"portraits/{name}"] for name in ("harbor", "summit", "meadow", "delta")]
    return full, [catalog[f"portraits/{name}"] for name in ("base", "harbor-lora", "summit-lora")]


def measure(full, adapted, *, images: int, steps: int, repeats: int, device: str) -> dict:
    """The ratios, with their aims and whether they are met."""
    ensemble = load_ensemble(full, device=device)
    plan = SamplingPlan(["a portrait of a scientist"], range(images), steps=steps, batch_size=images)
    found = {"time": time_ratio(ensemble, plan, repeats) | {"images": images, "steps": steps, "device": str(ensemble.device)}}
    found["guidance"] = guidance_ratio(ensemble, plan, repeats)
    found["memory_full_copies"] = {"members": len(full), "ratio": memory_ratio(ensemble)}
    del ensemble
    switched = load_ensemble(adapted, device=device, lora="switch")
    found["memory"] = {"members": len(adapted), "ratio": memory_ratio(switched)}
    for name, aim in AIMS.items():
        found[name] |= {"aim": aim, "met": bool(found[name]["ratio"] <= aim)}
    return found


def table(found: dict) -> str:
    """The ratios as a Markdown table."""
    label = {"time": "fused sampling against as many single runs", "memory": "LoRA members on one network against one model",
             "memory_full_copies": "full members against one model (for comparison)",
             "guidance": "evaluations with guidance in {:g} to {:g} of the steps against all".format(*INTERVAL)}  # fmt: skip
    lines = ["| measure | members | ratio | aim |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {label[n]} | {f['members']} | {f['ratio']:.3f} | {f.get('aim', '')} |" for n, f in found.items()])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sampling", description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny random models instead of the shipped portraits")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    args = parser.parse_args(argv)
    settings = {name: getattr(args, name) for name in ("images", "steps", "repeats", "device")}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(*(tiny_cards(Path(folder)) if args.tiny else shipped_cards()), **settings)
    print(json.dumps(found, indent=2))
    if not args.json:
        print(f"\n{table(found)}")
    return 0 if all(found[name]["met"] for name in AIMS) else 1


if __name__ == "__main__":
    raise SystemExit(main())
