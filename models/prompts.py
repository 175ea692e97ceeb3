"""What people type as a prompt: weights, breaks, and what of it nobody here understands. Knows no model; `models.reading` encodes it.

The syntax is the one of the AUTOMATIC1111 web UI, which most published prompts use: `(word)` weighs 1.1, `[word]` 1 / 1.1, `(word:1.3)`
1.3, nested ones multiply, `BREAK` begins anew, and a backslash makes a bracket a bracket. An unbalanced bracket is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLACE = "{prompt}"  # where a prompt template puts the prompt
READINGS = ("prompt", "text", "cut")
"""How a prompt is read. `prompt`: with the syntax above. `text`: every character as it stands, as captions are. `cut`: as it stands, and
what is too long for the encoder is dropped, as stock pipelines do: recipes of earlier versions were drawn so."""
STEP, MOST = 1.1, 10.0  # a pair of brackets; the largest weight
_NETWORK = re.compile(r"<(?:lora|lyco|lycoris|hypernet):[^<>]*>", re.IGNORECASE)
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_SCHEDULE = re.compile(r"\||:\s*\d*\.?\d+\s*$")  # [a|b] and [a:b:0.5] change the words while sampling
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_FOREIGN = re.compile(r"(?<!\S)AND(?!\S)|\{[^{}]*\}|__[\w/-]+__")
PAIRS = {")": "(", "]": "["}

Pieces = tuple[tuple[str, float], ...]


class PromptError(ValueError):
    """A prompt says something that cannot be; the message names the cause and the cure."""


@dataclass(frozen=True)
class Said:
    """A prompt as it is understood. `parts`: text with its weight, in order, in one part or in several where `BREAK` stood.

    networks: the `<lora:...>` in it, which are no words. foreign: what other programs understand and is text here. loose: brackets without
    their other half, which are text.
    """

    parts: tuple[Pieces, ...]
    networks: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    loose: int = 0

    @property
    def words(self) -> str:
        """The text alone, in one piece."""
        return " ".join("".join(text for text, _ in part) for part in self.parts)

    @property
    def weighted(self) -> Pieces:
        """The pieces whose weight is not 1."""
        return tuple((text.strip(), weight) for part in self.parts for text, weight in part if weight != 1 and text.strip())

    @property
    def plain(self) -> bool:
        """Whether the words alone say all of it."""
        return len(self.parts) == 1 and not self.weighted

    def within(self, template: str) -> Said:
        """The prompt with the words of a template around it, which have weight 1."""
        before, *rest = template.split(PLACE)
        parts = [[(before, 1.0)]]
        for after in rest:
            first, *others = self.parts
            parts[-1] += first
            parts += [list(other) for other in others]
            parts[-1].append((after, 1.0))
        return Said(tuple(_joined(part) for part in parts), self.networks, self.foreign, self.loose)


def literal(text: str) -> Said:
    """A text of which every character stands for itself."""
    return Said((((text, 1.0),),))


def understood(text: str, reading: str = "prompt") -> Said:
    """`text` as a prompt is read. Raises PromptError for a weight that cannot be, ValueError for an unknown reading."""
    if reading not in READINGS:
        raise ValueError(f"prompts are read as {', '.join(READINGS)}, not as {reading!r}")
    if reading != "prompt" or not re.search(r"[()\[\]\\<{]|BREAK|AND|__", text):
        return literal(text)
    networks = tuple(_NETWORK.findall(text))
    bare = re.sub(r" {2,}", " ", _NETWORK.sub("", text)).strip().rstrip(",").rstrip() if networks else text
    pairs, loose = _pairs(bare)
    parts, foreign = _walk(bare, pairs)
    words = Said(parts).words
    return Said(parts, networks, tuple(dict.fromkeys([*foreign, *_FOREIGN.findall(words)])), loose)


def _pairs(text: str) -> tuple[dict[int, int], int]:
    """`(place of an opening bracket -> place of its closing one, brackets left over)`."""
    pairs, waiting, loose, at = {}, [], 0, 0
    while at < len(text):
        letter = text[at]
        if letter == "\\":
            at += 1
        elif letter in "([":
            waiting.append(at)
        elif letter in PAIRS:
            mine = next((n for n in reversed(range(len(waiting))) if text[waiting[n]] == PAIRS[letter]), None)
            if mine is None:
                loose += 1
            else:
                loose += len(waiting) - mine - 1  # opened within and never closed
                pairs[waiting[mine]] = at
                del waiting[mine:]
        at += 1
    return pairs, loose + len(waiting)


def _walk(text: str, pairs: dict[int, int]) -> tuple[tuple[Pieces, ...], list[str]]:
    """`(parts, foreign)`: every stretch of text with its weight."""
    parts, foreign, weights, closing = [[]], [], [1.0], {}  # closing: place of a bracket -> where the text goes on

    def add(stretch: str) -> None:
        first, *others = _BREAK.split(stretch)
        parts[-1].append((first, weights[-1]))
        parts.extend([(other, weights[-1])] for other in others)

    at = start = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] in (*"()[]\\",):
            add(text[start:at] + text[at + 1])
            at = start = at + 2
            continue
        inside = text[at + 1 : pairs[at]] if at in pairs else ""
        if letter == "[" and at in pairs and _SCHEDULE.search(inside):
            foreign.append(text[at : pairs[at] + 1])
            at = pairs[at] + 1
            continue
        if at in pairs:
            add(text[start:at])
            number = _NUMBER.search(inside) if letter == "(" else None
            weights.append(weights[-1] * _weight(number, inside, letter))
            closing[pairs[at] if number is None else at + 1 + number.start()] = pairs[at] + 1
            start = at + 1
        if at in closing:
            add(text[start:at])
            weights.pop()
            at = start = closing.pop(at)
            continue
        at += 1
    add(text[start:])
    return tuple(_joined(part) for part in parts), foreign


def _weight(number: re.Match | None, inside: str, bracket: str) -> float:
    if number is None:
        return STEP if bracket == "(" else 1 / STEP
    weight = float(number[1])
    if not 0 <= weight <= MOST:
        word = inside[: number.start()][:60]
        raise PromptError(f"the weight {number[1]} of '{word}' in a prompt must be from 0 to {MOST:g}: change it, or "
                          "write \\( and \\) for brackets")  # fmt: skip
    return weight


def _joined(pieces: list[tuple[str, float]]) -> Pieces:
    """Neighbours of one weight as one piece; a part is never empty. Weights to four decimals, so that `[(word)]` weighs 1."""
    found: list[tuple[str, float]] = []
    for text, weight in pieces:
        weight = round(weight, 4)
        if text and found and found[-1][1] == weight:
            found[-1] = (found[-1][0] + text, weight)
        elif text:
            found.append((text, weight))
    return tuple(found) or (("", 1.0),)
