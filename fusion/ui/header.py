"""The head of the page: title, device, example, language; and the line of steps below it."""

from __future__ import annotations

from . import engine, texts
from .target import EXAMPLES, has_example

LOGO = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><circle cx="12" cy="12.5" r="8.5" fill="#0072B2" fill-opacity=".85"/>'
    '<circle cx="20" cy="12.5" r="8.5" fill="#E69F00" fill-opacity=".8"/>'
    '<circle cx="16" cy="20" r="8.5" fill="#009E73" fill-opacity=".75"/></svg>'
)
STEPS = ("models", "target", "fit", "compare", "evidence", "report")


def render(session) -> str:
    say = session.say
    languages = "".join(
        f'<option value="{code}" lang="{code}" {"selected" if code == session.language else ""}>{name}</option>'
        for code, name in texts.LANGUAGES.items()
    )
    examples = "".join(
        f'<option value="{n}" {"selected" if n == session.example else ""}>{say(f"example.{n}")}</option>'
        for n in EXAMPLES
        if has_example(n)
    )
    own = f'<option value="" {"" if session.example else "selected"} disabled>{say("example.own")}</option>'
    picker = f'<select data-do="example" aria-label="{say("head.example")}">{own}{examples}</select>' if examples else ""
    steps = "".join(f'<a href="#{name}"><b>{n}</b>{say(f"{name}.title")}</a>' for n, name in enumerate(STEPS, 1))
    return (
        f'<div class="sf" id="head" data-language="{session.language}"><div class="sf-top"><h1>{LOGO}ScoreFusion Studio</h1>'
        f'<span class="push"></span><span class="badge" title="{say("head.device")}">{engine.device()}</span>{picker}'
        f'<select data-do="language" aria-label="{say("head.language")}">{languages}</select>'
        f'<a class="btn" href="#report">{say("head.share")}</a></div>'
        f'<nav class="sf-steps" aria-label="{say("head.steps")}">{steps}</nav></div>'
    )


def set_language(session, data: dict) -> None:
    if data.get("value") in texts.LANGUAGES:
        session.language = data["value"]
        session.stamp += 1
