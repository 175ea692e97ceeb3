"""Every method's figures in one sortable table, each cell saying what it means; plots of the distances; the recommendation above.

It shows plain values, as `fusion.evaluation.Report.to_dict` gives them: of this visitor's own measurement, or of a committed one.
"""

from __future__ import annotations

import math
from html import escape

from . import charts, texts

COST = ("evaluations", "memory", "training_seconds")
DISTANCES = ("kid", "features", "population")  # what is plotted, where it was measured
ESTIMATES = ("kid", "features", "population", "diversity", "copies", "loss", "gain")  # figures with an interval
# columns with sentences of our own
TEXTS = ("kid", "features", "population", "diversity", "copies", "effective", "loss", "gain", *COST, "seconds")


def render(session, report: dict, *, key: str) -> str:
    """Recommendation, table and plots. `key` tells this table from others on the page, for sorting."""
    columns = told(report)
    said = escape(recommendation(session, report))
    if report.get("votes"):
        said += " " + session.say("measure.votes", votes=report["votes"][0], seeds=report["votes"][1], read=report["read"])
    return (
        f'<p class="verdict" data-recommended="{escape(report["recommendation"].get("method") or "")}">{said}</p>'
        f"{_table(session, report, columns, key)}{_plots(session, report, columns)}{_legend(session, columns)}"
    )


def told(report: dict) -> list[dict]:
    """The columns that say something, with the decimals of their figures: at least one figure, and training only where something was
    trained."""
    found = {c["name"]: [v for row in report["rows"] if (v := number(row, c["name"])) is not None] for c in report["columns"]}
    shown = [c for c in report["columns"] if found[c["name"]] and (c["name"] != "training_seconds" or any(found[c["name"]]))]
    return [c | {"places": _places(found[c["name"]]) if c["name"] in ESTIMATES else None} for c in shown]


def _places(values: list[float]) -> int | None:
    """Decimals that all figures of a column have, so that they can be compared at a glance; None: each what it deserves."""
    largest = max(map(abs, values))
    return 3 if 0.01 <= largest < 10 else 4 if 0.001 <= largest < 0.01 else None


def title(session, column: dict) -> str:
    return session.tell(f"col.{column['name']}") if column["name"] in TEXTS else column["title"]


def meaning(session, column: dict) -> str:
    """What the column measures, in its unit, and which end is better."""
    name = column["name"]
    text = session.tell(f"col.{name}.help") if name in TEXTS else f"{column['explanation']} ({column['unit']})"
    better = {True: "measure.lower", False: "measure.higher"}.get(column.get("lower_is_better"))
    return f"{text} {session.tell(better)}" if better else text


def number(row: dict, name: str) -> float | None:
    """The value of one cell, None where there is none."""
    if name in COST:
        return None if row.get("cost") is None else row["cost"].get(name)
    found = row.get(name)
    return found.get("value") if isinstance(found, dict) else found


