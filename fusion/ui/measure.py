"""Section 5, measuring: samples of the chosen methods against held-out target images, on request. What was not fitted decides.

Held-out images are the example's own or dropped in here; they are never fitted. Without them there is no evidence and nothing is said.
"""

from __future__ import annotations

import functools
import json
from html import escape

from . import captions, draw, engine, fit, gathering, jobs, measured, methods, mixer, models_section, state, target, uploads
from .panel import drop_words, notes, progress, section

FOLDER = engine.ASSETS / "studies" / "evidence"  # where the study of that name writes
COUNTS = (16, 32, 64, 128)  # images a method
FEWEST, MOST = 3, 48  # held-out images
FIRST_SEED = 10_000  # far from the grid's, so that nobody chooses by the very images he has looked at


def render_head(session) -> str:
    """The heading of section 5, what was measured, and what a measurement would cost."""
    say, parts = session.say, []
    own = session.report
    if own is not None:
        old = f'<p><span class="badge old">{say("older")}</span></p>' if own["key"] != key(session) else ""
        stopped = f'<p class="soft">{say("measure.stopped")}</p>' if own["stopped"] else ""
        table = measured.render(session, own, key="own")
        parts.append(f'<div class="card stack" id="measured">{old}{table}{stopped}{_how(session, own)}</div>')
    shipped = stored(session.example)
    if shipped is not None:
        body = f'<div class="card stack">{measured.render(session, shipped, key="shipped")}{_how(session, shipped)}</div>'
        summary = say("measure.shipped", name=say(f"example.{session.example}"))
        parts.append(f'<details data-key="shipped" {"" if own else "open"}><summary>{summary}</summary>{body}</details>')
    if session.fit is not None:
        parts.append(_controls(session))
    parts += [progress(session, "measure"), notes(session, "measure")]
    return section(session, 5, "evidence", "".join(parts))


def _controls(session) -> str:
    say, ready = session.say, session.fit is not None and not session.stale()
    held = held_out(session)
    busy = session.job is not None or bool(session.waiting)
    enough = len(held) >= FEWEST and bool(session.plan.methods)
    options = "".join(f'<option {"selected" if n == session.measure_count else ""}>{n}</option>' for n in COUNTS)
    source = say("measure.own" if session.held else "measure.example" if held else "measure.missing", count=len(held), fewest=FEWEST)
    clear = f'<button class="btn quiet" type="button" data-do="held_clear">{say("target.clear")}</button>' if session.held else ""
    return (
        f'<div class="row"><button class="btn {"" if session.report else "primary"}" type="button" id="measure-button" data-do="measure" '
        f'data-event="measure" {"" if ready and enough and not busy else "disabled"}>{say("measure.button")}</button>'
        f'<label class="row soft">{say("measure.count")} <select data-do="measure_count">{options}</select></label>'
        f'<span class="soft">{_cost(session, len(held)) if ready and enough else ""}</span></div>'
        f'<p class="soft" id="held">{source} {clear}</p>'
    )


def _cost(session, held: int) -> str:
    """Drawing, and reading the samples and the held-out images at every noise level."""
    drawn, seconds = methods.total(session, images=session.measure_count)
    if not drawn:
        return session.say("price.unknown")
    levels, members = session.level_count, len(session.selected)
    reading = 2 * levels * members * (held * session.draws + len(session.plan.methods) * min(session.measure_count, 32))
    read = draw.reads(models_section.chosen(session), reading)
    if seconds is None or read is None:
        return session.say("measure.cost", evaluations=f"{drawn + reading:,.0f}")
    time = methods.duration(session, seconds + read)
    return session.say("measure.cost_timed", evaluations=f"{drawn + reading:,.0f}", time=time)


def _how(session, report: dict) -> str:
    told = ", ".join(f"{escape(str(k))} {escape(str(v))}" for k, v in report.get("settings", {}).items())
    return f'<p class="faint">{session.say("measure.how")}: {told}</p>' if told else ""


def render_drop(session) -> str:
    """The words inside the drop zone for held-out images."""
    return drop_words(session, "held-drop", "measure.drop") + notes(session, "held")


def stored(name: str | None) -> dict | None:
    """The committed measurement of an example (study `evidence`), or None, in the form that `measured` shows."""
    file = FOLDER / "evidence.json"
    return _stored(file, file.stat().st_mtime_ns, name) if name and file.is_file() else None


@functools.lru_cache(maxsize=16)
def _stored(file, _changed: int, name: str) -> dict | None:
    data = json.loads(file.read_text("utf-8"))
    found = data["targets"].get(name)
    if found is None:
        return None
    rows = [_row(row) for row in found["rows"]]
    rows += [{"method": m, "title": m, "cost": None, "notes": {}, "problem": why} for m, why in found["problems"].items()]
    seeds, said = found["recommendations"], found["recommendation"]
    votes = sum(one["method"] == said["method"] for one in seeds)
    kept = ("steps", "samples", "seeds", "fitted", "held_out")
    return {"rows": rows, "columns": data["columns"], "recommendation": said, "stopped": not data["settings"]["complete"],
            "votes": [votes, len(seeds)], "read": data["settings"]["residual"],
            "settings": {key: data["settings"][key] for key in kept}}  # fmt: skip


