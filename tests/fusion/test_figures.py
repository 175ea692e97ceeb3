"""One style of numbers: decimals by the error, true minus signs, no exponents, small ones said to be small."""

import math

import pytest

from fusion.figures import chance, decimals, figure, interval, spread


@pytest.mark.parametrize(("value", "error", "shown"), [
    (0.00752, 0.0131, "0.008"), (-0.0024, 0.0126, "−0.002"), (0.123456, 0.0123, "0.123"), (12.3456, 4.2, "12.3"),
    (1234.5, 160, "1,234"),    (0.123456, None, "0.123"), (12.3456, None, "12.3"), (1234.5, None, "1,234"),
    (3.0, None, "3"), (1234.0, None, "1,234"), (0.0, None, "0"),
    (0.00002, None, "less than 0.0001"), (2e-7, 0.0131, "0.000"), (-2e-7, 0.0131, "0.000"), (0.0, 0.02, "0.000"),
    (-3.0, None, "−3"), (-0.0, 0.02, "0.000"), (None, None, "–"), (math.inf, None, "–"), (math.nan, 0.1, "–"),
    (1e-30, None, "less than 0.0001"),
    (1e-30, 1e-31, "0.0000"), (1e9, None, "1,000,000,000"), (2.5, math.inf, "2.50"), (2.5, 0.0, "2.50"),
])  # fmt: skip
def test_a_figure_has_the_decimals_that_its_error_bears(value, error, shown):
    assert figure(value, error) == shown


def test_no_number_has_an_exponent_or_a_hyphen_for_a_minus():
    for power in range(-30, 12):
        for sign in (1, -1):
            text = figure(sign * 1.234 * 10.0**power) + spread(sign * 10.0**power, -(10.0**power), 10.0**power)
            assert "e" not in text.replace("less than", "") and "-" not in text


def test_a_value_and_its_interval_have_the_same_decimals():
    assert spread(0.12, 0.083, 0.171) == "0.120 (0.083 to 0.171)"
    assert spread(-0.0024, -0.015, 0.01) == "−0.002 (−0.015 to 0.010)"
    assert spread(0.5, None, None) == spread(0.5, -math.inf, math.inf) == spread(0.5, 0.5, 0.5) == "0.500"
    assert interval(0.1, 0.2, to="–") == "0.100–0.200" and interval(0.1, 0.1) == interval(None, 1) == ""


def test_a_column_has_one_number_of_decimals():
    assert decimals([0.0025, 0.3], [0.013, 0.011, 0.2]) == 3 and decimals([0.0025, 31.0]) == 1 and decimals([]) == 0


def test_chances():
    assert [chance(p) for p in (0.0004, 0.0042, 0.04, 0.5)] == ["p < 0.001", "p = 0.004", "p = 0.04", "p = 0.50"]
