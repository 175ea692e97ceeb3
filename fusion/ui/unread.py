"""Words that the chosen models' text encoders do not read, named at the field they were typed into and in the report.

Nothing is loaded for it: while the models are not in memory nobody can tell, and nothing is said. What was found is kept for every text.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from weakref import WeakKeyDictionary

from . import engine, models_section, texts

KINDS = ("prompt", "negative", "caption")
KEPT = 4096  # texts of one ensemble
SHOWN = 300  # characters of the words that are named; all of them stand in `--json`
LINES = 4  # texts named at one field

_found: WeakKeyDictionary = WeakKeyDictionary()  # ensemble -> {(kind, text): rows}
_lock = threading.Lock()


def rows(session, kind: str, words: Sequence[str]) -> list[dict]:
    """`{"prompt", "not_read", "by", "model"}` of what is cut of these texts; nothing while the models are not loaded.

    `kind`: of `KINDS`. Captions are read up to the encoder's end by all families, prompts whole by those that can.
    """
    together = engine.loaded(models_section.chosen(session))
    if together is None:
        return []
    words = [one for one in dict.fromkeys(words) if one]
    with _lock:
        kept = _found.setdefault(together, OrderedDict())
        fresh = [one for one in words if (kind, one) not in kept]
        if fresh:
            by_text: dict[str, list[dict]] = {one: [] for one in fresh}
            for row in _look(together, kind, fresh):
                by_text[row["prompt"]].append(row)
            kept.update({(kind, one): found for one, found in by_text.items()})
        found = [row for one in words for row in kept[kind, one]]
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return found


def _look(together, kind: str, words: Sequence[str]) -> list[dict]:
    from fusion.methods import SamplingPlan
    from models.reading import dropped

    reading = "cut" if kind == "caption" else SamplingPlan.reading
    return dropped(together, words, reading, templates=kind != "negative")


def sentences(session, kind: str, words: Sequence[str]) -> list[str]:
    """What is cut, one sentence for every text and place where encoders stop, in the visitor's language."""
    by: dict[tuple[str, str], list[str]] = {}
    for row in rows(session, kind, words):
        by.setdefault((row["prompt"], row["not_read"]), []).append(session.tell("unread.by", model=row["model"], part=row["by"]))
    said = []
    for (_, rest), readers in by.items():
        shown = rest if len(rest) <= SHOWN else rest[: SHOWN - 1] + "…"
        said.append(session.tell(f"unread.{kind}", words=shown, readers=texts.join(session.language, list(dict.fromkeys(readers)))))
    return said


def at_field(session, kind: str, words: Sequence[str]) -> str:
    """HTML behind a field: what is cut of what it holds; empty where all is read."""
    said = sentences(session, kind, words)
    if len(said) > LINES:
        said = [*said[:LINES], session.tell("target.more", count=len(said) - LINES)]
    return f'<div class="note warn" role="status" id="unread-{kind}"><ul>{"".join(f"<li>{escape(s)}</li>" for s in said)}</ul></div>' \
        if said else ""  # fmt: skip
