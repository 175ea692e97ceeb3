"""What a model's card (README.md) and a file's metadata say to people: licence and trigger words. Text of strangers, shown as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from .hub import MAX_README

TRIGGER = re.compile(r"(?:should|can|need to|must) use\s+(.{1,300}?)\s+to trigger", re.I | re.S)
UNSTATED = "not stated: look at its source"


def licence_of(about: Mapping) -> str:
    """The licence in a card's front matter, its own name first."""
    named, plain = about.get("license_name"), about.get("license")
    plain = ", ".join(map(str, plain)) if isinstance(plain, list) else plain
    return str(named or plain or UNSTATED)[:200]


def trigger_words(metadata: Mapping[str, str], about: Mapping, text: str) -> tuple[str, ...]:
    """Words that a card, its front matter or a file's metadata says to put into prompts."""
    found: list[str] = []
    for key in ("instance_prompt", "trigger_words", "trigger"):
        value = about.get(key)
        found += [str(word) for word in value] if isinstance(value, list) else [value] if isinstance(value, str) else []
    found += [metadata["modelspec.trigger_phrase"]] if metadata.get("modelspec.trigger_phrase") else []
    for phrase in TRIGGER.findall(text):
        found += re.findall(r"`([^`]{1,100})`", phrase) or [phrase.strip(" *_'\"")]
    return tuple(dict.fromkeys(word.strip()[:200] for word in found if word.strip()))


def read_card_text(path: Path) -> str:
    """A model card, as far as one may be long; empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MAX_README)
    except OSError:
        return ""


def front_matter(text: str) -> Mapping:
    """The YAML block at the top of a model card; empty when there is none that can be read."""
    parts = text.split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a number of thousands of digits, a date that is none
        return {}
    return found if isinstance(found, dict) else {}
