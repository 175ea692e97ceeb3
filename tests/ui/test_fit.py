"""Fit on the page: proportions for models that ship without a calibration, at whatever settings the target was measured with."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from fusion.ui import engine, fit, state, target, texts
from tests.fusion import small


@pytest.mark.parametrize(("levels", "draws"), [(8, 1), (16, 2)])
def test_calibration_is_measured_as_the_target_was(levels, draws, tmp_path_factory, tmp_path, monkeypatch):
    cards = {card.id: card for card in small.cards(tmp_path_factory.mktemp("models"))}
    loaded = small.load_ensemble(list(cards.values()), device="cpu")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(engine, "cards", lambda: cards)
    monkeypatch.setattr(engine, "ensemble", lambda chosen, progress=None: loaded)
    monkeypatch.setattr(engine, "calibrate", functools.partial(engine.calibrate, samples=9))
    session = state.Session(selected=list(cards), level_count=levels, draws=draws)
    session.pictures = [state.Picture(image, "x.png", "a cat", "") for image in small.pictures(3)]
    for work in (fit.run, fit.run_calibration):
        for _ in work(session):
            pass
    assert session.notes == {} and session.fit.gram.settings == {"levels": levels, "draws": draws}
    np.testing.assert_allclose(session.fit.calibrated.proportions_.sum(), 1)
    np.testing.assert_array_equal(session.weights["mix"], session.fit.calibrated.proportions_)


@pytest.mark.parametrize("name", target.EXAMPLES)
def test_the_page_says_why_the_answers_differ_as_the_fit_does(name):
    """On the shipped examples: no agreement where the pictures hardly decide, no pull towards equal that the weights do not show."""
    cards = engine.cards()
    found = engine.refit(engine.ASSETS / "first_screen" / f"{name}.gram.safetensors", [cards[c] for c in engine.DEFAULT_MODELS])
    for language in texts.LANGUAGES:
        session = state.Session(language=language, fit=found)
        assert fit.plain_why(session) == session.tell(f"fit.why.{found.verdict()}")
    assert not (found.undecided and found.verdict() == "agree")
    spread = [np.abs(weights - 1 / 4).sum() for weights in (found.published.weights_, found.calibrated.proportions_)]
    assert found.verdict() != "evened" or spread[0] < spread[1]
