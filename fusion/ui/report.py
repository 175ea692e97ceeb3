"""Section 6: what a visitor takes home. recipe.json, one self-contained HTML page, and a link that restores the state."""

from __future__ import annotations

import base64
from html import escape

from . import address, charts, compare, draw, fit, mixer, models_section, state
from .panel import notes, section

STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;color:#1a1c22;max-width:860px;margin:48px "
    "auto;padding:0 24px}h1{font-size:26px}h2{font-size:19px;margin-top:36px}"
    "table{border-collapse:collapse;width:100%;font-size:14px}td,th{border-bottom:1px "
    "solid #ddd;padding:6px 10px 6px 0;text-align:left}img{width:84px;height:84px;object-fit:contain;border-radius:8px}"
    "figure{display:inline-block;margin:4px "
    "8px 8px 0;font-size:12px;width:104px;vertical-align:top}figcaption{color:#555}svg{max-width:100%}details summary{display:none}"
    ".soft{color:#555}@media(prefers-color-scheme:dark){body{background:#121318;color:#edecea}td,th{border-color:#333}.soft,figcaption{color:#aaa}}"
)


def render(session) -> str:
    say = session.say
    parts = [notes(session, "report")]
    if session.fit is None or session.stale():
        parts.append(f'<p class="soft">{say("report.none")}</p>')
    elif session.files:
        old = f'<span class="badge old">{say("older")}</span>' if session.files.get("stamp") != stamp(session) else ""
        parts.append(
            '<div class="row">'
            + "".join(
                f'<a class="btn" href="{state.link(session.files[kind])}" download="{name}">{say(f"report.{kind}")}</a>'
                for kind, name in (("recipe", "recipe.json"), ("html", "scorefusion-report.html"))
            )
            + old
            + "</div>"
        )
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
    )


def make(session, data: dict) -> None:
    """Write both files for the state as it is."""
    if session.fit is None or session.stale():
        return
    cards = models_section.chosen(session)
    try:
        recipe = draw.recipe_json(cards, session.fit, session.plan, session.mode, mixer.weights(session), _metrics(session))
        (session.folder / "recipe.json").write_text(recipe, "utf-8")
        (session.folder / "report.html").write_text(page(session, recipe), "utf-8")
    except (ValueError, OSError) as error:
        session.note("report", "bad", fit.explain(session, error))
        return
    session.notes.pop("report", None)
    session.files = {"recipe": session.folder / "recipe.json", "html": session.folder / "report.html", "stamp": stamp(session)}


def _metrics(session) -> dict:
    found = {"loss": float(session.fit.published.loss_), "images": len(session.fit.gram)}
    if session.fit.calibrated is not None:
        found |= {"p_value": float(session.fit.calibrated.p_value_), "outside": bool(session.fit.calibrated.outside_)}
    return found


def page(session, recipe: str) -> str:
    """The report: one HTML file, images inside, nothing fetched from anywhere."""
    say, names = session.say, list(session.fit.gram.names)
    heads = [session.tell(k) for k in ("word.model", "fit.proportions", "word.interval", "fit.published", "word.interval")]
    pictures = "".join(_figure(p.path, escape(p.caption)) for p in session.pictures)
    columns = "".join(
        f"<h3>{say(f'method.{c.method}')}{' (' + say('older') + ')' if compare.is_old(session, c) else ''}</h3>"
        + "".join(
            _figure(
                s.path,
                f"{escape(s.member + ' · ') if s.member else ''}{say('compare.seed', seed=s.seed)}"
                f"<br>{' '.join(f'{w:.2f}' for w in s.weights)}",
            )
            for s in c.shots.values()
        )
        for c in session.columns
        if c.shots
    )
    current = ", ".join(f"{escape(n)} {w:.2f}" for n, w in zip(names, mixer.weights(session)))
    return (
        f'<!doctype html><html lang="{session.language}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>ScoreFusion Studio</title><style>{STYLE}</style>"
        f"<h1>ScoreFusion Studio</h1><h2>{say('report.answer')}</h2>{charts.plain_table(heads, fit.rows(session.fit, names))}"
        f"<p>{fit.why(session)}</p>"
        f"<p>{say('report.weights')}: {say(f'mixer.{session.mode}')} · {current}</p><h2>{say('target.title')}</h2>{pictures}"
        f"<h2>{say('compare.title')}</h2>{columns or '<p class=soft>–</p>'}<h2>recipe.json</h2>"
        f"<pre style='white-space:pre-wrap;font-size:12px'>{escape(recipe)}</pre></html>"
    )


def _figure(path: str, caption: str) -> str:
    with open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
