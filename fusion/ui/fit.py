"""Section 3: Fit. The calibrated proportions first, the published weights beside them, and one sentence on why they differ."""

from __future__ import annotations

from dataclasses import replace
from html import escape

from fusion import figures

from . import charts, engine, jobs, models_section, texts, troubles
from .panel import notes, progress, section


def render(session) -> str:
    say = session.say
    cards, pictures = models_section.chosen(session), session.pictures
    blocked = "fit.need_models" if len(cards) < 2 else "fit.need_images" if not pictures else ""
    busy = session.job is not None or bool(session.waiting)
    cost = say("fit.cost", models=len(cards), images=texts.images(session.language, len(pictures)), evaluations=_evaluations(session))
    parts = [
        f'<div class="row"><button class="btn primary" type="button" id="fit-button" data-do="fit" '
        f'data-event="fit" {"disabled" if blocked or busy else ""}>'
        f"{say('fit.again' if session.fit is not None else 'fit.button')}</button>"
        f'<span class="soft">{say(blocked) if blocked else cost}</span></div>',
        _settings(session),
        progress(session, "fit"),
        progress(session, "calibrate"),
        notes(session, "fit"),
    ]
    if session.fit is not None:
        if session.stale():
            parts.append(f'<p><span class="badge old">{say("older")}</span> <span class="soft">{say("fit.older")}</span></p>')
        parts.append(answer(session))
    return section(session, 3, "fit", "".join(parts))


def _evaluations(session) -> str:
    return f"{2 * session.draws * session.level_count * len(session.pictures) * len(session.selected):,}"


def _settings(session) -> str:
    say = session.say
    options = "".join(f'<option value="{n}" {"selected" if n == session.level_count else ""}>{n}</option>' for n in (8, 16, 32))
    draws = "".join(f'<option value="{n}" {"selected" if n == session.draws else ""}>{n}</option>' for n in (1, 2, 4, 8))
    return (
        f'<details data-key="settings"><summary>{say("fit.settings")}</summary><div class="row"><label class="field">{say("fit.levels")}'
        f'<select data-do="levels">{options}</select></label>'
        f'<label class="field">{say("fit.draws")}<select data-do="draws">{draws}</select></label></div></details>'
    )


def answer(session) -> str:
    """Both answers side by side with intervals, the sentence between them, and the verdicts."""
    say, fit = session.say, session.fit
    names, published = list(fit.gram.names), fit.published
    first = _calibrated(session, names) if fit.calibrated is not None else _uncalibrated(session, names)
    second = (
        f'<div class="card second"><h3>{say("fit.published")}</h3><p class="soft">{say("fit.published_help")}</p>'
        f"{charts.shares(names, published.weights_, published.interval_, title=session.tell('fit.published'))}</div>"
    )
    said = f'<p class="soft">{escape(plain_why(session))}</p>{_verdicts(session)}'
    return f'<div class="answer" id="answer">{first}{second}</div>{said}' + charts.table(
        [session.tell(k) for k in ("word.model", "fit.proportions", "word.interval", "fit.published", "word.interval")],
        rows(fit, names),
        session.tell("word.table"),
    )


def _calibrated(session, names) -> str:
    say, calibrated = session.say, session.fit.calibrated
    return (
        f'<div class="card"><h3>{say("fit.proportions")}</h3><p class="soft">{say("fit.proportions_help")}</p>'
        f"{charts.shares(names, calibrated.proportions_, calibrated.interval_, title=session.tell('fit.proportions'))}</div>"
    )


def _uncalibrated(session, names) -> str:
    say = session.say
    busy = "disabled" if session.job is not None else ""
    return (
        f'<div class="card"><h3>{say("fit.mixture")}</h3><p class="soft">{say("fit.uncalibrated")}'
        f"</p>{charts.shares(names, session.fit.mixture.proportions_)}"
        f'<p style="margin-top:16px">'
        f'<button class="btn" type="button" data-do="calibrate" data-event="calibrate" {busy}>{say("fit.calibrate")}</button></p>'
        f"</div>"
    )


def rows(fit, names) -> list[list[str]]:
    def pair(record, k):
        return "–" if record is None else f"{record[k][0]:.2f}–{record[k][1]:.2f}"

    calibrated, published = fit.calibrated, fit.published
    first = calibrated.proportions_ if calibrated is not None else fit.mixture.proportions_
    interval = calibrated.interval_ if calibrated is not None else None
    return [
        [n, f"{first[k]:.3f}", pair(interval, k), f"{published.weights_[k]:.3f}", pair(published.interval_, k)] for k, n in enumerate(names)
    ]


