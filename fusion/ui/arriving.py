"""What arrives from a browser: every value of an event is checked here, by kind, before any section sees it.

A browser is anybody. What is not of the kind that its name says is left out, as if it had not been sent, so that a section only ever asks
whether something is there. What cannot even be taken in, such as an upload that was never made, is one line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import gradio as gr

LONGEST = 20_000  # characters of a text; a field holds a caption or a few prompts
LARGEST = 2.0**53  # beyond it a browser's numbers are not whole ones any more
MOST_WEIGHTS = 64

log = logging.getLogger(__name__)


def _text(value: object) -> str | None:
    """Text that can be a key, be written to a file and be shown: no lone surrogates, no control characters but white space."""
    if not isinstance(value, str) or len(value) > LONGEST:
        return None
    return "".join(c for c in value if c in "\n\t" or (c >= " " and c != "\x7f" and not "\ud800" <= c <= "\udfff"))


def _field(value: object) -> str | int | float | bool | None:
    """What a field holds: text, a number, or whether it is ticked."""
    return _text(value) if isinstance(value, str) else value if isinstance(value, bool) else _number(value)


def _number(value: object) -> int | float | None:
    """A number that a browser can hold: no NaN, no infinity, no integer of thousands of digits."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST else None


def _place(value: object) -> str | int | None:
    """A place in a list, as a number or in digits."""
    if isinstance(value, str):
        return value if value.isascii() and value.isdecimal() and len(value) <= 9 else None
    number = _number(value)
    return number if isinstance(number, int) and number >= 0 else None


def _numbers(value: object) -> list | None:
    short = isinstance(value, list) and len(value) <= MOST_WEIGHTS
    return value if short and all(_number(one) is not None for one in value) else None


KINDS: dict[str, Callable[[object], object]] = {
    **dict.fromkeys(("do", "id", "name", "mode", "table", "why", "key"), _text),
    **dict.fromkeys(("index", "side", "count"), _place),
    "value": _field,
    "weights": _numbers,
}


def checked(sent: object) -> dict:
    """What an event of a browser holds, by `KINDS`; names that nobody asks for and values of another kind are left out."""
    if not isinstance(sent, dict):
        return {}
    found = {name: check(sent[name]) for name, check in KINDS.items() if name in sent}
    return {name: value for name, value in found.items() if value is not None}


def paths(files: object) -> list[str]:
    """Where the files of an upload lie. Gradio has looked whether they are its own; `Page` tells what it does about those that are not."""
    return [str(file) for file in files or []]


class Page(gr.Blocks):
    """Gradio's page; input that it cannot take in is refused in a sentence and logged in one line, without its traceback.

    An upload that names a file of somebody else's, or is no upload at all, is an attempt and no fault of ours.
    """

    async def preprocess_data(self, block_fn, *arguments, **settings):
        try:
            return await super().preprocess_data(block_fn, *arguments, **settings)
        except Exception as error:  # of any type: what was sent is anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("refused what was sent to %s: %.200r", getattr(block_fn, "api_name", "?"), reason)
            raise gr.Error("this cannot be used: choose the files again", print_exception=False) from None
