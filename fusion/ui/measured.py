"""Every method's figures in one sortable table, each cell saying what it means; plots of the distances; the recommendation above.

It shows plain values, as `fusion.evaluation.Report.to_dict` gives them: of this visitor's own measurement, or of a committed one.
"""

from __future__ import annotations

from html import escape

from fusion import figures
from fusion.evaluation.record import record

from . import charts, texts

COST = ("evaluations", "memory", "training_seconds")
DISTANCES = ("kid", "features", "population")  # what is plotted, where it was measured
ESTIMATES = ("kid", "features", "population", "diversity", "copies", "loss", "gain")  # figures with an interval
# columns with sentences of our own
TEXTS = ("kid", "features", "population", "diversity", "copies", "effective", "loss", "gain", *COST, "seconds")


def render(session, report: dict, *, key: str) -> str:
    """Recommendation, table and plots. `key` tells this table from others on the page, for sorting."""
    columns = told(report)
    more = f'<p class="soft">{escape(" ".join(beside(session, report)))}</p>'
    return (
        f'<p class="verdict" data-recommended="{escape(report["recommendation"].get("method") or "")}">'
        f"{escape(recommendation(session, report))}</p>{more}"
        f"{_table(session, report, columns, key)}{_plots(session, report, columns)}{_legend(session, columns)}"
    )


def told(report: dict) -> list[dict]:
    """The columns that say something, with the decimals of their figures: at least one figure, and training only where something was
    trained."""
    found = {c["name"]: [v for row in report["rows"] if (v := number(row, c["name"])) is not None] for c in report["columns"]}
    shown = [c for c in report["columns"] if found[c["name"]] and (c["name"] != "training_seconds" or any(found[c["name"]]))]
    return [c | {"places": places_of(report, c["name"]) if c["name"] in ESTIMATES else None} for c in shown]


def places_of(report: dict, name: str) -> int:
    """Decimals that all figures of a column have, so that they can be compared at a glance, wherever on the page they stand."""
    return charts.column_places([row[name] for row in report["rows"] if isinstance(row.get(name), dict)])


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
    star = f' <span class="badge">{session.say(f"measure.{place}")}</span>' if (place := placed(report, row)) else ""
    if row.get("problem"):
        reason = escape(texts.translate(session.language, row["problem"]))
        return f'<tr><th scope="row">{escape(name)}</th><td colspan="{len(columns)}">{reason}</td></tr>'
    cells = "".join(_cell(session, row, c, best[c["name"]]) for c in columns)
    said = escape(texts.translate(session.language, (row.get("notes") or {}).get("method", "")))
    mark = f'<span class="faint" title="{said}" aria-label="{said}">*</span>' if said else ""
    return f'<tr><th scope="row">{escape(name)}{mark}{star}</th>{cells}</tr>'


def placed(report: dict, row: dict) -> str:
    """How a row stands to the recommendation: `recommended`, `tied`, `copying`, `uncorrected`, or empty for one that is farther."""
    found, method = report["recommendation"], row["method"]
    if method == found.get("method"):
        return "recommended"
    return next((place for place, names in (("tied", "ties"), ("copying", "copying"), ("uncorrected", "uncorrected"))
                 if method in found.get(names, ())), "")  # fmt: skip


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
    text = figures.figure(value, places=column["places"])
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
        parts[0] += f": {figures.figure(value, places=column['places'])}" + (f" ({session.tell('word.interval')}: {ends})" if ends else "")
        if found.get("floor") is not None:
            parts.append(session.tell("measure.floor", value=figures.figure(found["floor"], places=column["places"])))
        if found.get("seeds"):
            low, high = (figures.figure(end, places=column["places"]) for end in found["seeds"])
            parts.append(session.tell("measure.seeds", low=low, high=high))
    else:
        parts[0] += f": {figures.figure(value)}"
    note = (row.get("notes") or {}).get(name)
    parts += [texts.translate(session.language, note)] if note else []
    return ". ".join(p.rstrip(".。") for p in [*parts, meaning(session, column)]) + "."


