"""Score matching on one population: clean samples with their conditions, and the network that denoises them. Tensors only.

The loss is `E || f(x_t, t, c) - target ||^2 / D` in the network's own parametrisation, uniform in its training timestep (Ho et al. 2020,
eq. 14), with levels stratified over the batch. The target is the exact one for the finite set: given `x_t`, the posterior mean over the
samples of the same condition (Xu et al. 2023, "Stable target field"): same minimiser, less noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fusion.memory import Parts
from fusion.transfer.training import Loss

Condition = Mapping[str, Tensor]  # what a network is conditioned on, by name; a row of every tensor for each distinct condition


class Stopped(RuntimeError):
    """Long work was stopped before it had a result."""


def same(condition: Condition) -> Condition:
    """The representation that changes nothing: networks read the whole condition."""
    return condition


@dataclass(frozen=True, eq=False)
class Task:
    """One population to learn.

    `x0` (n, ...): clean samples; `condition`: tensors `(P, ...)` of the P distinct conditions; `index` (n,): which of them each sample has.
    `predict(x_t, level, condition) -> (B, ...)`: the network's prediction, differentiable; `condition` then has a row for each of the B.
    `path`: its `models.noise.NoisePath`, or anything with `coefficients`, `from_pair`, `training_levels`, `terminal`.
    `parameters`: name -> what may be trained of the network; none where it is frozen.
    """

    name: str
    x0: Tensor
    condition: Condition
    index: Tensor
    predict: Callable[[Tensor, Tensor, Condition], Tensor]
    path: object
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def __post_init__(self):
        if len(self.x0) != len(self.index) or not len(self.x0):
            raise ValueError(f"{self.name}: {len(self.x0)} samples with {len(self.index)} conditions: give at least one, each with its own")

    def __len__(self) -> int:
        return len(self.x0)

    def part(self, rows: Tensor) -> Task:
        """The same population with some of its samples."""
        return Task(self.name, self.x0[rows], self.condition, self.index[rows], self.predict, self.path, self.parameters)

    def loss(self, represent: Callable[[Condition], Condition], generator: torch.Generator, batch: int) -> Loss:
        """One draw of the training loss: `batch` samples, without repetition while there are enough, at stratified levels."""
        rounds = [torch.randperm(len(self), generator=generator) for _ in range(-(-batch // len(self)))]
        rows = torch.cat(rounds)[:batch]
        level = stratified_levels(self.path, 1, batch, generator)[0]
        noise = torch.randn((batch, *self.x0.shape[1:]), generator=generator)
        return Loss(batch, lambda part: self._errors(represent, rows[part], level[part], noise[part]))

    @torch.no_grad()
    def measure(self, represent: Callable[[Condition], Condition], *, levels: int = 8, seed: int = 0, batch: int = 64,
                stop: Callable[[], bool] | None = None) -> Tensor:  # fmt: skip
        """`(n,)` float64: each sample's loss, over `levels` stratified levels with an antithetic pair of noises at each.

        The draws depend on the seed and the sample's place alone, so that two networks or representations are compared on the same ones.
        Raises Stopped.
        """
        generator = torch.Generator().manual_seed(seed)
        level = stratified_levels(self.path, len(self), levels, generator)  # (n, L)
        noise = torch.randn((len(self), levels, *self.x0.shape[1:]), generator=generator)
        rows = torch.arange(len(self)).repeat_interleave(2 * levels)
        level, noise = level.flatten().repeat_interleave(2), torch.stack([noise, -noise], 2).flatten(0, 2)

        def errors(part: slice) -> Tensor:
            if stop is not None and stop():
                raise Stopped(f"stopped while {self.name} was measured")
            return self._errors(represent, rows[part], level[part], noise[part]).double().cpu()

        return torch.cat(Parts()(len(rows), errors, most=batch)).view(len(self), 2 * levels).mean(1)

    def _errors(self, represent: Callable, rows: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """`(B,)` mean square errors."""
        device = self.x0.device
        x0, level, noise, index = self.x0[rows.to(device)], level.to(device), noise.to(device), self.index[rows.to(self.index.device)]
        a, s = (c.view(-1, *[1] * (x0.ndim - 1)) for c in self.path.coefficients(level))
        x_t = a * x0 + s * noise
        mean = posterior_means(x_t, a, s, self.x0, self.index, index)
        target = self.path.from_pair(mean, (x_t - a * mean) / s, level)
        condition = represent({name: tensor[index.to(tensor.device)] for name, tensor in self.condition.items()})
        return (self.predict(x_t, level, condition).float() - target).square().flatten(1).mean(1)


def stratified_levels(path: object, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """`(rows, count)` float32 levels: one in each of `count` equal strata of the training timestep, in random order."""
    table = torch.tensor(path.training_levels[:-1] if path.terminal else path.training_levels, dtype=torch.float64)
    share = (torch.arange(count) + torch.rand(rows, count, generator=generator, dtype=torch.float64)) / count
    share = torch.gather(share, 1, torch.rand(rows, count, generator=generator).argsort(1))
    place = share * (len(table) - 1)
    left = place.long().clamp(max=len(table) - 2)
    return torch.lerp(table[left], table[left + 1], place - left).float()


def posterior_means(x_t: Tensor, a: Tensor, s: Tensor, samples: Tensor, groups: Tensor, of: Tensor) -> Tensor:
    """`E[x0 | x_t]` over the finite `samples` (n, ...) of group `of` (B,): `p_m ~ exp(-||x_t - a x_m||^2 / 2 s^2)`. `(B, ...)`."""
    flat, x, a, s = samples.flatten(1), x_t.flatten(1), a.reshape(-1, 1), s.reshape(-1, 1)
    logits = (a * (x @ flat.T) - a**2 * flat.square().sum(1) / 2) / s**2  # (B, n)
    others = (groups[None, :] != of[:, None]).to(x.device)
    return (logits.masked_fill(others, -torch.inf).softmax(1) @ flat).view_as(x_t)
