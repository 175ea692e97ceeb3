"""The page says with which sampler images are drawn where the models' own differ, in both languages."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.methods.alone import sampler_words
from fusion.methods.plan import SamplingPlan
from fusion.ui import compare, draw, state, texts
from models.loading import load_ensemble
from tests.conftest import tiny_card
from tests.fusion.test_methods_alone import TURBO, sibling
from tests.ui.test_problems import japanese


@pytest.fixture(scope="module")
def ensemble(sd_cards, tmp_path_factory):
    quick = sibling(tmp_path_factory.mktemp("samplers") / "quick", sd_cards["base"], 5, TURBO)
    return load_ensemble([sd_cards["base"], tiny_card("sd", quick)], device="cpu")


@pytest.mark.parametrize(
    ("method", "weights", "english"),
    [("single", (0.0, 1.0), "quick is drawn alone with its own sampler: EulerAncestralDiscreteScheduler (trailing steps), 4 steps"),
     ("uniform", (0.5, 0.5), "What is averaged is drawn with the sampler of sd-a: DDIMScheduler (leading steps)"),
     ("yours", (0.4, 0.6), "sd-a is drawn alone with its own sampler: DDIMScheduler (leading steps), 20 steps")],
)  # fmt: skip
def test_every_column_says_its_sampler(ensemble, monkeypatch, method, weights, english):
    session = state.Session()
    monkeypatch.setattr(draw, "loaded", lambda chosen: ensemble)
    head = compare._head(session, state.Column(method, "key", weights=weights))
    assert english in head
    monkeypatch.setattr(draw, "loaded", lambda chosen: None)
    assert "sampler" not in compare._head(session, state.Column(method, "key", weights=weights))


def test_models_that_sample_alike_are_not_spoken_of(sd_cards, monkeypatch):
    pair = load_ensemble([sd_cards["base"], sd_cards["second"]], device="cpu")
    monkeypatch.setattr(draw, "loaded", lambda chosen: pair)
    assert "sampler" not in compare._head(state.Session(), state.Column("single", "key", weights=(0.0, 1.0)))


def test_in_japanese_too(ensemble, sd_cards):
    plan = SamplingPlan(["a cat"], [1], 20, 5.0)
    twice = load_ensemble([sd_cards["base"], sd_cards["base"]], device="cpu")
    words = [*sampler_words(ensemble, plan, "single", np.eye(2)[1]), *sampler_words(ensemble, plan, "uniform")]
    said = [*ensemble.warnings, *twice.warnings, *words]
    assert len(said) == 5
    for sentence in said:
        names = ("EulerAncestralDiscreteScheduler", "DDIMScheduler", "quick", "sd-a", "trailing", "leading", "steps")
        assert japanese(texts.translate("ja", sentence), *names), texts.translate("ja", sentence)
