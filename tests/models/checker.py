"""Stable Diffusion 1's safety checker, but tiny and one that flags every image."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

LAYERS = dict(intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=8)


def with_checker(folder: Path | str) -> Path:
    """The folder of a Stable Diffusion, which from now on blackens whatever it draws."""
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=dict(hidden_size=16, image_size=224, patch_size=112, **LAYERS),
                        text_config=dict(hidden_size=16, vocab_size=8, **LAYERS), projection_dim=8)  # fmt: skip
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-5.0)  # every likeness is above such a threshold
    parts = diffusers.StableDiffusionPipeline.from_pretrained(folder, requires_safety_checker=False).components
    extractor = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    diffusers.StableDiffusionPipeline(**{**parts, "safety_checker": checker, "feature_extractor": extractor}).save_pretrained(folder)
    return Path(folder)
