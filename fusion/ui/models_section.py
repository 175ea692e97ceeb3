"""Section 1: which models take part. Cards to pick from, and a field to add one by hub id or folder."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from itertools import count

import numpy as np

from . import charts, engine, first_screen, state, texts
from .panel import notes, section

SUMMARY = "models.summary."
TONES = ("#ffcc22", "#fadcbc", "#e0bb95", "#bf8f68", "#9b643d", "#594539")  # of the emoji font that the portraits are drawn with


def offered(session) -> dict:
    """id -> card: the catalog, then what this visitor added."""
    return {**engine.cards(), **session.added}


def chosen(session) -> list:
    """The selected cards, in the order of the catalog: one order everywhere keeps colours and markers stable."""
    cards = offered(session)
    return [cards[name] for name in cards if name in session.selected]


def render(session) -> str:
    cards = offered(session)
    if not cards:
        body = f'<div class="note info" role="status">{session.say("models.none")}</div>'
    else:
        here = [c for c in cards.values() if not c.is_hub or c.id in session.selected]
        away = [c for c in cards.values() if c.is_hub and c.id not in session.selected]
        more = f"<summary>{session.say('models.away', count=len(away))}</summary>{_cards(session, away)}"
        body = _cards(session, here) + (f'<details data-key="away">{more}</details>' if away else "")
        body += _key(session) if any(c.population is not None for c in here) else ""
    return section(session, 1, "models", body + _memory(session) + notes(session, "models") + _add(session))


def _key(session) -> str:
    """One legend for the plates of all cards."""
    from models.portraits import population

    rows = [session.tell(f"presentation.{p}") for p in population.PRESENTATIONS]
    columns = [session.tell(f"tone.{t}") for t in population.TONES]
    label = session.tell("models.key", rows=texts.join(session.language, rows), columns=texts.join(session.language, columns))
    plate = charts.population_key(rows, columns, TONES, session.tell("models.key_few"), session.tell("models.key_many"), label)
    return f'<figure class="key"><figcaption class="soft">{session.say("models.key_title")}</figcaption>{plate}</figure>'


def _memory(session) -> str:
    """How the chosen models are held in memory, once they are loaded."""
    plan = engine.memory(chosen(session))
    if plan is None or plan.free is None:
        return ""
    say = session.say
    ways = [say(f"models.memory.{way}") for way, there in (
        ("waiting", plan.waiting == "cpu"), ("encoders", plan.encoders == "cpu"), ("sliced", plan.decoding == "sliced"),
        ("tight", not plan.fits)) if there]  # fmt: skip
    line = say("models.memory", needed=f"{plan.total / 1e9:.2f}", free=f"{plan.free / 1e9:.1f}", dtype=plan.dtype)
    return f'<p class="soft">{" ".join([line, *ways])}</p>'


def _cards(session, cards: list) -> str:
    order = [c.id for c in chosen(session)]
    return (
        f'<div class="cards" role="group" aria-label="{session.say("models.title")}">'
        + "".join(_card(session, card, order.index(card.id) if card.id in order else None) for card in cards)
        + "</div>"
    )


def _card(session, card, index: int | None) -> str:
    marker = charts.mark(index) if index is not None else ""
    say = session.say
    summary = _summary(session, card)
    thumbnail = _thumbnail(card)
    picture = f'<img class="thumb" alt="" src="{state.link(thumbnail)}">' if thumbnail else ""
    plate = charts.population(np.asarray(card.population), say("models.population", name=card.title)) if card.population is not None else ""
    badges = [
        card.family.upper(),
        texts.translate(session.language, card.licence.split(";")[0]) or say("models.no_licence"),
        *_adapters(card),
        *_compatibility(session, card),
    ]
    return (
        f'<button class="model" type="button" role="checkbox" aria-checked="{"true" if index is not None else "false"}" '
        f'data-do="toggle" data-id="{escape(card.id)}">'
        f'<span class="head">{marker}<strong>{escape(card.title)}</strong>'
        f'<span class="tick" aria-hidden="true">{"✓" if index is not None else ""}</span></span>'
        f"{picture}{plate}<p>{summary}</p><span class='meta'>"
        + "".join(f'<span class="badge" title="{escape(b)}">{escape(b)}</span>' for b in badges)
        + "</span></button>"
    )


def _adapters(card) -> list[str]:
    """Badges: LoRA, or every adapter with its strength where there are several or one is not 1."""
    plain = len(card.adapters) == 1 and card.strength == 1
    return ["LoRA"] if plain else [f"+ {one.title}" if one.strength == 1 else f"+ {one.name} × {one.strength:g}" for one in card.adapters]


def _thumbnail(card):
    """The card's own picture, or the row of samples that was drawn with the first screen."""
    files = ([engine.ASSETS / card.thumbnail] if card.thumbnail else []) + [first_screen.FOLDER / f"model-{card.id.rsplit('/')[-1]}.png"]
    return next((file for file in files if file.is_file()), None)


