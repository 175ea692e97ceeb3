"""The training loop that every network of the family goes through: seeded per step, resumable, logged, averaged.

A checkpoint is one safetensors file (weights, moving average, Adam moments) and is written atomically, so a killed run goes on from its
last one and draws the same batches as an unbroken run. This module knows neither portraits nor diffusion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def cosine(step: int, steps: int, *, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor in [floor, 1]: linear warm-up, then a half cosine."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Trainer:
    """Minimise `loss(generator)` over the trainable parameters of `module`.

    After `run()` the module holds the exponential moving average of its parameters (time constant `average_over` steps).
    """

    def __init__(self, module: nn.Module, loss: Callable[[torch.Generator], Tensor], *, name: str, work: Path, steps: int,
                 lr: float, seed: int = 0, average_over: int = 300, save_every: int = 250, log_every: int = 50):
        self.module, self.loss, self.name, self.work, self.steps, self.lr, self.seed = module, loss, name, Path(work), steps, lr, seed
        self.average_over, self.save_every, self.log_every = average_over, save_every, log_every
        self.parameters = {k: p for k, p in module.named_parameters() if p.requires_grad}
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.work / f"{self.name}.checkpoint.safetensors"

    def save(self) -> None:
        state = {f"weight.{k}": p.detach().clone() for k, p in self.parameters.items()}
        state |= {f"average.{k}": p.clone() for k, p in self.average.items()}
        for k, p in self.parameters.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if p in self.optimizer.state:
                    state[f"{moment}.{k}"] = self.optimizer.state[p][moment].clone()
        self.work.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        save_file(state, partial, metadata={"step": str(self.step)})
        partial.replace(self.checkpoint)

    def resume(self) -> None:
        """Continue from the checkpoint of this name, if there is one."""
        if not self.checkpoint.is_file():
            return
        from safetensors import safe_open

        with safe_open(self.checkpoint, "pt") as file:
            self.step = int(file.metadata()["step"])
        state = load_file(self.checkpoint)
        with torch.no_grad():
            for k, p in self.parameters.items():
                p.copy_(state[f"weight.{k}"])
                self.average[k].copy_(state[f"average.{k}"])
                if f"exp_avg.{k}" in state:
                    self.optimizer.state[p] = {"step": torch.tensor(float(self.step)), "exp_avg": state[f"exp_avg.{k}"].to(p.device),
                                               "exp_avg_sq": state[f"exp_avg_sq.{k}"].to(p.device)}
        self.log(f"resumed at step {self.step}")

    def log(self, message: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.name} {message}"
        print(line, flush=True)
        self.work.mkdir(parents=True, exist_ok=True)
        with open(self.work / f"{self.name}.log", "a") as file:
            file.write(line + "\n")

    def run(self) -> nn.Module:
        self.resume()
        device = next(iter(self.parameters.values())).device
        running, begun = None, time.time()
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * cosine(self.step, self.steps)
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
            with torch.autocast(device.type, torch.bfloat16):
                loss = self.loss(generator)
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            rate = 1 / min(self.average_over, self.step + 1)
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], rate)
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            if self.step % self.log_every == 0:
                self.log(f"step {self.step}/{self.steps} loss {running:.5f} ({time.time() - begun:.0f} s)")
            if self.step % self.save_every == 0 or self.step == self.steps:
                self.save()
        with torch.no_grad():
            for k, p in self.parameters.items():
                p.copy_(self.average[k])
        return self.module
