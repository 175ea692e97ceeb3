"""Door of the intake of untrusted pictures: files of any kind in, RGB pictures and one plain sentence per problem out.

Nothing in a file is believed: its name is cleaned before it is shown, its kind is read from its bytes, its size from its header before a
pixel is decoded, and only the pixels go on (no metadata). Each concern is a file of `fusion/intake`. Knows no model and no page.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from fusion.intake import archives, duplicates
from fusion.intake import folder as folders
from fusion.intake.names import safe_name
from fusion.intake.opening import MAX_PIXELS, READABLE, Refused, read
from fusion.intake.problems import Problem
from fusion.intake.text import MAX_CAPTION, clean_caption, one_line

MAX_PICTURES = 256

__all__ = [
    "MAX_CAPTION", "MAX_PIXELS", "Intake", "Problem", "advice", "clean_caption", "read_folder", "read_images", "safe_name",
]


@dataclass(frozen=True)
class Intake:
    """One accepted picture: `image` RGB without metadata, `name` safe to show, `note` says what was changed on the way in."""

    image: Image.Image
    name: str
    caption: str | None = None
    note: str = ""
    source: str = ""  # the path it was read from, which is for nobody's eyes


def read_images(paths: Iterable[str | Path], captions: Mapping[str, str] | None = None) -> tuple[list[Intake], list[Problem]]:
    """Every readable picture once, in order, and a `Problem` for each file that was refused, repeated or too many.

    `captions` maps file names to prompts. Never raises for what a file contains.
    """
    paths, captions = [Path(p) for p in paths], captions or {}
    intakes: list[Intake] = []
    problems: list[Problem] = []
    first_name: dict[str, str] = {}
    for path in paths[:MAX_PICTURES]:
        name = safe_name(path.name)
        try:
            image, note = read(path)
        except Refused as refusal:
            problems.append(Problem(name, str(refusal)))
            continue
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        if digest in first_name:
            problems.append(Problem(name, f"This is the same picture as {first_name[digest]}: it is used once. Nothing needs to be done.",
                                    harmless=True))  # fmt: skip
            continue
        first_name[digest] = name
        text = captions.get(str(path), captions.get(path.name))
        if len(one_line(text)) > MAX_CAPTION:
            problems.append(Problem(name, folders.CUT, used=True))
        intakes.append(Intake(image, name, clean_caption(text), note, str(path)))
    for later, earlier in duplicates.near([intake.image for intake in intakes]):
        sentence = f"This is nearly the same picture as {intakes[earlier].name}. Both are used; remove one unless both are meant."
        problems.append(Problem(intakes[later].name, sentence, harmless=True))
    if len(paths) > MAX_PICTURES:
        left_out = len(paths) - MAX_PICTURES
        sentence = f"At most {MAX_PICTURES} pictures are read at once; the last {left_out} were left out."
        problems.append(Problem(f"{left_out} more files", sentence))
    if not paths:
        problems.append(Problem("no pictures", f"There is nothing to read yet. Add about a dozen pictures ({READABLE})."))
    return intakes, problems


def read_folder(folder: str | Path) -> tuple[list[Intake], list[Problem]]:
    """The pictures of one folder and of kohya's folders in it (`10_concept`), in the order of their names, with their captions.

    Captions come from captions.json, `a.txt` or `a.caption` beside `a.png`, metadata.jsonl or metadata.csv (`fusion.intake.folder`).
    """
    folder = Path(folder)
    if archives.is_zip(folder):
        with tempfile.TemporaryDirectory() as inside:
            files, problems = archives.unpack(folder, Path(inside))
            return ([], problems) if problems else _read_files(files, [])
    if not folder.is_dir():
        return [], [Problem(safe_name(folder.name), "This is not a folder. Give the folder that holds the pictures.")]
    return _read_files(*folders.walk(folder))


def _read_files(files: list[tuple[str, Path]], left: list[Problem]) -> tuple[list[Intake], list[Problem]]:
    pictures, said = folders.sort(files)
    names = [name for name, _ in pictures]
    folders.loosen(said, names)
    captions = {str(path): caption for name, path in pictures if (caption := folders.caption_of(said, name)[0])}
    intakes, problems = read_images([path for _, path in pictures], captions)
    return intakes, [*said.problems, *folders.remarks(said, names), *left, *problems]


def advice(count: int) -> str:
    """One sentence on whether `count` target pictures are enough."""
    if count == 0:
        return "Add about a dozen pictures that show what you want to see."
    if count < 6:
        plural = "One picture says" if count == 1 else f"{count} pictures say"
        return f"{plural} very little about a population: the intervals will be wide. A dozen is a good start."
    if count < 24:
        return f"{count} pictures are a good start; about 24 halve the interval that 6 give."
    return f"{count} pictures are enough; more of them only make the fit slower." if count > 64 else f"{count} pictures are plenty."
