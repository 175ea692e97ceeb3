"""The training loop of everything that is trained here: seeded per step, stoppable within one, judged on held-out data, keeping the best.

It minimises any loss over any parameters; it knows neither images nor diffusion.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fusion.memory import Parts
from models import bounded, room


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    `rate`: AdamW's learning rate after `warmup` steps; `decay`: it falls to 2 % of that along a half cosine (no use with early stopping).
    `average_over`: time constant in steps of the moving average that is judged and kept. `every`: steps between two looks at the held-out
    loss; after `patience` looks without a better one training ends.
    """

    steps: int = 400
    batch: int = 16
    rate: float = 1e-3
    seed: int = 0
    every: int = 25
    patience: int | None = 6
    warmup: int = 20
    decay: bool = False
    average_over: int = 20
    weight_decay: float = 1e-4

    def factor(self, step: int) -> float:
        """Share of `rate` at `step`."""
        rising = min(1.0, (step + 1) / max(self.warmup, 1))
        if not self.decay:
            return rising
        return rising * (0.02 + 0.98 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / max(self.steps, 1))))))


@dataclass(frozen=True)
class Course:
    """What a training did. `best`: the step whose parameters were kept; `curve`: (step, held-out loss) of every look, from step 0."""

    steps: int
    best: int
    curve: tuple[tuple[int, float], ...]
    seconds: float
    stopped: bool = False

    @property
    def gain(self) -> float:
        """Held-out loss before training minus that of what was kept; 0 without held-out data."""
        return self.curve[0][1] - min(loss for _, loss in self.curve) if self.curve else 0.0


@dataclass(frozen=True)
class Loss:
    """One draw of a loss that is a mean over `rows`: `errors(part) -> (B,)`, differentiable, of a slice of them.

    Rows may go through the network in parts, so that a batch need not fit into memory whole.
    """

    rows: int
    errors: Callable[[slice], Tensor]


Drawn = Tensor | Loss | Sequence[Loss]  # a scalar; a mean over rows; the mean of several of them


def train(parameters: Mapping[str, nn.Parameter], loss: Callable[[torch.Generator], Drawn], schedule: Schedule, *,
          held_out: Callable[[], float] | None = None, progress: Callable[[int, int, str], None] | None = None,
          stop: Callable[[], bool] | None = None, message: str = "training", checkpoint: Path | None = None,
          relief: Callable[[], bool] | None = None) -> Course:  # fmt: skip
    """Minimise `loss(generator)` over `parameters` (name -> parameter), which afterwards hold the moving average at its best held-out loss.

    `generator` is a CPU generator seeded by the schedule's seed and the step alone, so a run repeats. Without `held_out() -> float` the
    last average is kept. `stop()` is asked before every step; what was best by then is kept. `checkpoint`: a file that an interrupted run
    goes on from. `relief`: tried first where memory runs out (`fusion.memory.Parts`), before a `Loss` goes through in smaller parts.
    Raises FloatingPointError when the loss is not finite.
    """
    run = _Run(dict(parameters), schedule, held_out, Parts(relief))
    stopped = False
    if checkpoint is not None and checkpoint.is_file():
        run.resume(checkpoint)
    if run.step == 0:
        run.look()
    while run.step < schedule.steps and not run.exhausted:
        stopped = stop is not None and bool(stop())
        if stopped:
            if checkpoint is not None and run.step:
                run.save(checkpoint)
            break
        run.advance(loss)
        if run.step % schedule.every == 0 or run.step == schedule.steps:
            run.look()
            if checkpoint is not None:
                run.save(checkpoint)
        if progress is not None:
            progress(run.step, schedule.steps, message)
    run.keep_best()
    return Course(run.step, run.best_step, tuple(run.curve), time.perf_counter() - run.begun, stopped)


