"""Phase 1: one representation of the condition, learned jointly over all sources by score matching. Tensors only.

After arXiv 2502.04491, section 3: `min over h, decoder (and f_1..f_K where they are trained) of
sum_k E || f_k(x_t, t, decoder(h(c))) - target ||^2`. Frozen f_k are the members' own networks, which read the whole condition; trained ones
are the theory's setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fusion.transfer.representation import Representation
from fusion.transfer.task import Condition, Task
from fusion.transfer.training import Course, Loss, Schedule, train

SCHEDULE = Schedule(steps=1200, batch=8, rate=1e-3, every=100, patience=None, warmup=50, decay=True, average_over=50)
WARM = Schedule(steps=600, batch=64, rate=2e-3, every=10**9, patience=None, warmup=50, decay=True, average_over=20)
LEVELS = 2  # of every held-out sample at a look


@dataclass(frozen=True, eq=False)
class Source:
    """One source: what is learned on, and held-out samples of the same population (the same network reads both)."""

    fitted: Task
    held_out: Task

    @property
    def name(self) -> str:
        return self.fitted.name

    @classmethod
    def of(cls, task: Task, held_out: int) -> Source:
        """The last `held_out` samples of a task are held out. Raises ValueError where nothing would be left."""
        if not 0 < held_out < len(task):
            raise ValueError(f"{task.name}: {held_out} of {len(task)} samples cannot be held out: draw more")
        rows = torch.arange(len(task))
        return cls(task.part(rows[:-held_out]), task.part(rows[-held_out:]))


def conditions_of(sources: Sequence[Source], names: Sequence[str]) -> Condition:
    """All distinct rows of the sources' conditions, the tensors `names` of them, `(P, ...)`."""
    rows = {name: torch.cat([source.fitted.condition[name] for source in sources]) for name in names}
    keys = torch.cat([tensor.float().flatten(1) for tensor in rows.values()], 1)
    seen: dict[bytes, int] = {}
    for i, key in enumerate(keys.cpu().numpy()):
        seen.setdefault(key.tobytes(), i)
    chosen = torch.tensor(sorted(seen.values()))
    return {name: tensor[chosen.to(tensor.device)] for name, tensor in rows.items()}


def learn(representation: Representation, sources: Sequence[Source], schedule: Schedule = SCHEDULE, *, warm: Schedule | None = WARM,
          progress: Callable[[int, int, str], None] | None = None, stop: Callable[[], bool] | None = None,
          message: str = "learning the representation", checkpoint: Path | None = None) -> Course:  # fmt: skip
    """Train `representation` in place, and the sources' own parameters where they have any; every step looks at all sources alike.

    warm: first learn to repeat the conditions themselves, which needs no network: a start, not the goal (None: start at random).
    """
    if not sources:
        raise ValueError("a representation needs at least one source")
    if warm is not None and not (checkpoint is not None and checkpoint.is_file()):
        repeat(representation, conditions_of(sources, list(representation.about.shapes)), warm, stop=stop)
    parameters = {f"representation.{name}": p for name, p in representation.named_parameters()}
    for k, source in enumerate(sources):
        parameters |= {f"{k}.{name}": p for name, p in source.fitted.parameters.items()}

    def loss(generator: torch.Generator) -> list[Loss]:
        return [source.fitted.loss(representation, generator, schedule.batch) for source in sources]

    def held_out() -> float:
        return float(torch.stack([source.held_out.measure(representation, levels=LEVELS).mean() for source in sources]).mean())

    return train(parameters, loss, schedule, held_out=held_out, progress=progress, stop=stop, message=message, checkpoint=checkpoint)


def repeat(representation: Representation, conditions: Condition, schedule: Schedule = WARM, *,
           stop: Callable[[], bool] | None = None) -> Course:  # fmt: skip
    """Train `decode(encode(c)) = c` on the conditions, in units of their spread."""
    spread = {name: tensor.float().std(0, correction=0) for name, tensor in conditions.items()}
    count = len(next(iter(conditions.values())))

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(count, (schedule.batch,), generator=generator)
        truth = {name: tensor[rows.to(tensor.device)].float() for name, tensor in conditions.items()}
        said = representation.decode(representation.encode(truth))
        return torch.stack([(said[name] - truth[name]).square().mean() / (spread[name].square().mean() + 1e-8) for name in truth]).mean()

    return train(dict(representation.named_parameters()), loss, replace(schedule, patience=None), stop=stop)
