"""The first screen: the latest truth in one place. An example's stored answer before any click; then the visitor's own.

After a fit: what the pictures settle. After drawing: a row of samples for each method. After measuring: the recommendation, as section 5
states it, from the same report and with the same decimals. Without a fit and without an example's files: the empty state.
"""

from __future__ import annotations

from html import escape

import numpy as np

from fusion import figures
from fusion.settled import LARGEST, MOST, OPEN, SHARES, settled

from . import charts, compare, engine, first_screen, fit, measure, measured, state, target, texts, uploads
from .panel import notes

STRIP, ROWS, SHOTS = 24, 5, 4  # pictures of the target, methods, and images a method that are shown


def render(session) -> str:
    """What is known of the pictures that are there; before a fit of the visitor's own, the example's answer."""
    fitted = session.fit is not None and bool(session.pictures) and not session.stale()
    data = first_screen.stored(session.example or "valley")
    answer = _fitted(session) if fitted else None if data is None else _of_file(data)
    body = _empty(session) if answer is None else _hero(session, answer, session.example if fitted else data["target"])
    return f'<div class="sf" id="first-screen">{notes(session, "page")}{body}</div>'


def _fitted(session) -> dict:
    """The answer of the session's fit as plain values."""
    found = session.fit
    source = found.mixture if found.calibrated is None else found.calibrated
    calibrated = found.calibrated is not None
    return {"names": list(found.gram.names), "images": len(found.gram), "proportions": np.asarray(source.proportions_).tolist(),
            "interval": np.asarray(source.interval_).tolist() if calibrated else None,
            "outside": calibrated and bool(source.outside_), "strip": [p.path for p in session.pictures]}  # fmt: skip


def _of_file(data: dict) -> dict:
    """The stored answer of an example whose statistic was not asked, such as for other models than the visitor's."""
    folder = engine.ASSETS / "targets" / data["target"]
    return data["answer"] | {"names": data["names"], "strip": [folder / file for file in data["files"][: data["fitted"]]]}


def _empty(session) -> str:
    say = session.say
    return (
        f'<div class="hero" style="grid-template-columns:minmax(0,720px)"><div class="stack" style="gap:24px"><h2>{say("hero.empty")}'
        f"</h2>"
        f'<p class="lead">{say("hero.empty_lead")}</p><p><a class="btn primary" href="#target">{say("hero.own")}</a></p></div></div>'
    )


def _hero(session, answer: dict, example: str | None) -> str:
    say, report, rows = session.say, _evidence(session, example), _drawn(session, example)
    eyebrow = say("hero.eyebrow", name=say(f"example.{example}")) if example else say("hero.yours")
    also = f'<p class="also">{told}</p>' if (told := settled_beside(session.language, answer)) else ""
    chart = charts.shares(answer["names"], answer["proportions"], answer["interval"], title=session.tell("fit.proportions"))
    first = ("compare", "hero.draw") if example is None else ("target", "hero.own")
    buttons = f'<a class="btn primary" href="#{first[0]}">{say(first[1])}</a><a class="btn" href="#fit">{say("hero.mixer")}</a>'
    return (
        f'<div class="hero"><div class="stack" style="gap:20px"><p class="eyebrow">{eyebrow}</p>'
        f"<h2>{headline(session.language, answer)}</h2>{also}{_counts(session, answer, example)}{chart}{_limits(session, answer)}"
        f'{_verdict(session, report)}<div class="row">{buttons}</div></div>'
        f'<div class="stack">{_strip(session, answer)}{_rows(session, report, rows)}</div></div>'
    )


# ------------------------------------------------------------------------------------------------ what is settled


def headline(language: str, data: dict) -> str:
    """What the pictures settle, in one sentence, never more than their intervals bear: `Cannot be told from 12 images yet`."""
    found, count = settled(data["proportions"], data.get("interval"), bool(data.get("outside"))), data["images"]
    key = found.code if count > 1 or found.code in (LARGEST, MOST, SHARES) else f"{found.code}_one"
    if found.code in (MOST, LARGEST):
        return texts.say(language, f"hero.{key}", count=count, part=_named(language, data, found.members[0], "em"))
    whole = charts.percents(data["proportions"])  # as in the bars below
    parts = [texts.html(language, "hero.part", share=f"{whole[k]}\u202f%", name=data["names"][k]) for k in found.members]
    return texts.say(language, f"hero.{key}", count=count, parts=texts.join(language, parts) if parts else "")


