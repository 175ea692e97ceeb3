"""Two autoencoders compared by what they do: a test picture encoded and its latent decoded by both. For weights that differ.

Weights say too little: sdxl-vae-fp16-fix scales its inside down, so that half precision can hold it, and means the same by every latent.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from . import pieces as single
from .causes import reason
from .errors import ModelError
from .inspection import Description
from .integrity import refuse_not_finite

log = logging.getLogger(__name__)

SIDE = 256  # pixels of the test picture
LATENT = 0.05  # of the latents' own size: noise of the last steps of sampling is as large
IMAGE = 0.02  # of the range from black to white: five of 256 levels


@dataclass(frozen=True)
class Gap:
    """How far apart two autoencoders are. latent: root mean square of the difference of their latents, as a share of the first ones';
    image: that of the images they decode one latent to, as a share of the range from black to white."""

    latent: float
    image: float

    @property
    def small(self) -> bool:
        """Whether they do the same. A difference that is not a number is not small."""
        return self.latent <= LATENT and self.image <= IMAGE

    def __str__(self) -> str:
        return (f"latents of a test picture are {self.latent:.1%} apart and images of one latent {self.image:.1%}; "
                f"up to {LATENT:.0%} and {IMAGE:.0%} count as equal")  # fmt: skip


@torch.no_grad()
def apart(first: Description, other: Description) -> Gap:
    """The distance of two models' autoencoders, which must be here: seconds, on the CPU. Raises ModelError when one cannot be run."""
    one, two = (_autoencoder(model) for model in (first, other))
    for model, vae in ((first, one), (other, two)):
        refuse_not_finite(vae, model.name, "vae")
    picture = example()
    mine, theirs = (vae.encode(picture).latent_dist.mode() for vae in (one, two))
    shown, theirs_shown = (vae.decode(mine, return_dict=False)[0].clamp(-1, 1) for vae in (one, two))
    return Gap(_size(mine - theirs) / _size(mine), _size(shown - theirs_shown) / 2)


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _autoencoder(model: Description) -> nn.Module:
    """The model's own autoencoder in float32."""
    try:
        if place := model.place("vae"):
            import diffusers

            cls = getattr(diffusers, model.parts["vae"][1])
            return cls.from_pretrained(str(place), use_safetensors=True, local_files_only=True, variant=model.variant).float().eval()
        return single.load_part(model.checkpoint, model.file, "vae", model.pieces["vae"], torch.float32)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        why = reason(error, "its files and its configuration do not belong together")
        log.info("the autoencoder of %s cannot be run", model.name, exc_info=True)
        raise ModelError(f"the autoencoder of '{model.name}' cannot be run ({why}): download the model again") from error


def example() -> Tensor:
    """`(1, 3, SIDE, SIDE)` in [-1, 1]: slow colours, sharp edges of several sizes, and fine grain, as photographs have them."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slow = np.stack([np.sin(2 * np.pi * (x + phase) * pace) * np.cos(2 * np.pi * y) for phase, pace in ((0, 1), (0.3, 1.5), (0.6, 0.7))])
    edges = np.sign(np.sin(2 * np.pi * 3 * x) * np.sin(2 * np.pi * 9 * y**2))
    grain = np.random.default_rng(0).normal(size=(3, SIDE, SIDE))
    picture = np.clip(0.5 * slow + 0.3 * edges + 0.08 * grain, -1, 1)
    return torch.from_numpy(picture).float()[None]