class _Run:
    """The state of one training: parameters, their average, the optimiser, and the best so far."""

    def __init__(self, parameters: dict[str, nn.Parameter], schedule: Schedule, held_out: Callable[[], float] | None, parts: Parts):
        self.parameters, self.schedule, self.held_out, self.parts = parameters, schedule, held_out, parts
        self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self.best = {name: p.clone() for name, p in self.average.items()}
        self.best_step, self.step, self.curve, self.begun = 0, 0, [], time.perf_counter()
        self.optimizer = torch.optim.AdamW(parameters.values(), lr=schedule.rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay)

    def advance(self, loss: Callable[[torch.Generator], Drawn]) -> None:
        """One step of AdamW, gradients clipped to norm 1, and of the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate * self.schedule.factor(self.step)
        with torch.enable_grad():
            self._collect(loss(torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + self.step)))
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        share = 1 / min(self.schedule.average_over, self.step + 1)
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.average[name].lerp_(p, share)

    def _collect(self, drawn: Drawn) -> None:
        """Add the gradient of the loss to the parameters', part by part where it does not go whole."""
        losses = [Loss(1, lambda _: drawn[None])] if isinstance(drawn, Tensor) else [drawn] if isinstance(drawn, Loss) else drawn
        for one in losses:
            self.parts(one.rows, lambda part, one=one: self._add(one.errors(part).sum() / (one.rows * len(losses))))

    def _add(self, value: Tensor) -> None:
        """One part's gradient, whole or not at all: a backward pass that ends half-way must not count."""
        if not torch.isfinite(value):
            raise FloatingPointError(f"the training loss is not finite at step {self.step + 1}: use a lower learning rate, "
                                     "or check the network's precision")  # fmt: skip
        trained = [p for p in self.parameters.values() if p.requires_grad]
        for p, gradient in zip(trained, torch.autograd.grad(value, trained, allow_unused=True)):
            if gradient is not None:
                p.grad = (torch.zeros_like(p) if p.grad is None else p.grad).add_(gradient)

    def look(self) -> None:
        """Judge the average on the held-out data; without any the latest is the best."""
        if self.held_out is None:
            self._remember()
            return
        current = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.average)
        with torch.no_grad():
            found = float(self.held_out())
        self._put(current)
        if not self.curve or found < min(loss for _, loss in self.curve):
            self._remember()
        self.curve.append((self.step, found))

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` looks brought nothing better."""
        patience, looks = self.schedule.patience, [step for step, _ in self.curve]
        return patience is not None and sum(step > self.best_step for step in looks) >= patience

    def keep_best(self) -> None:
        if self.held_out is None:
            self._remember()
        self._put(self.best)

    def _remember(self) -> None:
        self.best_step = self.step
        for name, p in self.average.items():
            self.best[name].copy_(p)

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(values[name])

    # ---------------------------------------------------------------- checkpoints

    def save(self, path: Path) -> None:
        """Everything that the next step depends on, written atomically."""
        state = {}
        for name, p in self.parameters.items():
            state |= {f"weight.{name}": p.detach(), f"average.{name}": self.average[name], f"best.{name}": self.best[name]}
            moments = self.optimizer.state.get(p, {})  # empty where no gradient has come yet
            state |= {f"{moment}.{name}": moments.get(moment, torch.zeros_like(p)) for moment in ("exp_avg", "exp_avg_sq")}
        told = {"step": self.step, "best_step": self.best_step, "curve": self.curve, "schedule": asdict(self.schedule),
                "seconds": time.perf_counter() - self.begun}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        state = {name: t.clone().contiguous() for name, t in state.items()}
        with room.writing(partial, sum(t.nbytes for t in state.values())):
            save_file(state, partial, metadata={"training": json.dumps(told)})
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Raises ValueError for a damaged checkpoint and for that of another training."""
        try:
            opened = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): delete it, and this training starts anew") from None
        with opened as file:
            told = bounded.parse((file.metadata() or {}).get("training", "null"))
            same = told is not None and told["schedule"] == json.loads(json.dumps(asdict(self.schedule)))
            if not same or set(file.keys()) != self._keys():
                raise ValueError(f"{path.name} is the checkpoint of another training: remove it, or give these settings another file")
            for name, p in self.parameters.items():
                moments = {moment: file.get_tensor(f"{moment}.{name}").to(p.device) for moment in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(float(told["step"])), **moments}
                self.average[name].copy_(file.get_tensor(f"average.{name}"))
                self.best[name].copy_(file.get_tensor(f"best.{name}"))
                with torch.no_grad():
                    p.copy_(file.get_tensor(f"weight.{name}"))
        self.step, self.best_step, self.curve = told["step"], told["best_step"], [tuple(point) for point in told["curve"]]
        self.begun -= told["seconds"]

    def _keys(self) -> set[str]:
        return {f"{kind}.{name}" for name in self.parameters for kind in ("weight", "average", "best", "exp_avg", "exp_avg_sq")}
