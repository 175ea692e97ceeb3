"""Section 6, pictures of other programs: what they say of prompt, seed, steps and guidance goes into section 4, and the rest is named.

They name no model of here, so models, weights, methods, pictures and fit stay as they are, and no image can be drawn again.
"""

from __future__ import annotations

from dataclasses import replace

from models.families import FAMILIES

from . import engine, models_section, prompts, state, texts

STEPS, GUIDANCE = (2, 100), (1.0, 30.0)  # what the fields of section 4 hold


def take(session, found, name: str) -> bool:
    """Fill the fields of section 4 with what a picture says (`fusion.foreign.Foreign`). True; one sentence says what was filled and what
    has no place here, and Undo has the fields as they were."""
    before = replace(session.plan)
    filled, left = _fill(session, found)
    session.filled = before
    says = session.tell("foreign.filled", name=name, program=found.program, filled=texts.join(session.language, filled)) if filled else \
        session.tell("foreign.nothing", name=name, program=found.program)  # fmt: skip
    says = says if not left else session.tell("foreign.left", says=says, left=texts.join(session.language, left))
    session.note("comeback", "info" if filled else "warn", session.tell("foreign.end", says=says), session.tell("foreign.differs"))
    return True


def undo(session) -> None:
    """The fields as they were before the picture."""
    session.plan, session.filled = session.filled, None
    session.notes.pop("comeback", None)
    session.stamp += 1


def left_words(session, kind: str, name: str) -> str:
    """One thing that has no place here, in the visitor's language. `kind`: of `fusion.foreign.KINDS`, or `size`."""
    return session.tell(f"foreign.left.{kind}", name=name)


def _fill(session, found) -> tuple[list[str], list[str]]:
    """Names of what was filled, and words for what has no place here."""
    found = found.for_families(FAMILIES[c.family] for c in models_section.chosen(session) if c.family in FAMILIES)
    plan, tell, filled = session.plan, session.tell, []
    left = [left_words(session, kind, name) for kind, name in found.left]
    if found.prompt:
        plan.prompts = (found.prompt[: prompts.LONGEST],)
        filled.append(tell("foreign.prompt"))
    if found.negative or plan.negative:  # a picture without one was drawn without one
        plan.negative = found.negative[: prompts.LONGEST]
        filled.append(tell("foreign.negative" if found.negative else "foreign.no_negative"))
    for name, field, low, high in (
        ("seed", "first_seed", 0, state.MAX_SEED - 64), ("steps", "steps", *STEPS), ("guidance", "guidance", *GUIDANCE),
    ):  # fmt: skip
        value = getattr(found, name)
        if value is not None and low <= value <= high:
            setattr(plan, field, value)
            filled.append(tell(f"foreign.{name}"))
        elif value is not None:
            left.append(left_words(session, "range", f"{tell(f'foreign.{name}')} {value}"))
    if found.clip_skip or plan.clip_skip:  # counted alike, from the last layer, 1
        plan.clip_skip = found.clip_skip or 0
        filled.append(tell("foreign.clip_skip"))
    together = engine.loaded(models_section.chosen(session))
    if found.size is not None and (together is None or tuple(together.size) != found.size[::-1]):
        left.append(left_words(session, "size", "{} x {}".format(*found.size)))
    return filled, left