def _row(row: dict) -> dict:
    """A row of the study: its figures' intervals over samples, and those over seeds beside them."""
    figures = {
        name: None if one is None else {"value": one["value"], "low": one["samples"][0], "high": one["samples"][1], "floor": one["floor"],
                                        "seeds": one["seeds"]}
        for name, one in row["figures"].items()
    }  # fmt: skip
    return {key: row[key] for key in ("method", "title", "cost", "seconds", "notes")} | figures | {"problem": ""}


# ------------------------------------------------------------------------------------------------ held-out images


def held_out(session) -> list:
    """`(path, caption)` of the held-out images: the visitor's, else the example's."""
    if session.held:
        return [(p.path, p.caption) for p in session.held]
    folder = target.folder_of(session.example).parent / "held_out" if session.example else None
    if folder is None or not folder.is_dir():
        return []
    captions = target.captions_of(folder)
    return [(str(file), captions.get(file.name, session.default_caption)) for file in sorted(folder.glob("*.png"))[:MOST]]


def upload(session, paths: list[str]) -> None:
    """Add held-out images; one that is among the fitted ones is refused, since it would be no evidence."""
    from fusion.images import read_images

    recipes, lists, files = gathering.by_kind(paths)
    found = gathering.gather(lists, files, session.held)
    said = uploads.said_of(session, [*found.problems, *(read_images(recipes)[1] if recipes else [])])
    guesses = captions.proposed(session, [intake.image for intake in found.intakes])
    fitted, known = {p.image.tobytes() for p in session.pictures}, {p.image.tobytes() for p in session.held}
    refused, repeated, surplus = [], [], 0
    for intake, place, guess in zip(found.intakes, found.places, guesses):
        pixels = intake.image.tobytes()
        if pixels in fitted:
            refused.append(intake.name)
        elif pixels in known:
            repeated.append(intake.name)
        elif len(session.held) >= uploads.most_pictures():
            surplus += 1
        else:
            path = session.folder / f"held-{len(list(session.folder.glob('held-*')))}.png"
            intake.image.save(path)
            caption = intake.caption or session.default_caption or guess
            session.held.append(state.Picture(intake.image, intake.name, caption, str(path), place=place))
            known.add(pixels)
    said += uploads.grouped(session, refused, "bad", session.tell("measure.fitted"))
    said += uploads.grouped(session, repeated, "info", session.tell("target.duplicate"))
    said += [("bad", session.tell("target.most", most=uploads.most_pictures(), count=surplus))] if surplus else []
    said += gathering.apply(session, session.held, found)
    uploads.show(session, "held", said)


def clear(session, data: dict) -> None:
    session.held = []
    session.notes.pop("held", None)


def set_count(session, data: dict) -> None:
    session.measure_count = state.whole(data.get("value"), session.measure_count, COUNTS[0], COUNTS[-1])


def key(session) -> str:
    """What a measurement belongs to: fit, methods, steps and held-out images."""
    columns = [session.column_key(m) for m in session.plan.methods]
    return "|".join([*session.plan.methods, *columns, str(session.measure_count), *(path for path, _ in held_out(session))])


# ------------------------------------------------------------------------------------------------ the run


def run(session):
    """Generator: draws, reads and weighs. A stopped measurement keeps the methods that were finished."""
    cards, result, plan = models_section.chosen(session), session.fit, state.Plan(**vars(session.plan))
    own = (session.mode, mixer.weights(session).copy())
    held, mark, count = held_out(session), key(session), session.measure_count
    if result is None or session.stale() or len(held) < FEWEST or not plan.methods:
        return
    session.notes.pop("measure", None)
    title = session.tell("method.yours")

    def work(job):
        return draw.measured(cards, result, plan, own, held, count=count, first_seed=FIRST_SEED, yours=title, job=job,
                             work=session.folder / "work")  # fmt: skip

    job = jobs.Job("measure", work)
    yield from fit.follow(session, job)
    if job.result is not None:
        report, fitted = job.result
        session.report = report | {"key": mark}
        if session.fit is result and fitted is not None:
            session.fit = fitted
            session.stamp += fitted is not result
    yield


def current(session) -> dict | None:
    """The report that belongs to what is chosen now: the visitor's own, else the example's; None without. Hero, section 5 and the report
    on paper rest on the same one."""
    if session.report is not None and session.report["key"] == key(session) and not session.stale():
        return session.report
    return stored(session.example)


def verdict(session) -> str:
    """For the report: the recommendation and what stands beside it, or that there is none."""
    report = current(session)
    if report is None:
        return session.tell("measure.none")
    return " ".join([measured.recommendation(session, report), *measured.beside(session, report)])
