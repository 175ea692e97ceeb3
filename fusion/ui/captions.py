"""What target pictures are called. The models read every picture under its caption, so a wrong one asks them a wrong question.

Captions come from the visitor, from a captions.json dropped with the pictures, or, where all chosen models state a population of portraits,
as a proposal: the profession that the shipped probe reads. Never a presentation or a tone: which of these a target has is what a fit finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models import bounded

from . import models_section, reading, state

MOSTLY = 0.5  # of pictures dropped together must be read with certainty: of images drawn by the models 77 % are, of other pictures 0 to 8 %


def proposed(session, images: Sequence) -> list[str]:
    """A caption for each picture, "" where none can be proposed."""
    cards = models_section.chosen(session)
    if not images or not reading.available() or not cards or any(card.population is None for card in cards):
        return [""] * len(images)
    from models.portraits.population import caption

    found = reading.professions(images)
    if sum(one is not None for one in found) < MOSTLY * len(found):
        return [""] * len(found)
    return [caption(one) if one else "" for one in found]


def is_list(path: str) -> bool:
    """Whether a JSON file holds captions, or is meant to: it is called so, or is a list, or has names with nothing but text behind them.

    A recipe is an object with numbers and lists. What is wrong with a list is for `fusion.intake.lists` to say.
    """
    if Path(path).suffix.lower() == ".json" and Path(path).name.lower().startswith("captions"):
        return True
    try:
        with open(path, "rb") as file:
            listed = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
        content = [] if listed else bounded.read(Path(path), 1_000_000)
    except (OSError, bounded.Unreadable):
        return False
    named = isinstance(content, dict) and bool(content) and all(isinstance(value, str) for value in content.values())
    return isinstance(content, list) or named


def change(session, data: dict, index: int) -> None:
    """What the visitor wrote under one picture."""
    if index >= 0:
        picture = session.pictures[index]
        picture.caption, picture.proposed = _typed(session, data) or session.default_caption, False


def set_default(session, data: dict) -> None:
    """The caption of pictures that come without one, for those that are there, too."""
    before, session.default_caption = session.default_caption, _typed(session, data)
    for picture in session.pictures:
        if picture.caption == before:
            picture.caption = session.default_caption


def _typed(session, data: dict) -> str:
    """What was typed, as a caption; a cut is said."""
    from fusion.images import MAX_CAPTION, clean_caption, one_line

    text = str(data.get("value", ""))
    session.notes.pop("caption", None)
    if len(one_line(text)) > MAX_CAPTION:
        session.notes["caption"] = [("warn", session.tell("captions.cut", most=MAX_CAPTION))]
    return clean_caption(text) or ""


def advice(session) -> str:
    """What is to be said of the captions as they are: proposed, missing, or one for all. Nothing where each picture has its own."""
    pictures: Sequence[state.Picture] = session.pictures
    proposal = [session.say("captions.proposed")] if any(picture.proposed for picture in pictures) else []
    if any(not picture.caption for picture in pictures):
        return " ".join([*proposal, session.say("captions.empty")])
    return " ".join([*proposal, session.say("captions.same")] if alike(pictures) else proposal)


def alike(pictures: Sequence) -> bool:
    """Whether several pictures have one caption."""
    return len(pictures) > 1 and len({picture.caption for picture in pictures}) == 1
