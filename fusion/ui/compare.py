"""Section 4: the same prompts and seeds, one column per method. Every image says which model, weights and seed made it."""

from __future__ import annotations

import random
from html import escape

import numpy as np

from . import charts, engine, fit, jobs, mixer, models_section, state
from .panel import notes, progress, section

CHOICES = ("single", "uniform", "scorefusion", "scorefusion_levels", "mixture", "matched", "yours")
SWEEP = (1.0, 0.75, 0.5, 0.25, 0.0)


def render(session) -> str:
    say, ready = session.say, session.fit is not None and not session.stale()
    busy = session.job is not None or bool(session.waiting)
    plan = session.plan
    images = len(plan.prompts) * plan.count * len(plan.methods)
    parts = [_choices(session), _plan(session),
             f'<div class="row"><button class="btn primary" type="button" id="compare-button" data-do="compare" data-event="compare" {"" if ready and plan.methods and not busy else "disabled"}>'
             f'{say("compare.button")}</button><span class="soft">{say("compare.cost", images=images) if ready else say("compare.need_fit")}</span></div>',
             progress(session, "compare"), progress(session, "sweep"), notes(session, "compare")]
    if session.columns:
        parts += [grid(session), _wipe(session), _vote(session)]
    if ready:
        parts.append(_sweep(session, busy))
    return section(session, 4, "compare", "".join(parts))


def _choices(session) -> str:
    boxes = "".join(f'<button class="btn" type="button" role="checkbox" aria-checked="{"true" if m in session.plan.methods else "false"}" data-do="method" data-name="{m}">'
                    f'<span aria-hidden="true">{"☑" if m in session.plan.methods else "☐"}</span>{session.say(f"method.{m}")}</button>' for m in CHOICES)
    return f'<div class="row" role="group" aria-label="{session.say("compare.methods")}" style="gap:8px">{boxes}</div>'


def _plan(session) -> str:
    say, plan = session.say, session.plan

    def field(name: str, value: object, low: int, high: int) -> str:
        return (f'<label class="field">{say(f"compare.{name}")}<input type="number" style="width:110px" min="{low}" max="{high}" value="{value}" data-do="plan" data-name="{name}"></label>')

    return (f'<div class="row"><label class="field" style="flex:1;min-width:240px">{say("compare.prompts")}<input type="text" data-do="plan" data-name="prompts" maxlength="2000" '
            f'value="{escape(" | ".join(plan.prompts))}"></label>{field("count", plan.count, 1, 16)}{field("first_seed", plan.first_seed, 0, state.MAX_SEED)}{field("steps", plan.steps, 2, 100)}</div>')


def grid(session) -> str:
    """Columns of images with sticky heads; settings that have changed since are marked on each image."""
    say, columns = session.say, session.columns
    rows = list(dict.fromkeys(key for c in columns for key in c.shots)) or [(p, s) for p in session.plan.prompts for s in session.plan.seeds]
    cells = "".join(_head(session, column) for column in columns)
    last = None
    for prompt, seed in rows:
        if prompt != last:
            cells, last = cells + f'<p class="rowhead">“{escape(prompt)}”</p>', prompt
        cells += "".join(_cell(session, column, prompt, seed) for column in columns)
    return (f'<div class="grid-scroll" tabindex="0" role="region" aria-label="{say("compare.grid")}"><div class="compare" id="grid" '
            f'style="--cell:minmax(148px,1fr);grid-template-columns:repeat({len(columns)},var(--cell))">{cells}</div></div>')


def _head(session, column) -> str:
    say = session.say
    price = say("compare.evaluations", count=f"{column.evaluations:.0f}") if column.evaluations else ""
    weights = _weights_text(session, column.weights) if column.weights is not None else ""
    old = f'<span class="badge old">{say("older")}</span>' if is_old(session, column) else ""
    return f'<div class="col"><strong>{say(f"method.{column.method}")}</strong>{old}<small class="soft">{weights}</small><small class="faint">{price}</small></div>'


def is_old(session, column) -> bool:
    return column.key != session.column_key(column.method)


def _weights_text(session, weights) -> str:
    names = session.fit.gram.names if session.fit is not None else []
    parts = [f"{charts.mark(k)}{escape(names[k])} {w:.2f}" for k, w in enumerate(weights) if w >= 0.005 and k < len(names)]
    return " · ".join(parts)


