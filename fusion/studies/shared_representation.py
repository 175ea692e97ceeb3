"""Transfer by a shared representation of the condition, as in the paper's experiments: score networks f(x_t, t, h(y)) and one encoder h.

Cheng, Xie, Zhang, Zhang (NeurIPS 2025, arXiv 2502.04491). Phase 1 learns h with one f for each source by denoising score matching; Phase 2
fits the target's f on few pairs, with h frozen, learned on, or both from scratch. Networks that are trained alike are stacked along a first
axis and run together. Nothing here knows what x and y are. The noise path is `x_a = cos(a) x + sin(a) e` with the angle a in (0, pi/2]: the
paper's Ornstein-Uhlenbeck process at time -log cos(a). The score that the paper speaks of is `(cos(a) x^ - x_a) / sin(a)^2` for the
denoised x^.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALLEST_ANGLE = 0.02  # the paper's early-stopping time T0


@dataclass(frozen=True)
class Sizes:
    """Numbers in x, in y and in the representation h(y); (linear layers, width) of f and of h.

    `velocity`: f outputs `v = cos(a) e - sin(a) x` (Salimans & Ho 2022), otherwise x^: a network narrower than x cannot output noise.
    """

    x: int
    y: int
    code: int
    score: tuple[int, int]
    encoder: tuple[int, int]
    velocity: bool = True


class Layers(nn.Module):
    """`count` multilayer perceptrons of equal shape, ReLU between their linear layers: `(count, N, in) -> (count, N, out)`."""

    def __init__(self, count: int, widths: list[int], generator: torch.Generator):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in zip(widths, widths[1:]):
            for kind, shape in ((self.weights, (count, fan_in, fan_out)), (self.biases, (count, 1, fan_out))):
                kind.append(nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)))  # as torch.nn.Linear

    def forward(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """`modulation`: (scale, shift) of every hidden layer, before its ReLU."""
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = torch.baddbmm(bias, x, weight)
            if number < last:
                x = (x if modulation is None else torch.addcmul(modulation[number][1], x, modulation[number][0])).relu()
        return x


class Encoder(nn.Module):
    """`count` encoders h: `(count, N, y) -> (count, N, code)`."""

    def __init__(self, sizes: Sizes, count: int, seed: int = 0):
        super().__init__()
        layers, width = sizes.encoder
        self.sizes, self.count = sizes, count
        self.layers = Layers(count, [sizes.y, *[width] * (layers - 1), sizes.code], torch.Generator().manual_seed(seed))

    def forward(self, y: Tensor) -> Tensor:
        """A single encoder takes any number of groups: `(B, N, y) -> (B, N, code)`."""
        if self.count == 1 and len(y) != 1:
            return self.layers(y.reshape(1, -1, y.shape[-1])).reshape(*y.shape[:-1], -1)
        return self.layers(y)


    @torch.no_grad()
    def standardise(self, y: Tensor) -> None:
        """Give every number of a single encoder mean 0 and deviation 1 over `y` (B, N, y): a change of units, made in the last layer."""
        code = self(y).flatten(0, -2)
        deviation = code.std(0).clamp_min(1e-9)
        self.layers.weights[-1].div_(deviation)
        self.layers.biases[-1].sub_(code.mean(0)).div_(deviation)


class Score(nn.Module):
    """`count` score networks f: `x_a (count, N, x)`, angle `(count, N)`, code `(count, N, code)` -> x^ `(count, N, x)`.

    x_a and code enter the first layer; the angle scales and shifts the hidden units (Perez et al. 2018), which adds no layer.
    """

    WAVES = 8

    def __init__(self, sizes: Sizes, count: int, seed: int = 0):
        super().__init__()
        layers, self.width = sizes.score
        self.sizes, self.count = sizes, count
        generator = torch.Generator().manual_seed(seed)
        self.layers = Layers(count, [sizes.x + sizes.code, *[self.width] * (layers - 1), sizes.x], generator)
        self.timing = Layers(count, [2 * self.WAVES, 2 * self.width * (layers - 1)], generator)

    def forward(self, x: Tensor, angle: Tensor, code: Tensor) -> Tensor:
        waves = angle[..., None] * torch.arange(1, self.WAVES + 1, dtype=angle.dtype)
        timing = self.timing(torch.cat([waves.cos(), waves.sin()], -1)).split(self.width, -1)
        output = self.layers(torch.cat([x, code], -1), [(1 + scale, shift) for scale, shift in zip(timing[::2], timing[1::2])])
        return angle.cos()[..., None] * x - angle.sin()[..., None] * output if self.sizes.velocity else output


def select(stack: Encoder | Score, numbers: Sequence[int]) -> Encoder | Score:
    """Copies of the networks `numbers` of a stack, in this order and as often as named, as a stack of their own."""
    chosen = type(stack)(stack.sizes, len(numbers))
    chosen.load_state_dict({name: values[list(numbers)] for name, values in stack.state_dict().items()})
    return chosen


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training pairs of every network of a stack: `x` (P, n, x) and `y` (P, n, y) of P populations; network b sees the first `counts[b]`
    (B,) pairs of population `of[b]` (B,). `y` may hold codes, where the encoder is frozen."""

    x: Tensor
    y: Tensor
    of: Tensor
    counts: Tensor

    @classmethod
    def all(cls, x: Tensor, y: Tensor) -> Pairs:
        """One network for each population, with all its pairs."""
        return cls(x, y, torch.arange(len(x)), torch.full((len(x),), x.shape[1]))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`(B, batch, x)` and `(B, batch, y)`, with repetition."""
        places = (torch.rand(len(self.of), batch, generator=generator) * self.counts[:, None]).long()
        rows = self.of[:, None]
        return self.x[rows, places], self.y[rows, places]


@dataclass(frozen=True)
class Training:
    """Steps and rate of Adam (half a cosine to 0 after a short warm-up). A step draws `batch` pairs a network and noises each `noises`
    times, so that the encoder, the larger part, runs once for all of them."""

    steps: int
    batch: int
    noises: int
    rate: float = 1e-3

    def factor(self, step: int) -> float:
        return min((step + 1) / min(50, self.steps / 4), 1.0) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def errors(score: Score, code: Tensor, x: Tensor, noises: int, generator: torch.Generator, *, shared: bool = False) -> Tensor:
    """`(B, N)`: denoising error for pairs `code` (B, N, code), `x` (B, N, x), over `noises` noisy copies of each.

    Mean squares of `x^ - x` over sin(a)^2, which are the velocity's; without one this weight, 1 + SNR, ends at 5 (Hang et al. 2023).
    Angles are uniform and stratified over all copies. `shared`: all networks see the same angles and noise, so that they can be compared.
    """
    x, code = x.repeat_interleave(noises, 1), code.repeat_interleave(noises, 1)
    shape = (1 if shared else len(x), *x.shape[1:])
    strata = torch.rand(shape[:2], generator=generator).argsort(1) + torch.rand(shape[:2], generator=generator)
    angle = (SMALLEST_ANGLE + (math.pi / 2 - SMALLEST_ANGLE) * strata / shape[1]).expand(len(x), -1)
    noisy = angle.cos()[..., None] * x + angle.sin()[..., None] * torch.randn(shape, generator=generator)
    weight = angle.sin().pow(-2) if score.sizes.velocity else angle.sin().pow(-2).clamp(max=5)
    error = (score(noisy, angle, code) - x).square().mean(-1) * weight
    return error.view(len(x), -1, noises).mean(-1)


class Stopped(RuntimeError):
    """Training was asked to end before it was done."""


def train(score: Score, encoder: Encoder | None, pairs: Pairs, training: Training, *, seed: int = 0,
          looks: Mapping[int, Callable[[], None]] | None = None, progress: Callable[[int, int, str], None] | None = None,
          stop: Callable[[], bool] | None = None, message: str = "training") -> None:  # fmt: skip
    """Minimise the denoising loss of every network of the stack, and of `encoder`, in place; without one `pairs.y` holds codes.

    Sums over networks leave each its own gradient, and Adam its own step: a stack trains like its networks apart (no gradient is clipped,
    for that would tie them together). Products run in bfloat16, as in `models.portraits`. `looks`: called after the steps that are its
    keys. Raises Stopped when `stop()`.
    """
    parameters = [*score.parameters(), *(encoder.parameters() if encoder is not None else ())]
    optimizer = torch.optim.Adam(parameters, lr=training.rate, betas=(0.9, 0.99), fused=True)
    generator = torch.Generator().manual_seed(seed)
    for step in range(training.steps):
        if stop is not None and step % 20 == 0 and stop():
            raise Stopped(message)
        optimizer.param_groups[0]["lr"] = training.rate * training.factor(step)
        x, y = pairs.draw(training.batch, generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = errors(score, y if encoder is None else encoder(y), x, training.noises, generator).mean(1).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{message}: the loss is not finite at step {step + 1}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if looks and step + 1 in looks:
            looks[step + 1]()
        if progress is not None and (step + 1) % 20 == 0:
            progress(step + 1, training.steps, message)


@torch.no_grad()
def sample(score: Score, code: Tensor, draws: int, *, steps: int = 25, seed: int = 0, half: bool = False) -> Tensor:
    """`(B, N, draws, x)`: samples of `p(x | code)`, code (B, N, code), by the probability-flow ODE: `steps` turns by
    the velocity `v = (cos(a) x_a - x^) / sin(a)` (DDIM; Salimans & Ho 2022, appendix D).

    `draws` is even: every starting noise comes with its negative, which all but removes the sampling error of a mean. All networks and
    conditions start from the same noise. `half`: networks run in bfloat16.
    """
    if draws % 2:
        raise ValueError(f"samples come in antithetic pairs: ask for an even number, not {draws}")
    size = score.sizes.x
    start = torch.randn(draws // 2, size, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([start, -start]).repeat(code.shape[1], 1).expand(len(code), -1, -1)
    code = code.repeat_interleave(draws, 1)
    turn = math.pi / 2 / steps
    for step in range(steps):
        angle = math.pi / 2 - step * turn
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            clean = score(x, torch.full(x.shape[:2], angle), code).float()
        x = math.cos(turn) * x - math.sin(turn) * (math.cos(angle) * x - clean) / math.sin(angle)
    return x.view(len(code), -1, draws, size)
