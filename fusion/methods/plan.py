"""What a method is given and what it gives back: plan in, samples out. No mathematics, no pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fusion import guidance

MAX_STEPS, MAX_GUIDANCE, MAX_BATCH, SIDES = 1000, 100.0, 256, (16, 4096)  # what a recipe can keep: what is drawn can be drawn again

MAX_CLIP_SKIP, MAX_NEGATIVE = 12, 4000  # layers from the last; characters, as of a prompt in a recipe

class MethodError(ValueError):
    """A method cannot run as asked; the message names the cause and the cure."""


class Unfinished(MethodError):
    """Work that is done once was stopped before its end. `fit`: with what was found until then, for those who ask for it by name; None
    where nothing was. Whoever goes on with the fit as it was starts again, and takes nothing half done for the whole."""

    def __init__(self, message: str, fit: Any = None):
        super().__init__(message)
        self.fit = fit


class Stopped(Exception):
    """Raised between two sampling steps when `plan.stop()` turned true; caught by the drawing loop."""


@dataclass(frozen=True)
class Part:
    """Which batches of a run are drawn here: from number `first` on (the earlier ones were drawn before), `size` processes taking turns.

    `rank`: which of them this is. `before`: batches of the run that came before the list at hand.
    """

    rank: int = 0
    size: int = 1
    first: int = 0
    before: int = 0

    def mine(self, number: int) -> bool:
        place = self.before + number - self.first
        return place >= 0 and place % self.size == self.rank


@dataclass(frozen=True)
class SamplingPlan:
    """Which images to draw, and how.

    `prompts` and `seeds` are paired, image i being `(prompts[i], seeds[i])`; a single prompt or a single seed is repeated.
    `steps`: sampling steps. `guidance`: classifier-free guidance scale, 1 for none. `guidance_interval`: the shares of the steps, 0 for
    noise and 1 for the image, between which guidance acts (`fusion.guidance`); None for all. `height`, `width`: pixels, None: the model's.
    `weights`: what to use instead of the method's own fitted weights: (K,), (L, K) as `Weights`, or None.
    `stop() -> bool` is asked before every step; `progress(done, total, message)` counts sampling steps.
    `batch_size`: images in one pipeline call. It is part of what makes a run repeatable to the last bit, so recipes keep it.
    `part`: which of the batches are drawn here, where several processes share a run or a killed one goes on.
    `reading`: how prompts are read, see `models.prompts.READINGS`. `negative_prompt`: what guidance pulls away from, "" for nothing; it
    acts with `guidance` above 1. `clip_skip`: which layer of the CLIP encoders is read, counted from the last one, 1, as web UIs count; 0:
    the family's own (1 for SD 1 and 2, 2 for SDXL and SD3).
    `sampler`: of images that come from one member alone: `own`, as its own pipeline draws it (`fusion.methods.alone`); `written`, with its
    scheduler, but these steps and guidance; `first`, with the first member's, as recipes of old did.
    `work`: a folder where a search or a training keeps what it has, so that one that was stopped goes on; None: it starts anew.
    `trained`: what a method that trains draws with in place of what the fit holds (`fusion.transfer.trained.Trained`), or None.
    """

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int = 20
    guidance: float = 1.0
    height: int | None = None
    width: int | None = None
    weights: Any = None
    stop: Callable[[], bool] | None = None
    batch_size: int = 16
    progress: Callable[[int, int, str], None] | None = None
    part: Part = Part()
    trained: Any = None
    guidance_interval: tuple[float, float] | None = None
    sampler: str = "own"
    reading: str = "prompt"
    negative_prompt: str = ""
    clip_skip: int = 0
    work: Path | None = None

    @classmethod
    def grid(cls, prompts: Sequence[str], seeds: Sequence[int], **settings) -> SamplingPlan:
        """Every prompt with every seed, prompt by prompt."""
        return cls([p for p in prompts for _ in seeds], [s for _ in prompts for s in seeds], **settings)

    @classmethod
    def population(cls, prompts: Sequence[str], count: int, first: int = 0, **settings) -> SamplingPlan:
        """`count` images of every prompt, prompt by prompt, no two of which share a seed: image j of prompt i has `first + i count + j`.

        What stands for a population is drawn so: images of one seed start from the same noise, and are no independent draws.
        """
        jobs = [(prompt, first + i * count + j) for i, prompt in enumerate(prompts) for j in range(count)]
        return cls([prompt for prompt, _ in jobs], [seed for _, seed in jobs], **settings)

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """`(prompt, seed)` of every image. Raises MethodError for lists that cannot be paired and settings out of range."""
        prompts = [self.prompts] if isinstance(self.prompts, str) else list(self.prompts)
        seeds = [int(seed) for seed in self.seeds]
        if not prompts or not seeds:
            raise MethodError("nothing to draw: give at least one prompt and one seed")
        count = max(len(prompts), len(seeds))
        if {len(prompts), len(seeds)} - {1, count}:
            raise MethodError(f"{len(prompts)} prompts and {len(seeds)} seeds cannot be paired: give equally many, or one of either")
        if any(not 0 <= seed < 2**63 for seed in seeds):
            raise MethodError("seeds must be whole numbers from 0 to 2^63 - 1")
        self._check()
        return list(zip(prompts * (count // len(prompts)), seeds * (count // len(seeds))))

    def _check(self) -> None:
        """Raise MethodError for numbers out of range, before anything is drawn with them."""
        if not (1 <= self.steps <= MAX_STEPS and 1 <= self.batch_size <= MAX_BATCH):
            raise MethodError(f"{self.steps} steps in batches of {self.batch_size}: give 1 to {MAX_STEPS} steps and batches of 1 to "
                              f"{MAX_BATCH}")  # fmt: skip
        if not 0 <= self.clip_skip <= MAX_CLIP_SKIP:
            raise MethodError(f"clip skip must be a whole number from 1 (the last layer) to {MAX_CLIP_SKIP}, not {self.clip_skip}")
        if len(self.negative_prompt) > MAX_NEGATIVE:
            raise MethodError(f"the negative prompt has {len(self.negative_prompt):,} characters and at most {MAX_NEGATIVE:,} are read")
        if not 0 <= self.guidance <= MAX_GUIDANCE:  # false for nan, too
            raise MethodError(f"guidance must be a number from 0 to {MAX_GUIDANCE:g}, not {self.guidance}: 1 adds none, 5 is usual")
        for side in (self.height, self.width):
            if side is not None and not SIDES[0] <= side <= SIDES[1]:
                raise MethodError(f"images must be {SIDES[0]} to {SIDES[1]} pixels high and wide, not {side}: leave the size out for the "
                                  "models' own")  # fmt: skip
        try:
            guidance.checked(self.guidance_interval)
        except ValueError as error:
            raise MethodError(str(error)) from None

    def batches(self, jobs: Sequence[tuple[str, int]] | None = None) -> list[tuple[tuple[str, int], ...]]:
        """`jobs` (all of the plan's) in groups of `batch_size`, those of this `part`."""
        jobs = self.jobs if jobs is None else jobs
        groups = [tuple(jobs[at : at + self.batch_size]) for at in range(0, len(jobs), self.batch_size)]
        return [group for number, group in enumerate(groups) if self.part.mine(number)]

    def after(self, jobs: int) -> SamplingPlan:
        """The plan for a list of jobs that comes after lists which take `jobs` images, each in batches of its own."""
        return self.with_(part=replace(self.part, before=self.part.before + -(-jobs // self.batch_size)))

    def with_(self, **changes) -> SamplingPlan:
        return replace(self, **changes)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The guidance interval where it changes anything: with guidance above 1."""
        return guidance.checked(self.guidance_interval) if self.guidance > 1.0 else None

    def stopped(self) -> bool:
        return self.stop is not None and bool(self.stop())


@dataclass(frozen=True)
class Remark:
    """What a method says of one image: `note`, `family` as in `Sample`."""

    note: str = ""
    family: tuple[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and all that it takes to draw it again.

    `weights` (K,): the members' shares, averaged over levels where they differ by level; for a routed sample the proportions it was
    routed with, `member` naming the one that drew it. `applied`: the weights as the method was given them ((K,), or `Weights` by level).
    `batch`: the `(prompt, seed)` pairs of the pipeline call it came from, `place` its index there: rounding depends on the company.
    `before`: images of the planned batch that earlier calls drew, where memory had no room for all of it.
    `note`: what the method has to say about this image, for its label; may be empty.
    `trained`: what was trained to draw it, where the method trains; a recipe keeps its file.
    `family`: `(prompt, seed)` of the particle that the image descends from, where a method resamples images of a batch into one another:
    those of one family are near-copies until late and no independent draws. None: independent of all others.
    """

    image: Image.Image
    method: str
    prompt: str
    seed: int
    weights: np.ndarray
    member: str | None = None
    applied: Any = None
    batch: tuple[tuple[str, int], ...] = ()
    place: int = 0
    before: int = 0
    note: str = ""
    trained: Any = None
    family: tuple[str, int] | None = None


@dataclass(frozen=True)
class Cost:
    """`evaluations`: network evaluations per image. `memory`: bytes held against one single model. `training_seconds`: before drawing.

    `preparation`: network evaluations spent once, before the first image. `saved`: evaluations per image that the guidance interval saves.
    `at_most`: the training may end earlier, and how early is not known before the first one here.
    """

    evaluations: float
    memory: float
    training_seconds: float = 0.0
    preparation: int = 0
    saved: float = 0.0
    at_most: bool = False


@dataclass(frozen=True)
class Method:
    """One way of drawing from several models: functions of `(ensemble, fit, plan)`.

    `run` yields samples as they are ready; `cost` states the price before it runs. `prepare`, where a method has long work to do once
    (a search, a training), does it with the plan's `progress` and `stop` and returns the fit that holds the result, so that `run` finds it
    there; Unfinished when it was stopped before its end. `run` prepares by itself when the fit holds no result.
    """

    name: str
    title: str
    run: Callable[..., Iterator[Sample]]
    cost: Callable[..., Cost]
    summary: str = ""
    prepare: Callable[..., Any] | None = None