def plain_why(session) -> str:
    """One sentence on how the two answers stand to each other, and why they differ where they do (`Fit.verdict`)."""
    return session.tell(f"fit.why.{session.fit.verdict()}")


def verdicts(session) -> list[tuple[str, str]]:
    """`(kind, sentence)` of everything that limits the answer."""
    tell, fit, said = session.tell, session.fit, []
    if fit.calibrated is not None and fit.calibrated.outside_:
        outside = tell("fit.outside", p=figures.chance(fit.calibrated.p_value_))
        one = fit.calibrated.captions_ == 1 and len(fit.gram) > 1
        said.append(("warn", outside + (" " if session.language == "en" else "") + tell("fit.captions") if one else outside))
    elif fit.calibrated is not None:
        said.append(("info", tell("fit.inside", p=figures.chance(fit.calibrated.p_value_))))
    if fit.undecided:
        said.append(("warn", tell("fit.undecided")))
    if not fit.published.determined_:
        said.append(("info", tell("fit.flat")))
    if len(fit.gram) == 1:
        said.append(("warn", tell("fit.one_image")))
    return said


def _verdicts(session) -> str:
    said = [(kind, escape(text)) for kind, text in verdicts(session)]
    calm = " ".join(text for kind, text in said if kind == "info")
    return (f'<p class="soft">{calm}</p>' if calm else "") + "".join(
        f'<div class="note warn" role="status">{text}</div>' for kind, text in said if kind == "warn"
    )


def run(session):
    """Generator: fits in a thread and yields while there is progress. Partial work is kept when stopped; errors are said in place."""
    cards = models_section.chosen(session)
    ids, pictures = tuple(c.id for c in cards), list(session.pictures)
    session.notes.pop("fit", None)
    levels, draws = session.level_count, session.draws
    images, captions = [p.image for p in pictures], [p.caption for p in pictures]
    job = jobs.Job("fit", lambda j: engine.fit(cards, images, captions, levels=levels, draws=draws, job=j, folder=session.answers))
    yield from follow(session, job)
    if job.result is not None:
        done = len(job.result.gram)
        session.take_fit(_with_trained(session, job.result), ids)
        if warnings := engine.warnings(cards):
            session.note("models", "warn", *(texts.translate(session.language, w) for w in warnings))
        if done < len(pictures):
            session.note("fit", "warn", session.tell("fit.partial", done=done, total=len(pictures)))
        _reset_weights(session)
    yield


def _with_trained(session, fresh):
    """The new fit with what was trained on these very pictures and models before: training does not depend on the fit's settings."""
    before = session.fit
    alike = before is not None and before.target is not None and before.gram.names == fresh.gram.names
    if not alike or _seen(before.target) != _seen(fresh.target):
        return fresh
    return replace(fresh, trained=before.trained)


def _seen(target) -> list:
    return [(image.tobytes(), prompt) for image, prompt in zip(target.images, target.prompts)]


def run_calibration(session):
    """Generator: draws from each model and fits again with proportions."""
    cards, before = models_section.chosen(session), session.fit
    if before is None or session.stale():
        return
    guidance = session.plan.guidance
    job = jobs.Job("calibrate", lambda j: engine.calibrate(cards, before, job=j, folder=session.answers, guidance=guidance))
    yield from follow(session, job)
    if job.result is not None:
        session.take_fit(job.result, tuple(c.id for c in cards))
        _reset_weights(session)
    yield


def follow(session, job):
    """Make `job` the visitor's current one, yield at each change, and turn what went wrong into a sentence beside its button."""
    session.job, session.waiting = job, ""
    try:
        for _ in job.ticks():
            yield
    finally:
        session.job = None
    place = jobs.PLACES[job.kind]
    if job.error is not None and job.stopped():
        session.note(place, "warn", session.tell("run.stopped_nothing"))
    elif job.error is not None:
        session.note(place, "bad", troubles.explain(session, job.error))
        troubles.release(job.error)


def _reset_weights(session) -> None:
    session.weights = {mode: engine.default_weights(session.fit, mode) for mode in ("mix", "blend")}


def set_levels(session, data: dict) -> None:
    session.level_count = int(data.get("value", 16)) if str(data.get("value")) in ("8", "16", "32") else session.level_count


def set_draws(session, data: dict) -> None:
    session.draws = int(data.get("value", 1)) if str(data.get("value")) in ("1", "2", "4", "8") else session.draws
