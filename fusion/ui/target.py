"""Section 2: the target pictures. Drop, paste or take an example; captions; how many are enough; where the pictures go."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from fusion.foreign import Foreign

from . import arriving, captions, comeback, engine, foreign, state, texts, unread
from .panel import drop_words, notes, section

EXAMPLES = ("valley", "coast", "island")
COUNTS, FIRST = (12, 24, 48, 96), 48  # how many pictures of an example can be taken; so many are, unless a visitor says otherwise
PARTS = ("fit", "more")  # an example's pictures to fit, in this order


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
    said += [escape(words) for words in unread.sentences(session, "caption", [picture.caption])]
    note, described = "", ""
    if said:
        note, described = f'<small id="said-{index}">{" · ".join(said)}</small>', f'aria-describedby="said-{index}"'
    if picture.recipe is not None:
        note += (
            f'<button class="btn quiet" type="button" data-do="recipe_of" data-index="{index}" data-then="#comeback">'
            f"{say('foreign.use' if isinstance(picture.recipe, Foreign) else 'target.use_recipe')}</button>"
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


def files_of(name: str) -> list[tuple[Path, str]]:
    """`(file, prompt)` of every picture of an example that is there to be fitted, in their order."""
    found = []
    for folder in (folder_of(name).parent / part for part in PARTS):
        captions = captions_of(folder) if folder.is_dir() else {}
        found += [(file, captions.get(file.name, "")) for file in sorted(folder.glob("*.png"))]
    return found


def counts(name: str, most: int) -> tuple[int, ...]:
    """How many pictures of an example a visitor may take: those of `COUNTS` that it has and that are at most `most`."""
    most = min(len(files_of(name)), most)
    return tuple(n for n in COUNTS if n <= most) or (most,)


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
    """Load one of the example targets, the first `count` of its pictures; the pictures that were there are replaced."""
    from . import first_screen, uploads

    name = str(data.get("name") or data.get("value"))
    if not has_example(name):
        return
    offered = counts(name, uploads.most_pictures())
    asked = state.whole(data.get("count"), FIRST, 1, COUNTS[-1])
    count = max((n for n in offered if n <= asked), default=offered[0])
    files = files_of(name)[:count]
    images = engine.open_images([file for file, _ in files])
    session.pictures = [state.Picture(image, f"{n:03}.png", prompt or session.default_caption, str(file))
                        for n, (image, (file, prompt)) in enumerate(zip(images, files))]  # fmt: skip
    session.example = name
    session.notes.pop("target", None)
    first_screen.take_stored_fit(session)


def take_recipe(session, data: dict) -> None:
    """Make the recipe of one picture the page's state, or fill in what another program's picture says."""
    index = _index(session, data)
    if index >= 0 and session.pictures[index].recipe is not None:
        picture = session.pictures[index]
        if isinstance(picture.recipe, Foreign):
            foreign.take(session, picture.recipe, picture.name)
        else:
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
