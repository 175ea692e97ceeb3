"""The family's autoencoder: 64 x 64 x 3 pixels to 16 x 16 x 4 latents, trained by squared error.

Latents are centred and scaled per channel by folding the statistics into the 1 x 1 convolutions next to the latent, so that the stock
pipeline needs no shift and a scaling factor of 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .loop import Trainer
from .population import PORTRAITS, render, to_array

AUGMENTATIONS = 32  # cached renderings of each of the 288 portraits


def build() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, block_out_channels=[32, 64, 64],
        layers_per_block=1, latent_channels=4, norm_num_groups=16, mid_block_add_attention=False, sample_size=64, scaling_factor=1.0,
    )  # fmt: skip


def renderings(count: int, seed: int) -> Tensor:
    """`(288 * count, 3, 64, 64)` uint8: `count` fresh augmentations of every portrait, portrait-major."""
    rng = np.random.default_rng(seed)
    images = [render(portrait, rng) for portrait in PORTRAITS for _ in range(count)]
    return torch.from_numpy(to_array(images)).permute(0, 3, 1, 2).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels to [-1, 1]."""
    return pixels.float() / 127.5 - 1


def psnr(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Mean peak signal-to-noise ratio of reconstructions, dB, through the latent's mean and 8-bit clipping."""
    values = []
    with torch.no_grad():
        for batch in pixels.split(64):
            x = to_unit(batch)
            y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            values.append(-10 * torch.log10(((x - y) / 2).pow(2).mean((1, 2, 3))))
    return float(torch.cat(values).mean())


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latent means `(N, 4, 16, 16)` of uint8 pixels."""
    return torch.cat([vae.encode(to_unit(batch)).latent_dist.mode() for batch in pixels.split(64)])


@torch.no_grad()
def normalise(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Fold per-channel mean and deviation of the latents into `quant_conv` and `post_quant_conv`, in place."""
    latents = encode(vae, pixels)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


def train(work: Path, *, steps: int = 2800, batch: int = 16, seed: int = 0, device: str = "cpu") -> AutoencoderKL:
    """Train (or resume) the autoencoder; once final it is `autoencoder.safetensors` in `work` and only loaded."""
    file = Path(work) / "autoencoder.safetensors"
    vae = build().to(device)
    if file.is_file():
        vae.load_state_dict(load_file(file))
        return vae.eval()
    pixels = renderings(AUGMENTATIONS, seed=1).to(device)

    def loss(generator: torch.Generator) -> Tensor:
        x = to_unit(pixels[torch.randint(len(pixels), (batch,), generator=generator)])
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        return F.mse_loss(y.float(), x) + 2e-8 * posterior.kl().float().mean()

    trainer = Trainer(vae, loss, name="autoencoder", work=work, steps=steps, lr=2e-3, seed=seed, average_over=100)
    trainer.run()
    normalise(vae.eval(), pixels[::8])
    trainer.log(f"{psnr(vae, renderings(1, seed=2)):.2f} dB on held-out augmentations")
    save_file(vae.state_dict(), file)
    return vae


def freeze(*modules: nn.Module) -> None:
    for module in modules:
        module.requires_grad_(False)
