"""Section 5: what the answer rests on. Tabs over numbers that the fit already holds; nothing here runs a network of an ensemble."""

from __future__ import annotations

from html import escape

import numpy as np

from fusion import figures

from . import charts, engine, models_section, reading, state, texts

TABS = ("level", "explains", "correlation", "metrics", "population")


def render(session) -> str:
    say = session.say
    if session.fit is None:
        return f'<div class="sf inset"><p class="soft">{say("evidence.none")}</p></div>'
    tabs = "".join(
        f'<button type="button" role="tab" id="tab-{t}" aria-selected="{"true" if t == session.tab else "false"}" '
        f'tabindex="{0 if t == session.tab else -1}" '
        f'data-do="tab" data-name="{t}" aria-controls="tab-panel">{say(f"evidence.{t}")}</button>'
        for t in TABS
    )
    body = {"level": _level, "explains": _explains, "correlation": _correlation, "metrics": _metrics, "population": _population}[
        session.tab
    ](session)
    old = f'<p><span class="badge old">{say("older")}</span></p>' if session.stale() else ""
    return (
        f'<div class="sf inset stack" style="padding-top:28px"><div class="tabs" role="tablist">{tabs}</div>{old}'
        f'<div id="tab-panel" class="stack" role="tabpanel" aria-labelledby="tab-{session.tab}">{body}</div></div>'
    )


def _lead(session, key: str) -> str:
    return f'<p class="soft" style="max-width:72ch">{session.say(key)}</p>'


def _level(session) -> str:
    """Error of every member, and of the published blend, at each noise level."""
    gram, tell = session.fit.gram, session.tell
    per_level = gram.per_level(smooth=False)
    weights = np.asarray(session.fit.published.weights_)
    names = [*gram.names, tell("evidence.fused")]
    series = [per_level[:, k, k] for k in range(len(gram.names))] + [np.einsum("i,lij,j->l", weights, per_level, weights)]
    mean = np.einsum("lkk->l", per_level) / len(gram.names)  # errors fall a thousandfold along the levels: only ratios can be seen
    centres = 0.5 * (np.asarray(gram.strata)[1:] + np.asarray(gram.strata)[:-1])
    chart = charts.lines(
        names,
        centres.tolist(),
        [(s / mean).tolist() for s in series],
        x_title=tell("evidence.level_x"),
        y_title=tell("evidence.level_y"),
        label=tell("evidence.level"),
    )
    shown = figures.figure
    rows = [[shown(x, places=2), *(shown(s[n], places=4) for s in series)] for n, x in enumerate(centres)]
    return (
        _lead(session, "evidence.level_help")
        + charts.legend(names)
        + chart
        + charts.table([tell("evidence.level_x"), *names], rows, tell("word.table"))
    )


def _explains(session) -> str:
    """Which model explains which picture: responsibilities, and pictures that no model explains."""
    mixture, calibrated, names, say = session.fit.mixture, session.fit.calibrated, session.fit.gram.names, session.say
    items, rows = [], []
    for n, shares in enumerate(np.asarray((calibrated or mixture).responsibilities_)):
        picture = session.pictures[n] if n < len(session.pictures) and not session.stale() else None
        image = f'<img src="{state.link(picture.path)}" alt="{escape(picture.caption)}">' if picture else f"<b>{n + 1}</b>"
        bar = "".join(
            f'<i style="flex-grow:{max(float(w), 0):.4f};background:{charts.colour(k)}"></i>' for k, w in enumerate(shares) if w > 0.002
        )
        best = int(np.argmax(shares))
        odd = f'<br><span class="badge old">{say("evidence.outlier")}</span>' if bool(mixture.outliers_[n]) else ""
        items.append(
            f'<li>{image}<span class="stackbar" aria-hidden="true">{bar}</span>'
            f"<span>{charts.mark(best)}{escape(names[best])} {charts_share(shares[best])}{odd}</span></li>"
        )
        rows.append([picture.name if picture else n + 1, *(f"{w:.3f}" for w in shares)])
    return (
        _lead(session, "evidence.explains_calibrated" if calibrated else "evidence.explains_help")
        + charts.legend(names)
        + '<ul class="explain" tabindex="0">'  # it scrolls, so keys must reach it
        + "".join(items)
        + "</ul>"
        + charts.table([session.tell("word.image"), *names], rows, session.tell("word.table"))
    )


def charts_share(value: float) -> str:
    return f"{100 * float(value):.0f}\u202f%"


