"""Every sentence of the page, in English and Japanese (`texts*.yaml`). Knows no component: it turns keys into strings.

Gradio's own translation reaches labels only; captions, progress and messages come from Python, so all texts are looked up here.
"""

from __future__ import annotations

import functools
import re
from html import escape
from importlib import resources

import yaml

from fusion.methods import METHODS, NAMES

LANGUAGES = {"en": "English", "ja": "日本語"}
DEFAULT = "en"


def _read(start: str) -> list:
    """The data files of this folder whose names begin with `start`; the C parser where PyYAML has it, ten times faster."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = sorted((f for f in resources.files(__package__).iterdir() if f.name.startswith(start)), key=lambda f: f.name)
    return [yaml.load(f.read_text("utf-8"), loader) for f in files if f.name.endswith(".yaml")]


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """`key -> {language: text}`; read once. Methods without an entry are called what they call themselves."""
    found = {key: entry for part in _read("texts") for key, entry in part.items()}
    return found | {key: entry for name in NAMES if f"method.{name}" not in found for key, entry in _of_method(METHODS[name]).items()}


def _of_method(method) -> dict[str, dict[str, str]]:
    own = {"method": method.title, "about": method.summary}
    return {f"{part}.{method.name}": dict.fromkeys(LANGUAGES, text) for part, text in own.items()}


def say(language: str, key: str, **values) -> str:
    """The text of `key`, with `{name}` places filled. Raises KeyError for a key that is in none of texts*.yaml."""
    text = table()[key][language]
    return text.format(**values) if values else text


def html(language: str, key: str, **values) -> str:
    """Like `say`, but every filled-in value is escaped; the text itself may hold markup."""
    return say(language, key, **{name: escape(str(value)) for name, value in values.items()})


def images(language: str, count: int) -> str:
    """`12 images`, `1 image`, `12 枚`."""
    return say(language, "target.count_one" if count == 1 else "target.count", count=count)


def browser_language(header: str | None) -> str:
    """First language of an `Accept-Language` header that we speak."""
    for part in (header or "").split(","):
        code = part.split(";")[0].strip().lower()[:2]
        if code in LANGUAGES:
            return code
    return DEFAULT


def join(language: str, parts: list[str]) -> str:
    """`a, b and c`, or `a、b、c`."""
    if language == "ja":
        return "、".join(parts)
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


@functools.cache
def _sentences() -> list[tuple[re.Pattern, str]]:
    """Patterns and what they are in Japanese, from problems*.yaml."""
    return [(re.compile(rule["en"], re.DOTALL), rule["ja"]) for part in _read("problems") for rule in part]


def translate(language: str, sentence: str) -> str:
    """A sentence that a lower floor wrote in English, in the visitor's language; left as it is where no rule knows it."""
    if language == "en":
        return sentence
    parts = [sentence] if any(p.fullmatch(sentence) for p, _ in _sentences()) else sentence.split(", ")
    done = []
    for part in parts:
        match = next(((p.fullmatch(part), ja) for p, ja in _sentences() if p.fullmatch(part)), None)
        done.append(match[1].format(*match[0].groups()) if match else part)
    return "、".join(done)
