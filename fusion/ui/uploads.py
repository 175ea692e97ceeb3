"""Files dropped on the page: pictures, captions for them, recipes. Every file that cannot be used is said, and nothing is lost."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gradio_client.utils import strip_invalid_filename_characters

from . import captions, comeback, state, texts

MOST = 200  # target pictures
LINES = 12  # said at most
TEXTS = (".txt", ".caption", ".jsonl", ".ndjson", ".csv", ".tsv")  # may hold captions, whatever they begin with
FEW = 3  # files with one and the same problem that are each named in a line of their own


def most_pictures() -> int:
    """Target pictures, or held-out ones, that a visitor may have here: what a page looks at is limited where it comes in."""
    from fusion import hosting

    return min(MOST, hosting.limits().images or MOST)


def take(session, paths: Sequence[str]) -> None:
    """Add target pictures and what came with them. Own pictures replace an example once one of them can be used."""
    recipes, lists, files = by_kind(paths)
    said = [_recipe(session, path) for path in recipes[:1]]
    listed, problems = read_lists(session, lists)
    with tempfile.TemporaryDirectory() as inside:
        files, wrong = _unpacked(files, Path(inside))
        said += said_of(session, wrong)
        if files:
            said += _pictures(session, files)
    if listed and (session.example or not session.pictures):  # an example has its own captions, and may have files of the same names
        said.append(("warn", session.tell("captions.first")))
    elif listed:
        said += captions.apply(session, session.pictures, listed)
    show(session, "target", said + problems)


def _unpacked(files: Sequence[str], inside: Path) -> tuple[list[str], list]:
    """The files, those in zips in place of the zips; and what is wrong with zips."""
    from fusion.intake import archives

    found, wrong = [], []
    for number, file in enumerate(files):
        if archives.is_zip(Path(file)):
            (inside / str(number)).mkdir()
            inner, problems = archives.unpack(Path(file), inside / str(number))
            found += [str(path) for _, path in inner]
            wrong += problems
        else:
            found.append(file)
    return found, wrong


def take_back(session, paths: Sequence[str]) -> None:
    """Files dropped where a recipe belongs. Captions are put to their pictures all the same, and both places say so."""
    lists = [path for path in paths if is_json(path) and captions.is_list(path)]
    rest = [path for path in paths if path not in lists]
    if lists:
        take(session, lists)
        session.notes["comeback"] = list(session.notes.get("target", ()))
    if rest:
        comeback.load_all(session, rest)


def by_kind(paths: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Recipes, lists of captions, and everything else, which should be pictures."""
    recipes, lists, files = [], [], []
    for path in map(str, paths or ()):
        (files if path.lower().endswith(TEXTS) or not is_json(path) else lists if captions.is_list(path) else recipes).append(path)
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


def read_lists(session, paths: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Name of a picture, as it arrives here -> caption, from lists of captions; and what is to be said of lists that are none."""
    from fusion.images import read_captions, safe_name

    found, said = {}, []
    for path in paths:
        content, problem = read_captions(Path(path))
        for name, prompt in content.items():
            last = PurePosixPath(name.replace("\\", "/")).name  # a list may lie above its pictures
            found[safe_name(strip_invalid_filename_characters(last))] = prompt
        said += said_of(session, [problem] if problem else [])
    return found, said


def _pictures(session, files: Sequence[str]) -> list[tuple[str, str]]:
    """Read the files and add the pictures; what is to be said of those that were left out."""
    from fusion.images import read_images
    from fusion.intake import folder

    old = [] if session.example else list(session.pictures)
    found, told = folder.sort([(Path(p).name, Path(p)) for p in files], [picture.name for picture in old])
    told, files = folder.flat(told), [str(path) for _, path in found]
    written = {str(path): text for name, path in found if (text := folder.caption_of(told, name)[0])}
    intakes, problems = read_images(files, written) if files else ([], [])
    problems = [*told.problems, *folder.remarks(told, [name for name, _ in found]), *problems]
    for picture in old:
        if text := folder.caption_of(told, picture.name)[0]:
            picture.caption, picture.proposed = text, False
    carried = {Path(p).name: recipe_in(p) for p in files}
    if session.example and intakes:
        session.pictures, session.example = [], None
    known, repeated, fresh = {p.image.tobytes() for p in session.pictures}, [], []
    for intake in intakes:
        (repeated if intake.image.tobytes() in known else fresh).append(intake)
    most = most_pictures()
    room = max(most - len(session.pictures), 0)
    guesses = captions.proposed(session, [intake.image for intake in fresh[:room]])
    for intake, guess in zip(fresh[:room], guesses):
        path = session.folder / f"target-{len(list(session.folder.glob('target-*')))}.png"
        intake.image.save(path)
        asked = session.default_caption  # what the visitor says goes before what the probe reads
        session.pictures.append(state.Picture(intake.image, intake.name, intake.caption or asked or guess, str(path), intake.note,
                                              carried.get(intake.name), proposed=bool(guess and not asked and not intake.caption))
                                )  # fmt: skip
    said = said_of(session, problems) + grouped(session, [intake.name for intake in repeated], "info", session.tell("target.duplicate"))
    return said + ([("bad", session.tell("target.most", most=most, count=len(fresh) - room))] if len(fresh) > room else [])


def said_of(session, problems: Sequence) -> list[tuple[str, str]]:
    """`(kind, sentence)` of intake problems in the visitor's language; files with the same one together, and repeated ones where many."""
    by_sentence: dict[tuple[str, str], list[str]] = {}
    repeats = sum(problem.harmless for problem in problems)
    for problem in problems:
        sentence = texts.translate(session.language, problem.cause_and_cure)
        if problem.harmless and repeats > FEW:  # each of which repeats another one
            sentence = session.tell("target.duplicate")
        by_sentence.setdefault((problem.kind, sentence), []).append(problem.name)
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
