"""Section 4: the same prompts and seeds, one column per method. Every image says which model, weights and seed made it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from fusion.methods.training import found_of

from . import charts, draw, engine, fit, jobs, methods, mixer, models_section, prompts, state, texts, troubles, unread, vote
from .panel import notes, progress, section


def render(session) -> str:
    say, ready = session.say, session.fit is not None and not session.stale()
    busy = session.job is not None or bool(session.waiting)
    parts = [
        methods.render(session),
        _plan(session),
        f'<div class="row"><button class="btn primary" type="button" id="compare-button" '
        f'data-do="compare" data-event="compare" {"" if ready and session.plan.methods and not busy else "disabled"}>'
        f"{say('compare.button')}</button>"
        f'<span class="soft" id="compare-cost">{_cost(session) if ready else say("compare.need_fit")}</span></div>',
        progress(session, "compare"),
        progress(session, "sweep"),
        notes(session, "compare"),
    ]
    if session.columns:
        parts += [grid(session), _wipe(session), vote.render(session)]
    if ready:
        from . import sweep  # it draws with this module's functions

        parts.append(sweep.render(session, busy))
    return section(session, 4, "compare", "".join(parts))


def _cost(session) -> str:
    """What the grid will cost, before it is drawn; with the time, once these models have drawn here."""
    plan = session.plan
    images = texts.images(session.language, len(plan.prompts) * plan.count * len(plan.methods))
    evaluations, seconds = methods.total(session)
    if not evaluations:
        return session.say("compare.cost", images=images)
    if seconds is None:
        return session.say("compare.cost_known", images=images, evaluations=f"{evaluations:,.0f}")
    return session.say("compare.cost_timed", images=images, evaluations=f"{evaluations:,.0f}", time=methods.duration(session, seconds))


def _plan(session) -> str:
    say, plan = session.say, session.plan

    def field(name: str, value: object, low: int, high: int, step: str = "1") -> str:
        return (
            f'<label class="field">{say(f"compare.{name}")}<input type="number" style="width:110px" min="{low}" max="{high}" step="{step}" '
            f'value="{value}" data-do="plan" data-name="{name}"></label>'
        )

    strength = f"{draw.guidance(plan, models_section.chosen(session)):g}"

    return (
        f'<div class="row"><label class="field" style="flex:1;min-width:240px">{say("compare.prompts")}'
        f'<input type="text" data-do="plan" data-name="prompts" maxlength="20000" '
        f'value="{escape(prompts.joined(plan.prompts))}">'
        f"</label>{field('count', plan.count, 1, 16)}{field('first_seed', plan.first_seed, 0, state.MAX_SEED)}"
        f"{field('steps', plan.steps, 2, 100)}{field('guidance', strength, 1, 30, 'any')}</div>"
        f'{notes(session, "prompts")}{unread.at_field(session, "prompt", plan.prompts)}'
        f'<details data-key="prompt-more"{" open" if plan.negative or plan.clip_skip else ""}><summary>{say("compare.more")}</summary>'
        f'<div class="row"><label class="field" style="flex:1;min-width:240px">{say("compare.negative")}<input type="text" data-do="plan" '
        f'data-name="negative" maxlength="4000" value="{escape(plan.negative)}"></label>{field("clip_skip", plan.clip_skip, 0, 12)}</div>'
        f'{unread.at_field(session, "negative", [plan.negative])}'
        f'<p class="soft">{say("compare.more_help")}</p></details>'
    )


def grid(session) -> str:
    """Columns of images with sticky heads; settings that have changed since are marked on each image."""
    say, columns = session.say, session.columns
    cells = "".join(_head(session, column) for column in columns)
    last = None
    for prompt, seed in rows(session):
        if prompt != last:
            cells, last = cells + f'<p class="rowhead">“{escape(prompt)}”</p>', prompt
        cells += "".join(_cell(session, column, prompt, seed) for column in columns)
    widest = "1fr" if len(columns) > 3 else "240px"
    return (
        f'<div class="grid-scroll" tabindex="0" role="region" aria-label="{say("compare.grid")}"><div class="compare" id="grid" '
        f'style="--cell:minmax(148px,{widest});grid-template-columns:repeat({len(columns)},var(--cell))">{cells}</div></div>'
    )


def rows(session) -> list[tuple[str, int]]:
    """`(prompt, seed)` of every row, alike for all columns, whatever order a method drew in; those to be drawn, while there are none."""
    shown = dict.fromkeys(key for column in session.columns for key in column.shots)
    order = list(dict.fromkeys([*session.plan.prompts, *(prompt for prompt, _ in shown)]))
    to_be = [(prompt, seed) for prompt in session.plan.prompts for seed in session.plan.seeds]
    return sorted(shown, key=lambda key: (order.index(key[0]), key[1])) or to_be


def _head(session, column) -> str:
    say = session.say
    price = escape(methods.told(session, column.cost)) if column.cost is not None else ""
    weights = _weights_text(session, column.weights) if column.weights is not None else ""
    drawn_by = draw.YOURS[session.mode] if column.method == "yours" else column.method
    for words in draw.samplers(models_section.chosen(session), drawn_by, session.plan, column.weights):
        price += f"<br>{escape(texts.translate(session.language, words))}"
    old = f'<span class="badge old">{say("older")}</span>' if is_old(session, column) else ""
    if column.trained:  # images drawn with it can be drawn again only where its file is
        name = Path(column.trained).name
        price += f'<br><a href="{state.link(column.trained)}" download="{escape(name)}">{say("compare.trained")}</a>'
    found = f'<small class="warned">{escape(texts.translate(session.language, column.found))}</small>' if column.found else ""
    return (
        f'<div class="col"><strong>{say(f"method.{column.method}")}</strong>{old}<small class="soft">{weights}</small>'
        f'{found}<small class="faint">{price}</small></div>'
    )


def is_old(session, column) -> bool:
    return column.key != session.column_key(column.method)


def _weights_text(session, weights) -> str:
    names = session.fit.gram.names if session.fit is not None else []
    return " · ".join(charts.named([charts.mark(k) + escape(name) for k, name in enumerate(names)], weights))


def _cell(session, column, prompt: str, seed: int) -> str:
    shot = column.shots.get((prompt, seed))
    if shot is None:
        return '<div class="shot"><span class="pending"></span></div>'
    say, old = session.say, is_old(session, column)
    source = say("compare.from", name=shot.member) if shot.member else ""
    bar = "".join(
        f'<i style="flex-grow:{max(w, 0):.4f};background:{charts.colour(k)}"></i>' for k, w in enumerate(shot.weights) if w > 0.004
    )
    made_by = source or plain_weights(session, shot.weights)
    label = f"{say(f'method.{column.method}')}, {made_by}, {say('compare.seed', seed=seed)}: {escape(prompt)}"
    numbers = " ".join(charts.decimals(shot.weights))
    remark = f'<br><span class="faint">{escape(texts.translate(session.language, shot.note))}</span>' if shot.note else ""
    return (
        f'<figure class="shot {"old" if old else ""}"><a href="{state.link(shot.path)}" target="_blank" rel="noopener">'
        f'<img src="{state.link(shot.path)}" alt="{label}"></a>'
        f'<span class="mini" aria-hidden="true">{bar}</span>'
        f'<figcaption>{source + " · " if source else ""}{say("compare.seed", seed=seed)}<br><span class="faint">{numbers}</span>{remark}'
        f"</figcaption></figure>"
    )


def plain_weights(session, weights) -> str:
    names = session.fit.gram.names if session.fit is not None else []
    return ", ".join(charts.named([escape(name) for name in names], weights))


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
    text = say("compare.wipe_help", left=session.tell(f"method.{left.method}"), right=session.tell(f"method.{right.method}"), seed=key[1])
    return (
        f'<details data-key="wipe"><summary>{say("compare.wipe")}</summary><div class="row" style="align-items:end"><div><div class="wipe">'
        f'<img alt="{say(f"method.{left.method}")}" src="{state.link(left.shots[key].path)}">'
        f'<img class="over" alt="{say(f"method.{right.method}")}" src="{state.link(right.shots[key].path)}"><span class="line">'
        f"</span></div>"
        f'<input type="range" min="0" max="100" value="50" data-cut style="width:100%;max-width:340px;height:44px" '
        f'aria-label="{say("compare.wipe_slider")}"></div>'
        f'<p class="soft">{text}</p></div></details>'
    )


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

    failed, fitted = [], result

    def one(job, column) -> None:
        nonlocal fitted
        if column.method != "yours":
            fitted = _prepared(session, cards, fitted, column.method, plan, job)
        column.cost = draw.price(cards, fitted, column.method, plan, own)
        for sample in draw.samples(cards, fitted, column.method, plan, own, job=job):
            keep(session, column, sample, cards, plan)

    def work(job) -> None:
        for number, column in enumerate(session.columns, 1):
            if job.stopped():
                return
            name = session.tell(f"method.{column.method}")
            job.label = session.tell("run.column", name=name, number=number, total=len(session.columns))
            try:
                one(job, column)
            except Exception as error:  # this method cannot run here; the others can
                if not job.stopped():
                    failed.append(f"{name}: {troubles.explain(session, error)}")
                troubles.release(error)

    job = jobs.Job("compare", work)
    yield from fit.follow(session, job)
    if job.stopped():
        session.columns = [c for c in session.columns if c.shots]
    if job.stopped() and "compare" not in session.notes:
        session.note("compare", "warn", session.tell("run.stopped_early"))
    if failed:
        session.note("compare", "bad", *dict.fromkeys(failed))
        session.columns = [c for c in session.columns if c.shots]
    yield


def _prepared(session, cards, fitted, method: str, plan, job):
    """The fit with what `method` finds or trains once; kept in the session unless the visitor has a newer fit by now."""
    found, form = draw.prepared(cards, fitted, method, plan, job=job, stage=methods.STAGES.get(method, "preparing"),
                                work=session.folder / "work")  # fmt: skip
    if found is not fitted and session.fit is fitted:
        session.fit = found
        if form is not None:
            session.blend, session.weights["blend"] = form, engine.default_weights(found, "blend")
        session.stamp += 1
    return found


def keep(session, column, sample, cards, plan) -> None:
    """Write one image with its recipe inside, and put it into its cell."""
    path = session.folder / f"{column.method}-{column.key}-{sample.seed}-{abs(hash(sample.prompt)) % 10**8}.png"
    draw.save(sample, cards, draw.settings(plan, cards), path)
    weights, note = tuple(float(w) for w in sample.weights), getattr(sample, "note", "")
    shot = state.Shot(str(path), sample.prompt, int(sample.seed), weights, sample.member, note)
    column.shots[(shot.prompt, shot.seed)] = shot
    column.weights = shot.weights
    if getattr(sample, "trained", None) is not None:
        column.trained, column.found = str(session.folder / sample.trained.file), found_of(sample.trained)


# ------------------------------------------------------------------------------------------------ settings


def set_plan(session, data: dict) -> None:
    plan, name, value = session.plan, data.get("name"), data.get("value")
    if name == "prompts":
        plan.prompts = prompts.split(str(value)) or plan.prompts
        session.notes.pop("prompts", None)
        if prompts.is_cut(str(value)):
            session.note("prompts", "warn", session.tell("compare.prompts_cut", most=prompts.MOST, longest=prompts.LONGEST))
    elif name == "count":
        plan.count = state.whole(value, plan.count, 1, 16)
    elif name == "first_seed":
        plan.first_seed = state.whole(value, plan.first_seed, 0, state.MAX_SEED - 64)
    elif name == "negative":
        plan.negative = str(value or "").strip()[: prompts.LONGEST]
    elif name == "clip_skip":
        plan.clip_skip = state.whole(value, plan.clip_skip, 0, 12)
    elif name == "steps":
        plan.steps = state.whole(value, plan.steps, 2, 100)
    elif name == "guidance":  # an emptied field is the models' own again
        plan.guidance = state.guidance(value, plan.guidance) if str(value or "").strip() else None

