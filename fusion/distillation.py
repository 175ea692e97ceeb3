"""One model's cost: a LoRA trained to give the fused prediction, with the fused ensemble as its teacher and no images at all.

The teacher draws: on its own sampling trajectories every noisy latent comes with the fused prediction, which is what the student learns,
by squared error (score distillation along the teacher's trajectories, as in progressive distillation, Salimans & Ho 2022, without fewer
steps). Trajectories have different numbers of steps, so that the student meets all noise levels. The student is one member with a LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fusion.memory import Parts
from fusion.methods.drawing import arguments_for, draw, generators_for, mean_weights, quiet, values_of, weights_for
from fusion.methods.plan import SamplingPlan
from fusion.sampler import fused
from fusion.transfer.networks import ADAPTER, conditions, plain_attention, precision, put, recomputing, trainable_copy
from fusion.transfer.training import Course, Loss, Schedule, train
from models import room
from models.conditioning import named_arguments
from models.ensemble import Ensemble

STEPS = (8, 12, 20)  # sampling steps of the trajectories, in turn
BATCH = 32  # trajectories drawn together
HELD_OUT = 1 / 8  # share of the trajectories
SCHEDULE = Schedule(steps=800, batch=16, rate=1e-3, every=50, patience=None, decay=True, average_over=50)


class DistillError(ValueError):
    """Something cannot be distilled; the message names the cause and the cure."""


@dataclass(frozen=True, eq=False)
class Lessons:
    """What the teacher said. `x` (M, ...): what it was given; `t` (M,): at which timestep; `said` (M, ...): its prediction;
    `prompt` (M,): index into `prompts`; `run` (M,): number of the trajectory."""

    x: Tensor
    t: Tensor
    said: Tensor
    prompt: Tensor
    run: Tensor
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)

    def part(self, rows: Tensor) -> Lessons:
        return Lessons(self.x[rows], self.t[rows], self.said[rows], self.prompt[rows], self.run[rows], self.prompts)

    def split(self) -> tuple[Lessons, Lessons]:
        """`(to learn from, held out)`: whole trajectories; the last ones are held out."""
        runs = int(self.run.max()) + 1
        held = self.run >= runs - max(1, round(HELD_OUT * runs))
        return self.part((~held).nonzero()[:, 0]), self.part(held.nonzero()[:, 0])


@dataclass(frozen=True, eq=False)
class Distilled:
    """`tensors`: the LoRA by the network's parameter names, `rank`: its rank, on member `student`'s network (`base`: that member's card).

    `unexplained`: mean square error of the student's predictions on held-out trajectories over that of the student before training: 0 is
    the fused prediction itself, 1 is nothing learned.
    """

    tensors: Mapping[str, Tensor]
    rank: int
    student: str
    base: object
    course: Course
    unexplained: float
    lessons: int

    def save(self, folder: str | Path, ensemble: Ensemble) -> Path:
        """Write a LoRA folder that diffusers' `load_lora_weights` and `MODEL+FOLDER` here understand. Returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        layers = {name.replace(f".{ADAPTER}.", "."): tensor.contiguous() for name, tensor in self.tensors.items()}
        cls = ensemble.members[ensemble.names.index(self.student)].pipeline_class
        with room.writing(folder, sum(tensor.nbytes for tensor in layers.values())):
            cls.save_lora_weights(folder, **{f"{ensemble.family.slot}_lora_layers": layers})
        return folder


def distill(ensemble: Ensemble, weights, prompts: Sequence[str], *, trajectories: int = 256, rank: int = 16, seed: int = 0,
            schedule: Schedule = SCHEDULE, progress: Callable[[int, int, str], None] | None = None,
            stop: Callable[[], bool] | None = None) -> Distilled:  # fmt: skip
    """Train a LoRA on the member of largest weight to predict what the members fused with `weights` ((K,) or `Weights`) predict.

    prompts: what the teacher draws, in turn; a tenth of its trajectories has the empty prompt, so that guidance works on the student, too.
    Adapters on one base are distilled onto the bare base. Raises DistillError for a weight of 1 (there is nothing to distil), for families
    that take no LoRA, for members merged with their adapter, and when stopped before the teacher was done; TransferError for networks that
    cannot be trained where they are. A batch that memory has no room for goes through the student in parts, to the same gradient.
    """
    if trajectories < 2:
        raise DistillError(f"{trajectories} trajectory cannot be learned from and held out at once: give at least 2, better 256")
    order = _student_first(ensemble, weights)
    team = ensemble.subset(order)
    student = _bare(team)
    network, lora = trainable_copy(student.members[0], rank, seed)  # before the teacher draws: it may be refused
    plain_attention(network)
    lessons = teach(team, _permuted(weights, order), list(prompts), trajectories, seed=seed, progress=progress, stop=stop)
    learn, held = lessons.split()
    predict = _predictor(student, network, lessons.prompts)
    before = _error(predict, held)
    course = train(lora, lambda generator: _loss(predict, learn, schedule.batch, generator), schedule,
                   held_out=lambda: _error(predict, held), progress=progress, stop=stop, message="the student learns",
                   relief=lambda: recomputing(network))  # fmt: skip
    kept = {name: p.detach().cpu().clone() for name, p in lora.items()}
    return Distilled(kept, rank, team.names[0], student.cards[0], course, _error(predict, held) / max(before, 1e-30), len(lessons))


def teach(ensemble: Ensemble, weights, prompts: list[str], trajectories: int, *, seed: int = 0, progress=None, stop=None) -> Lessons:
    """Draw trajectories with the fused members and keep what their denoiser was given and said, in member 0's parametrisation."""
    every = [("" if i % 10 == 9 and ensemble.family.text else prompts[(i - i // 10) % len(prompts)]) for i in range(trajectories)]
    distinct, heard = tuple(dict.fromkeys(every)), []
    for begin in range(0, trajectories, BATCH):
        rows = range(begin, min(begin + BATCH, trajectories))
        plan = SamplingPlan([every[i] for i in rows], [seed + i for i in rows], steps=STEPS[begin // BATCH % len(STEPS)],
                            batch_size=len(rows), stop=stop)  # fmt: skip
        with precision(ensemble.members[0].network):
            drawn = list(draw(ensemble, plan, weights, method="teacher", images=_listener(heard, distinct, seed)))
        if len(drawn) < len(rows):
            raise DistillError("stopped before the teacher had drawn its trajectories: start again")
        if progress is not None:
            progress(rows.stop, trajectories, "the fused models draw")
    return Lessons(*(torch.cat(parts) for parts in zip(*heard)), prompts=distinct)


def _listener(heard: list, prompts: tuple[str, ...], first: int) -> Callable:
    """Draws a batch for `drawing.draw` and appends `(x, t, said, prompt, run)` of every step to `heard`, on the CPU; decodes nothing."""

    def images(ensemble, plan, weights, batch, advance) -> tuple[list, list]:
        prompt = torch.tensor([prompts.index(one) for one, _ in batch])
        run = torch.tensor([one - first for _, one in batch])
        mine = []  # a batch that memory has no room for is drawn again in halves: what it said until then does not count

        def listen(denoiser: nn.Module, args: tuple, kwargs: dict, found) -> None:
            given = named_arguments(denoiser.networks[0], args, kwargs)
            x = given[ensemble.family.sample]
            t = torch.as_tensor(given["timestep"], device=x.device).float().expand(len(x))
            mine.append((x.float().cpu(), t.cpu(), found[0].float().cpu(), prompt, run))
            advance()

        with fused(ensemble, weights, reading="cut") as pipeline:  # the student hears prompts as its trainer records them
            getattr(pipeline, ensemble.family.slot).register_forward_hook(listen, with_kwargs=True)  # a denoiser of this call alone
            arguments = arguments_for(pipeline, plan, ensemble, batch)
            quiet(pipeline)
            with torch.no_grad():
                drawn = list(pipeline(**arguments, generator=generators_for(batch), output_type="latent").images)
        heard.extend(mine)
        return drawn, []

    return images


# ------------------------------------------------------------------------------------------------ the student

def _student_first(ensemble: Ensemble, weights) -> list[int]:
    """The members with weight, the heaviest first."""
    shares = mean_weights(weights)
    if len(shares) != len(ensemble):
        raise DistillError(f"{len(shares)} weights for {len(ensemble)} models: give one weight for each model")
    weights_for(len(ensemble), weights, levels=True)
    order = sorted(np.flatnonzero(shares > 0).tolist(), key=lambda k: -shares[k])
    if len(order) < 2:
        raise DistillError(f"only {ensemble.names[order[0]]} has weight, which is one model already: there is nothing to distil")
    if not ensemble.family.text:
        raise DistillError(f"{ensemble.family.title} takes no LoRA: use `merge` for one model's cost")
    return order


def _permuted(weights, order: list[int]):
    """Weights in the order of the members of the teacher."""
    values = values_of(weights)[..., order]
    if not hasattr(weights, "values"):
        return values
    return replace(weights, values=values, interval=None, names=tuple(weights.names[k] for k in order))


def _bare(team: Ensemble) -> Ensemble:
    """The ensemble of the student alone: member 0 without its adapter."""
    member = team.members[0]
    if not member.card.adapters:
        return team.subset([0])
    if member.switch is None:
        raise DistillError(f"{member.name} is merged with its adapter, so its base is not there to learn: load with lora='switch', "
                           "or, for an adapter that is no plain LoRA, name its base as a member of its own")  # fmt: skip
    return Ensemble((replace(member, card=member.card.wearing(()), adapter=None),), team.family, team.size)


def _predictor(student: Ensemble, network: nn.Module, prompts: tuple[str, ...]) -> Callable[[Lessons], Tensor]:
    """`predict(lessons) -> (B, ...)`: the student's raw predictions, differentiable."""
    arguments, condition = conditions(student, 0, list(prompts))
    name = student.family.sample

    def predict(lessons: Lessons) -> Tensor:
        device = network.device
        rows = {key: tensor[lessons.prompt.to(tensor.device)] for key, tensor in condition.items()}
        given = {name: lessons.x.to(device, network.dtype), "timestep": lessons.t.to(device), **put(arguments, rows)}
        with precision(network):
            return network(**given, return_dict=False)[0].float()

    return predict


def _errors(predict: Callable[[Lessons], Tensor], lessons: Lessons) -> Tensor:
    """`(B,)` mean square errors."""
    found = predict(lessons)
    return (found - lessons.said.to(found.device)).square().flatten(1).mean(1)


def _loss(predict: Callable[[Lessons], Tensor], lessons: Lessons, batch: int, generator: torch.Generator) -> Loss:
    rows = torch.randint(len(lessons), (batch,), generator=generator)
    return Loss(batch, lambda part: _errors(predict, lessons.part(rows[part])))


@torch.no_grad()
def _error(predict: Callable[[Lessons], Tensor], lessons: Lessons, batch: int = 64, most: int = 512) -> float:
    """Mean square error on at most `most` lessons, evenly spaced."""
    rows = torch.linspace(0, len(lessons) - 1, min(most, len(lessons))).long()
    return float(torch.cat(Parts()(len(rows), lambda part: _errors(predict, lessons.part(rows[part])).cpu(), most=batch)).mean())
