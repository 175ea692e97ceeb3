"""Files dropped on the page to pictures with their captions: one way for target pictures and for held-out ones.

Captions come beside pictures, in lists, in zips of folders, with the pictures or after them. `fusion.intake.folder` says which is used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradio_client.utils import strip_invalid_filename_characters

from . import captions, state

TEXTS = (".txt", ".caption", ".jsonl", ".ndjson", ".csv", ".tsv")  # may hold captions, whatever they begin with
FEW = 3  # files with one and the same problem that are each named in a line of their own


@dataclass
class Gathered:
    """What was dropped: `intakes` in order, with the place in its zip and the recipe of each; `problems`; `told`, captions."""

    intakes: list = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # "" for what came without a folder
    carried: list = field(default_factory=list)
    problems: list = field(default_factory=list)
    told: object = None  # fusion.intake.folder.Said


def by_kind(paths: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Recipes, lists of captions that are JSON, and everything else: pictures, zips, captions beside pictures."""
    from fusion.intake.lists import is_list_name, sidecar_text

    recipes, lists, files = [], [], []
    for path in map(str, paths or ()):
        if path.lower().endswith(TEXTS) or not is_json(path):
            files.append(path)
        elif not is_list_name(Path(path).name) and sidecar_text(Path(path)):
            files.append(path)  # `a.json` beside `a.png`
        else:
            (lists if captions.is_list(path) else recipes).append(path)
    return recipes, lists, files


def is_json(path: str) -> bool:
    """True for a file that says by its name or by how it begins that it is JSON and not a picture."""
    if path.lower().endswith(".json"):
        return True
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith((b"{", b"["))


def gather(lists: Sequence[str], files: Sequence[str], there: Sequence[state.Picture]) -> Gathered:
    """Read the files; `there`: pictures that came before, of which captions may speak, too."""
    from fusion.images import read_images, safe_name
    from fusion.intake import folder

    found = Gathered()
    with tempfile.TemporaryDirectory() as inside:
        named, found.problems = _unpacked([*lists, *files], Path(inside))
        old = [place(picture) for picture in there]
        pictures, found.told = folder.sort(named, old, lists={Path(path) for path in lists})
        if not pictures:  # beside pictures, files of no use are passed over in silence; what comes alone was meant
            pictures = [one for one in found.told.passed if "/" not in one[0]]
        names = [*(name for name, _ in pictures), *old]
        folder.loosen(found.told, names, lambda name: safe_name(strip_invalid_filename_characters(name)))
        written = {str(path): text for name, path in pictures if (text := folder.caption_of(found.told, name)[0])}
        problems = []
        if pictures:
            found.intakes, problems = read_images([path for _, path in pictures], written)
        by_path = {str(path): name for name, path in pictures}
        inner = [by_path[intake.source] for intake in found.intakes]
        found.places = [name if "/" in name else "" for name in inner]
        found.carried = [recipe_in(intake.source) for intake in found.intakes]
    spoken = dict.fromkeys([*(name for name, _ in pictures), *(name for name in old if found.told.of(name))])
    found.problems += [*found.told.problems, *folder.remarks(found.told, list(spoken)), *problems]
    return found


def place(picture: state.Picture) -> str:
    """The name under which captions know a picture: with its folders where it came in a zip."""
    return picture.place or picture.name


def apply(session, pictures: Sequence[state.Picture], found: Gathered) -> list[tuple[str, str]]:
    """Put the captions that came to the pictures that were there; `(kind, sentence)` on how many a list had one for."""
    from fusion.intake import folder

    came: dict[str, list] = {}
    for intake, inner in zip(found.intakes, found.places):
        came.setdefault(inner or intake.name, []).append(intake.image)
    for picture in pictures:
        if picture.image not in came.get(place(picture), [picture.image]):
            continue  # the captions are of the picture of this name that came with them
        if text := folder.caption_of(found.told, place(picture), by_folder=False)[0]:
            picture.caption, picture.proposed = text, False
    alone = [name for name in found.told.alone if "/" not in name and not found.intakes]
    if not pictures:
        return [("warn", session.tell("captions.first"))] if found.told.lists or alone else []
    said = grouped(session, alone, "warn", session.tell("captions.alone"))
    if not found.told.lists:
        return said
    count = sum(folder.is_listed(found.told, place(picture)) for picture in pictures)
    return [*said, ("info" if count else "warn", session.tell("captions.taken", count=count, total=len(pictures)))]


def grouped(session, names: Sequence[str], kind: str, sentence: str) -> list[tuple[str, str]]:
    """One line a file, or one for many: `a.png, b.png and 5 more: ...`."""
    if len(names) <= FEW:
        return [(kind, f"{name}: {sentence}") for name in names]
    first = ", ".join(names[: FEW - 1])
    return [(kind, f"{session.tell('target.files', names=first, more=len(names) - FEW + 1)}: {sentence}")]


def _unpacked(files: Sequence[str], inside: Path) -> tuple[list[tuple[str, Path]], list]:
    """`(name, path)` of the files, those in zips in place of the zips under a folder for each; and what is wrong with zips."""
    from fusion.intake import archives

    found, wrong = [], []
    for number, file in enumerate(files):
        if archives.is_zip(Path(file)):
            (inside / str(number)).mkdir()
            inner, problems = archives.unpack(Path(file), inside / str(number))
            found += [(f"{Path(file).name}/{name}", path) for name, path in inner]
            wrong += problems
        else:
            found.append((Path(file).name, Path(file)))
    return found, wrong


def recipe_in(path: str):
    """The recipe that a picture carries, or what another program wrote into it (`fusion.foreign.Foreign`); None for most pictures, which
    have neither: as a target that is no error."""
    from fusion.foreign import ForeignRecipe, refusal
    from fusion.recipe import Recipe, RecipeError

    try:
        return Recipe.from_png(path)
    except ForeignRecipe as error:
        return error.found
    except RecipeError:
        other = refusal(path)  # of a JPEG or WebP
        return None if other is None else other.found