def settled_beside(language: str, data: dict) -> str:
    """What else is certain where the shares are not: which members are among the pictures, and of which there is hardly any."""
    found = settled(data["proportions"], data.get("interval"), bool(data.get("outside")))
    said = [texts.say(language, "hero.some", part=_named(language, data, k)) for k in found.some]
    said += [texts.html(language, "hero.hardly", name=data["names"][k], high=_percent(data["interval"][k][1])) for k in found.hardly]
    if not said:
        return ""
    key = "hero.certain" if found.code == OPEN else "hero.also"
    return texts.say(language, key, parts=texts.join(language, said))


def _named(language: str, data: dict, k: int, tag: str = "b") -> str:
    """`<em>Harbor</em> (43 to 85 %)`."""
    low, high = (_percent(end) for end in data["interval"][k])
    return texts.html(language, "hero.between", name=data["names"][k], low=low, high=high).replace("<b>", f"<{tag}>").replace(
        "</b>", f"</{tag}>")  # fmt: skip


def _percent(share: float) -> int:
    return round(100 * float(share))


def _limits(session, answer: dict) -> str:
    """What limits the answer: an interval's meaning, no calibration, and whatever section 3 warns of."""
    said = [session.say("fit.uncalibrated" if answer["interval"] is None else "hero.interval")]
    if session.fit is not None and not session.stale():
        said += [escape(text) for kind, text in fit.verdicts(session) if kind == "warn"]
    return "".join(f'<p class="soft">{text}</p>' for text in said)


def _counts(session, answer: dict, example: str | None) -> str:
    """`12 · 24 · 48 · 96 pictures`, to see the intervals close; for examples, which have so many."""
    offered = target.counts(example, uploads.most_pictures()) if example and example == session.example else ()
    if len(offered) < 2:
        return ""
    say = session.say
    buttons = "".join(
        f'<button class="btn chip" type="button" aria-pressed="{"true" if n == answer["images"] else "false"}" '
        f'data-do="example" data-name="{example}" data-count="{n}">{n}</button>'
        for n in offered
    )
    label = say("hero.counts")
    return f'<div class="row counts" role="group" aria-label="{label}"><span class="soft">{label}</span>{buttons}</div>'


# ------------------------------------------------------------------------------------------------ evidence and samples


def _evidence(session, example: str | None) -> dict | None:
    """What section 5 rests on; where an example's answer stands in for pictures not fitted yet, that example's."""
    return measure.current(session) if example == session.example else measure.stored(example)


def _verdict(session, report: dict | None) -> str:
    """The recommendation as section 5 states it, how often such recommendations were right, and what it was fitted to where that is not
    what is shown."""
    if report is None:
        return f'<p class="soft">{session.say("hero.not_measured")}</p>' if session.columns and not session.stale() else ""
    said = f'<p class="lead" id="hero-verdict">{escape(measured.recommendation(session, report))}</p>'
    fitted = report.get("settings", {}).get("fitted")
    more = [session.say("hero.fitted", count=fitted)] if fitted and fitted != len(session.pictures) else []
    more += [escape(text) for text in measured.track(session, report)]
    return said + (f'<p class="soft">{" ".join(more)}</p>' if more else "")


def _drawn(session, example: str | None) -> list[dict]:
    """Rows of samples, alike in prompts and seeds: the visitor's own columns, else an example's stored ones."""
    own = [column for column in session.columns if column.shots and not compare.is_old(session, column)]
    if own and not session.stale():
        keys = [key for key in compare.rows(session) if any(key in column.shots for column in own)][:SHOTS]
        return [{"method": column.method, "member": _member(column), "weights": column.weights,
                 "shots": [_shot(column.shots[key]) for key in keys if key in column.shots]} for column in own]  # fmt: skip
    data = first_screen.stored(example)
    here = lambda shots: [shot | {"path": first_screen.FOLDER / shot["file"]} for shot in shots]  # noqa: E731
    return [] if data is None else [row | {"shots": here(row["shots"])} for row in data["rows"]]


def _shot(shot) -> dict:
    return {"path": shot.path, "seed": shot.seed, "prompt": shot.prompt, "member": shot.member, "weights": shot.weights}


def _member(column) -> str | None:
    """The one model that drew a whole column, where it is one."""
    members = {shot.member for shot in column.shots.values()}
    return members.pop() if column.method == "single" and len(members) == 1 else None


