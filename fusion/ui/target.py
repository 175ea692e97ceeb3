"""Section 2: the target pictures. Drop, paste or take an example; captions; how many are enough; where the pictures go."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from . import arriving, captions, comeback, engine, state, texts
from .panel import drop_words, notes, section

EXAMPLES = ("valley", "coast", "island")


def render_head(session) -> str:
    return section(session, 2, "target", "") + drop_words(session, "drop", "target.drop")


def render(session) -> str:
    say, pictures = session.say, session.pictures
    parts = [notes(session, "target"), notes(session, "caption")]
    if pictures:
        label = say("target.example", name=say(f"example.{session.example}")) if session.example else ""
        parts.append(
            f'<div class="row"><strong>{texts.images(session.language, len(pictures))}</strong><span class="soft">{_advice(session)}'
            f"</span>"
            f'<span class="badge" {"" if label else "hidden"}>{label}</span>'
            f'<button class="btn quiet" type="button" data-do="clear" style="margin-left:auto">{say("target.clear")}</button>'
            f"</div>"
        )
        if said := captions.advice(session):
            parts.append(f'<p class="soft" id="captions">{said}</p>')
        parts.append('<ul class="thumbs">' + "".join(_thumb(session, i, p) for i, p in enumerate(pictures)) + "</ul>")
    else:
        parts.append(f'<p class="soft">{_advice(session)}</p>')
    buttons = "".join(
        f'<button class="btn" type="button" data-do="example" data-name="{name}">{say(f"example.{name}")}</button>'
        for name in EXAMPLES
        if has_example(name)
    )
    if buttons:
        parts.append(f'<div class="row"><span class="soft">{say("target.try")}</span>{buttons}</div>')
    parts.append(
        f'<label class="field">{say("target.default_caption")}<input type="text" data-do="default_caption" maxlength="{arriving.LONGEST}" '
        f'placeholder="{say("captions.example")}" value="{escape(session.default_caption)}"></label>'
        f'<p class="soft">{say("captions.help")}</p>'
    )
    parts.append(f'<p class="soft">{say("target.privacy" if not engine.hosted() else "target.privacy_hosted")}</p>')
    return '<div class="sf inset stack" style="padding-top:16px">' + "".join(parts) + "</div>"


def _thumb(session, index: int, picture) -> str:
    say = session.say
    said = [say("captions.guess")] * picture.proposed + [escape(texts.translate(session.language, picture.note))] * bool(picture.note)
    note, described = "", ""
    if said:
        note, described = f'<small id="said-{index}">{" · ".join(said)}</small>', f'aria-describedby="said-{index}"'
    if picture.recipe is not None:
        note += (
            f'<button class="btn quiet" type="button" data-do="recipe_of" data-index="{index}" data-then="#comeback">'
            f"{say('target.use_recipe')}</button>"
        )
    return (
        f'<li><img src="{state.link(picture.path)}" alt="{escape(picture.caption)}" title="{escape(picture.name)}">'
        f'<button class="drop" type="button" data-do="remove" data-index="{index}" '
        f'aria-label="{say("target.remove", name=picture.name)}"><span aria-hidden="true">✕</span></button>'
        f'<textarea rows="2" maxlength="{arriving.LONGEST}" '
        f'placeholder="{say("captions.none")}" {"data-proposed" if picture.proposed else ""} '
        f'data-do="caption" data-index="{index}" aria-label="{say("target.caption", number=index + 1)}" '
        f'{described}>{escape(picture.caption)}</textarea>{note}</li>'
    )


def _advice(session) -> str:
    count = len(session.pictures)
    key = "none" if count == 0 else "few" if count < 6 else "some" if count < 24 else "many"
    return session.say(f"target.advice.{key}", count=count)


def folder_of(name: str) -> Path:
    return engine.ASSETS / "targets" / name / "fit"


def has_example(name: str) -> bool:
    return name in EXAMPLES and folder_of(name).is_dir()


def captions_of(folder: Path) -> dict[str, str]:
    """File name -> prompt of an example; the list may lie in the folder or above it, with paths from there."""
    for file in (folder / "captions.json", folder.parent / "captions.json"):
        if file.is_file():
            entries = json.loads(file.read_text("utf-8"))
            return {
                Path(e["file"]).name: e["prompt"]
                for e in entries
                if folder.name in Path(e["file"]).parts or len(Path(e["file"]).parts) == 1
            }
    return {}


def take_example(session, data: dict) -> None:
    """Load one of the example targets; the pictures that were there are replaced."""
    from fusion.images import read_images

    from . import first_screen

    name = str(data.get("name") or data.get("value"))
    if not has_example(name):
        return
    folder = folder_of(name)
    files = sorted(folder.glob("*.png"))
    intakes, _ = read_images(files, captions_of(folder))
    by_name = {f.name: f for f in files}
    session.pictures = [
        state.Picture(i.image, i.name, i.caption or session.default_caption, str(by_name.get(i.name, files[0]))) for i in intakes
    ]
    session.example = name
    session.notes.pop("target", None)
    first_screen.take_stored_fit(session)


def take_recipe(session, data: dict) -> None:
    """Make the recipe of one picture the page's state."""
    index = _index(session, data)
    if index >= 0 and session.pictures[index].recipe is not None:
        picture = session.pictures[index]
        comeback.take(session, picture.recipe, picture.name, picture.image)


def _index(session, data: dict) -> int:
    """Which picture an event means; -1 for none that is there."""
    text = str(data.get("index"))
    return int(text) if text.isdecimal() and int(text) < len(session.pictures) else -1


def remove(session, data: dict) -> None:
    index = _index(session, data)
    if index >= 0:
        session.pictures.pop(index)
        session.example = None


def clear(session, data: dict) -> None:
    session.pictures, session.example = [], None
    session.notes.pop("target", None)
    session.notes.pop("caption", None)


def caption(session, data: dict) -> None:
    captions.change(session, data, _index(session, data))
