"""JSON of foreign origin, read within bounds: the one door for configurations, metadata, captions and whatever else a stranger wrote.

Python's parser trusts its input: thousands of brackets exhaust the stack, a number of thousands of digits is refused in words about an
interpreter's setting, and what it lets through (nested hundreds deep) ends later, in a copy or a comparison. Here each is one sentence.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

MOST_BYTES = 16_000_000  # of a configuration or of metadata; a large tokenizer's own file is the longest there is and has its own bound
DEEPEST = 64
LONGEST_NUMBER = 400  # digits; a float has 17 and the largest one 309
_PLAIN = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # possessive: never tried twice, however long
_DIGITS = re.compile(rf"[0-9]{{{LONGEST_NUMBER + 1},}}")


class Unreadable(ValueError):
    """Not JSON, or beyond the bounds. The message fits behind `... cannot be read`: what is wrong, without a cure."""


def checked(text: str | bytes, most: int = MOST_BYTES) -> str:
    """`text` itself, once it is known to be short, flat and of numbers with an end. Raises Unreadable."""
    if len(text) > most:
        raise Unreadable(f"it has {len(text) / 1e6:.1f} MB and at most {most / 1e6:.0f} MB are read")
    try:
        text = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise Unreadable("it is not text") from None
    bare = _PLAIN.sub("", text)  # what stands between quotation marks opens no bracket
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", bare):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise Unreadable(f"it is nested {deepest} deep and at most {DEEPEST} levels are read")
    if _DIGITS.search(bare):
        raise Unreadable(f"it holds a number of more than {LONGEST_NUMBER} digits")
    return text


def parse(text: str | bytes, most: int = MOST_BYTES) -> object:
    """The value that `text` states. Raises Unreadable for what is no JSON, too long, too deep, or holds a number without end."""
    text = checked(text, most)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no valid JSON, line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):  # what the bounds above should have caught
        raise Unreadable("it is no valid JSON") from None


def read(path: Path, most: int = MOST_BYTES) -> object:
    """`parse` of a file, of which no more is read than may be. Raises Unreadable, and OSError where there is no file to be opened."""
    if path.exists() and not path.is_file():  # a pipe would be waited for, a folder is none
        raise Unreadable("it is not a file")
    with open(path, "rb") as file:
        return parse(file.read(most + 1), most)


def why(error: OSError | Unreadable) -> str:
    """What is wrong, without the path or the number of an error that the system raised."""
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
