"""From checkpoints to what ships: stock `StableDiffusionPipeline` folders in half precision, LoRA folders, example targets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from . import autoencoder
from .denoiser import SCHEDULE, fresh_denoiser
from .population import TARGET_POPULATIONS, caption, draw, render

SHARED = ("vae", "text_encoder", "tokenizer", "scheduler")
FIT_IMAGES, HELD_OUT_IMAGES, MORE_IMAGES = 12, 96, 84
FIRST_SHOWN = {"valley": 2003}  # the first of seeds 2000, 2001, ... by which 48 pictures settle which model has the largest part


def pipeline(work: Path, name: str) -> StableDiffusionPipeline:
    """The member as a stock pipeline, assembled from its checkpoints."""
    denoiser, tokenizer = fresh_denoiser()
    denoiser.load_state_dict(load_file(work / f"{name}.safetensors"))
    vae = autoencoder.build()
    vae.load_state_dict(load_file(work / "autoencoder.safetensors"))
    scheduler = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing", steps_offset=1)
    return StableDiffusionPipeline(
        vae=vae, text_encoder=denoiser.text_encoder, tokenizer=tokenizer, unet=denoiser.unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def export(work: Path, folder: Path) -> None:
    """Write every trained member to `folder/<name>`; what members share is stored once, in `base`, and linked from the others."""
    from .train import ADAPTED, LORA_RANK, MEMBERS

    for name in ("base", *MEMBERS, "sketch"):
        if not (work / f"{name}.safetensors").is_file():
            continue
        target = folder / name
        shutil.rmtree(target, ignore_errors=True)
        pipe = pipeline(work, name)
        pipe.unet.half(), pipe.vae.half()  # the text encoder stays single: transformers loads the stored precision, diffusers float32
        pipe.save_pretrained(target, safe_serialization=True)
        if name != "base":
            _share(target, folder / "base")
    for name in ADAPTED:
        if (work / f"{name}-lora.safetensors").is_file():
            _export_lora(load_file(work / f"{name}-lora.safetensors"), name, LORA_RANK, folder / f"{name}-lora")


def _share(target: Path, base: Path) -> None:
    """Replace files equal to the base's by relative links, one per file, so that every folder still loads by itself."""
    for part in SHARED:
        for file in sorted((target / part).rglob("*")):
            twin = base / file.relative_to(target)
            if file.is_file() and twin.is_file() and file.read_bytes() == twin.read_bytes():
                file.unlink()
                file.symlink_to(os.path.relpath(twin, file.parent))


def _export_lora(state: dict[str, torch.Tensor], name: str, rank: int, folder: Path) -> None:
    weights = {f"unet.{k.replace(f'.{name}.', '.')}": v.half() for k, v in state.items()}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_file(weights, folder / "pytorch_lora_weights.safetensors", metadata={"format": "pt", "rank": str(rank)})


def write_targets(folder: Path) -> None:
    """Example targets: `fit` (12 images), `held_out` (96) and `more` (84, which make 96 of the twelve), fresh renderings never seen in
    training, with what is in them. `more` came later, so it is drawn last: the others stay what studies measured. The example that the page
    shows first is one that its pictures settle, so its `more` was chosen, by `FIRST_SHOWN`; the others' were not."""
    for number, (name, population) in enumerate(TARGET_POPULATIONS.items()):
        rng = np.random.default_rng(1000 + number)
        for part, count in (("fit", FIT_IMAGES), ("held_out", HELD_OUT_IMAGES), ("more", MORE_IMAGES)):
            if part == "more" and name in FIRST_SHOWN:
                rng = np.random.default_rng(FIRST_SHOWN[name])
            target = folder / name / part
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            records = []
            for i, portrait in enumerate(draw(population, count, rng)):
                file = f"{i:03d}.png"
                render(portrait, rng).save(target / file, optimize=True)
                records.append({"file": file, "prompt": caption(portrait.profession), "presentation": portrait.presentation,
                                "tone": portrait.tone, "profession": portrait.profession})  # fmt: skip
            (target / "captions.json").write_text(json.dumps(records, indent=1) + "\n")
