"""Adapters in a row on one model, as they are typed: MODEL+ADAPTER:0.7+SECOND:0.4. Reads no file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import ModelError

COMMIT = re.compile(r"[0-9a-f]{40}")
STRONGEST = 100.0


@dataclass(frozen=True)
class Adapter:
    """One adapter on a model. source: a path or hub id, as a card's; revision: the hub commit; strength: what its change is multiplied by.

    Raises ModelError for a strength that is no finite number from -100 to 100.
    """

    source: str
    revision: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.strength, (int, float)) and not isinstance(self.strength, bool) and math.isfinite(self.strength)
        if not number or abs(self.strength) > STRONGEST:
            raise ModelError(f"the strength of {self.source} must be a number from -100 to 100, not {self.strength}: 1 is the adapter as "
                             "it was trained, 0 is none of it")  # fmt: skip

    @property
    def name(self) -> str:
        """The name of its file or folder."""
        return self.source.removesuffix(".safetensors").replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]

    @property
    def title(self) -> str:
        """The same with its strength, as it is typed, where that is not 1."""
        return self.name + spelled(self.strength)

    def __str__(self) -> str:
        return self.source + (f"@{self.revision}" if self.revision else "") + spelled(self.strength)


def spelled(strength: float) -> str:
    """`:0.7`, as it is typed; nothing for 1."""
    short = f"{strength:g}"
    return "" if strength == 1 else f":{short if float(short) == strength else repr(float(strength))}"


def written(adapters: Iterable[Adapter]) -> str:
    """`+ADAPTER:0.7+SECOND`, as they are typed behind a model."""
    return "".join(f"+{one}" for one in adapters)


def split(text: str, there: Callable[[str], object]) -> tuple[Adapter, ...]:
    """The adapters of what is typed behind a model's +: `ADAPTER[@COMMIT][:STRENGTH][+...]`. `there(path)`: whether such a path exists.

    Paths that are there keep their own `@`, `+` and `:`; the longest one wins. Raises ModelError.
    """
    found = []
    while text:
        ends = [len(text), *(at for at in reversed(range(len(text))) if text[at] == "+" and text[at - 1 : at] != ":")]
        end = next((at for at in ends if _path(text[:at], there)), ends[-1])
        found.append(_one(text[:end], there))
        if text[end:] == "+":
            raise ModelError("no adapter stands behind the last +: leave the + out, or name one")
        text = text[end + 1 :]
    return tuple(found)


def _path(typed: str, there: Callable[[str], object]) -> bool:
    """Whether a path that is there was typed, with or without a strength behind it."""
    head, colon, tail = typed.rpartition(":")
    return there(typed) or bool(colon and "+" not in tail[1:] and _number(tail) is not None and there(head))


def _one(typed: str, there: Callable[[str], object]) -> Adapter:
    if there(typed):
        return Adapter(typed)
    head, colon, tail = typed.rpartition(":")
    number = _number(tail) if colon else None
    if colon and number is None and (there(head) or "/" not in tail and "\\" not in tail):
        raise ModelError(f"'{tail[:40]}' behind {head} is no strength: write a number, as {head}:0.7")
    source, strength = (typed, 1.0) if number is None else (head, number)
    if not there(source):
        source, _, revision = source.partition("@")
        return Adapter(source, revision or None, strength)
    return Adapter(source, None, strength)


def _number(typed: str) -> float | None:
    try:
        return float(typed) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan|infinity)", typed.strip(), re.I) else None
    except ValueError:
        return None
