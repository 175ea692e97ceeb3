"""Answers that came with the examples, read from files: no network runs. `python -m fusion.ui.first_screen` makes them by a real run.

Files, below assets/first_screen/ (written by `first_screen_make`): `<target>.json`, `<target>.gram.safetensors` (the statistic of all the
example's pictures, from which the page rebuilds the fit of the first 12, 24, 48 or 96 in milliseconds) and `<target>-<method>-<n>.png`.
"""

from __future__ import annotations

import functools
import json

from . import engine, state

FOLDER = engine.ASSETS / "first_screen"
SCHEMA = 2


@functools.lru_cache(maxsize=8)
def stored(name: str | None) -> dict | None:
    """The precomputed answer for one example, or None."""
    file = FOLDER / f"{name}.json"
    if not name or not name.isalpha() or not file.is_file():
        return None
    data = json.loads(file.read_text("utf-8"))
    return data if data.get("schema") == SCHEMA else None


def take_stored_fit(session) -> None:
    """Use the stored statistic of the session's example, if it holds the selected models and these pictures: nothing is run."""
    from . import models_section  # which shows these files' thumbnails

    data, cards = stored(session.example), models_section.chosen(session)
    statistic, count = FOLDER / f"{session.example}.gram.safetensors", len(session.pictures)
    if data is None or not statistic.is_file() or len(cards) < 2 or not 0 < count <= data["images"]:
        return
    fit = engine.refit(statistic, cards, count)
    if fit is None:
        return
    fit = engine.with_target(fit, [p.image for p in session.pictures], [p.caption for p in session.pictures])
    if data.get("matched") and [c.id for c in cards] == data["members"] and count == data["fitted"]:
        fit = engine.with_matched_weights(fit, data["matched"])
    session.take_fit(fit, tuple(c.id for c in cards))
    session.blend = data.get("blend") if fit.matched is not None else None
    session.weights = {mode: engine.default_weights(fit, mode) for mode in state.MODES}


if __name__ == "__main__":
    from .first_screen_make import main

    main()
