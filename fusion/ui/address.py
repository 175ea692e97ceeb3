"""The address: everything small enough to share is written into, and read from, the query of the URL."""

from __future__ import annotations

import math
from urllib.parse import parse_qsl, urlencode

import numpy as np

from . import prompts, state, texts

PARTS = {"lang", "models", "mode", "weights", "example", "prompt", "seed", "images", "steps", "guidance", "negative", "clip_skip",
         "pictures"}  # fmt: skip


def query(session: state.Session) -> str:
    """Models, weights, mode, seeds, example and language as a URL query that `restore` reads."""
    parts = {"lang": session.language, "models": ",".join(session.selected), "mode": session.mode}
    weights = session.weights.get(session.mode)
    if weights is not None:
        parts["weights"] = ",".join(f"{w:.4f}" for w in weights)
    if session.example:
        parts |= {"example": session.example, "pictures": len(session.pictures)}
    plan = session.plan
    parts |= {"prompt": prompts.joined(plan.prompts), "seed": plan.first_seed, "images": plan.count, "steps": plan.steps}
    if plan.guidance is not None:
        parts["guidance"] = f"{plan.guidance:g}"
    parts |= {"negative": plan.negative} if plan.negative else {}
    parts |= {"clip_skip": plan.clip_skip} if plan.clip_skip else {}
    return "?" + urlencode(parts)


def says_no_more(session: state.Session, params: dict[str, str]) -> bool:
    """Whether an address says nothing but what `query` says of this session, language aside."""
    own = dict(parse_qsl(query(session)[1:]))
    return all(own.get(name) == value for name, value in params.items() if name in PARTS - {"lang"})


def restore(session: state.Session, params: dict[str, str], known: set[str]) -> list[str]:
    """Set the session from a URL query. Returns the keys that could not be used, for one sentence on the page."""
    bad = []
    if params.get("lang") in texts.LANGUAGES:
        session.language = params["lang"]
    if params.get("models"):
        wanted = params["models"].split(",")[:16]
        session.selected = [m for m in dict.fromkeys(wanted) if m in known]
        bad += [m for m in wanted if m not in known]
    if params.get("mode") in state.MODES:
        session.mode = params["mode"]
    if params.get("weights"):
        weights = _numbers(params["weights"])
        if weights is not None and len(weights) == len(session.selected):
            session.weights[session.mode] = weights / weights.sum()
        else:
            bad.append("weights")
    plan = session.plan
    plan.prompts = prompts.split(params.get("prompt", "")) or plan.prompts
    plan.negative = params.get("negative", plan.negative).strip()[: prompts.LONGEST]
    plan.clip_skip = state.whole(params.get("clip_skip"), plan.clip_skip, 0, 12)
    plan.first_seed = state.whole(params.get("seed"), plan.first_seed, 0, state.MAX_SEED - 64)
    plan.count = state.whole(params.get("images"), plan.count, 1, 16)
    plan.steps = state.whole(params.get("steps"), plan.steps, 2, 100)
    plan.guidance = state.guidance(params.get("guidance"), plan.guidance)
    return bad


def _numbers(text: str) -> np.ndarray | None:
    try:
        values = np.array([float(x) for x in text.split(",")])
    except ValueError:
        return None
    if not all(math.isfinite(v) and v >= 0 for v in values) or values.sum() <= 0:
        return None
    return values
