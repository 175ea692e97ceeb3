"""What the page says of every way of drawing, before it runs: its group, title, one sentence, and price. Chosen in section 4."""

from __future__ import annotations

from html import escape

from fusion.methods import NAMES

from . import draw, models_section, texts

KNOWN = {
    "one": ("single",),
    "averages": (
        "uniform", "scorefusion", "scorefusion_levels", "matched", "barycenter", "superposition", "superposition_and", "merge",
    ),
    "routing": ("mixture", "switch"),
    "trained": ("finetune", "transfer", "transfer_unfrozen", "scratch"),
    "mixer": ("yours",),
}  # fmt: skip
GROUPS = {name: members for name, members in KNOWN.items() if name != "mixer"} | {
    "others": tuple(m for m in NAMES if not any(m in members for members in KNOWN.values())), "mixer": KNOWN["mixer"],
}  # fmt: skip
CHOICES = tuple(m for group in GROUPS.values() for m in group if m in NAMES or m == "yours")
STAGES = {"matched": "matching"} | dict.fromkeys(GROUPS["trained"], "training")  # what the page calls a method's preparation


def grouped() -> dict[str, tuple[str, ...]]:
    """Group -> the methods of it that are installed; groups without any are left out."""
    found = {name: tuple(m for m in members if m in CHOICES) for name, members in GROUPS.items()}
    return {name: members for name, members in found.items() if members}


def render(session) -> str:
    """Chips by group; below them what the chosen methods do and cost, and, folded, the same for the others."""
    say, chosen = session.say, session.plan.methods
    rows = "".join(
        f'<div class="group" role="group" aria-label="{say(f"group.{name}")}"><span class="soft">{say(f"group.{name}")}</span>'
        f'<div class="row">{"".join(_chip(session, m) for m in members)}</div></div>'
        for name, members in grouped().items()
    )
    prices = {m: price(session, m) for m in CHOICES} if session.fit is not None and not session.stale() else {}
    others = [m for m in CHOICES if m not in chosen]
    summary = f"<summary>{say('compare.others', count=len(others))}</summary>"
    fold = f'<details data-key="methods">{summary}{_list(session, others, prices)}</details>'
    return (
        f'<div class="groups" role="group" aria-label="{say("compare.methods")}">{rows}</div>'
        f"{_list(session, [m for m in CHOICES if m in chosen], prices)}{fold if others else ''}"
    )


def _chip(session, name: str) -> str:
    on = name in session.plan.methods
    return (
        f'<button class="btn chip" type="button" role="checkbox" aria-checked="{"true" if on else "false"}" '
        f'aria-describedby="about-{name}" title="{session.say(f"about.{name}")}" data-do="method" data-name="{name}">'
        f'<span aria-hidden="true">{"☑" if on else "☐"}</span>{session.say(f"method.{name}")}</button>'
    )


def _list(session, names, prices) -> str:
    say = session.say
    cost = {m: escape(told(session, prices[m])) if m in prices else "" for m in names}
    items = "".join(
        f'<li><strong>{say(f"method.{m}")}</strong><span id="about-{m}">{say(f"about.{m}")}</span>'
        f'<span class="price" title="{say("price.help")}" data-price="{m}">{cost[m]}</span></li>'
        for m in names
    )
    return f'<ul class="methods">{items}</ul>' if items else ""


# ------------------------------------------------------------------------------------------------ prices


def price(session, name: str):
    """The `Cost` of one method for the plan as it is, or a sentence on why it cannot run, or None while the models are not loaded."""
    from . import mixer

    own = (session.mode, mixer.weights(session))
    asked = session.plan.steps, session.plan.guidance, own[0] + str(own[1].round(3).tolist()) if name == "yours" else ""
    key = (name, session.stamp, *asked)
    if key not in session.prices:
        try:
            found = draw.price(models_section.chosen(session), session.fit, name, session.plan, own)
        except ValueError as error:  # this method cannot run here; the others can
            found = str(error)
        if found is None:
            return None
        if len(session.prices) > 400:
            session.prices.clear()
        session.prices[key] = found
    return session.prices[key]


def told(session, cost) -> str:
    """`80 network evaluations an image · 3.9 × one model’s memory · about 2 min of training first`."""
    tell = session.tell
    if cost is None:
        return tell("price.unknown")
    if isinstance(cost, str):
        return texts.translate(session.language, cost)
    parts = [tell("price.evaluations", count=f"{cost.evaluations:,.0f}"), tell("price.memory", ratio=f"{cost.memory:.1f}")]
    if cost.training_seconds:
        parts.append(tell("price.training_most" if cost.at_most else "price.training", time=duration(session, cost.training_seconds)))
    elif cost.preparation:
        search = draw.searches(models_section.chosen(session), "matched", cost.preparation)
        count = f"{cost.preparation:,.0f}"
        parts.append(tell("price.preparation", count=count) if search is None else
                     tell("price.search", count=count, time=duration(session, search)))  # fmt: skip
    return " · ".join(parts)


def total(session, images: int | None = None) -> tuple[float, float | None]:
    """Network evaluations of the grid (or of `images` a method), and seconds by the paces measured here (None: not known yet)."""
    plan, evaluations, seconds = session.plan, 0.0, 0.0
    images, cards = images or len(plan.prompts) * plan.count, models_section.chosen(session)
    for name in plan.methods:
        cost = price(session, name)
        if cost is not None and not isinstance(cost, str):
            evaluations += cost.evaluations * images + cost.preparation * (not cost.training_seconds)
            one = draw.takes(cards, name, plan, cost, images)
            seconds = None if seconds is None or one is None else seconds + one
    return evaluations, seconds


def duration(session, seconds: float) -> str:
    """`40 s`, `3 min`."""
    if seconds < 90:
        return session.tell("time.seconds", count=f"{max(seconds, 1):.0f}")
    return session.tell("time.minutes", count=f"{seconds / 60:.0f}")


def choose(session, data: dict) -> None:
    name, plan = data.get("name"), session.plan
    if name in CHOICES:
        plan.methods = tuple(m for m in CHOICES if (m in plan.methods) != (m == name))
