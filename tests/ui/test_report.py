"""What is taken home: a report that begins with the answer, and a recipe that says where its weights come from."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.ui import charts, draw, engine, fit, paper, report, state, texts


@pytest.fixture(scope="module")
def found():
    cards = engine.cards()
    return engine.refit(engine.ASSETS / "first_screen" / "valley.gram.safetensors", [cards[c] for c in engine.DEFAULT_MODELS])


@pytest.fixture
def session(found):
    made = state.Session(selected=list(engine.DEFAULT_MODELS), fit=found)
    made.take_fit(found, tuple(made.selected))
    return made


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_the_report_begins_with_the_answer_in_the_page_s_percentages(session, found, language):
    session.language = language
    blocks = report.content(session, '{"a": 1}')
    kind, lead = blocks[1]
    shown = fit.answer(session)
    assert kind == "lead"
    for name, share, (low, high) in zip(found.gram.names, charts.percents(found.calibrated.proportions_), found.calibrated.interval_):
        between = f"{100 * low:.0f}–{100 * high:.0f}\u202f%"
        assert f"{share}\u202f% {name} ({between})" in lead and f"<b>{share}\u202f%</b>" in shown and between in shown
    table = next(block for block in blocks if block[0] == "table")
    assert [row[1] for row in table[2]] == [f"{share}\u202f%" for share in charts.percents(found.calibrated.proportions_)]
    page = paper.html(blocks, language)
    assert page.index(found.gram.names[0]) < page.index("<h2>") and page.endswith("</pre></details></html>")


def test_without_a_calibration_the_answer_claims_no_interval(session, found):
    from dataclasses import replace

    session.fit = replace(found, calibrated=None)
    assert "–" not in report.answer(session) and f"{charts.percents(found.mixture.proportions_)[0]}\u202f%" in report.answer(session)


def test_a_recipe_says_where_its_weights_come_from(found):
    names = tuple(found.gram.names)

    def how(mode, weights, fit_=found):
        return draw.kept_weights(names, fit_, mode, weights).how

    assert how("mix", found.calibrated.proportions_ * (1 + 1e-13)) == "calibrated proportions"
    assert how("mix", found.published.weights_) == how("blend", found.published.weights_) == found.published.as_weights().how
    matched = engine.with_matched_weights(found, {"values": [0.1, 0.2, 0.3, 0.4], "interval": [[0, 1]] * 4})
    assert how("blend", [0.1, 0.2, 0.3, 0.4], matched) == "matched"
    moved = draw.kept_weights(names, found, "mix", [0.1, 0.2, 0.3, 0.4])
    assert moved.how == draw.MOVED == how("blend", [0.1, 0.2, 0.3, 0.4]) == how("mix", [0.25] * 4, None)
    np.testing.assert_array_equal(moved.interval, found.calibrated.interval_)
