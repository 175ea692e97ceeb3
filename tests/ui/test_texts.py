"""Both languages say everything, with the same places to fill, and the page asks for no sentence that is not there."""

from __future__ import annotations

import re
import string
from pathlib import Path

import fusion.ui
from fusion.ui import evidence, header, jobs, methods, mixer, models_section, texts

FOLDER = Path(fusion.ui.__file__).parent


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_key_has_both_languages_with_the_same_places():
    for key, entry in texts.table().items():
        assert set(entry) == set(texts.LANGUAGES), key
        assert places(entry["en"]) == places(entry["ja"]), key
        assert entry["en"].strip() and entry["ja"].strip(), key


def test_japanese_is_japanese():
    for key, entry in texts.table().items():
        if re.search(r"[a-z]{4,}", re.sub(r"{[^}]*}|<[^>]*>", "", entry["en"])):
            assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", entry["ja"]), key


def test_every_key_in_the_code_exists():
    used = set()
    for file in FOLDER.glob("*.py"):
        used |= set(re.findall(r"(?:say|tell|html)\(\s*\"([a-z_]+(?:\.[A-Za-z_.]+)?)\"", file.read_text("utf-8")))
    used |= (
        {f"mixer.{label}" for label in mixer.LABELS}
        | {f"{part}.{m}" for part in ("method", "about") for group in methods.GROUPS.values() for m in group}
        | {f"evidence.{t}" for t in evidence.TABS}
    )
    used |= {f"group.{g}" for g in methods.GROUPS} | {f"run.{s}" for s in (*methods.STAGES.values(), *jobs.COUNTED, "preparing")}
    used |= {f"fit.why.{verdict}" for verdict in ("uncalibrated", "agree", "open", "evened", "mixed")}
    used |= {f"{step}.{part}" for step in header.STEPS for part in ("title", "lead")}
    assert used <= set(texts.table()), sorted(used - set(texts.table()))
    assert len(used) > 100


def test_shipped_models_have_a_sentence_in_both_languages():
    from models.catalog import catalog

    for name in catalog:
        if name.startswith("portraits/"):
            assert models_section.SUMMARY + name.removeprefix("portraits/") in texts.table(), name


def test_values_are_escaped_in_html():
    assert "<script>" not in texts.html("en", "target.remove", name="<script>")
    assert "<script>" in texts.say("en", "target.remove", name="<script>")


def test_browser_language():
    assert texts.browser_language("ja-JP,ja;q=0.9,en;q=0.5") == "ja"
    assert texts.browser_language("de-DE,de;q=0.9") == "en"
    assert texts.browser_language("fr, ja;q=0.2") == "ja"
    assert texts.browser_language(None) == "en"


def test_one_image_is_no_plural():
    assert texts.images("en", 1) == "1 image" and texts.images("en", 12) == "12 images" and texts.images("ja", 1) == "1 枚"


def test_join():
    assert texts.join("en", ["a"]) == "a"
    assert texts.join("en", ["a", "b", "c"]) == "a, b and c"
    assert texts.join("ja", ["a", "b"]) == "a、b"
