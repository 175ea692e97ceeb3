"""Several prompts in one field, and in one part of an address: separated by `|`, which within brackets belongs to a prompt's own syntax."""

from __future__ import annotations

from collections.abc import Sequence

MOST, LONGEST = 16, 4000  # prompts of a grid; characters of one, as in a recipe
OPEN, CLOSE = "([{", ")]}"


def split(text: str) -> tuple[str, ...]:
    """The prompts that a field holds, at most `MOST` of at most `LONGEST` characters; `\\|` is a bar of the prompt itself."""
    return tuple(one[:LONGEST].strip() for one in pieces(text))[:MOST]


def is_cut(text: str) -> bool:
    """Whether a field holds more than `split` takes."""
    found = pieces(text)
    return len(found) > MOST or any(len(one) > LONGEST for one in found)


def pieces(text: str) -> tuple[str, ...]:
    """All prompts that a field holds, whole."""
    found, piece, depth, at = [], "", 0, 0
    while at < len(text):
        letter = text[at]
        if text.startswith("\\|", at):
            piece, at = piece + "|", at + 2
            continue
        if letter in OPEN and _closed(text, at):
            depth += 1
        elif letter in CLOSE and depth:
            depth -= 1
        if letter == "|" and not depth:
            found.append(piece)
            piece = ""
        else:
            piece += letter
        at += 1
    return tuple(clean for one in (*found, piece) if (clean := one.strip()))


def joined(prompts: Sequence[str]) -> str:
    """What `split` takes apart again."""
    return " | ".join(one if split(one) == (one,) else one.replace("|", "\\|") for one in prompts)


def _closed(text: str, at: int) -> bool:
    """Whether the bracket at `at` has its other half."""
    depth, other = 0, CLOSE[OPEN.index(text[at])]
    for letter in text[at:]:
        depth += (letter == text[at]) - (letter == other)
        if not depth:
            return True
    return False
