"""A network alone in one file under the names of diffusers, as trainers and distillers share it: which model it is, by its layers."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import ModelError
from .relatives import LCM, UPSCALER

PREFIXES = ("", "unet.", "transformer.")
Shapes = Mapping[str, tuple[int, ...]]


def network_layout(shapes: Shapes, name: str) -> tuple[str | None, str | None]:
    """`(layout of models/layouts.yaml, prefix of the names)`; None and None for what is no such network.

    Raises ModelError for relatives that do not fuse.
    """
    for prefix in PREFIXES:
        own = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        layout = _unet(own, name) or _transformer(own, name)
        if layout is not None:
            return layout, prefix
    return None, None


def _unet(own: Shapes, name: str) -> str | None:
    """A U-Net of Stable Diffusion 1, 2 or XL."""
    if not {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight"} <= own.keys():
        return None
    if any(".motion_modules." in key or ".temp_convs." in key for key in own):
        return None
    if "time_embedding.cond_proj.weight" in own:
        raise ModelError(f"{name} {LCM}")
    inputs = own["conv_in.weight"][1]
    if inputs == 7:
        raise ModelError(f"{name} {UPSCALER}")
    if inputs != 4:
        raise ModelError(f"{name} takes {inputs} channels for a latent of 4: inpainting and editing models do not fuse")
    if "add_embedding.linear_1.weight" in own:
        return "sdxl"
    width = next((shape[-1] for key, shape in own.items() if key.endswith("attn2.to_k.weight")), None)
    return None if width is None else "sd2" if width == 1024 else "sd1"


def _transformer(own: Shapes, name: str) -> str | None:
    """The transformer of Flux or Stable Diffusion 3."""
    if "single_transformer_blocks.0.attn.to_q.weight" in own and "x_embedder.weight" in own:
        if own["x_embedder.weight"][1] in (128, 384):
            raise ModelError(f"{name} is a Flux for inpainting or editing, which does not fuse: use FLUX.1 dev or schnell")
        return "flux-dev" if "time_text_embed.guidance_embedder.linear_1.weight" in own else "flux-schnell"
    if "transformer_blocks.0.norm1_context.linear.weight" in own and "pos_embed.proj.weight" in own:
        if "transformer_blocks.0.attn2.to_q.weight" in own:
            return "sd35-medium"
        return "sd35-large" if "transformer_blocks.0.attn.norm_q.weight" in own else "sd3"
    return None
