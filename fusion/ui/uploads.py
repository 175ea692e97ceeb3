"""Files dropped on the page: pictures, captions for them, recipes. Every file that cannot be used is said, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import captions, comeback, state, texts

MOST = 200  # target pictures
LINES = 12  # said at most
FEW = 3  # files with one and the same problem that are each named in a line of their own


def take(session, paths: Sequence[str]) -> None:
    """Add target pictures and what came with them. Own pictures replace an example once one of them can be used."""
    recipes, lists, files = _sorted(paths)
    said = [_recipe(session, path) for path in recipes[:1]]
    listed, problems = _listed(session, lists)
    if files:
        said += _pictures(session, files, listed)
    said += problems + (captions.apply(session, listed) if listed else [])
    show(session, "target", said)


def _sorted(paths: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Recipes, lists of captions, and everything else, which should be pictures."""
    recipes, lists, files = [], [], []
    for path in map(str, paths or ()):
        (files if not is_json(path) else lists if captions.is_list(path) else recipes).append(path)
    return recipes, lists, files


def is_json(path: str) -> bool:
    """True for a file that says by its name or by how it begins that it is JSON and not a picture."""
    if path.lower().endswith(".json"):
        return True
    with open(path, "rb") as file:
        return file.read(64).lstrip().startswith((b"{", b"["))


def _recipe(session, path: str) -> tuple[str, str]:
    """Load a recipe that was dropped among the pictures, and say so."""
    name = Path(path).name
    return "info", session.tell("target.recipe" if comeback.load(session, path) else "target.recipe_not", name=name)


def _listed(session, paths: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    from fusion.images import read_captions, safe_name

    found, said = {}, []
    for path in paths:
        content, problem = read_captions(Path(path))
        found |= {safe_name(name): prompt for name, prompt in content.items()}
        said += said_of(session, [problem] if problem else [])
    return found, said


def _pictures(session, files: Sequence[str], listed: dict) -> list[tuple[str, str]]:
    """Read the files and add the pictures; what is to be said of those that were left out."""
    from fusion.images import read_images

    intakes, problems = read_images(files)
    carried = {Path(p).name: recipe_in(p) for p in files}
    if session.example and intakes:
        session.pictures, session.example = [], None
    known, repeated, fresh = {p.image.tobytes() for p in session.pictures}, [], []
    for intake in intakes:
        (repeated if intake.image.tobytes() in known else fresh).append(intake)
    room = max(MOST - len(session.pictures), 0)
    guesses = captions.proposed(session, [intake.image for intake in fresh[:room]])
    for intake, guess in zip(fresh[:room], guesses):
        path = session.folder / f"target-{len(list(session.folder.glob('target-*')))}.png"
        intake.image.save(path)
        caption, own = intake.caption or guess or session.default_caption, not (intake.caption or listed.get(intake.name))
        session.pictures.append(state.Picture(intake.image, intake.name, caption, str(path), intake.note, carried.get(intake.name),
                                              proposed=bool(guess and own)))  # fmt: skip
    said = said_of(session, problems) + grouped(session, [intake.name for intake in repeated], "info", session.tell("target.duplicate"))
    return said + ([("bad", session.tell("target.most", most=MOST, count=len(fresh) - room))] if len(fresh) > room else [])


def said_of(session, problems: Sequence) -> list[tuple[str, str]]:
    """`(kind, sentence)` of intake problems in the visitor's language; files with the same one together."""
    by_sentence: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        sentence = texts.translate(session.language, problem.cause_and_cure)
        by_sentence.setdefault(("info" if problem.harmless else "bad", sentence), []).append(problem.name)
    return [line for (kind, sentence), names in by_sentence.items() for line in grouped(session, names, kind, sentence)]


def grouped(session, names: Sequence[str], kind: str, sentence: str) -> list[tuple[str, str]]:
    """One line a file, or one for many: `a.png, b.png and 5 more: ...`."""
    if len(names) <= FEW:
        return [(kind, f"{name}: {sentence}") for name in names]
    first = ", ".join(names[: FEW - 1])
    return [(kind, f"{session.tell('target.files', names=first, more=len(names) - FEW + 1)}: {sentence}")]


def show(session, place: str, said: Sequence[tuple[str, str]]) -> None:
    """Say it at `place`, what needs attention first; a list that is cut says so. Nothing to say takes back what was said before."""
    lines = sorted(said, key=lambda line: ("bad", "warn", "info").index(line[0]))
    if len(lines) > LINES:
        lines = [*lines[:LINES], (lines[LINES][0], session.tell("target.more", count=len(lines) - LINES))]
    if lines:
        session.notes[place] = lines
    else:
        session.notes.pop(place, None)


def recipe_in(path: str):
    """The recipe that a picture carries, or None: most pictures have none, and as a target that is no error."""
    from fusion.recipe import Recipe, RecipeError

    try:
        return Recipe.from_png(path)
    except RecipeError:
        return None
