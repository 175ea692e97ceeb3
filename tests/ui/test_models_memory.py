"""Section Models says how loaded models are held in memory, in both languages, and nothing before they are loaded."""

from __future__ import annotations

import pytest

from fusion.ui import engine, models_section, state, texts
from models.placement import MemoryPlan


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_plan_is_shown_once_models_are_loaded(monkeypatch, language):
    session = state.Session()
    session.language = language
    monkeypatch.setattr(engine, "memory", lambda chosen: None)
    before = models_section.render(session)
    plan = MemoryPlan("switch", "cpu", "device", "sliced", "float16", {"networks": 5 * 10**9}, 4 * 10**9, "why")
    monkeypatch.setattr(engine, "memory", lambda chosen: plan)
    after = models_section.render(session)
    for key in ("waiting", "sliced", "tight"):
        assert texts.html(language, f"models.memory.{key}") in after and texts.html(language, f"models.memory.{key}") not in before
    assert texts.html(language, "models.memory.encoders") not in after
    assert "5.00" in after and "4.0 GB" in after and "float16" in after and "float16" not in before


def test_nothing_is_loaded_for_the_asking(monkeypatch):
    monkeypatch.setattr("models.loading.load_ensemble", lambda *_, **__: pytest.fail("loaded"))
    assert engine.memory([]) is None
