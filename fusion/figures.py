"""One style of numbers for sentences, tables and charts: as many decimals as the error bears, true minus signs, no exponents.

    figure(0.00752, 0.0131)     0.008          one value; its error decides the decimals
    figure(0.00002)             less than 0.0001
    spread(0.12, 0.083, 0.171)  0.120 (0.083 to 0.171)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MINUS = "\u2212"
NOTHING = "–"
MOST = 4  # decimals: what is smaller is said to be small


def figure(value: float | None, error: float | None = None, *, places: int | None = None) -> str:
    """`value` with so many `places`, by default those that give two significant digits of its `error` (half the width of its interval),
    at most four and at least those that three digits of the value need where there is no error. Whole numbers that come without an error
    stay whole. A positive value too small to show that has no error is `less than 0.001`, never `1e-05`; one that is none is a dash.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if error is None and places is None and float(value).is_integer():
        return signed(f"{value:,.0f}")
    alone, places = error is None and places is None, decimals([value], [error]) if places is None else places
    text = f"{value:,.{places}f}"
    return f"less than {10.0 ** -places:.{places}f}" if alone and value > 0 and not text.strip("0.,") else signed(text)


def spread(value: float | None, low: float | None, high: float | None, *, places: int | None = None, to: str = " to ") -> str:
    """`0.120 (0.083 to 0.171)`: a value with its interval, all three with the same decimals; the value alone where the interval has no ends
    or no width."""
    ends = interval(low, high, places=decimals([value], [half(low, high)]) if places is None else places, to=to)
    told = figure(value, half(low, high), places=places)
    return f"{told} ({ends})" if ends else told


def interval(low: float | None, high: float | None, *, places: int | None = None, to: str = " to ") -> str:
    """`0.083 to 0.171`; empty where an end is missing or both are one."""
    error = half(low, high)
    if error is None or low == high:
        return ""
    places = decimals([low, high], [error]) if places is None else places
    return to.join(signed(f"{end:,.{places}f}") for end in (low, high))


def half(low: float | None, high: float | None) -> float | None:
    """Half the width of an interval; None where it has no ends."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return None
    return (high - low) / 2


def decimals(values: Iterable[float | None], errors: Iterable[float | None] = ()) -> int:
    """How many decimals figures have that stand in one column: two significant digits of the middle one of their errors, so that they
    can be compared at a glance; three digits of the largest value where no error is known. From 0 to 4."""
    known = sorted(error for error in errors if error and math.isfinite(error))
    if known:
        return _bounded(1 - math.floor(math.log10(known[len(known) // 2])))
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    return _bounded(2 - math.floor(math.log10(max(sizes)))) if sizes else 0


def _bounded(places: int) -> int:
    return min(max(places, 0), MOST)


def signed(text: str) -> str:
    """A formatted number with a true minus sign, and none before zero."""
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", MINUS)


def chance(p: float) -> str:
    """`p = 0.04`, `p < 0.001`: a probability as it stands beside a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.01 else f"p = {p:.2f}"
