"""What section 6 shows of a recipe that was taken back: what it says, a button to draw its images again, and whether they are the same."""

from __future__ import annotations

from html import escape

from . import charts, comeback, state, texts
from .panel import drop_words, notes, progress


def render_head(session) -> str:
    """The heading, and the words inside the drop zone."""
    return (
        f'<div class="sf inset" id="comeback" style="padding-top:28px;padding-bottom:12px"><h3>{session.say("comeback.title")}</h3>'
        f'<p class="soft">{session.say("comeback.lead")}</p></div>'
        + drop_words(session, "recipe-drop", "comeback.drop")
    )


def render(session) -> str:
    loaded = session.loaded
    parts = [notes(session, "comeback"), progress(session, "redraw")]
    if session.filled is not None:
        parts.append(f'<button class="btn quiet" type="button" data-do="recipe_undo">{session.say("foreign.undo")}</button>')
    if loaded is not None:
        parts.append(_card(session, loaded))
    return f'<div class="sf inset stack" style="padding-top:12px">{"".join(parts)}</div>'


def _card(session, loaded) -> str:
    say, busy = session.say, session.job is not None or bool(session.waiting)
    recipe, rows = loaded.recipe, _rows(session, loaded)
    many = say("comeback.many", shown=comeback.SHOWN, images=loaded.images) if loaded.images > comeback.SHOWN else ""
    last = loaded.before and session.filled is None  # else what came later has the button
    undo = f'<button class="btn quiet" type="button" data-do="recipe_undo">{say("comeback.undo")}</button>' if last else ""
    redraw = say("comeback.redraw", images=texts.images(session.language, min(loaded.images, comeback.SHOWN)), steps=recipe.steps)
    shots = "".join(_shot(session, shot) for shot in loaded.shots)
    return (
        f'<div class="card stack" id="recipe-card"><h3>{say("comeback.is", name=loaded.name)}</h3>'
        f"{charts.plain_table([session.tell('comeback.what'), session.tell('comeback.value')], rows, numbers=False)}"
        f'<div class="row"><button class="btn primary" type="button" id="redraw-button" data-do="redraw" data-event="redraw" '
        f'{"disabled" if busy else ""}>{redraw}</button>{undo}'
        f'<span class="soft">{many}</span></div>{_sameness(session, loaded)}'
        f'<div class="redrawn" id="redrawn">{shots}</div></div>'
    )


def _rows(session, loaded) -> list[list[str]]:
    tell, recipe = session.tell, loaded.recipe
    shares = comeback.weights_of(recipe)
    mix = " + ".join(charts.named([card.title for card in loaded.cards], shares))
    prompts, seeds = list(dict.fromkeys(recipe.prompts)), list(dict.fromkeys(recipe.seeds))
    if recipe.picture is not None:
        prompt, seed = comeback.jobs_of(recipe)[min(recipe.picture, len(comeback.jobs_of(recipe)) - 1)]
        prompts, seeds = [prompt], [seed]
    return [
        [tell("word.model"), mix],
        [tell("word.method"), tell(f"method.{recipe.method}")],
        [tell("comeback.prompts"), "; ".join(prompts[:4]) + (" …" if len(prompts) > 4 else "")],
        [tell("comeback.seeds"), ", ".join(map(str, seeds[:8])) + (" …" if len(seeds) > 8 else "")],
        [tell("compare.steps"), str(recipe.steps)],
    ]


def _shot(session, shot: state.Shot) -> str:
    source = session.say("compare.from", name=shot.member) + " · " if shot.member else ""
    return (
        f'<figure class="shot"><a href="{state.link(shot.path)}" target="_blank" rel="noopener"><img src="{state.link(shot.path)}" '
        f'alt="{escape(shot.prompt)}"></a><figcaption>{source}{session.say("compare.seed", seed=shot.seed)}</figcaption></figure>'
    )


def _sameness(session, loaded) -> str:
    if loaded.difference is None:
        return ""
    key = "comeback.same" if loaded.difference == 0 else "comeback.differs"
    return f'<p role="status" id="sameness">{session.say(key, levels=loaded.difference)}</p>'