def _cell(session, column, prompt: str, seed: int) -> str:
    shot = column.shots.get((prompt, seed))
    if shot is None:
        return '<div class="shot"><span class="pending"></span></div>'
    say, old = session.say, is_old(session, column)
    source = say("compare.from", name=shot.member) if shot.member else ""
    bar = "".join(f'<i style="flex-grow:{max(w, 0):.4f};background:{charts.colour(k)}"></i>' for k, w in enumerate(shot.weights) if w > 0.004)
    label = f'{say(f"method.{column.method}")}, {source or _plain(session, shot.weights)}, {say("compare.seed", seed=seed)}: {escape(prompt)}'
    numbers = " ".join(f"{w:.2f}" for w in shot.weights)
    return (f'<figure class="shot {"old" if old else ""}"><a href="{state.link(shot.path)}" target="_blank" rel="noopener"><img src="{state.link(shot.path)}" alt="{label}"></a>'
            f'<span class="mini" aria-hidden="true">{bar}</span><figcaption>{source + " · " if source else ""}{say("compare.seed", seed=seed)}<br><span class="faint">{numbers}</span></figcaption></figure>')


def _plain(session, weights) -> str:
    names = session.fit.gram.names if session.fit is not None else []
    return ", ".join(f"{escape(n)} {w:.2f}" for n, w in zip(names, weights) if w >= 0.005)


def _wipe(session) -> str:
    """Two columns, one over the other, at one seed; the divider is a slider, so keys move it."""
    full = [c for c in session.columns if c.shots]
    if len(full) < 2:
        return ""
    say = session.say
    left, right = full[0], full[-1]
    key = next((k for k in left.shots if k in right.shots), None)
    if key is None:
        return ""
    return (f'<details><summary>{say("compare.wipe")}</summary><div class="row" style="align-items:end"><div><div class="wipe">'
            f'<img alt="{say(f"method.{left.method}")}" src="{state.link(left.shots[key].path)}"><img class="over" alt="{say(f"method.{right.method}")}" src="{state.link(right.shots[key].path)}"><span class="line"></span></div>'
            f'<input type="range" min="0" max="100" value="50" data-cut style="width:100%;max-width:340px;height:44px" aria-label="{say("compare.wipe_slider")}"></div>'
            f'<p class="soft">{say("compare.wipe_help", left=session.tell(f"method.{left.method}"), right=session.tell(f"method.{right.method}"), seed=key[1])}</p></div></details>')


# ------------------------------------------------------------------------------------------------ blind vote

def _vote(session) -> str:
    """Two images, no names. The tally names the methods only after the choice."""
    pair, say = session.vote.get("pair"), session.say
    tally = session.vote.get("tally") or {}
    if len([c for c in session.columns if c.shots]) < 2:
        return ""
    body = f'<button class="btn" type="button" data-do="vote_next">{say("vote.start")}</button>'
    if pair:
        shots = [session.columns[c].shots[tuple(key)] for c, key in pair]
        body = f'<p>{say("vote.question")}</p><div class="vote">' + "".join(
            f'<div class="stack" style="gap:8px"><img src="{state.link(s.path)}" alt="{say("vote.option", letter="AB"[i])}"><button class="btn" type="button" data-do="vote" data-side="{i}">{say("vote.choose", letter="AB"[i])}</button></div>'
            for i, s in enumerate(shots)) + f'</div><button class="btn quiet" type="button" data-do="vote_pause">{say("vote.pause")}</button>'
    rows = [[session.tell(f"method.{m}"), won, lost] for m, (won, lost) in tally.items()]
    if rows:
        body += charts.table([session.tell("word.method"), session.tell("vote.won"), session.tell("vote.lost")], rows, session.tell("vote.tally"))
    return f'<details {"open" if pair or tally else ""}><summary>{say("vote.title")}</summary><div class="stack">{body}</div></details>'


def vote_next(session, data: dict) -> None:
    """Draw the next pair: same prompt and seed, two methods, sides at random."""
    common = [(i, j, k) for i, a in enumerate(session.columns) for j, b in enumerate(session.columns) if i != j for k in a.shots if k in b.shots]
    if common:
        i, j, key = random.choice(common)
        session.vote["pair"] = [(i, key), (j, key)]


def vote(session, data: dict) -> None:
    pair, side = session.vote.get("pair"), str(data.get("side"))
    if not pair or side not in ("0", "1"):
        return
    tally = session.vote.setdefault("tally", {})
    for at, (column, _) in enumerate(pair):
        won, lost = tally.get(session.columns[column].method, (0, 0))
        tally[session.columns[column].method] = (won + 1, lost) if at == int(side) else (won, lost + 1)
    vote_next(session, data)


def vote_pause(session, data: dict) -> None:
    session.vote.pop("pair", None)


# ------------------------------------------------------------------------------------------------ drawing

