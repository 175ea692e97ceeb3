"""Phase 2: fit one member to a few target images by a small LoRA, with its prompts read as they are or through a representation.

The early stopping looks at held-out ones of the target images, at the same noise every time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fusion import pace
from fusion.kept import digest, identities
from fusion.transfer.networks import RANK, TransferError, adapted, plain_attention, recomputing, task_of, trainable_copy
from fusion.transfer.representation import Representation
from fusion.transfer.task import Condition, Task, same
from fusion.transfer.trained import Trained
from fusion.transfer.training import Schedule, train
from models.ensemble import Ensemble

SCHEDULE = Schedule(steps=300, batch=16, rate=2e-4, every=20, patience=4, average_over=20)
LIGHT = 100_000_000  # parameters of networks whose forward pass on a processor nobody notices
LEVELS = 8  # noise levels of every held-out image at a look


def split(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices `(training, held out)` of `count` images: a quarter, at least one, is held out. TransferError for fewer than 2."""
    if count < 2:
        raise TransferError(f"training needs at least 2 target images, one of them to tell when to stop, but there is {count}: add images")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(1, round(count / 4))
    return order[held:].sort().values, order[:held].sort().values


@dataclass(frozen=True, eq=False)
class _Bench:
    """What one adaptation works on: member k's trainable copy, its LoRA, the representation, all that is trained, the target's task."""

    network: nn.Module
    lora: Mapping[str, nn.Parameter]
    code: Representation | None
    parameters: Mapping[str, nn.Parameter]
    task: Task

    @classmethod
    def of(cls, ensemble: Ensemble, k: int, images, prompts, representation, freeze: bool, rank: int, seed: int) -> _Bench:
        network, lora = trainable_copy(ensemble.members[k], rank, seed)
        plain_attention(network)
        code, parameters = None, dict(lora)
        if representation is not None:
            code = copy.deepcopy(representation).to(network.device).requires_grad_(not freeze)
            parameters |= {} if freeze else {f"representation.{name}": p for name, p in code.named_parameters()}
        return cls(network, lora, code, parameters, task_of(ensemble, k, network, list(images), list(prompts)))

    @property
    def represent(self) -> Callable[[Condition], Condition]:
        return self.code or same


def adapt(ensemble: Ensemble, k: int, images: Sequence[Image.Image], prompts: Sequence[str], *, method: str,
          representation: Representation | None = None, freeze: bool = True, rank: int = RANK, schedule: Schedule | None = None,
          notes: Mapping | None = None, progress: Callable[[int, int, str], None] | None = None,
          stop: Callable[[], bool] | None = None, work: Path | None = None) -> Trained:  # fmt: skip
    """Train a LoRA on member k (Hu et al. 2021) for these images; nothing of the ensemble changes.

    representation: what prompts go through; `freeze=False` trains it, too (a copy of it). When `stop()` turns true, what was best so far is
    kept. schedule: None for `SCHEDULE`. work: a folder where a training that was stopped is kept, and goes on from.
    Raises TransferError for fewer than 2 images and for networks that cannot be trained.
    """
    schedule = schedule or SCHEDULE
    fitted, held = split(len(images), schedule.seed)
    bench = _Bench.of(ensemble, k, images, prompts, representation, freeze, rank, schedule.seed)
    task, judge, batch = bench.task.part(fitted), bench.task.part(held), _batch(schedule, len(fitted))
    checkpoint = None if work is None else work / f"training-{_name(ensemble, k, images, prompts, representation, freeze, rank, schedule)}"
    course = train(
        bench.parameters, lambda generator: task.loss(bench.represent, generator, batch), schedule,
        held_out=lambda: judge.measure(bench.represent, levels=LEVELS).mean().item(), progress=progress, stop=stop,
        message=f"training {ensemble.names[k]} on {len(task)} images", relief=lambda: recomputing(bench.network),
        checkpoint=checkpoint,
    )  # fmt: skip
    _note(ensemble.members[k].network, course, schedule, len(images))
    kept = {name: p.detach().cpu().clone() for name, p in bench.lora.items()}
    code = None if bench.code is None else bench.code.cpu().requires_grad_(False)
    return Trained(method, ensemble.names[k], rank, kept, course, (len(fitted), len(held)), code, dict(notes or {}))


