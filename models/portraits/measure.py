"""What the shipped members really do, in figures: their own samples, read by the probe, against the population on their card.

Every total variation stands beside its floor, what a perfect sampler measures with as many samples. Writes `measurements.json` and the
tables of `README.md` (the family's model card) in `assets/models/portraits`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

from . import autoencoder, card, probe
from .population import BARE_PROMPTS, MEMBER_POPULATIONS, PROFESSIONS, sampling_floor, total_variation

SAMPLES, STEPS = 2048, 20
NAMES = ("base", "harbor", "summit", "meadow", "delta", "sketch", "harbor-lora", "summit-lora")


def load(folder: Path, name: str) -> StableDiffusionPipeline:
    """A member's stock pipeline from `folder/name`; `-lora` names load the adapter on the base."""
    source = folder / ("base" if name.endswith("-lora") else name)
    pipe = StableDiffusionPipeline.from_pretrained(source, use_safetensors=True, safety_checker=None)
    if name.endswith("-lora"):
        pipe.load_lora_weights(str(folder / name))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(pipe: StableDiffusionPipeline, count: int, *, seed: int = 0, batch: int = 64) -> tuple[list[Image.Image], list[str]]:
    """`count` images of the bare prompts in turn, without guidance, and the profession asked for."""
    images: list[Image.Image] = []
    jobs = [list(PROFESSIONS)[i % 16] for i in range(count)]
    for begin in range(0, count, batch):
        prompts = [BARE_PROMPTS[i % 16] for i in range(begin, min(begin + batch, count))]
        generators = [torch.Generator().manual_seed(seed + i) for i in range(begin, begin + len(prompts))]
        with torch.autocast(pipe.device.type, torch.bfloat16):
            images += pipe(prompts, num_inference_steps=STEPS, guidance_scale=1.0, generator=generators).images
    return images, jobs


def measure(images: list[Image.Image], jobs: list[str], population: np.ndarray) -> dict:
    """Population read by the probe (`cells`: per image), total variation to `population`, its floor, share of professions as asked for."""
    portraits = probe.read(images)
    cells = [portrait.cell for portrait in portraits]
    found = np.bincount(cells, minlength=18).reshape(3, 6) / len(images)
    return {
        "samples": len(images), "total_variation": round(total_variation(found, population), 4),
        "floor": round(sampling_floor(population, len(images)), 4),
        "profession_as_asked": round(float(np.mean([p.profession == job for p, job in zip(portraits, jobs)])), 4),
        "population": found.round(4).tolist(), "cells": cells,
    }  # fmt: skip


def contact_sheet(images: list[Image.Image], columns: int = 16) -> Image.Image:
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * 66, rows * 66), "white")
    for i, image in enumerate(images):
        sheet.paste(image, ((i % columns) * 66, (i // columns) * 66))
    return sheet


def main(assets: Path, work: Path, *, device: str = "cpu", count: int = SAMPLES, names: tuple[str, ...] = NAMES) -> dict:
    folder = assets / "models" / "portraits"
    file = folder / "measurements.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    work.mkdir(parents=True, exist_ok=True)
    for name in names:
        if results.get(name, {}).get("samples") == count:
            continue  # measured before; delete the file to measure again
        pipe = load(folder, name).to(device)
        if name == "base":
            results["autoencoder_psnr_db"] = round(autoencoder.psnr(pipe.vae, autoencoder.renderings(2, seed=2).to(device)), 2)
        images, jobs = sample(pipe, count)
        results[name] = measure(images, jobs, MEMBER_POPULATIONS[name.removesuffix("-lora")])
        (work / f"cells-single-{name}-{STEPS}.json").write_text(json.dumps(results[name].pop("cells")))  # one per seed, for studies
        print(name, {k: v for k, v in results[name].items() if k != "population"}, flush=True)
        contact_sheet(images[:48]).save(folder / f"{name}.png", optimize=True)
        with safe_open(folder / "probe.safetensors", "pt") as shipped:
            results["probe"] = shipped.metadata()
        known = json.loads(file.read_text()) if file.is_file() else {}  # another process may measure other members meanwhile
        results = {key: (known | results)[key] for key in ("autoencoder_psnr_db", "probe", *NAMES) if key in known | results}
        file.write_text(json.dumps(results, indent=1) + "\n")
    if all(name in results for name in NAMES):
        card.write(folder)
    return results