def run(session):
    """Generator: all chosen methods with the same seeds. Finished images stay when stopped; the ones before stay until then."""
    cards = models_section.chosen(session)
    result, plan = session.fit, state.Plan(**vars(session.plan))
    if result is None or session.stale() or not plan.methods:
        return
    session.notes.pop("compare", None)
    session.vote.clear()
    own = (session.mode, mixer.weights(session).copy())
    session.columns = [state.Column(m, session.column_key(m)) for m in plan.methods]

    def work(job):
        for column in session.columns:
            if job.stopped():
                return
            fitted = with_matched(session, cards, plan, job) if column.method == "matched" else session.fit
            column.evaluations = engine.evaluations(cards, fitted, column.method, plan, own)
            for sample in engine.samples(cards, fitted, column.method, plan, own, job=job):
                keep(session, column, sample, cards, plan)

    job = jobs.Job("compare", work)
    yield from fit.follow(session, job)
    if job.stopped() and "compare" not in session.notes:
        session.note("compare", "warn", session.tell("run.stopped_early"))
    session.stamp += 1
    yield


def with_matched(session, cards, plan, job):
    """The fit with its matched weights, found now if this is the first time that they are asked for."""
    if session.fit.matched is None:
        session.fit, session.blend = engine.matched(cards, session.fit, plan, job=job)
        session.weights["blend"] = engine.default_weights(session.fit, "blend")
        session.stamp += 1
    return session.fit


def keep(session, column, sample, cards, plan) -> None:
    """Write one image with its recipe inside, and put it into its cell."""
    path = session.folder / f"{column.method}-{column.key}-{sample.seed}-{abs(hash(sample.prompt)) % 10**8}.png"
    engine.save_with_recipe(sample, cards, plan, path)
    shot = state.Shot(str(path), sample.prompt, int(sample.seed), tuple(float(w) for w in sample.weights), sample.member)
    column.shots[(shot.prompt, shot.seed)] = shot
    column.weights = shot.weights


def _sweep(session, busy: bool) -> str:
    say, names = session.say, list(session.fit.gram.names)
    order = np.argsort(-engine.default_weights(session.fit, "mix"))[:2]
    text = say("sweep.help", first=names[order[0]], second=names[order[1]])
    shots = ""
    if session.sweep:
        shots = '<div class="sweep">' + "".join(
            f'<figure class="shot"><img src="{state.link(s.path)}" alt="{_plain(session, s.weights)}"><figcaption>{_plain(session, s.weights)}<br>{say("compare.seed", seed=s.seed)}</figcaption></figure>'
            for s in session.sweep) + "</div>"
    return (f'<details {"open" if session.sweep else ""}><summary>{say("sweep.title")}</summary><div class="stack"><p class="soft">{text}</p><p><button class="btn" type="button" data-do="sweep" '
            f'data-event="sweep" {"disabled" if busy else ""}>{say("sweep.button")}</button></p>{shots}</div></details>')


def run_sweep(session):
    """Generator: one seed, the two strongest models, five blends between them."""
    cards, result, plan = models_section.chosen(session), session.fit, session.plan
    if result is None or session.stale():
        return
    order = np.argsort(-engine.default_weights(result, "mix"))[:2]
    session.sweep = []
    one = state.Plan(prompts=plan.prompts[:1], first_seed=plan.first_seed, count=1, steps=plan.steps)

    def work(job):
        for share in SWEEP:
            weights = np.zeros(len(cards))
            weights[order] = share, 1 - share
            column = state.Column(f"sweep-{share:.2f}", session.column_key("yours"))
            for sample in engine.samples(cards, result, "yours", one, ("blend", weights), job=job):
                keep(session, column, sample, cards, one)
            session.sweep += list(column.shots.values())

    yield from fit.follow(session, jobs.Job("sweep", work))
    yield


# ------------------------------------------------------------------------------------------------ settings

def set_plan(session, data: dict) -> None:
    plan, name, value = session.plan, data.get("name"), data.get("value")
    if name == "prompts":
        plan.prompts = tuple(p.strip()[:400] for p in str(value).split("|") if p.strip())[:16] or plan.prompts
    elif name == "count":
        plan.count = state.whole(value, plan.count, 1, 16)
    elif name == "first_seed":
        plan.first_seed = state.whole(value, plan.first_seed, 0, state.MAX_SEED - 64)
    elif name == "steps":
        plan.steps = state.whole(value, plan.steps, 2, 100)


def set_method(session, data: dict) -> None:
    name, plan = data.get("name"), session.plan
    if name in CHOICES:
        plan.methods = tuple(m for m in CHOICES if (m in plan.methods) != (m == name))
