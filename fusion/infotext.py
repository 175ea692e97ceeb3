"""The text that web UIs of A1111's kind write into their pictures, taken apart: prompt, negative prompt, and a last line of settings.

    a cat, <lora:film:0.8>                      the prompt, of one line or several
    Negative prompt: blurred                    of one line or several, or none
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x768, Lora hashes: "film: ab, other: cd"

It comes from anywhere: every step is linear in its length, which is bounded, and nothing but its own error is raised.
"""

from __future__ import annotations

import json
import re

from fusion.recipe_schema import RecipeError

LONGEST = 200_000  # characters of a text; the longest that people share have a tenth
MOST_SETTINGS = 300  # of one line
FEWEST_SETTINGS = 3  # below that, the web UI takes the last line for a part of the prompt
NEGATIVE = "Negative prompt:"
NETWORK = re.compile(r"<(?:lora|lyco|lycoris|hypernet):([^<>\n]{1,200})>", re.IGNORECASE)
_DECODER = json.JSONDecoder()


def split(text: str) -> tuple[str, str, dict[str, str]] | None:
    """`(prompt, negative prompt, settings)`; None where there is no line of settings, so that the text is something else.

    Names of settings are in lower case. What several lines hold is joined by blanks, which mean the same to the encoder: fields and flags
    are of one line. Raises RecipeError for a text longer than `LONGEST` characters.
    """
    if len(text) > LONGEST:
        raise RecipeError(f"the text in this picture has {len(text):,} characters and at most {LONGEST:,} are read: copy its prompt from "
                          "the program that drew it")  # fmt: skip
    lines = [line.strip() for line in text.splitlines()]
    at = next((n for n in reversed(range(len(lines))) if lines[n].startswith("Steps:")), len(lines) - 1)  # extensions write lines behind it
    found = settings(lines[at]) if lines else {}
    if len(found) < FEWEST_SETTINGS or not {"steps", "seed", "sampler"} & set(found):
        return None
    first = next((n for n in range(at) if lines[n].startswith(NEGATIVE)), at)
    negative = [lines[first].removeprefix(NEGATIVE), *lines[first + 1 : at]] if first < at else []
    return _joined(lines[:first]), _joined(negative), found


def _joined(lines: list[str]) -> str:
    return " ".join(part for line in lines if (part := line.strip()))


def settings(line: str) -> dict[str, str]:
    """`Name: value, Name: "value, with commas"` as a mapping, names in lower case; of a name that comes twice the last, as in the web UI.

    A value that is a list or an object of JSON is kept as it is written.
    """
    found, at = {}, 0
    for _ in range(MOST_SETTINGS):
        colon = line.find(":", at)
        if colon < 0:
            break
        name = line[at:colon].rpartition(",")[2].strip().lower()
        value, at = _value(line, colon + 1)
        if name and len(name) <= 100:
            found[name] = value
    return found


def _value(line: str, at: int) -> tuple[str, int]:
    """The value that begins at `at`, and where the next name begins."""
    while at < len(line) and line[at] == " ":
        at += 1
    end = at
    if line[at : at + 1] in ('"', "[", "{"):
        try:
            value, end = _DECODER.raw_decode(line, at)
        except (ValueError, RecursionError):  # a quotation mark without its other half, or no JSON
            end = at
        else:
            value = value if isinstance(value, str) else line[at:end]
    comma = line.find(",", end)
    comma = len(line) if comma < 0 else comma
    return (value if end > at else line[at:comma].strip()), comma + 1


def without_networks(text: str) -> tuple[str, list[str]]:
    """A prompt without its `<lora:name:0.8>`, and `name:0.8` of each, in order, once. A comma that stood between two of them goes along."""
    kept, names, at = "", [], 0
    for tag in NETWORK.finditer(text):
        kept = _meeting(kept, text[at : tag.start()])
        names.append(tag.group(1).strip())
        at = tag.end()
    if not names:
        return text, []
    return _meeting(kept, text[at:]).strip().rstrip(",").rstrip(), list(dict.fromkeys(names))


def _meeting(before: str, after: str) -> str:
    """Two pieces of a prompt that a tag stood between."""
    before, after = before.rstrip(), after.strip()
    if not before or before.endswith(","):
        after = after.lstrip(",").lstrip()
    glue = "" if not before or not after or after.startswith((",", ".")) else " "
    return before + glue + after


def whole(text: object) -> int | None:
    """A whole number from 0 to 2^63 - 1, else None."""
    text = str(text) if isinstance(text, int) and not isinstance(text, bool) else text
    found = int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,19}", text) else None
    return found if found is not None and found < 2**63 else None


def number(text: object) -> float | None:
    """A number from 0 to 1,000, as guidance may be, else None."""
    text = repr(text) if isinstance(text, int | float) and not isinstance(text, bool) else text
    found = float(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,20})?", text) else None
    return found if found is not None and found <= 1000 else None