def _summary(session, card) -> str:
    """The shipped models' sentence in the visitor's language; for others what their card says."""
    key = SUMMARY + card.id.removeprefix("portraits/")
    if card.id.startswith("portraits/") and key in texts.table():
        return session.say(key)
    return escape(card.summary)


def _compatibility(session, card) -> list[str]:
    """A remark if this card's family differs from the selected ones: it could not be fused with them."""
    others = {c.family for c in chosen(session) if c.id != card.id}
    return [session.say("models.other_family")] if others and card.family not in others else []


def _add(session) -> str:
    say = session.say
    return (
        f'<details data-key="add"><summary>{say("models.add")}</summary><div class="row">'
        f'<label class="field" style="flex:1;min-width:220px">{say("models.add_help")}'
        f'<input type="text" id="add-model" data-enter="#add-button" placeholder="stable-diffusion-v1-5/stable-diffusion-v1-5" '
        f'autocomplete="off" spellcheck="false"></label>'
        f'<button class="btn" type="button" id="add-button" data-do="add" data-with="#add-model" '
        f'style="align-self:end">{say("models.add_button")}</button></div></details>'
    )


def toggle(session, data: dict) -> None:
    """Add or remove one model. Weights and a fit that still make sense are kept."""
    name = data.get("id")
    if name not in offered(session):
        return
    before = [c.id for c in chosen(session)]
    if name in session.selected:
        session.selected.remove(name)
    else:
        session.selected.append(name)
    session.notes.pop("models", None)
    carry(session, before)
    card = offered(session)[name]
    if name in session.selected and card.is_hub:  # say what would be fetched before anything is
        _say_details(session, card)
    families = {c.family for c in chosen(session)}
    if len(families) > 1:
        session.note("models", "bad", session.tell("models.mixed", families=", ".join(sorted(families)).upper()))


def _say_details(session, card) -> None:
    from models.errors import ModelError

    try:
        told, problems = details(session, card)
        said = [texts.translate(session.language, p) for p in problems] or told
        session.note("models", "bad" if problems else "info", *(f"{card.title}: {s}" for s in said))
    except ModelError as error:
        session.note("models", "bad", session.tell("models.refused", reason=texts.translate(session.language, str(error))))


def carry(session, before: list[str]) -> None:
    """Keep what is known after the selection changed: weights by model, and the fit if it covers the new selection."""
    after = [c.id for c in chosen(session)]
    for mode, weights in list(session.weights.items()):
        if weights is not None and len(weights) == len(before):
            share = dict(zip(before, weights))
            new = np.array([share.get(name, 0.0) for name in after])
            session.weights[mode] = new / new.sum() if new.sum() > 0 else np.full(len(after), 1 / max(len(after), 1))
    session.stamp += 1
    if session.fit is not None and not session.stale_before(before):
        smaller = engine.subset(session.fit, chosen(session))
        if smaller is not None:
            session.take_fit(smaller, tuple(after))


def add(session, data: dict) -> None:
    """A model from a hub id, a file or a folder, with its details before anything is fetched. Errors are said beside the field."""
    from fusion import hosting
    from models.catalog import typed_card

    typed = str(data.get("value", "")).strip()
    if not typed:
        session.note("models", "bad", session.tell("models.add_empty"))
        return
    try:
        card = typed_card(typed)
        hosting.check(models=[card])  # a hosted page may offer its own models only
        told, problems = details(session, card)
        if problems:
            raise ValueError(problems[0])
    except ValueError as error:
        session.note("models", "bad", session.tell("models.refused", reason=texts.translate(session.language, str(error))))
        return
    before = [c.id for c in chosen(session)]
    card = _own_title(session, card)
    session.added[card.id] = card
    if card.id not in session.selected:
        session.selected.append(card.id)
    session.note("models", "info", session.tell("models.added", name=card.title), *told)
    carry(session, before)


def _own_title(session, card):
    """The card with a number behind its title where another one is called so: fits and weights are told apart by titles."""
    taken = {other.title for other in offered(session).values() if other.id != card.id}
    titles = (card.title if number == 1 else f"{card.title} ({number})" for number in count(1))
    return replace(card, title=next(title for title in titles if title not in taken))


def details(session, card) -> tuple[list[str], list[str]]:
    """What a model is before it is fetched, in sentences; and what speaks against using it. Raises ModelError when it cannot be reached."""
    from models.details import describe

    found = describe(
        card.source, card.adapters, card.revision, family=card.family, prediction=card.prediction, components=card.components
    )
    size = max((found.memory or {"": 0}).values()) / 1e9
    said = session.tell(
        "models.details", kind=found.kind, prediction=found.prediction or "–", fetch=f"{max(found.download - found.cached, 0) / 1e9:.2f}",
        memory=f"{size:.2f}", licence=found.licence,
    )  # fmt: skip
    trigger = [session.tell("models.trigger", words=", ".join(found.trigger))] if found.trigger else []
    return [said, *trigger, *(texts.translate(session.language, note) for note in found.notes)], list(found.problems)
