"""What happens on the page: every event changes the visitor's `Session` and returns what changed on screen.

Long work runs as generators that share one device queue. The tables say which panel, button and long work belongs to which section.
"""

from __future__ import annotations

import contextlib
import functools

import gradio as gr

from models.room import is_full

from . import (
    address,
    arriving,
    captions,
    comeback,
    comeback_card,
    compare,
    draw,
    engine,
    evidence,
    first_screen,
    fit,
    header,
    hero,
    jobs,
    measure,
    measured,
    methods,
    mixer,
    models_section,
    report,
    state,
    sweep,
    target,
    texts,
    troubles,
    uploads,
    visits,
    vote,
)

PANELS = {
    "head": header.render,
    "hero": hero.render,
    "models": models_section.render,
    "target_head": target.render_head,
    "target": target.render,
    "fit": fit.render,
    "mixer": mixer.data,
    "compare": compare.render,
    "measure": measure.render_head,
    "held": measure.render_drop,
    "evidence": evidence.render,
    "report": report.render,
    "comeback_head": comeback_card.render_head,
    "comeback": comeback_card.render,
}
ACTIONS = {
    "language": header.set_language,
    "toggle": models_section.toggle,
    "add": models_section.add,
    "example": target.take_example,
    "remove": target.remove,
    "clear": target.clear,
    "caption": target.caption,
    "default_caption": captions.set_default,
    "levels": fit.set_levels,
    "draws": fit.set_draws,
    "plan": compare.set_plan,
    "method": methods.choose,
    "vote_next": vote.following,
    "vote": vote.choose,
    "vote_pause": vote.pause,
    "tab": evidence.set_tab,
    "report": report.make,
    "sort": measured.sort,
    "measure_count": measure.set_count,
    "held_clear": measure.clear,
    "recipe_undo": comeback.undo,
    "recipe_of": target.take_recipe,
}
PAGE_NOTES = "hero"  # the panel that shows what is to be said of the whole page
LONG = {
    "fit": fit.run,
    "calibrate": fit.run_calibration,
    "compare": compare.run,
    "sweep": sweep.run,
    "redraw": comeback.run,
    "measure": measure.run,
}


def start(session: state.Session) -> state.Session:
    """A visitor's first state: the shipped models, and the first example where it is there."""
    offered = engine.cards()
    session.selected = [name for name in engine.DEFAULT_MODELS if name in offered]
    example = next((name for name in target.EXAMPLES if target.has_example(name)), None)
    if example:
        target.take_example(session, {"name": example})
    return session


def turn(handler):
    """One event of a visitor at a time: answers leave in the order of their events, so no older screen overwrites a newer one."""

    @functools.wraps(handler)
    def taken(session: state.Session, *rest):
        with session.lock:
            return handler(session, *rest)

    return taken


@turn
def refresh(session: state.Session) -> list:
    """New values for the panels that changed since the last time, nothing for the others. A panel that fails keeps what it shows."""
    out, failed = {}, None
    for name, render in PANELS.items():
        try:
            out[name] = _changed(session, name, render(session))
        except Exception as error:  # one broken panel leaves the other thirteen usable
            out[name], failed = gr.skip(), error
    if failed is not None:
        session.note("page", "bad", troubles.explain(session, failed))
        with contextlib.suppress(Exception):  # where the note is shown may be what fails; then it is in the log alone
            out[PAGE_NOTES] = _changed(session, PAGE_NOTES, PANELS[PAGE_NOTES](session))
    return list(out.values())


def _changed(session: state.Session, name: str, value):
    changed = session.sent.get(name) != value
    session.sent[name] = value
    return value if changed else gr.skip()