def _correlation(session) -> str:
    """How the members' errors go together, over images and levels."""
    gram, tell = session.fit.gram, session.tell
    matrix = gram.mean("simple", smooth=True)
    scale = np.sqrt(np.outer(np.diag(matrix), np.diag(matrix)))
    values = matrix / np.maximum(scale, 1e-300)
    rows = [[n, *(figures.figure(v, places=3) for v in values[k])] for k, n in enumerate(gram.names)]
    return (
        _lead(session, "evidence.correlation_help")
        + charts.heatmap(gram.names, gram.names, values, label=tell("evidence.correlation"), signed=True, top=1.0)
        + charts.table(["", *gram.names], rows, tell("word.table"))
    )


def _metrics(session) -> str:
    """Losses and held-out gains in one table, with intervals, and the measured distances of an example."""
    fit, tell = session.fit, session.tell
    matrix = fit.gram.mean("simple", smooth=False)
    rows = [[n, f"{matrix[k, k]:.5f}"] for k, n in enumerate(fit.gram.names)]
    even = np.full(len(matrix), 1 / len(matrix))
    rows += [
        [tell("method.uniform"), f"{even @ matrix @ even:.5f}"],
        [tell("method.scorefusion"), f"{fit.published.loss_:.5f}"],
        [tell("method.scorefusion_levels"), f"{fit.levels.loss_:.5f}"],
    ]
    gains = [
        [tell(f"evidence.{key}"), _gain(record)]
        for key, record in (("gain_uniform", fit.published.gain_uniform_), ("gain_single", fit.published.gain_single_))
    ]
    body = charts.plain_table([tell("word.model"), tell("evidence.loss")], rows) + charts.plain_table(
        [tell("evidence.gain"), tell("evidence.gain_value")], gains
    )
    return _lead(session, "evidence.metrics_help") + f'<div class="pair">{body}</div>'


def _gain(record) -> str:
    """`1.20 % (−0.41 … 2.81 %)`: the loss saved and its interval, as shares of the baseline's loss; a dash where there is nothing to save
    against, as for the baseline itself."""
    if record is None or not record.relative:
        return figures.NOTHING
    baseline = record.mean / record.relative
    value, low, high = (100 * one / baseline for one in (record.mean, *record.interval))
    return f"{figures.figure(value, figures.half(low, high))} % ({figures.interval(low, high, to=' … ')} %)"


def _audited(session, groups: list[tuple[str, list[str], int]]) -> list[dict]:
    """The probe's reading of these files, each group with the number of seeds in it; kept, since every event draws the page anew."""
    if session.audit is None or session.audit[0] != groups:
        session.audit = (groups, reading.audit([(name, engine.open_images(paths), seeds) for name, paths, seeds in groups]))
    return session.audit[1]


def _population(session) -> str:
    """Counts of what the probe reads: target, and every column of the grid. Portraits only: elsewhere there is no probe."""
    if not all(c.id.startswith("portraits/") for c in models_section.chosen(session)) or not reading.available():
        return f'<p class="soft">{session.say("evidence.no_probe")}</p>'
    groups = [("evidence.target", [p.path for p in session.pictures], len(session.pictures))]
    groups += [(f"method.{c.method}", [s.path for s in c.shots.values()], len({seed for _, seed in c.shots}))
               for c in session.columns if c.shots]  # fmt: skip
    if not session.pictures:
        return f'<p class="soft">{session.say("fit.need_images")}</p>'
    audit = [{**found, "name": session.tell(found["name"])} for found in _audited(session, groups)]
    top = max(0.3, *(float(np.max(a["table"])) for a in audit))  # one scale for all: colours are compared across panels
    plates = "".join(
        f"<figure><h3>{escape(a['name'])} <small>{texts.images(session.language, a['count'])}</small></h3>"
        + charts.heatmap(
            [session.tell(f"presentation.{r}") for r in a["rows"]],
            [session.tell(f"tone.{t}") for t in a["columns"]],
            a["table"],
            label=a["name"],
            top=top,
        )
        + "</figure>"
        for a in audit
    )
    rows = [[a["name"], a["count"], figures.figure(a["distance"], places=2), figures.interval(a["low"], a["high"], places=2, to="–"),
             figures.figure(a["floor"], places=2)] for a in audit[1:]]
    table = (
        charts.plain_table(
            [session.tell(k) for k in ("word.method", "word.samples", "evidence.distance", "word.interval", "evidence.floor")], rows
        )
        if rows
        else ""
    )
    return _lead(session, "evidence.population_help") + f'<div class="pair plates">{plates}</div>' + table


def set_tab(session, data: dict) -> None:
    if data.get("name") in TABS:
        session.tab = data["name"]
