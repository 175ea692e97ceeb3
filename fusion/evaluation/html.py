"""A `Report` as one HTML page with its pictures inside it. Every text is escaped; the page may run no script and load nothing."""

from __future__ import annotations

import base64
import io
from html import escape

from fusion import figures
from fusion.evaluation.columns import notes, value
from fusion.evaluation.text import cell, places_of

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe-Ito
STYLE = """
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } 
th, td { padding: .35rem .7rem; text-align: left; border-bottom: 1px solid #8886; vertical-align: top }
.strip { display: flex; flex-wrap: wrap; gap: .3rem } .strip img { width: 96px; height: 96px; object-fit: cover; border-radius: 4px }
.scroll { overflow-x: auto }
.note { opacity: .75; font-size: .9rem } .lead { font-size: 1.15rem } svg text { fill: currentColor; font-size: 13px }
"""
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    f"<title>ScoreFusion comparison</title><style>{STYLE}</style></head><body>"
)
BEST, TIED = (f'<br><span class="note">{words}</span>' for words in ("recommended", "not told apart from it"))


def page(report) -> str:
    """The whole document."""
    more = "".join(f"<p>{escape(text)}</p>" for text in (*report.recommendation.details, *report.record()))
    parts = [HEAD, "<h1>ScoreFusion comparison</h1>", f'<p class="lead">{escape(report.verdict)}</p>{more}']
    if report.stopped:
        parts.append("<p><strong>Stopped before all samples were drawn: the figures below are from those that were.</strong></p>")
    parts += [_fit(report.fit), _chart(report), _table(report), _pictures(report), _settings(report), "</body></html>"]
    return "\n".join(part for part in parts if part)


def _fit(fit) -> str:
    columns = (("calibrated", "Calibrated share"), ("published", "Published weight"), ("matched", "Matched weight"))
    shares = [(label, fit[key]["members"]) for key, label in columns if fit.get(key)]
    if not shares:
        return ""
    told = [fit[key].get("verdict") for key in ("calibrated", "published") if fit.get(key)] + [fit.get("explanation")]
    sentences = "".join(f"<p>{escape(text)}</p>" for text in told if text)
    names = list(shares[0][1])
    head = "".join(f"<th>{label}</th>" for label, _ in shares)
    rows = "".join(f"<tr><th>{escape(name)}</th>{''.join(_share(values.get(name)) for _, values in shares)}</tr>" for name in names)
    return f"<h2>Fit</h2>{sentences}<table><tr><th>Model</th>{head}</tr>{rows}</table>"


def _share(value) -> str:
    """A cell for `{"weight": w, "interval": [low, high]}`."""
    if value is None:
        return "<td></td>"
    interval = value.get("interval")
    return f"<td>{value['weight']:.0%}{'' if interval is None else f' ({interval[0]:.0%} to {interval[1]:.0%})'}</td>"


def _chart(report) -> str:
    """Distances with intervals as dots and lines; the table below it holds the same figures."""
    column = next((c for name in ("population", "kid", "features") for c in report.columns() if c.name == name), None)
    if column is None:
        return ""
    shown = [(row.title, getattr(row, column.name)) for row in report.rows if getattr(row, column.name) is not None]
    places = places_of([estimate for _, estimate in shown])
    ends = [end for _, e in shown for end in (e.low, e.value, e.high) if abs(end) < float("inf")]
    low, high = min(0.0, *ends), max(1e-9, *ends)
    x = lambda at: 220 + 430 * (min(max(at, low), high) - low) / (high - low)  # noqa: E731
    lines = []
    for index, (title, estimate) in enumerate(shown):
        y, colour, told = 24 + 30 * index, COLOURS[index % len(COLOURS)], figures.figure(estimate.value, places=places)
        lines.append(
            f'<text x="0" y="{y + 5}">{escape(title)}</text>'
            f'<line x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
            f'<circle cx="{x(estimate.value):.1f}" cy="{y}" r="6" fill="{colour}"/><text x="670" y="{y + 5}">{told}</text>'
        )
    height = 30 * len(shown) + 20
    return (
        f"<h2>Distance to the target: {escape(column.title)}</h2>"
        f'<svg viewBox="0 0 720 {height}" role="img" aria-label="Distances with 95 % intervals; the table holds the figures">'
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="5" y2="{height - 10}" stroke="currentColor" opacity=".4"/>{"".join(lines)}</svg>'
        f'<p class="note">{escape(column.explanation)}</p>'
    )


