"""What differs between Stable Diffusion 1/2, SDXL, SD3, Flux, PixArt-Sigma and plain DDPM: slot, time scale, conditioning, and latents.

A latent is what the denoiser is given: `(C, H, W)` scaled, for Flux packed `(tokens, 4 C)`, for DDPM pixels in [-1, 1].
Pipelines do the rest themselves; nothing here loads or samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import ModelError
from .own import own_module
from .relatives import pipeline_words


@dataclass(frozen=True)
class Family:
    """One architecture.

    pipelines: names of the diffusers pipelines that may be loaded, the first one is stock. networks: classes the denoiser may have.
    slot: the pipeline attribute that holds it. sample: the name of its latent argument. time_scale: its t per scheduler's t.
    patch: latent cells per side of what the denoiser reads at once. packed: whether the latent is a row of such patches.
    learned_variance: the denoiser answers with twice the channels, and pipelines drop the second half (Nichol & Dhariwal 2021).
    call: what its pipeline must be told to make images of any size.
    text: components that turn prompts into conditioning; embeddings: the denoiser's arguments they fill (dotted path), each with the
    positions of (positive, negative) in what `encode_prompt` returns. shared: arguments without a batch dimension.
    guidance: `batch` (classifier-free, unconditional half first), `embedded` (a number the network is given) or `none`.
    usual_guidance: the scale its stock pipeline takes where none is given, 1 for none.
    weighs: whether prompts of any length, and words with weights, are read (`models.reading`), and not the beginning alone.
    clip_layer: which layer of its CLIP encoders is read, 1 being the last one, where it can be chosen; None where it cannot.
    """

    name: str
    title: str
    pipelines: tuple[str, ...]
    networks: tuple[str, ...]
    slot: str
    sample: str
    time_scale: float = 1.0
    patch: int = 1
    packed: bool = False
    learned_variance: bool = False
    call: Mapping[str, object] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    embeddings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    guidance: str = "batch"
    usual_guidance: float = 1.0
    weighs: bool = False
    clip_layer: int | None = None

    def mean(self, prediction: Tensor, latent: Tensor) -> Tensor:
        """What is predicted of `latent` `(B, C, ...)`: the answer without its learned variance."""
        return prediction[:, : latent.shape[1]] if self.learned_variance else prediction

    def answer(self, mean: Tensor, prediction: Tensor) -> Tensor:
        """`mean` in the shape in which the denoiser gave `prediction`: with its learned variance behind it again."""
        return torch.cat([mean, prediction[:, mean.shape[1] :]], dim=1) if self.learned_variance else mean


_CLIP = ("tokenizer", "text_encoder")
_TWO = _CLIP + ("tokenizer_2", "text_encoder_2")
_UNET = dict(networks=("UNet2DConditionModel",), slot="unet", sample="sample")
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("sd", "Stable Diffusion 1 and 2", ("StableDiffusionPipeline",), **_UNET,
               text=_CLIP, embeddings={"encoder_hidden_states": (0, 1)}, usual_guidance=7.5, weighs=True, clip_layer=1),
        Family("sdxl", "Stable Diffusion XL", ("StableDiffusionXLPipeline",), **_UNET,
               text=_TWO, embeddings={"encoder_hidden_states": (0, 1), "added_cond_kwargs.text_embeds": (2, 3)}, usual_guidance=5.0,
               weighs=True, clip_layer=2),
        Family("sd3", "Stable Diffusion 3", ("StableDiffusion3Pipeline",), ("SD3Transformer2DModel",), "transformer", "hidden_states",
               patch=2, text=_TWO + ("tokenizer_3", "text_encoder_3"),
               embeddings={"encoder_hidden_states": (0, 1), "pooled_projections": (2, 3)}, usual_guidance=7.0, clip_layer=2),
        Family("flux", "Flux", ("FluxPipeline",), ("FluxTransformer2DModel",), "transformer", "hidden_states", time_scale=1 / 1000,
               patch=2, packed=True, text=_TWO, embeddings={"encoder_hidden_states": (0,), "pooled_projections": (1,), "txt_ids": (2,)},
               shared=frozenset({"txt_ids", "img_ids"}), guidance="embedded", usual_guidance=3.5),
        # its first weights call their class Transformer2DModel; diffusers loads the same network for both names
        Family("pixart", "PixArt-Sigma", ("PixArtSigmaPipeline",), ("PixArtTransformer2DModel", "Transformer2DModel"), "transformer",
               "hidden_states", patch=2, learned_variance=True, call={"use_resolution_binning": False, "clean_caption": False},
               text=_CLIP, embeddings={"encoder_hidden_states": (0, 2), "encoder_attention_mask": (1, 3)},
               usual_guidance=4.5),
        Family("ddpm", "unconditional DDPM", ("DDPMPipeline", "DDIMPipeline"), ("UNet2DModel",), "unet", "sample", guidance="none"),
    )
}  # fmt: skip


def family_of(pipeline_class: str) -> Family:
    """The family of a `_class_name` in model_index.json. Raises ModelError for pipelines we do not fuse."""
    for family in FAMILIES.values():
        if pipeline_class in family.pipelines:
            return family
    if words := pipeline_words(pipeline_class):
        raise ModelError(f"'{pipeline_class}' {words}")
    known = ", ".join(name for family in FAMILIES.values() for name in family.pipelines)
    raise ModelError(f"'{pipeline_class}' is not a pipeline we can fuse: use one of {known}")


# ------------------------------------------------------------------------------------------------ size

def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def usual_cells(family: Family) -> int:
    """Side of the latents where a configuration does not say."""
    return 64 if family.name == "sd" else 128


def pixel_size(pipeline: object, family: Family) -> tuple[int, int]:
    """`(height, width)` in pixels of the image that the pipeline makes by default."""
    if family.name == "ddpm":
        return _pair(pipeline.unet.config.sample_size)
    if family.packed:
        return (pipeline.default_sample_size * pipeline.vae_scale_factor,) * 2
    height, width = _pair(getattr(pipeline, family.slot).config.sample_size or usual_cells(family))
    return height * pipeline.vae_scale_factor, width * pipeline.vae_scale_factor


def check_size(pipeline: object, family: Family, size: tuple[int, int]) -> tuple[int, int]:
    """`size` when the family can make images of it. Raises ModelError otherwise."""
    default = pixel_size(pipeline, family)
    if family.name == "ddpm" and tuple(size) != default:
        raise ModelError(f"this {family.title} makes images of {default[0]} x {default[1]} pixels only: leave the size out")
    step = 1 if family.name == "ddpm" else pipeline.vae_scale_factor * family.patch
    if len(size) != 2 or any(side < step or side % step for side in size):
        raise ModelError(f"height and width must be multiples of {step} pixels, not {' x '.join(map(str, size))}")
    return int(size[0]), int(size[1])


def latent_shape(pipeline: object, family: Family, size: tuple[int, int]) -> tuple[int, ...]:
    """Shape of the latent of one image of `size` (height, width) pixels, without the batch dimension."""
    height, width = size
    channels = getattr(pipeline, family.slot).config.in_channels
    if family.name == "ddpm":
        return channels, height, width
    height, width = height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor
    return ((height // 2) * (width // 2), channels) if family.packed else (channels, height, width)


# ------------------------------------------------------------------------------------------------ latents

def to_pixels(images: list[Image.Image], size: tuple[int, int], channels: int = 3) -> Tensor:
    """`(N, channels, height, width)` in [-1, 1]: centre-cropped to the aspect ratio and resized (Lanczos)."""
    mode = "L" if channels == 1 else "RGB"
    fitted = [ImageOps.fit(image.convert(mode), size[::-1], Image.Resampling.LANCZOS) for image in images]
    array = np.stack([np.asarray(image, dtype=np.float32).reshape(*size, channels) for image in fitted])
    return torch.from_numpy(array).permute(0, 3, 1, 2) / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Inverse of `to_pixels`, clipped to 8 bits."""
    array = ((pixels.float().cpu() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in array]


def _affine(vae: object, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """`(shift, scale)`: latent = (vae latent - shift) * scale, from the autoencoder's configuration."""
    config = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        view = (1, -1, 1, 1)
        return torch.tensor(mean).view(view).to(like), config.scaling_factor / torch.tensor(std).view(view).to(like)
    return config.get("shift_factor") or 0.0, config.scaling_factor


@torch.no_grad()
def encode(pipeline: object, family: Family, images: list[Image.Image], size: tuple[int, int], batch: int = 8) -> Tensor:
    """Latents of images `(N, ...)` float32 on the CPU: the mode of the autoencoder's posterior, scaled as the denoiser expects."""
    if family.name == "ddpm":
        return to_pixels(images, size, pipeline.unet.config.in_channels)
    vae, latents = _wide(pipeline.vae), []
    for start in range(0, len(images), batch):
        pixels = to_pixels(images[start : start + batch], size).to(vae.device, vae.dtype)
        mode = vae.encode(pixels).latent_dist.mode().float()
        shift, scale = _affine(vae, mode)
        latents.append(((mode - shift) * scale).cpu())
    z = torch.cat(latents)
    return pipeline._pack_latents(z, *z.shape) if family.packed else z


@torch.no_grad()
def decode(pipeline: object, family: Family, latents: Tensor, size: tuple[int, int], batch: int = 8) -> list[Image.Image]:
    """Images of latents `(N, ...)` as `encode` makes them from images of `size` (height, width) pixels."""
    if family.name == "ddpm":
        return to_images(latents)
    vae, images = _wide(pipeline.vae), []
    if family.packed:
        latents = pipeline._unpack_latents(latents, *size, pipeline.vae_scale_factor)
    for part in latents.split(batch):
        shift, scale = _affine(vae, part.float().to(vae.device))
        z = part.float().to(vae.device) / scale + shift
        images += to_images(vae.decode(z.to(vae.dtype), return_dict=False)[0])
    return images


def _wide(vae: torch.nn.Module) -> torch.nn.Module:
    """The autoencoder itself, or a copy in float32 of one that overflows in half precision (SDXL's): others use it meanwhile."""
    return own_module(vae).float() if vae.dtype == torch.float16 and vae.config.get("force_upcast") else vae
