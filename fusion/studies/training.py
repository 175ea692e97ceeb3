"""Small score networks of the studies: one noise path for all, trained on a few samples with early stopping, kept as safetensors.

A network is any module `(x_t, level) -> v`, the v prediction (Salimans & Ho 2022) for `level = -logSNR` `(B,)`. Levels are drawn uniformly
in logSNR, the weighting of the likelihood. This module knows neither digits nor mixtures of Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusion.studies.shelf import undamaged
from models.noise import NoisePath
from models.portraits.loop import cosine

Noise = Callable[[Tensor, Tensor], Tensor]  # (x_t, level) -> predicted noise


def even_path(lowest: float, highest: float, steps: int = 1000) -> NoisePath:
    """A variance-preserving path whose training levels are even in logSNR, for v prediction."""
    levels = torch.linspace(lowest, highest, steps, dtype=torch.float64)
    return NoisePath("vp", "v_prediction", tuple(levels.tolist()), tuple(map(float, range(steps))))


def embedding(level: Tensor, size: int) -> Tensor:
    """`(B, size)`: sines and cosines of the level at frequencies 1/8 to 8, what a network is told about the noise."""
    rates = torch.logspace(-3, 3, size // 2, base=2.0).to(level)
    angle = level[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], 1)


def noise_of(network: nn.Module, path: NoisePath, *, half: bool = False) -> Noise:
    """The noise that a network predicts; `half`: in bfloat16, enough where data is smooth at the scale of its rounding."""

    def noise(x: Tensor, level: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            predicted = network(x, level)
        return path.to_noise(predicted.float(), x, level)

    return noise


def stacked(members: list[Noise]) -> Callable[[Tensor, Tensor], Tensor]:
    """`predict(x_t, level) -> (K, B, ...)`, what `fusion.objective.residual_gram` takes."""
    return lambda x, level: torch.stack([member(x, level) for member in members])


def fused(members: list[Noise], weights) -> Noise:
    """The weighted average of members' noise; `weights.at(level)`, `(K,)` or per level. A member without weight is not called."""

    def noise(x: Tensor, level: Tensor) -> Tensor:
        w = weights.at(float(level[0]))  # a batch is at one level when sampling
        return sum(float(share) * member(x, level) for share, member in zip(w, members) if share > 0)

    return noise


def denoising_loss(network: nn.Module, path: NoisePath, x0: Tensor, eps: Tensor, level: Tensor, *, half: bool = True) -> Tensor:
    """Mean squared error of the v prediction."""
    a, s = (c.view(-1, *[1] * (x0.ndim - 1)) for c in path.coefficients(level))
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=half):
        predicted = network(a * x0 + s * eps, level)
    return (predicted.float() - (a * eps - s * x0)).square().mean()


def train(network: nn.Module, path: NoisePath, draw: Callable[[Tensor, torch.Generator], Tensor], count: int, *, steps: int,
          batch: int = 64, lr: float = 2e-3, seed: int = 0, average_over: int = 150, held_out: float = 0.0, every: int = 50,
          patience: int = 6, half: bool = True, progress=None, stop=None) -> dict:  # fmt: skip
    """Fit `network` to `count` samples, of which `draw(indices, generator)` gives some. It ends as its moving average of parameters.

    `held_out` > 0: this share of the samples is kept apart; every `every` steps the average is scored on it with fixed noise, the best one
    is kept, and training ends after `patience` scores without a better one. Returns `{"steps", "kept", "loss", "held_out_loss"}`, `kept`
    being the step whose parameters the network has.
    Raises RuntimeError when stopped: half a network is none.
    """
    own = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=own)
    judges = max(1, round(held_out * count)) if held_out else 0
    pupils, judge = order[judges:], _Judge(network, path, draw, order[:judges], seed, half) if judges else None
    parameters = [p for p in network.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    low, high = path.range
    running, best, at, kept, waited = math.nan, math.inf, steps, average, 0
    for step in range(steps):
        if stop is not None and stop():
            raise RuntimeError("stopped while a network was trained")
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(step, steps, warmup=min(50, steps // 4))
        x0 = draw(pupils[torch.randint(len(pupils), (batch,), generator=own)], own)
        # even coverage of the levels in every batch
        level = low + (high - low) * ((torch.randperm(batch, generator=own) + torch.rand(batch, generator=own)) / batch)
        loss = denoising_loss(network, path, x0, torch.randn(x0.shape, generator=own), level, half=half)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 / min(average_over, step + 2))
        if judge is not None and (step + 1) % every == 0:
            score = judge(average)
            waited = 0 if score < best else waited + 1
            if score < best:
                best, at, kept = score, step + 1, [p.clone() for p in average]
            if waited >= patience:
                break
        if progress is not None and (step + 1) % 25 == 0:
            progress(step + 1, steps, "training")
    _assign(parameters, kept)
    return {"steps": step + 1, "kept": at, "loss": running, "held_out_loss": best if judge is not None else None}


class _Judge:
    """Loss of a set of parameters on samples kept apart, always with the same noise: eight levels each, antithetic."""

    def __init__(self, network, path, draw, samples: Tensor, seed: int, half: bool):
        own = torch.Generator().manual_seed(seed + 1)
        self.network, self.path, self.half = network, path, half
        low, high = path.range
        self.parts = []
        for at in range(8):
            x0 = draw(samples, own)
            eps = torch.randn(x0.shape, generator=own)
            level = low + (high - low) * (at + torch.rand(len(x0), generator=own)) / 8
            self.parts += [(x0, eps, level), (x0, -eps, level)]

    def __call__(self, parameters: list[Tensor]) -> float:
        live = [p for p in self.network.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in live]
        _assign(live, parameters)
        with torch.no_grad():
            total = sum(denoising_loss(self.network, self.path, *part, half=self.half).item() for part in self.parts)
        _assign(live, before)
        return total / len(self.parts)


def _assign(parameters: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(parameters, values)


def remembered(network: nn.Module, file: Path, fit: Callable[[], dict]) -> nn.Module:
    """`network` from `file`, or after `fit()` trained it, which then writes the file; frozen."""
    if file.is_file():
        with undamaged(file):
            network.load_state_dict(load_file(file))
    else:
        story = fit()
        partial = file.with_suffix(".partial")
        save_file(network.state_dict(), partial, metadata={k: str(v) for k, v in story.items()})
        partial.replace(file)
    return network.requires_grad_(False).eval()
