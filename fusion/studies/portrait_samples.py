"""Samples of the shipped portraits for studies: drawn once, a batch at a time, with what the probe and a denoiser read off them, and kept.

All studies draw alike: 10 steps, bare prompts in turn, batches of 64 under bfloat16 autocast, seed i always with prompt i modulo 16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from fusion.evaluation.denoiser_features import denoiser_features, through_autoencoder
from fusion.methods import Sample, SamplingPlan
from fusion.methods.mixture import route
from fusion.studies.shelf import undamaged
from models.portraits import probe
from models.portraits.population import BARE_PROMPTS, caption, draw, render, to_array

BATCH, STEPS = 64, 10


@dataclass(frozen=True, eq=False)
class Pictures:
    """`images` (N, 64, 64, 3) uint8; `cells` (N,) as the probe reads them, or true ones; `features` (N, F) by member 0's denoiser.

    `kin` (N,): seed of the particle that each descends from, its own where nothing is resampled; None where that was not noted.
    """

    images: np.ndarray
    cells: np.ndarray
    features: np.ndarray
    prompts: tuple[str, ...]
    seeds: np.ndarray
    kin: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, rows) -> Pictures:
        rows = np.arange(len(self))[rows]
        prompts = tuple(self.prompts[row] for row in rows)
        kin = None if self.kin is None else self.kin[rows]
        return Pictures(self.images[rows], self.cells[rows], self.features[rows], prompts, self.seeds[rows], kin)

    def pil(self) -> list[Image.Image]:
        return [Image.fromarray(one) for one in self.images]


def prompt_of(seed: int) -> str:
    return BARE_PROMPTS[seed % len(BARE_PROMPTS)]


def samples(ensemble, sample: Callable[[SamplingPlan], Iterable[Sample]], file: Path, seeds: Sequence[int], *, at_once: int = BATCH,
            steps: int = STEPS, progress=None, stop=None, label: str = "") -> Pictures | None:  # fmt: skip
    """The images that `sample(plan)` draws for `seeds`, resumed from `file`; None when stopped before the last of them.

    `at_once`: seeds in one plan, all of them for methods that choose each other's company within it.
    """
    seeds = list(seeds)
    kept = load(file)
    while kept is None or len(kept) < len(seeds):
        begin = 0 if kept is None else len(kept)
        if stop is not None and stop():
            return None
        chosen = seeds[begin : begin + at_once]
        plan = SamplingPlan([prompt_of(seed) for seed in chosen], chosen, steps=steps, batch_size=BATCH, stop=stop)
        with torch.autocast("cpu", torch.bfloat16):
            drawn = sorted(sample(plan), key=lambda one: chosen.index(one.seed))
        if len(drawn) < len(chosen):
            return None
        kin = np.array([one.seed if one.family is None else one.family[1] for one in drawn])
        part = replace(_read(ensemble, [one.image for one in drawn], plan.prompts, chosen), kin=kin)
        kept = part if kept is None else joined(kept, part)
        save(file, kept)
        if progress is not None:
            progress(len(kept), len(seeds), label)
    return kept.take(slice(len(seeds)))


def population_images(ensemble, population: np.ndarray, count: int, rng: np.random.Generator) -> tuple[list, list[str], Pictures]:
    """`count` fresh renderings from a (3, 6) population: as they are, their prompts, and read after one pass through the autoencoder."""
    portraits = draw(population, count, rng)
    images, prompts = [render(portrait, rng) for portrait in portraits], [caption(portrait.profession) for portrait in portraits]
    return images, prompts, read_pictures(ensemble, images, prompts, [portrait.cell for portrait in portraits])


def read_pictures(ensemble, images, prompts, cells=None) -> Pictures:
    """Real images as they are compared with samples: once through the autoencoder; with their true `cells`, or as the probe reads them."""
    with torch.autocast("cpu", torch.bfloat16):
        back = through_autoencoder(ensemble, images)
    return _read(ensemble, back, prompts, range(len(images)), cells)


def _read(ensemble, images, prompts, seeds, cells=None) -> Pictures:
    with torch.autocast("cpu", torch.bfloat16):
        features = denoiser_features(ensemble, images, prompts).astype(np.float32)
    cells = [portrait.cell for portrait in probe.read(images)] if cells is None else cells
    return Pictures(to_array(images), np.array(cells), features, tuple(prompts), np.array(list(seeds)))


def routed(pools: Sequence[Pictures], proportions: np.ndarray) -> Pictures:
    """What `mixture` draws: the picture that the member of seed i drew for it. `pools[k]`: member k's pictures, all with the same seeds."""
    which = route(pools[0].seeds.tolist(), proportions)
    pick = lambda name: np.stack([getattr(pools[k], name)[row] for row, k in enumerate(which)])  # noqa: E731
    return Pictures(pick("images"), pick("cells"), pick("features"), pools[0].prompts, pools[0].seeds)


def joined(one: Pictures, other: Pictures) -> Pictures:
    both = lambda name: np.concatenate([getattr(one, name), getattr(other, name)])  # noqa: E731
    kin = None if one.kin is None or other.kin is None else both("kin")
    return Pictures(both("images"), both("cells"), both("features"), one.prompts + other.prompts, both("seeds"), kin)


def save(file: Path, pictures: Pictures) -> None:
    """Written beside the file and moved there: a run that is killed leaves the last whole one."""
    kept = [name for name in ("images", "cells", "features", "seeds", "kin") if getattr(pictures, name) is not None]
    parts = {name: np.ascontiguousarray(getattr(pictures, name)) for name in kept}
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_suffix(".part")
    save_file(parts, str(beside))
    beside.replace(file)


def load(file: Path) -> Pictures | None:
    """Pictures drawn for bare prompts, as `save` left them; None where there are none."""
    if not file.is_file():
        return None
    with undamaged(file):
        parts = load_file(str(file))
    return Pictures(**parts, prompts=tuple(prompt_of(int(seed)) for seed in parts["seeds"]))
