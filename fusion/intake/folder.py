"""Which files of a folder are pictures, what is said of them, and what is passed over in silence.

Where several texts belong to one picture the first of these is used: captions.json, `a.txt`, `a.caption` (also `a.png.txt`), `a.json`,
metadata.jsonl, metadata.csv, the concept in a kohya folder's name (`10_concept`). Those that differ are pointed out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusion.intake import masks
from fusion.intake.lists import UNREADABLE, BadList, is_list_name, read_list, sidecar_text
from fusion.intake.names import last, plain, safe_name, stem
from fusion.intake.problems import Problem
from fusion.intake.text import MAX_CAPTION, MAX_TEXT, one_line, read_text, usual_encoding

JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
SIDE = {".json", ".md", ".npz", ".npy", ".safetensors", ".yaml", ".yml", ".toml", ".log", ".ini", ".db", ".xmp", ".aae", ".thm", ".lnk",
        ".url", ".html", ".py", ".ipynb", ".sh", ".bat", ".cfg", ".rtf"}  # fmt: skip
KOHYA = re.compile(r"\d+_(.*)")
MASKS = "Masks are not read as pictures: every picture counts as a whole. Rename one that is meant as a picture."
CUT = f"Its caption is longer than {MAX_CAPTION} characters and was cut there. Shorten it."
MOST_FILES = 20_000
DEEP = 3
REGULAR = {"reg", "regs", "regularization", "regularisation", "class_images"}
CURE = 'Write a list of {"file": ..., "prompt": ...}, or remove it.'
ENDINGS = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".mpo"}


@dataclass
class Said:
    """What caption files say: `texts[plain name] = [(rank, source, text)]`, and what is wrong with them."""

    texts: dict[str, list[tuple[int, str, str]]] = field(default_factory=lambda: defaultdict(list))
    lists: list[tuple[str, list[str]]] = field(default_factory=list)  # a list's name, and the pictures that it names
    alone: list[str] = field(default_factory=list)  # files with captions of pictures that are not there
    passed: list[tuple[str, Path]] = field(default_factory=list)  # files of no use, which do not belong to a picture either
    problems: list[Problem] = field(default_factory=list)

    def of(self, name: str) -> list[tuple[int, str, str]]:
        """All texts for the picture of this name, the one to use first."""
        keys = (plain(name), plain(stem(name)))
        return sorted((one for key in dict.fromkeys(keys) for one in self.texts.get(key, ())), key=lambda one: one[0])


def walk(folder: Path, deep: int = DEEP) -> tuple[list[tuple[str, Path]], list[Problem]]:
    """`(name below the folder, path)` of its files: its own, those of kohya's folders, and of all folders where it has no pictures itself.
    Where no folder in it has any either (kohya's `img/10_concept`), it goes on below, `deep` folders more.
    Hidden ones and `__MACOSX` are not entered, links to elsewhere neither."""
    own, inner = [], {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_file():
            own.append((path.name, path))
        elif path.is_dir() and not path.is_symlink():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))[:MOST_FILES]
            if any(p.suffix.lower() in ENDINGS for p in files):
                inner[path.name] = [(f"{path.name}/{p.name}", p) for p in files]
    pictures = any(path.suffix.lower() in ENDINGS for _, path in own)
    if not pictures and not inner and deep:
        return _deeper(folder, own, deep)
    enter = [name for name in inner if KOHYA.fullmatch(name) or not pictures]
    listed = any(is_list_name(name) for name, _ in own)
    enter = list(inner) if listed and not pictures else enter
    left = [name for name in inner if name not in enter]
    sentence = "The pictures in this folder were not read, since there are others beside it. Give the folder itself to read them."
    told = [Problem(safe_name(name), MASKS if masks.is_folder(name) else sentence, harmless=True) for name in left]
    return [*own, *(file for name in enter for file in inner[name])], told


def _deeper(folder: Path, own: list[tuple[str, Path]], deep: int) -> tuple[list[tuple[str, Path]], list[Problem]]:
    """What `walk` finds in the folders of a folder without pictures."""
    found, told = list(own), []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.is_symlink() or path.name.startswith((".", "__MACOSX")):
            continue
        files, problems = walk(path, deep - 1)
        found += [(f"{path.name}/{name}", inner) for name, inner in files]
        told += problems
    return found[:MOST_FILES], told


def sort(files: list[tuple[str, Path]], there: Sequence[str] = (), lists: Collection[Path] = ()) -> tuple[list[tuple[str, Path]], Said]:
    """Pictures (whatever is nothing else, and no mask) in order, and what the other files say of them and of those `there` already.

    `lists`: files that are lists of captions, whatever they are called.
    """
    pictures, said, beside = [], Said(), []
    for name, path in files:
        own, ending = last(name).lower(), Path(name).suffix.lower()
        if own in JUNK or own.startswith("."):
            continue
        if own.endswith(UNREADABLE):
            sentence = "This kind of list is not read. Save the captions as metadata.csv or metadata.jsonl."
            said.problems.append(Problem(safe_name(last(name)), sentence, used=True))
        elif path in lists or is_list_name(own) and not (ending == ".json" and not own.startswith(("caption", "meta", "prompts"))):
            _list(said, name, path)
        elif ending in (".txt", ".caption", ".json"):
            beside.append((name, path))
        else:
            (said.passed if ending in SIDE else pictures).append((name, path))
    names = [name for name, _ in pictures]
    hidden = masks.among(names, there)
    if hidden:
        first = next(name for name in names if name in hidden)
        more = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        said.problems.append(Problem(safe_name(last(first)) + more, MASKS, harmless=True))
    regular = {name: part for name in names for part in name.split("/")[:-1] if plain(part) in REGULAR}  # of the class
    if set(names) - hidden - set(regular):
        hidden |= set(regular)
        sentence = "Regularization pictures are not read: they are no target."
        said.problems += [Problem(safe_name(part), sentence, harmless=True) for part in dict.fromkeys(regular.values())]
    stems = {key for name in (*names, *there) for key in (plain(name), plain(stem(name)))}
    stems |= {last(key) for key in stems}
    said.alone = [name for name, _ in beside if plain(stem(name)) not in stems]
    beside = [(name, path) for name, path in beside if plain(stem(name)) in stems]
    usual = usual_encoding(path for name, path in beside if not name.lower().endswith(".json"))
    for name, path in beside:
        _beside(said, name, path, usual)
    said.passed = [(name, path) for name, path in said.passed if plain(stem(name)) not in stems]
    return [(name, path) for name, path in pictures if name not in hidden], said


def loosen(said: Said, names: Sequence[str], as_arrived: Callable[[str], str] = lambda name: name) -> None:
    """Texts for pictures in other folders than they say, where one picture only is called so: lists are moved, or lie above their pictures.

    What names pictures that are not there is said. `as_arrived`: what becomes of a file's name on its way here.
    """
    ends, own = defaultdict(list), Counter(end for name in names for end in _ends(plain(name)))
    for key, found in said.texts.items():
        above, _, file = key.rpartition("/")
        for end in _ends(plain(f"{above}/{as_arrived(file)}")):
            ends[end] += found
    for name in names:
        if said.of(name):
            continue
        for whole, bare in zip(_ends(plain(name)), _ends(plain(stem(name)))):  # the longest first: folders of one name are told apart
            found = [one for end in dict.fromkeys((whole, bare)) for one in ends.get(end, ())]
            if found:
                said.texts[plain(name)] += found if own[whole] == 1 else []
                break
    _absent(said, names, as_arrived)


def _absent(said: Said, names: Sequence[str], as_arrived: Callable[[str], str]) -> None:
    """Say which pictures of lists are not there, and which names are those of several."""
    exact = {key for name in names for key in (plain(name), plain(stem(name)))}
    own = Counter(end for key in exact for end in _ends(key))
    for source, listed in said.lists if names else ():
        gone, twice = [], []
        for one in dict.fromkeys(listed):
            above, _, file = plain(one).rpartition("/")
            counts = [own[end] for end in _ends(plain(f"{above}/{as_arrived(file)}"))]
            if plain(one) not in exact and 1 not in counts:
                (twice if any(counts) else gone).append(safe_name(last(one)))
        if gone:
            sentence = f"Pictures that it names and that are not here: {len(gone)}, such as {gone[0]}. Add them, or ignore this."
            said.problems.append(Problem(safe_name(source), sentence, used=True))
        if twice:
            sentence = f"Names that several pictures have: {len(twice)}, such as {twice[0]}. Write their folder before them."
            said.problems.append(Problem(safe_name(source), sentence, used=True))


def _ends(name: str) -> list[str]:
    """`a/b/c`, `b/c` and `c`."""
    parts = name.split("/")
    return ["/".join(parts[at:]) for at in range(len(parts))]


def is_listed(said: Said, name: str) -> bool:
    """Whether a list has a caption for the picture."""
    lists = {source for source, _ in said.lists}
    return any(source in lists and one_line(text) for _, source, text in said.of(name))


def concept_of(name: str) -> str | None:
    """The caption that a kohya folder's name (`10_a hen`) gives to the pictures in it."""
    concept = KOHYA.fullmatch(name.split("/")[-2]) if "/" in name else None
    return one_line(concept[1])[:MAX_CAPTION] or None if concept else None


def caption_of(said: Said, name: str, by_folder: bool = True) -> tuple[str | None, list[str]]:
    """The text to use, whole up to `MAX_CAPTION` characters, and the sources of others that differ from it, the used one first."""
    found = [(source, line) for _, source, text in said.of(name) if (line := one_line(text))]
    if not found:
        return concept_of(name) if by_folder else None, []
    differ = [source for source, line in found if line != found[0][1]]
    return found[0][1][:MAX_CAPTION].rstrip(), [found[0][0], *differ] if differ else []


def remarks(said: Said, names: list[str]) -> list[Problem]:
    """What is to be said of captions that differ, are cut, or come from the name of a folder."""
    found, folders = [], Counter()
    for name in names:
        text, differ = caption_of(said, name)
        if text is not None and text == concept_of(name) and caption_of(said, name, by_folder=False)[0] is None:
            folders[name.split("/")[-2], text] += 1
        if differ:
            others = " and ".join(dict.fromkeys(safe_name(source) for source in differ[1:]))
            sentence = f"Its captions in {safe_name(differ[0])} and {others} differ; the first is used. Remove the wrong one."
            found.append(Problem(safe_name(last(name)), sentence, used=True))
        if any(len(one_line(text)) > MAX_CAPTION for _, _, text in said.of(name)[:1]):
            found.append(Problem(safe_name(last(name)), CUT, used=True))
    for (folder, text), count in folders.items():
        sentence = f"Its name gives the caption '{text[:60]}' to the pictures in it that have none: {count}. A text beside one goes first."
        found.append(Problem(safe_name(folder), sentence, harmless=True))
    return found


def _list(said: Said, name: str, path: Path) -> None:
    try:
        pairs, wrong, guessed = read_list(path)
    except BadList as error:
        said.problems.append(Problem(safe_name(last(name)), f"The captions cannot be used ({error}). {CURE}"))
        return
    if wrong:
        sentence = f"Some captions cannot be used ({wrong[0]}, {len(wrong)} in all). The others are used."
        said.problems.append(Problem(safe_name(last(name)), sentence, used=True))
    _guessed(said, name, guessed)
    rank = {".json": 0, ".jsonl": 4, ".ndjson": 4}.get(path.suffix.lower(), 5)
    above = name.rpartition("/")[0]
    said.lists.append((last(name), [f"{above}/{picture}" for picture, _ in pairs]))
    for picture, text in pairs:
        said.texts[plain(f"{above}/{picture}")].append((rank, last(name), text))


def _beside(said: Said, name: str, path: Path, usual: str) -> None:
    ending = Path(name).suffix.lower()
    if ending == ".json":
        said.texts[plain(stem(name))] += [(3, last(name), text) for text in sidecar_text(path)]
        return
    try:
        text, guessed = read_text(path, MAX_TEXT, usual)
    except (OSError, ValueError):
        sentence = "The caption cannot be read as text. Save it as UTF-8."
        said.problems.append(Problem(safe_name(last(name)), sentence, used=True))
        return
    _guessed(said, name, guessed)
    said.texts[plain(stem(name))].append((1 if ending == ".txt" else 2, last(name), text))


def _guessed(said: Said, name: str, encoding: str) -> None:
    if encoding:
        sentence = f"The caption was read as {encoding}. If letters are wrong, save it as UTF-8."
        said.problems.append(Problem(safe_name(last(name)), sentence, harmless=True))