@turn
@troubles.guarded(refresh)
def on_load(session: state.Session, tab: str, request: gr.Request) -> list:
    """Language and state from the address, or the browser's language; then everything is drawn once. `tab`: see `visits`.

    A reload finds what was there. An address that says something else, such as a link pasted into the same tab, has the last word.
    """
    session.sent.clear()
    session.language = texts.browser_language(request.headers.get("accept-language"))
    params = dict(request.query_params)
    if visits.resume(session, tab):
        if params.get("lang") in texts.LANGUAGES:
            session.language = params["lang"]
        if address.says_no_more(session, params):
            return refresh(session)
    else:
        start(session)
    example = params.get("example", "")
    if target.has_example(example):
        target.take_example(session, {"name": example, "count": params.get("pictures")})
    bad = address.restore(session, params, set(engine.cards()))
    if "models" in params and session.pictures:
        session.fit = None
        chosen_mode, wanted = session.mode, session.weights.get(session.mode)
        first_screen.take_stored_fit(session)
        if "weights" in params and "weights" not in bad and wanted is not None:
            session.weights[chosen_mode] = wanted
    if bad:
        session.note("page", "warn", session.tell("page.bad_link", parts=", ".join(bad)[:200]))
    return refresh(session)


@troubles.guarded(refresh)
def on_warm(session: state.Session) -> list:
    """Load the models of an answer that came from files, after the first paint: then every price is known and the first fit starts at once.

    Only models whose files are here: nothing is fetched unasked. What is wrong with them is said when they are used.
    """
    chosen = models_section.chosen(session)
    if session.fit is not None and not session.stale() and not any(card.is_hub for card in chosen):
        with contextlib.suppress(ValueError, OSError), jobs.alone(wait=False) as free:  # while others draw, nothing is loaded unasked
            if free:
                draw.warm(chosen)
    return refresh(session)


@turn
@troubles.guarded(refresh)
def on_act(session: state.Session, event: gr.EventData) -> list:
    """A button or field of a panel. Unknown actions do nothing: what arrives comes from a browser."""
    sent = arriving.checked(event._data)
    action = ACTIONS.get(sent.get("do"))
    if action is not None:
        action(session, sent)
    return refresh(session)


@contextlib.contextmanager
def room_for(session: state.Session, place: str):
    """What arrives is written to the visitor's folder: a full disk is said at `place`, and what was there stays."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        session.note(place, "bad", troubles.explain(session, error))


@turn
@troubles.guarded(refresh, before=1)
def on_upload(session: state.Session, files) -> list:
    with room_for(session, "target"):
        uploads.take(session, arriving.paths(files))
    return [None, *refresh(session)]


@turn
@troubles.guarded(refresh, before=1)
def on_held(session: state.Session, files) -> list:
    with room_for(session, "measure"):
        measure.upload(session, arriving.paths(files))
    return [None, *refresh(session)]


@turn
@troubles.guarded(refresh, before=1)
def on_recipe(session: state.Session, files) -> list:
    if files:
        with room_for(session, "comeback"):
            uploads.take_back(session, arriving.paths(files))
    return [None, *refresh(session)]


@turn
@troubles.guarded(refresh)
def on_stop(session: state.Session) -> list:
    """Running work shows its own end; an answer from here could reach the browser after that and show it running for ever."""
    if session.job is not None:
        session.job.stop()
        return [gr.skip() for _ in PANELS]
    session.waiting = ""
    return refresh(session)


@turn
@troubles.guarded(refresh)
def on_release(session: state.Session, event: gr.EventData) -> list:
    mixer.release(session, arriving.checked(event._data))
    return refresh(session)


@turn
@troubles.guarded(refresh)
def on_mode(session: state.Session, event: gr.EventData) -> list:
    mixer.switch(session, arriving.checked(event._data))
    return refresh(session)


def waiting(kind: str):
    @troubles.guarded(refresh)
    def mark(session: state.Session) -> list:
        if session.job is None:
            session.waiting = kind
        return refresh(session)

    return mark


def long(kind: str):
    """A generator event: the device is ours from the first line on."""

    def run(session: state.Session, request: gr.Request):
        if session.job is not None or session.waiting != kind:  # a second click, or stopped while waiting
            yield refresh(session)
            return
        work = LONG[kind](session)
        try:
            for _ in work:
                state.register(request.session_hash, session.job)
                yield refresh(session)
        except Exception as error:  # around the job, whose own failure `fit.follow` has told
            session.note(jobs.PLACES[kind], "bad", troubles.explain(session, error))
        finally:
            work.close()
            session.waiting = ""
            state.register(request.session_hash, None)
        yield refresh(session)

    return run


def on_unload(request: gr.Request) -> None:
    state.tab_closed(request.session_hash)
