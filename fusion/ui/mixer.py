"""The mixer: its numbers as JSON for the browser, and the last word on what it sends back.

Loss and distance are quadratic forms of the weights that the fit already holds; this module only hands them over.
"""

from __future__ import annotations

import json
import math
from importlib import resources

import gradio as gr
import numpy as np

from . import charts, engine, models_section, state

LABELS = (
    "lock",
    "locked",
    "only",
    "undo",
    "fitted",
    "published",
    "uniform",
    "mix",
    "mixHelp",
    "blend",
    "blendHelp",
    "modes",
    "distance",
    "distanceUnit",
    "distanceHelp",
    "loss",
    "lossUnit",
    "lossHelp",
    "gap",
    "unknown",
    "fitFirst",
    "interval",
    "publishedTick",
    "needsCalibration",
    "map",
    "mapKey",
    "mapLoss",
    "mapDistance",
    "mapOthers",
    "mapEmpty",
    "corners",
    "open",
    "close",
)


def build(value: dict) -> gr.HTML:
    """The component; everything inside is drawn by mixer.js, with the arithmetic of mixer_weights.js before it."""
    folder = resources.files(__package__)
    script = "\n".join(folder.joinpath(name).read_text("utf-8") for name in ("mixer_weights.js", "mixer.js"))
    return gr.HTML(
        value,
        html_template='<div class="mx" role="group"></div>',
        js_on_load=script,
        elem_id="mixer",
        apply_default_css=False,
        container=False,
        padding=False,
    )


def data(session) -> dict:
    """What the browser needs to follow a drag alone; `{}` hides the mixer. Lists of plain numbers only."""
    cards = models_section.chosen(session)
    if len(cards) < 2:
        return {}
    fit = session.fit if session.fit is not None and not session.stale() else None
    names = [c.title for c in cards]
    published = fit.published.weights_.tolist() if fit is not None else None
    return {
        "names": names,
        "colours": [charts.colour(i) for i in range(len(names))],
        "mode": session.mode,
        "weights": weights(session).tolist(),
        "fitted": fit is not None,
        "count": session.releases,
        "stamp": f"{session.token}-{session.stamp}-{session.language}",
        "corners": _corners(fit, len(names)),
        "loss": _loss(fit),
        "texts": {name: session.tell(f"mixer.{name}") for name in LABELS},
        "modes": {
            "mix": {
                "fitted": _fitted(fit, "mix"),
                "published": published,
                "interval": _interval(fit, "mix"),
                "distance": _distance(session, fit),
            },
            "blend": {
                "fitted": _fitted(fit, "blend"),
                "published": published,
                "interval": _interval(fit, "blend"),
                "distance": session.blend if fit is not None else None,
            },
        },
    }


def weights(session) -> np.ndarray:
    """`(K,)` of the selected models in the present mode; uniform while nothing is set."""
    count = len(models_section.chosen(session))
    kept = session.weights.get(session.mode)
    if kept is None or len(kept) != count:
        kept = session.weights[session.mode] = np.full(count, 1.0 / max(count, 1))
    return np.asarray(kept, float)


def _fitted(fit, mode: str) -> list[float] | None:
    return None if fit is None else engine.default_weights(fit, mode).tolist()


def _interval(fit, mode: str) -> list | None:
    if fit is None:
        return None
    source = fit.calibrated if mode == "mix" else fit.published
    return None if source is None else np.asarray(source.interval_).tolist()


def _loss(fit) -> dict | None:
    return None if fit is None else {"q": fit.gram.mean("simple", smooth=False).tolist(), **_best(fit.gram.mean("simple", smooth=False))}


def _best(matrix: np.ndarray) -> dict:
    from fusion.weights import solve_simplex

    best = solve_simplex(matrix)
    return {"best": float(best @ matrix @ best)}


def _distance(session, fit) -> dict | None:
    """Exact where samples take turns between models; worked out once per fit."""
    if fit is None or fit.calibrated is None:
        return None
    if session.mix_form is None or session.mix_form[0] is not fit.calibrated:
        session.mix_form = (fit.calibrated, engine.distance_form(fit))
    return session.mix_form[1]


def _corners(fit, count: int) -> list[int]:
    """The three models with most weight span the map first."""
    if fit is None or count <= 3:
        return [0, 1, 2]
    return sorted(np.argsort(-engine.default_weights(fit, "mix"))[:3].tolist())


def checked(values: object, count: int) -> np.ndarray | None:
    """`(count,)` on the simplex from what a browser sent, or None for what is no weights: wrong length, NaN, all zero."""
    try:
        found = [float(v) for v in values]
    except (TypeError, ValueError):
        return None
    if len(found) != count or not all(math.isfinite(v) for v in found):
        return None
    clipped = np.clip(found, 0.0, None)
    return clipped / clipped.sum() if clipped.sum() > 0 else None


def release(session, sent: dict) -> None:
    """Take what the mixer sends when the handle is let go. Python has the last word."""
    accepted = checked(sent.get("weights"), len(models_section.chosen(session)))
    count = state.whole(sent.get("count"), 0, 0, 2**31)
    if count < session.releases:  # overtaken by a later one
        return
    session.releases = count
    if sent.get("mode") == session.mode and accepted is not None:
        session.weights[session.mode] = accepted


def switch(session, sent: dict) -> None:
    """Mix or Blend; each keeps its own weights."""
    if sent.get("mode") in state.MODES:
        session.mode = sent["mode"]
        if session.weights.get(session.mode) is None and session.fit is not None and not session.stale():
            session.weights[session.mode] = engine.default_weights(session.fit, session.mode)


def as_json(session) -> str:
    return json.dumps(data(session))
