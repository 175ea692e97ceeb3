"""Sevens and nines: the ScoreFusion paper's experiment on handwritten digits (arXiv 2406.19619), with every method beside fusion.

Four members know populations with 10, 30, 70 and 90 % sevens; the target has 60 %. Against the number n of target images: a network of
their own, a member fine-tuned on them, and the ways of using the frozen members. Judged by the likelihood of held-out images of the target
and by the share of sevens among samples, which a classifier reads.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusion.calibration import CalibratedProportions
from fusion.methods.parameters import Source, average
from fusion.studies import digits_data
from fusion.studies.digits_network import UNet
from fusion.studies.digits_world import NAMES, PATH, World
from fusion.studies.idx import read_digits
from fusion.studies.shelf import Shelf
from fusion.studies.training import fused, noise_of, train
from fusion.weights import LevelWeights, SimplexWeights

TITLE = "Digits: sevens and nines"
METHODS = ("best single", "scratch", "fine-tuned", "fusion", "per level", "mixture", "merge")  # drawn and scored at every n
ONCE = ("barycenter", "superposition")  # drawn at the largest n only: their weights hardly change with n
SHOWN = 12  # samples kept as pictures


@dataclass(frozen=True)
class Size:
    """How much is done. `least`, `most`: images of a member; `nll_images`: evaluation images whose likelihood is computed;
    `steps_*`: of training and of the solvers; `widths`: of the networks."""

    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    seeds: int = 3
    evaluation: int = 200
    calibration: int = 150
    least: int = 400
    most: int = 4000
    steps_reader: int = 600
    steps_member: int = 1000
    steps_scratch: int = 600
    steps_finetune: int = 300
    nll_images: int = 64
    steps_nll: int = 24
    samples: int = 160
    steps_sample: int = 20
    widths: tuple[int, int] = (32, 64)


QUICK = Size(sizes=(8, 16), seeds=2, evaluation=10, calibration=10, least=10, most=24, steps_reader=20, steps_member=4,
             steps_scratch=4, steps_finetune=2, nll_images=4, steps_nll=2, samples=12, steps_sample=3, widths=(4, 8))  # fmt: skip


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop, data: str | None = None) -> dict:
    """The whole study; goes on from `work`. `data`: a folder of idx files. When stopped: `{"stopped": True}`, and nothing is written.

    ValueError where the folder holds too few sevens and nines, or where `work` holds results of other settings.
    """
    from fusion.studies import digits_report

    size = QUICK if quick else Size()
    images, labels = read_digits(data)
    given = digits_data.split(images, labels, sizes=size.sizes, evaluation=size.evaluation, calibration=size.calibration, least=size.least,
                              most=size.most)  # fmt: skip
    facts = {"images": len(images), "sevens": int((labels == 7).sum()), "nines": int((labels == 9).sum()), "sizes": given.sizes}
    repeats = range(seeds or size.seeds)
    shelf = Shelf(work, {**asdict(size), **facts, "seeds": "any"}, World.parts + len(repeats) * len(given.sizes), progress, stop)
    try:
        world = World(given, size, shelf)
        cells = [cell(world, n, seed) for seed in repeats for n in given.sizes]
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {"stopped": True}
    return digits_report.write(out, cells, facts | world.facts(), size)


def cell(world: World, n: int, seed: int) -> dict:
    """One target of n images: `rows` (one per method, with `nll` in bits per pixel and `sevens`, a share), fits, and `shown` pictures."""
    found = world.shelf.part(f"target-{n}-{seed}", lambda: _measure(world, n, seed))
    rows = []
    for method in (*METHODS, *ONCE):
        if f"nine.{method}" in found:
            log = found.get(f"log.{method}")
            nll, sevens = None if log is None else world.bits(log), world.sevens(found[f"nine.{method}"])
            rows.append({"method": method, "nll": nll, "sevens": sevens})
    kept = {key: found[key] for key in ("weights", "interval", "levels", "proportions", "steps")}
    shown = {row["method"]: found[f"shown.{row['method']}"] for row in rows}
    return {"n": n, "seed": seed, "rows": rows, "shown": shown, **kept}


def _measure(world: World, n: int, seed: int) -> dict[str, np.ndarray]:
    size, shelf = world.size, world.shelf
    pixels, tell = world.given.drawn(n, seed), lambda what: shelf.tell(f"{n} images, seed {seed}: {what}")
    tell("fitting")
    gram = world.gram(pixels, 200 + seed)
    fit, levels = SimplexWeights("likelihood").fit(gram), LevelWeights("likelihood").fit(gram)
    share, best = CalibratedProportions(world.calibration, bootstrap=50).fit(gram).proportions_, fit.best_single_
    found = {"weights": fit.weights_, "interval": fit.interval_, "levels": levels.weights_, "proportions": share}

    def judge(name: str, z: np.ndarray, log: np.ndarray | None = None) -> None:
        found[f"nine.{name}"], found[f"shown.{name}"] = world.called_nine(z), _pictures(z[:SHOWN])
        if log is not None:
            found[f"log.{name}"] = log

    tell("training")
    torch.manual_seed(1000 + seed)
    scratch, long = _trained(world, UNet(size.widths), pixels, seed, 4e-3, size.steps_scratch)
    tuned, short = _trained(world, copy.deepcopy(world.networks[best]), pixels, seed, 1e-3, size.steps_finetune)
    found["steps"] = np.array([long, short])
    merged = average([Source(name, network) for name, network in zip(NAMES, world.networks)], fit.weights_)
    for name, network in (("scratch", scratch), ("fine-tuned", tuned), ("merge", merged)):
        tell(name)
        noise = noise_of(network, PATH, half=True)
        judge(name, world.draw([noise], seed), world.density(noise))
    for name, weights in (("fusion", fit.as_weights()), ("per level", levels.as_weights())):
        tell(name)
        noise = fused(world.members, weights)
        judge(name, world.draw([noise], seed), world.density(noise))
    judge("best single", world.pictures[best], world.likelihood[best])
    mixed = np.logaddexp.reduce(world.likelihood + np.log(np.maximum(share, 1e-300))[:, None], axis=0)
    owner = np.random.default_rng(seed).choice(len(share), size=size.samples, p=share)
    judge("mixture", world.pictures[owner, np.arange(size.samples)], mixed)
    if n == world.given.sizes[-1]:
        tell("barycenter and superposition")
        judge("barycenter", world.draw(world.members, seed, fit.weights_, correct=True))
        judge("superposition", world.draw(world.members, seed, posterior=share))
    return found


def _trained(world: World, network: UNet, pixels: Tensor, seed: int, lr: float, steps: int) -> tuple[UNet, int]:
    """A network fitted to the target's images, of which every fifth stops it in time; and after how many steps it was best."""
    draw = lambda chosen, own: digits_data.encode(pixels[chosen], own)  # noqa: E731
    story = train(network.requires_grad_(True), PATH, draw, len(pixels), steps=steps, batch=32, lr=lr,
                  seed=seed, held_out=0.2, stop=world.shelf.stop)  # fmt: skip
    return network.requires_grad_(False), story["kept"]


def _pictures(z: np.ndarray) -> np.ndarray:
    """uint8 `(N, 28, 28)`."""
    return (digits_data.decode(torch.from_numpy(z))[:, 0] * 255).round().to(torch.uint8).numpy()