def _table(report) -> str:
    """Every figure, with a sentence below the table for every column and every unusual cell."""
    columns, told, body = report.columns(), [], []
    places = {column.name: places_of([value(row, column.name) for row in report.rows]) for column in columns}
    unit = lambda c: f'<br><span class="note">{escape(c.unit)}</span>'  # noqa: E731
    head = "".join(f'<th title="{escape(c.explanation)}">{escape(c.title)}{unit(c)}</th>' for c in columns)
    for row in report.rows:
        remarks, cells, named = notes(row), [], ""
        if "method" in remarks:
            told.append(f"{row.title}, Samples: {remarks['method']}")
            named = f' <sup title="{escape(remarks["method"])}">{len(told)}</sup>'
        for column in columns:
            mark, remark = "", remarks.get(column.name)
            if remark:
                told.append(f"{row.title}, {column.title}: {remark}")
                mark = f' <sup title="{escape(remark)}">{len(told)}</sup>'
            cells.append(f"<td>{escape(cell(value(row, column.name), places[column.name]))}{mark}</td>")
        weights = ", ".join(f"{escape(name)} {share:.2f}" for name, share in row.weights.items() if share > 0.005)
        named += TIED if row.method in report.recommendation.ties else BEST if row.method == report.recommendation.method else ""
        body.append(f"<tr><th>{escape(row.title)}{named}</th><td>{escape(row.problem) or weights}</td>{''.join(cells)}</tr>")
    meanings = "".join(f"<li>{escape(c.title)}: {escape(c.explanation)}</li>" for c in columns)
    unusual = "".join(f"<li>{escape(text)}</li>" for text in told)
    return (
        f'<h2>Evidence</h2><p class="note">In parentheses: 95 % intervals.</p>'
        f'<div class="scroll"><table><tr><th>Method</th><th>Models</th>{head}</tr>{"".join(body)}</table></div>'
        f'<ol class="note">{unusual}</ol><ul class="note">{meanings}</ul>'
    )


def _pictures(report) -> str:
    """A strip of images a method, those of one prompt and seed at one place in all strips."""
    order, strips = {job: place for place, job in enumerate(zip(report.prompts, report.seeds))}, []
    for row in report.rows:
        if row.samples:
            images = "".join(_picture(sample) for sample in sorted(row.samples, key=lambda one: order.get((one.prompt, one.seed), 0)))
            strips.append(f'<h3>{escape(row.title)}</h3><div class="strip">{images}</div>')
    return "<h2>Samples</h2><p class='note'>One seed starts from the same noise in every row.</p>" + "".join(strips) if strips else ""


def _picture(sample) -> str:
    buffer = io.BytesIO()
    sample.image.convert("RGB").save(buffer, format="PNG")
    label = f"{sample.prompt}, seed {sample.seed}" + (f", {sample.member}" if sample.member else "")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(label)}" title="{escape(label)}">'


def _settings(report) -> str:
    models = "".join(f"<li>{escape(str(model.get('title', model['id'])))}: {escape(str(model['id']))}</li>" for model in report.models)
    settings = "".join(f"<li>{escape(str(key))}: {escape(str(value))}</li>" for key, value in report.settings.items())
    unread = "".join(f"<li>{escape(text)}</li>" for text in report.unread_words())
    unread = f'<h2>Not read</h2><ul class="note">{unread}</ul>' if unread else ""
    return f'{unread}<h2>Made with</h2><ul class="note">{models}{settings}</ul>'
