"""Loaded models: how they are held in memory is said in both languages, what is loaded is what was chosen, old ones make room."""

from __future__ import annotations

import weakref

import pytest

from fusion.ui import engine, models_section, state, texts
from models.placement import MemoryPlan
from tests import tiny


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


# ------------------------------------------------------------------------------------------------ the cache of ensembles

@pytest.fixture
def shelf(monkeypatch):
    """The page's own cache, empty before and after."""
    monkeypatch.setattr(engine, "_ensembles", type(engine._ensembles)())
    return engine._ensembles


def test_one_model_may_be_on_the_page_twice_with_different_options(shelf, tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    monkeypatch.setattr(engine, "cards", dict)
    folder, session = tiny.portraits(tmp_path / "base", 0), state.Session()
    for options in ("", "?prediction=epsilon", "?template=ohwx {prompt}"):
        models_section.add(session, {"value": f"{folder}{options}"})
    plain, other, worded = models_section.chosen(session)
    assert [card.title for card in (plain, other, worded)] == ["base", "base (2)", "base (3)"]
    loaded = [engine.ensemble([card]).members[0] for card in (plain, other)]
    assert [member.noise.prediction_type for member in loaded] == ["v_prediction", "epsilon"]
    assert engine.loaded([worded]) is None and engine.ensemble([worded]).cards[0].prompt_template == "ohwx {prompt}"
    assert engine.ensemble([other]) is engine.loaded([other]) and engine.loaded([plain]) is None  # two are kept


def test_old_ensembles_go_before_a_new_one_comes(shelf, monkeypatch):
    class Loaded:
        """In a ring, as networks with hooks are: only the collector frees it."""

        def __init__(self):
            self.itself = self

    alive, held = [], []

    def load(chosen, **_):
        held.append(sum(one() is not None for one in alive))
        made = Loaded()
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr("models.loading.load_ensemble", load)
    monkeypatch.setattr("fusion.hosting.check", lambda **_: None)
    for name in ("a", "b", "c", "b", "d"):
        engine.ensemble([name])
    assert held == [0, 1, 1, 1] and [key[1:] for key in shelf] == [("b",), ("d",)]
