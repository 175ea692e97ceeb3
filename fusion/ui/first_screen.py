"""The first screen: an answer before any click, read from files. `python -m fusion.ui.first_screen` makes them by a real run.

Files, below assets/first_screen/: `<target>.json` (schema 1, written by `first_screen_make.py`), `<target>.gram.safetensors`
(the statistic, from which the page rebuilds the whole fit in milliseconds) and `<target>-<method>-<n>.png`. Without them: the empty state.
"""

from __future__ import annotations

import functools
import json
from html import escape

import numpy as np

from fusion.fitting import WIDE
from fusion.settled import MOST, OUTSIDE, SHARES, settled

from . import charts, engine, fit, state, texts
from .panel import notes

FOLDER = engine.ASSETS / "first_screen"
SCHEMA = 1
STRIP = 24  # target pictures shown


@functools.lru_cache(maxsize=8)
def stored(name: str | None) -> dict | None:
    """The precomputed answer for one example, or None."""
    file = FOLDER / f"{name}.json"
    if not name or not name.isalpha() or not file.is_file():
        return None
    data = json.loads(file.read_text("utf-8"))
    return data if data.get("schema") == SCHEMA else None


def take_stored_fit(session) -> None:
    """Use the stored statistic of the session's example, if it holds the selected models: nothing is run."""
    from . import models_section

    data, cards = stored(session.example), models_section.chosen(session)
    statistic = FOLDER / f"{session.example}.gram.safetensors"
    if data is None or not statistic.is_file() or len(cards) < 2 or data["images"] != len(session.pictures):
        return
    fit = engine.refit(statistic, cards)
    if fit is None:
        return
    fit = engine.with_target(fit, [p.image for p in session.pictures], [p.caption for p in session.pictures])
    if data.get("matched") and [c.id for c in cards] == data["members"]:
        fit = engine.with_matched_weights(fit, data["matched"])
    session.take_fit(fit, tuple(c.id for c in cards))
    session.blend = data.get("blend") if fit.matched is not None else None
    session.weights = {mode: engine.default_weights(fit, mode) for mode in state.MODES}


def render(session) -> str:
    """The example's stored answer; once the visitor's own pictures have been fitted, theirs."""
    own = session.fit is not None and session.example is None and bool(session.pictures) and not session.stale()
    data = None if own else stored(session.example or "valley")
    body = _own(session) if own else _answer(session, data) if data else _empty(session)
    return f'<div class="sf" id="first-screen">{notes(session, "page")}{body}</div>'


def _own(session) -> str:
    """What a fit said of the visitor's own pictures. No distance: nothing was drawn and measured yet."""
    say, found, names = session.say, session.fit, session.fit.gram.names
    source, interval = (found.mixture, None) if found.calibrated is None else (found.calibrated, found.calibrated.interval_)
    outside = found.calibrated is not None and bool(found.calibrated.outside_)
    data = {"names": names, "proportions": np.asarray(source.proportions_).tolist(), "images": len(found.gram), "interval": interval,
            "outside": outside}  # fmt: skip
    strip = "".join(f'<img src="{state.link(p.path)}" alt="" width="52" height="52">' for p in session.pictures[:STRIP])
    limits = "" if found.calibrated is not None else f'<p class="soft">{say("fit.uncalibrated")}</p>'
    said = "".join(f'<p class="soft">{escape(text)}</p>' for kind, text in fit.verdicts(session) if kind == "warn")
    return (
        f'<div class="hero"><div class="stack" style="gap:20px"><p class="eyebrow">{say("hero.yours")}</p>'
        f"<h2>{headline(session.language, data)}</h2>"
        f"{charts.shares(names, data['proportions'], interval, title=session.tell('fit.proportions'))}{limits}{said}"
        f'<div class="row"><a class="btn primary" href="#compare">{say("hero.draw")}</a><a class="btn" href="#fit">{say("hero.mixer")}</a>'
        f'</div></div><div class="stack"><div><p class="eyebrow" style="margin-bottom:8px">'
        f"{say('hero.target', images=texts.images(session.language, len(session.pictures)))}</p>"
        f'<div class="strip" aria-hidden="true">{strip}</div></div><p class="soft">{say("hero.not_drawn")}</p></div></div>'
    )


def _empty(session) -> str:
    say = session.say
    return (
        f'<div class="hero" style="grid-template-columns:minmax(0,720px)"><div class="stack" style="gap:24px"><h2>{say("hero.empty")}'
        f"</h2>"
        f'<p class="lead">{say("hero.empty_lead")}</p><p><a class="btn primary" href="#target">{say("hero.own")}</a></p></div></div>'
    )


def headline(language: str, data: dict) -> str:
    """What the pictures settle, in one sentence, never more than their intervals bear: `Cannot be told from 12 images yet`."""
    found, count = settled(data["proportions"], data.get("interval"), bool(data.get("outside"))), data["images"]
    if found.code == OUTSIDE:
        return texts.say(language, "hero.outside" if count > 1 else "hero.outside_one", count=count)
    whole = charts.percents(data["proportions"])  # as in the bars below

    def part(k: int) -> str:
        return texts.html(language, "hero.part", share=f"{whole[k]}\u202f%", name=data["names"][k])

    if found.code == MOST:
        k = found.members[0]
        low, high = (round(100 * float(end)) for end in data["interval"][k])
        return texts.say(language, "hero.most", count=count, name=data["names"][k], low=low, high=high)
    parts = texts.join(language, [part(k) for k in found.members])
    if found.code == SHARES:
        return texts.say(language, "hero.settled", count=count, parts=parts)
    return texts.say(language, f"hero.{found.code}" if count > 1 else f"hero.{found.code}_one", count=count, parts=parts)