def _ends(found, column: dict) -> str:
    """`0.1 … 0.2`; nothing where there is no interval: of plain numbers, of shares that are counted, of the baseline's own gain. An end
    that is not known is a question mark."""
    if not isinstance(found, dict) or found["low"] == found["high"] is not None:
        return ""
    return " … ".join("?" if end is None else figures.figure(end, places=column["places"]) for end in (found["low"], found["high"]))


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
    out += [("text", sentence) for sentence in (*_remarks(session, report, columns), *_unread(session, report))]
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


def _unread(session, report: dict) -> list[str]:
    """What text encoders did not read of what was measured, one sentence for every text and place."""
    by: dict[tuple[str, str, str], list[str]] = {}
    for row in report.get("not_read", ()):
        by.setdefault((row["what"], row["prompt"], row["not_read"]), []).append(
            session.tell("unread.by", model=row["model"], part=row["by"]))  # fmt: skip
    return [session.tell(f"unread.{what.split()[0]}", words=rest, readers=texts.join(session.language, list(dict.fromkeys(readers))))
            for (what, _, rest), readers in by.items()]  # fmt: skip


def _plain_cell(row: dict, column: dict) -> str:
    value, ends = number(row, column["name"]), _ends(row.get(column["name"]), column)
    return "–" if value is None else figures.figure(value, places=column["places"]) + (f"\n{ends}" if ends else "")


# ------------------------------------------------------------------------------------------------ the sentence


def recommendation(session, report: dict) -> str:
    """The verdict in one short sentence, made of the recommendation's parts, so that hero, evidence and paper say the same in one way."""
    found, rows = report["recommendation"], {row["method"]: row for row in report["rows"]}
    best, rival = rows.get(found.get("method")), rows.get(found.get("rival") or "single")
    if best is None:
        return texts.translate(session.language, found["sentence"])
    lead = found.get("lead") or {}
    kind = next((title(session, c) for c in report["columns"] if c["name"] == found["kind"]), found["kind"])
    value, places = number(best, found["kind"]) or 0.0, places_of(report, found["kind"])  # as in the table below
    against = number(rival, found["kind"]) if rival else value + (lead.get("value") or 0.0)
    key = "sure" if found.get("decided") else "open"
    single = rival is None or rival["method"] == "single"
    return session.tell(
        f"measure.{'next' if best['method'] == 'single' else 'over'}.{key}", method=method_title(session, best), kind=kind,
        other=session.tell("measure.single") if single else method_title(session, rival), value=figures.figure(value, places=places),
        against=figures.figure(against, places=places),
    )  # fmt: skip


def beside(session, report: dict) -> list[str]:
    """What stands beside the verdict, smaller: how often such verdicts were right, how many seeds say so, how sure this one is."""
    found, said = report["recommendation"], []
    if not found.get("method"):
        return said
    if report.get("votes"):
        said.append(session.tell("measure.votes", votes=report["votes"][0], seeds=report["votes"][1], read=report["read"]))
    lead = found.get("lead") or {}
    ends = figures.interval(lead.get("low"), lead.get("high"), to=" … ")
    if ends:
        said.append(session.tell("measure.lead", lead=figures.figure(lead["value"], figures.half(lead["low"], lead["high"])), ends=ends))
    return said + track(session, report)


def track(session, report: dict) -> list[str]:
    """How often such recommendations were right; nothing where none is made, or where that is not known."""
    known = record(held_out_of(report)) if report["recommendation"].get("method") else None
    if known is None:
        return []
    return [session.tell("measure.record", right=known.right, clear=known.clear, held_out=known.held_out)]


def held_out_of(report: dict) -> int:
    """How many held-out images a report rests on, as it or a study calls them; 0 where it does not say."""
    settings = report.get("settings", {})
    return int(settings.get("held-out images") or settings.get("held_out") or 0)


def sort(session, data: dict) -> None:
    """Order a table by a column; once more for the other direction."""
    key, name = str(data.get("table")), str(data.get("name"))
    if key in ("own", "shipped") and name in TEXTS:
        before = session.sort.get(key, (None, False))
        session.sort[key] = (name, before[0] == name and not before[1])
