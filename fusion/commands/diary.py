"""What a drawing run has written so far: it goes on after being killed, and several processes hand their images to the one that writes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusion.parallel import pack, unpack
from models import bounded, room

NAME = ".unfinished.json"


@dataclass
class Drawn:
    """One image as PNG with its recipe inside, and what the result says of it."""

    png: bytes
    prompt: str
    seed: int
    member: str | None


def batches(samples: Iterable, ensemble, plan) -> Iterator[list[Drawn]]:
    """Samples in the batches that the plan made, each image a PNG with its recipe."""
    from fusion.png import as_png
    from fusion.recipe import Recipe

    batch: list[Drawn] = []
    for one in samples:
        if batch and one.place + one.before == 0:
            yield batch
            batch = []
        png = as_png(one.image, Recipe.of_sample(ensemble, one, plan).png_info())
        batch.append(Drawn(png, one.prompt, one.seed, one.member))
    if batch:
        yield batch


def sent(batch: list[Drawn]) -> bytes:
    """A batch as bytes, for the process that writes."""
    return pack([json.dumps([[one.prompt, one.seed, one.member] for one in batch]).encode(), *(one.png for one in batch)])


def received(piece: bytes) -> list[Drawn]:
    """What `sent` was given."""
    head, *files = unpack(piece)
    return [Drawn(png, *words) for png, words in zip(files, json.loads(head))]


@dataclass
class Diary:
    """The files of one run in `folder`. `run`: a hash of everything that decides its images. `batches`: how many are done.

    `seen`: images that came by; all are `written` unless only the one numbered `picture` is wanted.
    """

    folder: Path
    run: str
    method: str
    picture: int | None = None
    batches: int = 0
    seen: int = 0
    written: list[dict] = field(default_factory=list)

    @staticmethod
    def of(folder: Path, ensemble, method: str, plan, picture: int | None) -> Diary:
        """A new diary, or the one that an unfinished run of the same images left, whose files are all there."""
        from fusion.methods.drawing import values_of
        from fusion.recipe import described

        weights = None if plan.weights is None else values_of(plan.weights).tolist()
        trained = None if plan.trained is None else plan.trained.sha256
        settings = (plan.jobs, plan.steps, plan.guidance, plan.height, plan.width, plan.batch_size, weights, trained, picture)
        settings += () if plan.guidance_interval is None else (plan.guidance_interval,)
        settings += (plan.negative_prompt, plan.clip_skip) if plan.negative_prompt or plan.clip_skip else ()
        settings += () if all(map(ensemble.plainly, {prompt for prompt, _ in plan.jobs})) else (plan.reading,)
        machine = (str(ensemble.device.type), str(ensemble.dtype), ensemble.size)
        content = json.dumps([method, settings, machine, [described(card) for card in ensemble.cards]], default=str)
        diary = Diary(folder, hashlib.sha256(content.encode()).hexdigest(), method, picture)
        try:
            kept = bounded.read(folder / NAME)
            if kept["run"] == diary.run and all((folder / Path(one["file"]).name).is_file() for one in kept["written"]):
                diary.batches, diary.seen, diary.written = int(kept["batches"]), int(kept["seen"]), list(kept["written"])
        except (OSError, ValueError, KeyError, TypeError):  # none there, or not one of ours: a new run
            pass
        return diary

    def write(self, batch: list[Drawn]) -> None:
        """Write the files of the next batch, then the diary: a batch that was cut short is drawn again."""
        for one in batch:
            if self.picture is None or self.seen == self.picture:
                path = self.folder / f"{len(self.written):04}-{self.method}-seed{one.seed}.png"
                with room.writing(path, len(one.png)):
                    path.write_bytes(one.png)
                self.written.append({"file": str(path), "prompt": one.prompt, "seed": one.seed, "member": one.member})
            self.seen += 1
        self.batches += 1
        content = {"run": self.run, "batches": self.batches, "seen": self.seen, "written": self.written}
        unfinished = self.folder / (NAME + ".new")
        text = json.dumps(content, ensure_ascii=False)
        with room.writing(unfinished, len(text)):
            unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, self.folder / NAME)

    def close(self) -> None:
        """The run is finished: nothing is left to go on with."""
        (self.folder / NAME).unlink(missing_ok=True)