def _table(session, report: dict, columns: list[dict], key: str) -> str:
    by, descending = session.sort.get(key, (None, False))
    rows = sorted(report["rows"], key=lambda r: _rank(r, by, descending)) if by else report["rows"]
    heads = "".join(_head(session, c, key, by, descending) for c in columns)
    best = {c["name"]: _best(report["rows"], c) for c in columns}
    body = "".join(_row(session, row, columns, report, best) for row in rows)
    return (
        f'<div class="figures" tabindex="0" role="region" aria-label="{session.say("measure.table")}"><table id="figures-{key}"><thead><tr>'
        f'<th scope="col">{session.say("word.method")}</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _rank(row: dict, name: str, descending: bool) -> tuple:
    value = number(row, name)
    return (1, 0.0) if value is None else (0, -value if descending else value)


def _best(rows: list[dict], column: dict) -> float | None:
    """The best value of a column that has a better end and is evidence, to be set in bold; some copies come by chance."""
    if column.get("lower_is_better") is None or column["name"] in (*COST, "seconds", "copies", "loss", "gain"):
        return None
    values = [v for row in rows if (v := number(row, column["name"])) is not None]
    return (min if column["lower_is_better"] else max)(values) if len(set(values)) > 1 else None


def _head(session, column: dict, key: str, by: str | None, descending: bool) -> str:
    here = column["name"] == by
    order = f'aria-sort="{"descending" if descending else "ascending"}"' if here else ""
    arrow = ("▼" if descending else "▲") if here else "↕"
    told = escape(meaning(session, column))
    return (
        f'<th scope="col" class="num" {order}><button type="button" data-do="sort" data-table="{key}" data-name="{column["name"]}" '
        f'title="{told}" aria-description="{told}">{escape(title(session, column))} '
        f'<span aria-hidden="true">{arrow}</span></button></th>'
    )


def _row(session, row: dict, columns: list[dict], report: dict, best: dict) -> str:
    name = method_title(session, row)
    recommended = row["method"] == report["recommendation"].get("method")
    star = f' <span class="badge">{session.say("measure.recommended")}</span>' if recommended else ""
    if row.get("problem"):
        reason = escape(texts.translate(session.language, row["problem"]))
        return f'<tr><th scope="row">{escape(name)}</th><td colspan="{len(columns)}">{reason}</td></tr>'
    cells = "".join(_cell(session, row, c, best[c["name"]]) for c in columns)
    said = escape(texts.translate(session.language, (row.get("notes") or {}).get("method", "")))
    mark = f'<span class="faint" title="{said}" aria-label="{said}">*</span>' if said else ""
    return f'<tr><th scope="row">{escape(name)}{mark}{star}</th>{cells}</tr>'


def method_title(session, row: dict) -> str:
    known = f"method.{row['method']}"
    return session.tell(known) if known in texts.table() else row["title"]


def _cell(session, row: dict, column: dict, best: float | None) -> str:
    name = column["name"]
    value, found = number(row, name), row.get(name)
    note = (row.get("notes") or {}).get(name, "")
    said = explain(session, row, column)
    if value is None:
        return f'<td class="num faint" title="{escape(said)}" aria-description="{escape(said)}">–</td>'
    text = digits(value, column["places"])
    text = f"<b>{text}</b>" if best is not None and value == best else text
    text += '<span class="faint" aria-hidden="true">*</span>' if note else ""
    if ends := _ends(found, column):
        text += f"<small>{ends}</small>"
    return f'<td class="num" title="{escape(said)}" aria-description="{escape(said)}">{text}</td>'


def explain(session, row: dict, column: dict) -> str:
    """Everything there is to say of one cell: whose figure of what it is, how sure, against what chance gives, and what is unusual."""
    name, found = column["name"], row.get(column["name"])
    value, parts = number(row, name), [f"{method_title(session, row)}, {title(session, column)}"]
    if value is None:
        parts[0] += ": –"
    elif isinstance(found, dict):
        ends = _ends(found, column)
        parts[0] += f": {digits(value, column['places'])}" + (f" ({session.tell('word.interval')}: {ends})" if ends else "")
        if found.get("floor") is not None:
            parts.append(session.tell("measure.floor", value=digits(found["floor"])))
        if found.get("seeds"):
            parts.append(session.tell("measure.seeds", low=_end(found["seeds"][0]), high=_end(found["seeds"][1])))
    else:
        parts[0] += f": {digits(value)}"
    note = (row.get("notes") or {}).get(name)
    parts += [texts.translate(session.language, note)] if note else []
    return ". ".join(p.rstrip(".。") for p in [*parts, meaning(session, column)]) + "."


def digits(value: float, places: int | None = None) -> str:
    """A figure with so many decimals; None: as many digits as it deserves: 1,234, 12.3, 0.123, 1.2e-05."""
    if value is None or not math.isfinite(value):
        return "–"
    if places is not None:
        return f"{value:.{places}f}".replace("-0." + "0" * places, "0." + "0" * places)
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.01 else f"{value:.1e}" if size < 0.001 else f"{value:.4f}"


def _end(value: float | None, places: int | None = None) -> str:
    return "?" if value is None else digits(value, places)


def _ends(found, column: dict) -> str:
    """`0.1 … 0.2`; nothing where there is no interval: of plain numbers, of shares that are counted, of the baseline's own gain."""
    if not isinstance(found, dict) or found["low"] == found["high"] is not None:
        return ""
    return f"{_end(found['low'], column['places'])} … {_end(found['high'], column['places'])}"


def _plots(session, report: dict, columns: list[dict]) -> str:
    """One row of dots with intervals for each kind of distance; the table above holds the numbers."""
    plots = []
    for column in columns:
        shown = [row for row in report["rows"] if isinstance(row.get(column["name"]), dict) and not row.get("problem")]
        if column["name"] in DISTANCES and len(shown) > 1:
            names, label = [method_title(session, row) for row in shown], f"{title(session, column)}: {meaning(session, column)}"
            chart = charts.dots(names, [row[column["name"]] for row in shown], label=label)
            plots.append(f"<figure><h3>{escape(title(session, column))}</h3>{chart}</figure>")
    return f'<div class="pair">{"".join(plots)}</div>' if plots else ""


def _legend(session, columns: list[dict]) -> str:
    items = "".join(f"<dt>{escape(title(session, c))}</dt><dd>{escape(meaning(session, c))}</dd>" for c in columns)
    return f'<details data-key="meanings"><summary>{session.say("measure.meanings")}</summary><dl class="meanings">{items}</dl></details>'


def blocks(session, report: dict) -> list[tuple]:
    """The same figures for the report on paper: a table, dots for the distances, and in words what is unusual and what the columns mean."""
    columns = told(report)
    heads = [session.tell("word.method"), *(title(session, c) for c in columns)]
    ran = [row for row in report["rows"] if not row.get("problem")]
    out = [("table", heads, [[method_title(session, row), *(_plain_cell(row, c) for c in columns)] for row in ran])]
    for column in columns:
        shown = [row for row in report["rows"] if isinstance(row.get(column["name"]), dict)]
        if column["name"] in DISTANCES and len(shown) > 1:
            names = [method_title(session, row) for row in shown]
            out.append(("dots", title(session, column), names, [row[column["name"]] for row in shown]))
    out += [("text", sentence) for sentence in _remarks(session, report, columns)]
    return [*out, *(("text", f"{title(session, c)}: {meaning(session, c)}") for c in columns)]


def _remarks(session, report: dict, columns: list[dict]) -> list[str]:
    """What a pointer finds on the page's starred names and cells, like sentences once, and why a method has no figures."""
    places = {"method": ""} | {column["name"]: f"{title(session, column)}, " for column in columns}
    about: dict[tuple[str, str], list[str]] = {}
    for row in report["rows"]:
        said = {"method": row["problem"]} if row.get("problem") else row.get("notes") or {}
        for place in places.keys() & said.keys():
            about.setdefault((place, said[place]), []).append(method_title(session, row))
    order = sorted(about, key=lambda key: list(places).index(key[0]))
    return [f"{places[place]}{texts.join(session.language, about[place, note])}: {texts.translate(session.language, note)}"
            for place, note in order if note]  # fmt: skip


def _plain_cell(row: dict, column: dict) -> str:
    value, ends = number(row, column["name"]), _ends(row.get(column["name"]), column)
    return "–" if value is None else digits(value, column["places"]) + (f"\n{ends}" if ends else "")


# ------------------------------------------------------------------------------------------------ the sentence


def recommendation(session, report: dict) -> str:
    """The report's own sentence; in Japanese the same statement built from its parts."""
    found, rows = report["recommendation"], {row["method"]: row for row in report["rows"]}
    if session.language == "en":
        return found["sentence"]
    best = rows.get(found.get("method"))
    if best is None:
        return texts.translate(session.language, found["sentence"].split(" Left out ")[0]) + _left_out(session, found, rows)
    lead = found.get("lead") or {}
    kind = next((title(session, c) for c in report["columns"] if c["name"] == found["kind"]), found["kind"])
    key = ("single" if best["method"] == "single" else "fused") + (".sure" if found.get("decided") else ".open")
    value = found.get("value")  # of the samples that were judged: a row may hold the mean over seeds
    value = number(best, found["kind"]) or 0.0 if value is None else value
    said = session.tell(
        f"measure.{key}", method=method_title(session, best), kind=kind, value=digits(value),
        lead=digits(lead.get("value", 0.0)), low=_end(lead.get("low")), high=_end(lead.get("high")),
    )  # fmt: skip
    return said + _left_out(session, found, rows, ("ties", "copying", "uncorrected"))


def _left_out(session, found: dict, rows: dict, kinds: tuple[str, ...] = ("copying", "uncorrected")) -> str:
    """Sentences on the methods that cannot be told from the recommended one, and on those left out; empty without any."""
    said = ""
    for what in kinds:
        named = [method_title(session, rows[m]) for m in found.get(what, ()) if m in rows]
        said += session.tell(f"measure.{what}", methods=texts.join(session.language, named)) if named else ""
    return said


def sort(session, data: dict) -> None:
    """Order a table by a column; once more for the other direction."""
    key, name = str(data.get("table")), str(data.get("name"))
    if key in ("own", "shipped") and name in TEXTS:
        before = session.sort.get(key, (None, False))
        session.sort[key] = (name, before[0] == name and not before[1])
