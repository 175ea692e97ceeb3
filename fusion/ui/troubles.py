"""What goes wrong, as a sentence with cause and cure in the visitor's language. An exception's own words go to the log only."""

from __future__ import annotations

import functools
import logging
import secrets
import traceback
from collections.abc import Callable
from pathlib import Path

from models.causes import kind
from models.room import told

from . import texts

log = logging.getLogger(__name__)


def record(error: BaseException) -> str:
    """Write the whole traceback to the log, under a short reference that is also shown, and return the reference (six hex digits)."""
    reference = secrets.token_hex(3)
    log.error("reference %s", reference, exc_info=(type(error), error, error.__traceback__))
    return reference


def explain(session, error: BaseException) -> str:
    """Cause and cure. Sentences of ours are shown as they are; of any other error only what kind it is, and a reference to the log."""
    what = kind(error)
    if what in ("ours", "full"):
        reason = told(error, session.folder) if what == "full" else str(error)
        return session.tell("run.problem", reason=texts.translate(session.language, reason))
    if what == "memory":
        return session.tell("run.memory")
    reference = record(error)
    name = getattr(error, "filename", None)
    name = Path(str(name)).name if name is not None else "–"
    return session.tell(f"run.{what}", reference=reference, **({"name": name} if what in ("permission", "missing") else {}))


def release(error: BaseException) -> None:
    """Let go of what the frames of a failed piece of work still hold, and give its memory back: the next visitor may need it."""
    from fusion.memory import free

    if kind(error) == "memory":
        traceback.clear_frames(error.__traceback__)
        free()


def guarded(show: Callable, before: int = 0):
    """A decorator for handlers of events: one that raises is logged and said at the top of the page; the visitor's work stays.

    `show(session)`: the values of all panels, with which the handler would have ended. `before`: None values in front of them.
    """

    def around(handler):
        @functools.wraps(handler)
        def careful(session, *rest, **more):
            if any(tone == "bad" for tone, _ in session.notes.get("page", [])):
                del session.notes["page"]  # it was of the event before
            try:
                return handler(session, *rest, **more)
            except Exception as error:  # of any type: a fault of ours, and no reason to show its words
                session.note("page", "bad", explain(session, error))
                return [*[None] * before, *show(session)]

        return careful

    return around