def _answer(session, data: dict) -> str:
    say, example = session.say, session.tell(f"example.{data['target']}")
    strip = "".join(
        f'<img src="{state.link(engine.ASSETS / "targets" / data["target"] / "fit" / f)}" alt="" width="52" height="52">'
        for f in data["files"]
    )
    return (
        f'<div class="hero"><div class="stack" style="gap:20px"><p class="eyebrow">{say("hero.eyebrow", name=example)}</p>'
        f'<h2>{headline(session.language, data)}</h2><p class="lead">{_distance_sentence(session, data)}</p>'
        f"{charts.shares(data['names'], data['proportions'], data['interval'], title=session.tell('fit.proportions'))}"
        f'<p class="soft">{_honesty(session, data)}</p>'
        f'<div class="row"><a class="btn primary" href="#target">{say("hero.own")}</a><a class="btn" href="#fit">{say("hero.mixer")}'
        f"</a></div></div>"
        f'<div class="stack"><div><p class="eyebrow" style="margin-bottom:8px">'
        f"{say('hero.target', images=texts.images(session.language, data['images']))}</p>"
        f'<div class="strip" aria-hidden="true">{strip}</div></div>'
        f'<div><div class="hero-head"><p class="eyebrow">{say("hero.row", seeds=", ".join(map(str, data["seeds"])))}'
        f'</p><p class="eyebrow">{say("hero.distance")}</p></div>{_rows(session, data)}</div></div></div>'
    )


FAR = 0.4  # of the population would have to change: whatever comes nearest, this is not near


def _leading(data: dict, among=lambda d: True) -> list[dict]:
    """The nearest of some distances, and those whose intervals reach into its own."""
    best, *others = sorted(filter(among, data["distances"]), key=lambda d: d["value"])
    return [best, *(d for d in others if d["low"] <= best["high"])]


def _of(data: dict, method: str) -> dict | None:
    return next((d for d in data["distances"] if d["method"] == method), None)


def title(session, method: str) -> str:
    """What a measured row is called: its single model is the truly nearest, which only an example's known population can tell."""
    return session.tell("hero.nearest" if method == "single" else f"method.{method}")


def _distance_sentence(session, data: dict) -> str:
    """What fusion gained over the nearest single model, or, as plainly, that it lost, and that even the nearest is far where it is."""
    single, (fused, *alike) = _of(data, "single"), _leading(data, lambda d: d["method"] != "single")
    key = "hero.wins" if fused["high"] < single["low"] else "hero.loses" if fused["low"] > single["high"] else "hero.ties"
    methods = texts.join(session.language, [session.tell(f"method.{d['method']}") for d in (fused, *alike)])
    said = session.say(key, method=methods, fused=f"{fused['value']:.2f}", single=f"{single['value']:.2f}")
    return said + (f" {session.say('hero.far')}" if min(fused["value"], single["value"]) > FAR else "")


def _honesty(session, data: dict) -> str:
    width = max(high - low for low, high in data["interval"])
    parts = [session.say("hero.interval")]
    if width > WIDE:
        parts.append(session.say("fit.undecided"))
    if data["outside"]:
        parts.append(session.say("fit.outside", p="< 0.001" if data["p_value"] < 0.001 else f"= {data['p_value']:.3f}"))
    return " ".join(parts)


def _rows(session, data: dict) -> str:
    leading, say, top = _leading(data), session.say, max(d["high"] for d in data["distances"])
    rows = []
    for row in data["rows"]:
        d = _of(data, row["method"])
        images = "".join(
            f'<img src="{state.link(FOLDER / s["file"])}" width="58" height="58" '
            f'alt="{escape(_alt(session, data, row, s))}" title="{escape(_alt(session, data, row, s))}">'
            for s in row["shots"]
        )
        name = title(session, row["method"])
        detail = row["member"] or " ".join(charts.decimals(row["weights"]))
        rows.append(
            f'<div class="hero-row {"best" if d in leading else ""}"><div><strong>{escape(name)}</strong><br><small>{escape(detail)}'
            f'</small></div><div class="shots">{images}</div>'
            f'<div class="dist"><span><b>{d["value"]:.2f}</b> <small>{d["low"]:.2f}–{d["high"]:.2f}'
            f"</small></span>"
            f'<span class="bar"><i style="width:{100 * d["value"] / top:.0f}%"></i><u style="left:{100 * d["floor"] / top:.0f}%">'
            f"</u></span></div></div>"
        )
    n, floor = data["distances"][0]["samples"], data["distances"][0]["floor"]
    return "".join(rows) + f'<p class="soft" style="margin-top:10px">{say("hero.floor", samples=f"{n:,}", floor=f"{floor:.2f}")}</p>'


def _alt(session, data: dict, row: dict, shot: dict) -> str:
    weights = ", ".join(charts.named(data["names"], row["weights"]))
    source = session.tell("compare.from", name=shot["member"]) if shot.get("member") else weights
    method = title(session, row["method"])
    seed = session.tell("compare.seed", seed=shot["seed"])
    return f"{method}, {source}, {seed}: {shot['prompt']}"


if __name__ == "__main__":
    from .first_screen_make import main

    main()
