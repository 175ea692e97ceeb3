"""Charts are well-formed, escape what they are given, and hold every number in words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fusion import figures
from fusion.ui import charts

NAMES = ["<b>Harbor</b>", "Summit & Co"]


@pytest.mark.parametrize("markup", [
    charts.lines(NAMES, [0.0, 1.0, 2.0], [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], x_title="x<", y_title="y&", label="l<"),
    charts.heatmap(NAMES, NAMES, [[1, -0.5], [-0.5, 1]], label="a<", signed=True),
    charts.heatmap(NAMES, NAMES, [[0, 0], [0, 0]], label="zeros"),
    charts.population(np.full((3, 6), 1 / 18), "p<"),
    charts.shares(NAMES, [0.25, 0.75], [[0.1, 0.4], [0.6, 0.9]], title="t<"),
    charts.population_key(NAMES, ["light<"] * 6, ["#fff"] * 6, "rare<", "common&", "k<"),
    charts.dots(NAMES, [{"value": 0.1, "low": -0.2, "high": 0.3}, {"value": -0.1, "low": None, "high": 0.2}], label="d<"),
    charts.legend(NAMES),
])  # fmt: skip
def test_markup_is_well_formed_and_escaped(markup):
    ET.fromstring(markup.replace("\u202f", " "))
    assert "<b>Harbor</b>" not in markup


def test_shares_say_every_number_as_text():
    text = "".join(ET.fromstring(charts.shares(["A", "B"], [0.25, 0.75], [[0.1, 0.4], [0.6, 0.9]])).itertext())
    assert "25" in text and "75" in text and "10–40" in text and "60–90" in text


def test_ticks_are_round_and_enclose_the_values():
    assert charts.ticks(0.897, 1.13) == ([0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15], 2)
    assert charts.ticks(-5.5, 9.6, 8) == ([-6, -4, -2, 0, 2, 4, 6, 8, 10], 0)
    assert charts.ticks(0, 0) == ([0.0, 0.2], 1) or charts.ticks(0, 0)[0][0] == 0
    rng = np.random.default_rng(1)
    for scale in 10.0 ** rng.uniform(-6, 6, 300):
        low, high = np.sort(scale * rng.normal(size=2))
        marks, places = charts.ticks(low, high)
        assert marks[0] <= low + 1e-9 * scale and marks[-1] >= high - 1e-9 * scale and 2 <= len(marks) <= 8
        shown = [figures.figure(m, places=places) for m in marks]
        np.testing.assert_allclose([float(t.replace("−", "-").replace(",", "")) for t in shown], marks, atol=1e-12 * scale)
        steps = np.diff(marks)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_curves_are_marked_with_equal_decimals():
    markup = charts.lines(["A"], [-5.5, 0.0, 9.6], [[0.897, 1.13, 1.0]], x_title="x", y_title="y", label="l")
    said = [t.text for t in ET.fromstring(markup).iter("text")]
    assert {"0.85", "1.15", "−4", "0", "8"} <= set(said) and "−6" not in said  # no tick beyond the curves across


def test_the_table_holds_all_rows():
    markup = charts.table(["a", "b"], [["x", 1], ["y", 2]], "numbers")
    root = ET.fromstring(markup)
    assert [[c.text for c in row] for row in root.iter("tr")] == [["a", "b"], ["x", "1"], ["y", "2"]]


def test_ramps_end_where_they_should():
    assert charts.ramp(charts.PUOR, 0.5) == (247, 247, 247)
    assert charts.ramp(charts.CIVIDIS, 0) == (0, 34, 78) and charts.ramp(charts.CIVIDIS, 2) == (254, 232, 56)


def test_every_model_has_its_own_colour_and_mark():
    from fusion.ui.state import COLOURS, MARKS

    assert len(set(COLOURS)) == len(COLOURS) == len(set(MARKS)) == 8
    assert COLOURS[:6] == ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def test_percentages_sum_to_a_hundred():
    assert charts.percents([0.411, 0.252, 0.013, 0.324]) == [41, 25, 1, 33]
    assert charts.percents([1 / 3] * 3) == [34, 33, 33] and charts.percents([1.0, 0.0]) == [100, 0]
    rng = np.random.default_rng(0)
    assert all(sum(charts.percents(rng.dirichlet(np.ones(5)))) == 100 for _ in range(200))
