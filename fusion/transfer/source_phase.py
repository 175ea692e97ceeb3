"""Phase 1 for an ensemble: from its members' images to a representation with its diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fusion.kept import digest, identities
from fusion.transfer import learning
from fusion.transfer.adapting import probe
from fusion.transfer.diagnosis import LEVELS as DIAGNOSIS_LEVELS
from fusion.transfer.diagnosis import Loss, diagnose, leave_out
from fusion.transfer.learning import LEVELS, Source, learn
from fusion.transfer.networks import TransferError
from fusion.transfer.representation import Representation
from fusion.transfer.sources import (
    DRAWING_STEPS,
    HELD_OUT,
    Pictures,
    blank,
    fresh_for,
    has_population,
    own_pictures,
    sources_of,
)  # fmt: skip
from fusion.transfer.task import Stopped
from fusion.transfer.training import Schedule
from models.ensemble import Ensemble

DIMENSIONS = 16
IMAGES = 64  # of each source, for an ensemble that has no representation yet
SHORT = replace(learning.SCHEDULE, steps=200, every=50)
Progress = Callable[[int, int, str], None]


def gather(ensemble: Ensemble, images: int = IMAGES, prompts: Sequence[str] | None = None, *, seed: int = 0,
           progress: Progress | None = None, stop: Callable[[], bool] | None = None) -> list[Pictures]:  # fmt: skip
    """Images with prompts of every member, see `sources.own_pictures`."""
    return [own_pictures(ensemble, k, images, prompts, seed=seed, progress=progress, stop=stop) for k in range(len(ensemble))]


def learned_for(ensemble: Ensemble, prompts: Sequence[str], *, progress: Progress | None = None,
                stop: Callable[[], bool] | None = None, work: Path | None = None) -> Representation:  # fmt: skip
    """A representation for an ensemble that has none: `IMAGES` images of each member for these prompts, a short schedule, a diagnosis.

    work: a folder where it is kept once it is learned, and where learning that was stopped goes on from.
    """
    prompts = list(dict.fromkeys(prompts))
    folder = None if work is None else work / f"representation-{digest(*identities(ensemble), *prompts)}"
    whole = None if folder is None else folder / "whole.safetensors"
    if whole is not None and whole.is_file():
        return Representation.load(whole)
    pictures = gather(ensemble, IMAGES, prompts, progress=progress, stop=stop)
    found = represent(ensemble, pictures, schedule=SHORT, progress=progress, stop=stop, work=folder)
    if whole is not None:
        folder.mkdir(parents=True, exist_ok=True)
        found.save(whole)
    return found


def price(ensemble: Ensemble, k: int) -> tuple[float, int]:
    """`(seconds, network evaluations for drawing)` of `learned_for`, if every member is as fast as member k; nothing is run but `probe`."""
    drawn = 0 if all(has_population(member.card) for member in ensemble.members) else IMAGES * DRAWING_STEPS
    held = round(HELD_OUT * IMAGES)
    looks = (1 + SHORT.steps // SHORT.every) * 2 * LEVELS * held + 3 * 2 * DIAGNOSIS_LEVELS * held
    copies = len(ensemble) * (drawn + 3 * SHORT.steps * SHORT.batch + looks)
    return copies * probe(ensemble, k), len(ensemble) * drawn


def represent(ensemble: Ensemble, pictures: Sequence[Pictures], *, dimensions: int = DIMENSIONS, schedule: Schedule | None = None,
              rank: int = 0, leave: Schedule | None = None, diagnosed: bool = True, work: Path | None = None,
              progress: Progress | None = None, stop: Callable[[], bool] | None = None) -> Representation:  # fmt: skip
    """Learn one representation from `pictures[k]`, images and prompts of member k, and say what it is worth.

    schedule: None for `learning.SCHEDULE`. rank: see `sources_of`. leave: the schedule of the representations that leave one source out;
    None leaves none out. work: folder of checkpoints from which a broken run goes on. Raises TransferError for families without prompts,
    and when stopped: half of it is worth nothing.
    """
    try:
        return _represent(ensemble, pictures, dimensions, schedule or learning.SCHEDULE, rank, leave, diagnosed, work, progress, stop)
    except Stopped as error:
        raise TransferError(f"{error}: start it again") from None


def _represent(ensemble, pictures, dimensions, schedule, rank, leave, diagnosed, work, progress, stop) -> Representation:
    sources = sources_of(ensemble, pictures, rank=rank)

    def made(some: Sequence[Source], plan: Schedule, name: str) -> Representation:
        found = fresh_for(ensemble, some, dimensions, seed=plan.seed)
        course = learn(found, some, plan, warm=learning.WARM, progress=progress, stop=stop, message=name,
                       checkpoint=None if work is None else work / f"{name.replace(' ', '-')}.safetensors")  # fmt: skip
        if course.stopped:
            raise Stopped(f"stopped at step {course.steps} of {plan.steps} of {name}")
        courses[name] = {"held_out": [[step, round(loss, 6)] for step, loss in course.curve], "seconds": round(course.seconds)}
        return found.requires_grad_(False).eval()

    courses: dict[str, Mapping] = {}
    joint = made(sources, schedule, "the representation")
    settings = {"images": [len(images) for images, _ in pictures], "prompts": len({p for _, said in pictures for p in said}),
                "schedule": asdict(schedule), "rank": rank}  # fmt: skip
    about = replace(joint.about, settings={**settings, "courses": courses})
    if diagnosed:
        nothing, left = blank(ensemble), []
        if leave is not None and len(sources) > 1:
            settings["left_out_schedule"] = asdict(leave)
            left = [_left_out(made, sources, k, leave, nothing, stop) for k in range(len(sources))]
        diagnosis = diagnose(joint, sources, nothing, left, stop=stop)
        about = replace(about, settings={**settings, "courses": courses}, diagnosis=diagnosis.summary())
    joint.about = about
    return joint.cpu()


def _left_out(made: Callable, sources: Sequence[Source], k: int, schedule: Schedule, nothing: Mapping, stop) -> Loss:
    name = f"the representation without {sources[k].name}"
    return leave_out(lambda others: made(others, schedule, name), sources, k, nothing, stop=stop)
