"""The attribute probe: a small classifier that reads presentation, tone and profession off portraits, so that a population is a histogram.

Trained on fresh renderings, shipped as safetensors; its held-out accuracy stands in the file's metadata and in the model card.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import autoencoder
from .loop import Trainer
from .population import PORTRAITS, PRESENTATIONS, PROFESSIONS, SIZE, TONES, Portrait, to_array

FILE = Path(__file__).resolve().parents[2] / "assets" / "models" / "portraits" / "probe.safetensors"
ATTRIBUTES = {"presentation": list(PRESENTATIONS), "tone": list(TONES), "profession": list(PROFESSIONS)}
SIZES = tuple(map(len, ATTRIBUTES.values()))
LABELS = torch.tensor([[names.index(getattr(p, key)) for key, names in ATTRIBUTES.items()] for p in PORTRAITS])  # (288, 3)


class Probe(nn.Module):
    """`(B, 3, 64, 64)` in [-1, 1] -> logits of presentation `(B, 3)`, tone `(B, 6)`, profession `(B, 16)`."""

    def __init__(self, width: int = 24):
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.ReLU(), nn.MaxPool2d(2)) for a, b in zip(widths, widths[1:])
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * width * 16, 128), nn.ReLU(), nn.Linear(128, sum(SIZES)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for block in self.blocks:
            x = block(x)
        return self.head(x).split(SIZES, dim=1)


def train(work: Path, assets: Path, *, steps: int = 1000, batch: int = 64, device: str = "cpu") -> Probe:
    """Train on renderings and on their reconstructions by the family's autoencoder; write the probe and its held-out accuracy."""
    torch.manual_seed(1)
    probe = Probe().to(device)
    vae = autoencoder.build()
    vae.load_state_dict(load_file(work / "autoencoder.safetensors"))
    pixels, held_out = autoencoder.renderings(24, seed=3), autoencoder.renderings(4, seed=4)
    latents = autoencoder.encode(vae.to(device).eval(), pixels[::4].to(device))
    with torch.no_grad():
        decoded = torch.cat([vae.decode(z).sample.clamp(-1, 1).cpu() for z in latents.split(64)])
    x = torch.cat([autoencoder.to_unit(pixels), decoded])
    y = torch.cat([LABELS.repeat_interleave(24, 0), LABELS.repeat_interleave(6, 0)])

    def loss(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(x), (batch,), generator=generator)
        noise = 0.1 * torch.rand((batch, 1, 1, 1), generator=generator) * torch.randn((batch, 3, SIZE, SIZE), generator=generator)
        logits = probe((x[index] + noise).to(device))
        return sum(F.cross_entropy(part.float(), y[index, i].to(device)) for i, part in enumerate(logits))

    trainer = Trainer(probe.train(), loss, name="probe", work=work, steps=steps, lr=2e-3, seed=2, average_over=100)
    trainer.run()
    accuracy = evaluate(probe.eval(), held_out)
    trainer.log(f"held-out accuracy {accuracy}")
    target = assets / "models" / "portraits" / "probe.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    metadata = {f"accuracy.{k}": f"{v:.4f}" for k, v in accuracy.items()} | {"held_out": str(len(held_out))}
    save_file({k: v.half().cpu().contiguous() for k, v in probe.state_dict().items()}, target, metadata=metadata)
    return probe


def evaluate(probe: Probe, held_out: Tensor) -> dict[str, float]:
    """Accuracy per attribute on uint8 renderings `(288 * n, 3, 64, 64)`, portrait-major."""
    truth = LABELS.repeat_interleave(len(held_out) // len(PORTRAITS), 0)
    with torch.no_grad():
        parts = zip(*(probe(autoencoder.to_unit(batch)) for batch in held_out.split(256)))
        hits = [(torch.cat(part).argmax(1) == truth[:, i]).float().mean().item() for i, part in enumerate(parts)]
    return dict(zip(ATTRIBUTES, hits))


@functools.cache
def load(file: Path = FILE) -> Probe:
    """The shipped probe. Raises FileNotFoundError naming the command that makes it."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file} is missing: `python -m models.portraits.train probe` makes it")
    probe = Probe()
    probe.load_state_dict({k: v.float() for k, v in load_file(file).items()})
    return probe.eval().requires_grad_(False)


def _chances(images: list[Image.Image]) -> list[Tensor]:
    """Probabilities of presentation `(N, 3)`, tone `(N, 6)` and profession `(N, 16)` of images of any size, resized to 64 x 64."""
    found = []
    for begin in range(0, len(images), 256):
        array = to_array([image.convert("RGB").resize((SIZE, SIZE)) for image in images[begin : begin + 256]])
        found.append([part.softmax(1) for part in load()(autoencoder.to_unit(torch.from_numpy(array).permute(0, 3, 1, 2)))])
    return [torch.cat(parts) for parts in zip(*found)]


def read(images: list[Image.Image]) -> list[Portrait]:
    """The attributes of each image."""
    parts = [part.argmax(1).tolist() for part in _chances(images)]
    return [Portrait(*(names[i] for names, i in zip(ATTRIBUTES.values(), row))) for row in zip(*parts)]


def professions(images: list[Image.Image], sure: float = 0.99) -> list[str | None]:
    """The profession of each image; None where the probe is not `sure` of all three attributes, as with pictures that are no portraits
    of the family (held-out renderings: all sure; of other pictures up to a fifth)."""
    best = [part.max(1) for part in _chances(images)]
    certain = torch.stack([part.values for part in best]).amin(0) >= sure
    return [ATTRIBUTES["profession"][i] if known else None for i, known in zip(best[2].indices.tolist(), certain.tolist())]


def population(images: list[Image.Image]) -> np.ndarray:
    """The histogram of the images over (presentation, tone), `(3, 6)`, summing to 1."""
    return np.bincount([portrait.cell for portrait in read(images)], minlength=18).reshape(3, 6) / len(images)