def _note(network: nn.Module, course, schedule: Schedule, images: int) -> None:
    """Leave the pace of a training behind and, where it came to its end, how far it went."""
    pace.record([network], "train", course.seconds, _copies(images, schedule, course.steps, len(course.curve)))
    if not course.stopped:
        pace.record([network], "course", course.steps, schedule.steps)


def _name(ensemble: Ensemble, k: int, images, prompts, representation, freeze: bool, rank: int, schedule: Schedule) -> str:
    """The file of a training: another one for whatever it depends on."""
    code = b"" if representation is None else representation.to_bytes()
    shown = [image.tobytes() for image in images]
    return digest(identities(ensemble)[k], *shown, *prompts, code, freeze, rank, schedule) + ".safetensors"


def _batch(schedule: Schedule, images: int) -> int:
    """Twice as many noisy copies a step as there are images, at most: more of so few say little more."""
    return min(schedule.batch, 2 * images)


def with_trained(ensemble: Ensemble, trained: Trained) -> Ensemble:
    """The ensemble of the one adapted member. Raises TransferError when it is not among the members, TrainedError when it is another."""
    if trained.member not in ensemble.names:
        raise TransferError(f"this was trained on {trained.member}, which is not among {', '.join(ensemble.names)}: choose it, too")
    k = ensemble.names.index(trained.member)
    network, lora = trainable_copy(ensemble.members[k], trained.rank)
    trained.fill(lora)
    network.requires_grad_(False)
    code = trained.representation
    return adapted(ensemble, k, network, None if code is None else copy.deepcopy(code).to(network.device))


def seconds(ensemble: Ensemble, k: int, images: int, schedule: Schedule | None = None) -> float:
    """How long `adapt` takes here on so many images: from the trainings of this network before, their pace and what share of their steps
    they went; before the first, all steps at the pace of a timed forward pass (`probe`), which is the most that it takes."""
    schedule = schedule or SCHEDULE
    steps = round(schedule.steps * (share(ensemble, k) or 1.0))
    return _copies(images, schedule, steps, 1 + steps // schedule.every) * probe(ensemble, k)


def share(ensemble: Ensemble, k: int) -> float | None:
    """What share of its steps the last training of member k went before nothing better came; None before the first."""
    return pace.of([ensemble.members[k].network], "course")


def _copies(images: int, schedule: Schedule, steps: int, looks: int) -> int:
    """Forward passes of one noisy copy that so many steps and looks at the held-out images take; a backward pass counts as two."""
    fitted, held = split(images, schedule.seed)
    return 3 * steps * _batch(schedule, len(fitted)) + looks * 2 * LEVELS * len(held)


def probe(ensemble: Ensemble, k: int) -> float:
    """Seconds of member k's forward pass for one noisy copy while it is trained, as last measured; where nothing was, timed now."""
    network = ensemble.members[k].network
    known = pace.of([network], "train")
    if known is None:
        copied, _ = trainable_copy(ensemble.members[k], 0)
        plain_attention(copied)
        task = task_of(ensemble, k, copied, [Image.new("RGB", ensemble.size[::-1])], [""])
        found = [_timed(lambda: task.measure(same, levels=1)) / 2]  # also prepares kernels: counts only where even this takes long
        if found[0] < 2:
            found = [_timed(lambda: task.measure(same, levels=8)) / 16 for _ in range(3)]  # the least: others may be at work here, too
        known = min(found)
        pace.record([network], "train", known, 1)
    return known


def probe_all(ensemble: Ensemble) -> None:
    """A first pace of every member where nothing ran yet, from one small forward pass each: tenths of a second for small networks on a
    processor, less on a GPU. Of networks that would take longer nothing is timed."""
    networks = pace.networks_of(ensemble)
    heavy = ensemble.device.type == "cpu" and sum(p.numel() for network in networks for p in network.parameters()) > LIGHT
    if heavy or pace.of(networks, "draw", pixels=pace.pixels(ensemble)) is not None:
        return
    for k in range(len(ensemble)):
        probe(ensemble, k)


def _timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = pace.clock()
    work()
    return pace.clock() - begun
