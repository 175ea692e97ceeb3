"""Section 6: what a visitor takes home. recipe.json, the report as a web page and as PDF, and a link that restores the state."""

from __future__ import annotations

from html import escape

from . import address, charts, compare, draw, fit, measure, measured, mixer, models_section, paper, state, texts, troubles, unread
from .panel import notes, section

FILES = {"recipe": "recipe.json", "html": "scorefusion-report.html", "pdf": "scorefusion-report.pdf"}


def render(session) -> str:
    say = session.say
    parts = [notes(session, "report")]
    if session.fit is None or session.stale():
        parts.append(f'<p class="soft">{say("report.none")}</p>')
    elif session.files:
        old = f'<span class="badge old">{say("older")}</span>' if session.files.get("stamp") != stamp(session) else ""
        links = "".join(
            f'<a class="btn" href="{state.link(session.files[kind])}" download="{name}">{say(f"report.{kind}")}</a>'
            for kind, name in FILES.items()
        )
        parts.append(f'<div class="row">{links}{old}</div>')
    if session.fit is not None and not session.stale():
        parts.append(
            f'<div class="row"><button class="btn {"" if session.files else "primary"}" type="button" '
            f'data-do="report">{say("report.again" if session.files else "report.button")}</button>'
            f'<span class="soft">{say("report.help")}</span></div>'
        )
    parts.append(
        f'<label class="field">{say("report.link")}<span class="row">'
        f'<input type="text" readonly id="share-link" style="flex:1" value="{escape(address.query(session))}">'
        f'<button class="btn" type="button" data-do="copy" data-copied="{say("report.copied")}">{say("report.copy")}</button>'
        f'</span></label><p class="soft">{say("report.link_help")}</p>'
    )
    return section(session, 6, "report", "".join(parts))


def stamp(session) -> str:
    return (
        f"{session.stamp}-{session.mode}-{mixer.weights(session).round(4).tolist()}-{[c.key for c in session.columns]}-{session.language}"
        f"-{(session.report or {}).get('key')}"
    )


def make(session, data: dict) -> None:
    """Write the files for the state as it is."""
    if session.fit is None or session.stale():
        return
    cards = models_section.chosen(session)
    try:
        recipe = draw.recipe_json(cards, session.fit, session.plan, session.mode, mixer.weights(session), _metrics(session))
        blocks = content(session, recipe)
        files = {kind: session.folder / name for kind, name in FILES.items()}
        files["recipe"].write_text(recipe, "utf-8")
        files["html"].write_text(paper.html(blocks, session.language), "utf-8")
        readable = paper.pdf(blocks, files["pdf"])
    except Exception as error:  # its parts come from everywhere: fit, models, fonts
        session.note("report", "bad", troubles.explain(session, error))
        return
    session.notes.pop("report", None)
    if not readable:
        session.note("report", "warn", session.tell("report.no_font"))
    session.files = files | {"stamp": stamp(session)}


def _metrics(session) -> dict:
    found = {"loss": float(session.fit.published.loss_), "images": len(session.fit.gram)}
    if session.fit.calibrated is not None:
        found |= {"p_value": float(session.fit.calibrated.p_value_), "outside": bool(session.fit.calibrated.outside_)}
    return found


def content(session, recipe: str) -> list[tuple]:
    """The report as blocks, the same for the web page and the PDF (see `paper`)."""
    tell, names = session.tell, list(session.fit.gram.names)
    heads = [tell(k) for k in ("word.model", "fit.proportions", "word.interval", "fit.published", "word.interval")]
    current = ", ".join(charts.named(names, mixer.weights(session)))
    blocks = [("title", "ScoreFusion Studio"), ("lead", answer(session)), ("text", measure.verdict(session))]
    blocks += [("heading", tell("report.answer")), ("table", heads, _rows(session.fit, names)), ("text", fit.plain_why(session))]
    blocks += [("text", sentence) for _, sentence in fit.verdicts(session)]
    blocks.append(("text", f"{tell('report.weights')}: {tell(f'mixer.{session.mode}')} · {current}"))
    shown = measure.current(session)
    if shown is not None:
        blocks.append(("heading", tell("evidence.title")))
        blocks += measured.blocks(session, shown)
    blocks += _unread(session)
    blocks += [("heading", tell("target.title")), ("pictures", [(p.path, p.caption) for p in session.pictures])]
    blocks.append(("heading", tell("compare.title")))
    for column in session.columns:
        if column.shots:
            older = f" ({tell('older')})" if compare.is_old(session, column) else ""
            blocks.append(("subheading", tell(f"method.{column.method}") + older))
            shots = [column.shots[key] for key in compare.rows(session) if key in column.shots]
            blocks.append(("pictures", [(s.path, _caption(session, s)) for s in shots]))
    return [*blocks, ("folded", "recipe.json", recipe)]


def _unread(session) -> list[tuple]:
    """What text encoders do not read of prompts and captions, behind the text that it belongs to."""
    plan, said = session.plan, []
    for kind, words in (("prompt", plan.prompts), ("negative", [plan.negative]), ("caption", [p.caption for p in session.pictures])):
        for text in dict.fromkeys(words):
            says = unread.sentences(session, kind, [text])
            said += [("text", session.tell("unread.of", text=text if len(text) <= 60 else text[:59] + "…", says=one)) for one in says]
    return [("heading", session.tell("unread.title")), *said] if said else []


def answer(session) -> str:
    """The proportions in one sentence, with their intervals where there are any."""
    found = session.fit.calibrated if session.fit.calibrated is not None else session.fit.mixture
    intervals = found.interval_ if session.fit.calibrated is not None else [None] * len(found.proportions_)
    parts = [
        f"{share}\u202f% {name}" + ("" if interval is None else f" ({_between(interval)})")
        for name, share, interval in zip(session.fit.gram.names, charts.percents(found.proportions_), intervals)
        if share or interval is not None
    ]
    count = len(session.fit.gram)
    images = session.tell("target.count", count=count) if count > 1 else session.tell("target.count_one")
    return session.tell("report.says", images=images, parts=texts.join(session.language, parts))


def _between(interval) -> str:
    return f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}\u202f%"


def _rows(found, names) -> list[list[str]]:
    """Proportions and published weights in whole percentages, as section 3 shows them."""
    first = found.calibrated if found.calibrated is not None else found.mixture
    between = [_between(i) for i in found.calibrated.interval_] if found.calibrated is not None else ["–"] * len(names)
    shares, weights = charts.percents(first.proportions_), charts.percents(found.published.weights_)
    published = [_between(i) for i in found.published.interval_]
    return [[n, f"{s}\u202f%", b, f"{w}\u202f%", p] for n, s, b, w, p in zip(names, shares, between, weights, published)]


def _caption(session, shot: state.Shot) -> str:
    source = f"{shot.member} · " if shot.member else ""
    return f"{source}{session.tell('compare.seed', seed=shot.seed)}\n{' '.join(charts.decimals(shot.weights))}"