def _strip(session, answer: dict) -> str:
    images = "".join(f'<img src="{state.link(path)}" alt="" width="52" height="52">' for path in answer["strip"][:STRIP])
    more = len(answer["strip"]) - STRIP
    rest = f'<p class="faint" style="margin-top:6px">{session.say("hero.more", count=more)}</p>' if more > 0 else ""
    title = session.say("hero.target", images=texts.images(session.language, answer["images"]))
    return f'<div><p class="eyebrow" style="margin-bottom:8px">{title}</p><div class="strip" aria-hidden="true">{images}</div>{rest}</div>'


def _rows(session, report: dict | None, rows: list[dict]) -> str:
    """A row of images for each method with its figure from the report, in the decimals of section 5."""
    if not rows:
        return f'<p class="soft">{session.say("hero.not_drawn")}</p>'
    say, found = session.say, {} if report is None else {row["method"]: row for row in report["rows"]}
    name = report["recommendation"].get("kind") or None if report else None  # the figure that the sentence rests on
    rows = sorted(rows, key=lambda row: not found or measured.placed(report, {"method": row["method"]}) != "recommended")[:ROWS]
    known = [found[row["method"]][name] for row in rows if name and isinstance(found.get(row["method"], {}).get(name), dict)]
    top = max((max(one["high"] or one["value"], one["value"]) for one in known), default=1.0)
    heading = session.tell(f"col.{name}") if name else ""
    told = escape(session.tell(f"col.{name}.help")) if name else ""
    seeds = ", ".join(dict.fromkeys(str(shot["seed"]) for row in rows for shot in row["shots"]))
    body = "".join(_row(session, row, report, name, top) for row in rows)
    return (
        f'<div><div class="hero-head"><p class="eyebrow">{say("hero.row", seeds=seeds)}</p>'
        f'<p class="eyebrow" title="{told}">{heading}</p></div>{body}{_meaning(session, name)}</div>'
    )


def _row(session, row: dict, report: dict | None, name: str | None, top: float) -> str:
    about = [_alt(session, row, shot) for shot in row["shots"]]
    images = "".join(
        f'<img src="{state.link(shot["path"])}" width="58" height="58" alt="{escape(text)}" title="{escape(text)}">'
        for shot, text in zip(row["shots"], about)
    )
    weights = row["weights"]
    detail = row["member"] or (" ".join(charts.decimals(weights)) if weights is not None and len(weights) <= 6 else "")
    place = measured.placed(report, row) if report else ""
    badge = f' <span class="badge">{session.say(f"measure.{place}")}</span>' if place else ""
    method = session.say(f"method.{row['method']}")
    return (
        f'<div class="hero-row {"best" if place == "recommended" else ""}"><div><strong>{method}</strong>{badge}<br>'
        f'<small>{escape(detail)}</small></div><div class="shots">{images}</div>{_distance(row, report, name, top)}</div>'
    )


def _distance(row: dict, report: dict | None, name: str | None, top: float) -> str:
    found = next((one for one in (report or {}).get("rows", ()) if one["method"] == row["method"]), {}).get(name)
    if not isinstance(found, dict):
        return '<div class="dist"></div>'
    places = measured.places_of(report, name)
    ends = figures.interval(found["low"], found["high"], places=places, to="–")
    mark = f'<u style="left:{100 * found["floor"] / top:.0f}%"></u>' if found.get("floor") else ""
    width = min(max(100 * found["value"] / top, 0), 100)
    return (
        f'<div class="dist"><span><b>{figures.figure(found["value"], places=places)}</b> <small>{ends}</small></span>'
        f'<span class="bar"><i style="width:{width:.0f}%"></i>{mark}</span></div>'
    )


def _meaning(session, name: str | None) -> str:
    """What the figures beside the rows are, and where there are more."""
    return f'<p class="soft" style="margin-top:10px">{session.say(f"col.{name}.help")} {session.say("hero.figures")}</p>' if name else ""


def _alt(session, row: dict, shot: dict) -> str:
    weights = shot.get("weights") or row["weights"]
    names = list(session.fit.gram.names) if session.fit is not None else []
    made = ", ".join(charts.named(names, weights)) if weights is not None and len(names) == len(weights) else ""
    source = session.tell("compare.from", name=shot["member"]) if shot.get("member") else made
    method, seed = session.tell(f"method.{row['method']}"), session.tell("compare.seed", seed=shot["seed"])
    return f"{method}, {source}, {seed}: {shot['prompt']}"
