"""Files dropped on the page: pictures, captions for them, recipes. Every file that cannot be used is said, and nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import captions, comeback, gathering, state, texts
from .gathering import FEW, grouped

MOST = 200  # target pictures
LINES = 12  # said at most
SAME = "This is the same picture as "


def most_pictures() -> int:
    """Target pictures, or held-out ones, that a visitor may have here: what a page looks at is limited where it comes in."""
    from fusion import hosting

    return min(MOST, hosting.limits().images or MOST)


def take(session, paths: Sequence[str]) -> None:
    """Add target pictures and what came with them. Own pictures replace an example once one of them can be used."""
    recipes, lists, files = gathering.by_kind(paths)
    said = [_recipe(session, path) for path in recipes[:1]]
    if lists or files:
        said += _pictures(session, lists, files)
    show(session, "target", said)


def take_back(session, paths: Sequence[str]) -> None:
    """Files dropped where a recipe belongs. Captions are put to their pictures all the same, and both places say so."""
    lists = [path for path in paths if gathering.is_json(path) and captions.is_list(path)]
    rest = [path for path in paths if path not in lists]
    if lists:
        take(session, lists)
        session.notes["comeback"] = list(session.notes.get("target", ()))
    if rest:
        comeback.load_all(session, rest)


def _recipe(session, path: str) -> tuple[str, str]:
    """Load a recipe that was dropped among the pictures, and say so."""
    name = Path(path).name
    return "info", session.tell("target.recipe" if comeback.load(session, path) else "target.recipe_not", name=name)


def _pictures(session, lists: Sequence[str], files: Sequence[str]) -> list[tuple[str, str]]:
    """Read the files and add the pictures; what is to be said of those that were left out."""
    found = gathering.gather(lists, files, [] if session.example else session.pictures)  # an example has its own captions
    if session.example and found.intakes:
        session.pictures, session.example = [], None
    known, repeated, fresh = {p.image.tobytes() for p in session.pictures}, [], []
    for one in zip(found.intakes, found.places, found.carried):
        (repeated if one[0].image.tobytes() in known else fresh).append(one)
    most = most_pictures()
    room = max(most - len(session.pictures), 0)
    guesses = captions.proposed(session, [intake.image for intake, *_ in fresh[:room]])
    for (intake, place, recipe), guess in zip(fresh[:room], guesses):
        path = session.folder / f"target-{len(list(session.folder.glob('target-*')))}.png"
        intake.image.save(path)
        asked = session.default_caption  # what the visitor says goes before what the probe reads
        session.pictures.append(state.Picture(intake.image, intake.name, intake.caption or asked or guess, str(path), intake.note, recipe,
                                              proposed=bool(guess and not asked and not intake.caption), place=place))  # fmt: skip
    said = said_of(session, found.problems) + gathering.apply(session, [] if session.example else session.pictures, found)
    said += grouped(session, [intake.name for intake, *_ in repeated], "info", session.tell("target.duplicate"))
    return said + ([("bad", session.tell("target.most", most=most, count=len(fresh) - room))] if len(fresh) > room else [])


def said_of(session, problems: Sequence) -> list[tuple[str, str]]:
    """`(kind, sentence)` of intake problems in the visitor's language; files with the same one together, and repeated ones where many."""
    by_sentence: dict[tuple[str, str], list[str]] = {}
    repeats = sum(problem.cause_and_cure.startswith(SAME) for problem in problems)
    for problem in problems:
        sentence = texts.translate(session.language, problem.cause_and_cure)
        if problem.cause_and_cure.startswith(SAME) and repeats > FEW:  # each of which repeats another one
            sentence = session.tell("target.duplicate")
        by_sentence.setdefault((problem.kind, sentence), []).append(problem.name)
    return [line for (kind, sentence), names in by_sentence.items() for line in grouped(session, names, kind, sentence)]


def show(session, place: str, said: Sequence[tuple[str, str]]) -> None:
    """Say it at `place`, what needs attention first; a list that is cut says so. Nothing to say takes back what was said before."""
    lines = sorted(said, key=lambda line: ("bad", "warn", "info").index(line[0]))
    if len(lines) > LINES:
        lines = [*lines[:LINES], (lines[LINES][0], session.tell("target.more", count=len(lines) - LINES))]
    if lines:
        session.notes[place] = lines
    else:
        session.notes.pop(place, None)
