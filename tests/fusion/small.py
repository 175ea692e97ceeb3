"""A real but tiny ensemble of three portraits-like pipelines and a fit of it, for tests of methods, recipes, evaluation and commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fusion.calibration import Calibration
from fusion.fitting import fit_all
from fusion.objective import fit_gram
from models.catalog import ModelCard
from models.loading import load_ensemble
from tests import tiny

NAMES = ("Ada", "Bea", "Cyd")
PROMPTS = ("a cat", "a dog", "a hen")


def cards(folder: Path) -> list[ModelCard]:
    """Three models below `folder` that share everything but their networks."""
    first = tiny.portraits(folder / "ada", 0)
    paths = [first] + [tiny.portraits(folder / name.lower(), seed, sibling=first) for seed, name in enumerate(NAMES[1:], 1)]
    uniform = tuple((1 / 18,) * 6 for _ in range(3))
    return [ModelCard(f"tiny/{n.lower()}", n, "sd", str(p), population=uniform, guidance=1.0) for n, p in zip(NAMES, paths)]


def ensemble(folder: Path):
    return load_ensemble(cards(folder), device="cpu")


def pictures(count: int, seed: int = 0, shade: int = 0) -> list[Image.Image]:
    """Smooth random pictures; `shade` darkens them, so that groups differ."""
    rng = np.random.default_rng(seed)
    coarse = np.clip(rng.integers(0, 256, (count, 4, 4, 3)) - shade, 0, 255).astype(np.uint8)
    return [Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC) for one in coarse]


def gram(members, images, **settings):
    return fit_gram(members, images, [PROMPTS[i % 3] for i in range(len(images))], levels=4, **settings)


def fit(members, calibrated: bool = True):
    """A `Fit` to six pictures, calibrated on 12 pictures a member."""
    own = [gram(members, pictures(12, seed, 60 * seed), seed=seed) for seed in range(3)]
    return fit_all(gram(members, pictures(6, 9, 40)), Calibration.from_grams(own) if calibrated else None)


def code(members, dimensions: int = 4):
    """A representation that nobody taught, for the prompts of these models."""
    from fusion.transfer.networks import conditions
    from fusion.transfer.sources import fresh

    return fresh(members, conditions(members, 0, list(PROMPTS))[1], dimensions).requires_grad_(False)


def trained(members, method: str):
    """What a method that trains leaves after four hasty steps on six pictures."""
    from fusion.transfer.adapting import adapt
    from fusion.transfer.training import Schedule

    few = Schedule(steps=4, batch=4, rate=3e-2, every=2, patience=None, warmup=1, average_over=1)
    reads = None if method == "finetune" else code(members)
    return adapt(members, 1, pictures(6, 9, 40), [PROMPTS[i % 3] for i in range(6)], method=method, representation=reads,
                 freeze=method == "transfer", schedule=few)  # fmt: skip
