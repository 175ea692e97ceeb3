"""Lists of captions as tools write them: captions.json, metadata.jsonl, metadata.csv and their like, to pairs of a file's name and a text.

Names in a list are only compared with the pictures that are there; no list can point to another file.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from fusion.intake.text import read_text
from models import bounded

NAMES = ("file_name", "file", "filename", "image", "image_path", "image_file", "path", "name")  # keys of a picture's name
TEXTS = ("text", "caption", "prompt", "captions", "prompts", "description")
MAX_LIST = 4_000_000  # bytes
STEM = r"(?:captions?|metadata|prompts|meta_cap|meta)(?:[ _.\-]*\(?\w*\)?)?"
LIST = re.compile(rf"{STEM}\.(?:json|jsonl|ndjson|csv|tsv)", re.IGNORECASE)
ROWS = (".jsonl", ".ndjson", ".csv", ".tsv")
UNREADABLE = (".parquet", ".arrow", ".xlsx", ".tar")


class BadList(ValueError):
    """The list cannot be used; the message is the cause."""


def is_list_name(name: str) -> bool:
    """Whether a file is called as lists of captions are."""
    return bool(LIST.fullmatch(name)) or name.lower().endswith(ROWS)


def read_list(path: Path) -> tuple[list[tuple[str, str]], list[str], str]:
    """`(name of a picture, text)` in the list's order, what was wrong with single lines, and an encoding that was guessed.

    Raises BadList where nothing can be used.
    """
    try:
        text, guessed = read_text(path, MAX_LIST)
        ending = path.suffix.lower()
        if ending in (".csv", ".tsv"):
            found, wrong = _rows(text)
        elif ending in (".jsonl", ".ndjson"):
            found, wrong = _lines(text)
        else:
            found, wrong = _json(text), []
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise BadList(_cause(error)) from None
    if not found:
        raise BadList(wrong[0] if wrong else "it names no pictures")
    return found, wrong, guessed


def _cause(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeError):
        return "its letters cannot be read"
    return str(error)[:200]


def _entry(entry: object) -> list[tuple[str, str]]:
    """Pairs of one entry, an object with a name and one text or several. Raises ValueError."""
    if isinstance(entry, dict):
        lower = {str(key).strip().lower(): value for key, value in entry.items()}
        name = next((lower[key] for key in NAMES if isinstance(lower.get(key), str) and lower[key].strip()), None)
        if name is not None:
            texts = _texts(lower)
            if texts is not None:
                return [(name.strip(), text) for text in texts]
    raise ValueError("an entry lacks `file` or `prompt`")


def _texts(entry: dict) -> list[str] | None:
    """What an object says of a picture; None where it has no place for it, [] where that is empty."""
    found, there = [], False
    for key in TEXTS:
        value = entry.get(key)
        several = value if isinstance(value, list) else [value]
        there |= key in entry and all(isinstance(one, str | None) for one in several)
        found += [one for one in several if isinstance(one, str) and one.strip()]
    return found if there else None


def _json(text: str) -> list[tuple[str, str]]:
    """A list of entries, or names with a text or an entry behind them (kohya's `meta_cap.json`)."""
    content = bounded.parse(text)
    if isinstance(content, list):
        return [pair for entry in content for pair in _entry(entry)]
    if not isinstance(content, dict):
        raise ValueError("it maps no file names to prompts")
    pairs = []
    for name, value in content.items():
        texts = [value] if isinstance(value, str) else _texts(value) if isinstance(value, dict) else None
        if texts is None:
            raise ValueError("it maps no file names to prompts")
        pairs += [(name, one) for one in texts]
    return pairs


def _lines(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    found, wrong = [], []
    for number, line in enumerate(text.splitlines() if "\n" in text else text.split("\r"), 1):
        if not line.strip():
            continue
        try:
            found += _entry(bounded.parse(line))
        except (ValueError, RecursionError) as error:
            known = "an entry lacks" in str(error)
            wrong.append(f"line {number} lacks a file name or a text" if known else f"line {number} is no JSON")
    return found, wrong


def _rows(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Rows below a line of column names, between commas, semicolons or tabs. Quoted texts may hold line ends."""
    header = text.lstrip().split("\n", 1)[0]
    between = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=between)
    columns = [column.strip().lower() for column in next(rows, [])]
    if not set(columns) & set(NAMES) or not set(columns) & set(TEXTS):
        raise ValueError("its first line lacks the columns file_name and text")
    found, wrong = [], []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        try:
            if len(row) > len(columns):
                raise ValueError
            found += _entry(dict(zip(columns, row)))
        except ValueError:
            wrong.append(f"line {rows.line_num} has other columns than the first line")
    return found, wrong


def sidecar_text(path: Path) -> list[str]:
    """What a `.json` beside a picture says of it; [] where it says nothing."""
    try:
        text, _ = read_text(path, 1_000_000)
        content = bounded.parse(text)
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(content, dict) or "version" in content:
        return []
    return _texts({str(key).lower(): value for key, value in content.items()}) or []
