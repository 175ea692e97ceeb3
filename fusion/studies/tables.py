"""Tables of a study: rows of figures as CSV and Markdown, means over seeds with their intervals.

A row is a mapping from column to value; this module does not know what was measured.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from fusion.evaluation.estimate import Estimate


def mean_interval(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean over seeds with Student's interval for it; one seed gives no interval (its ends are infinite). ValueError for none."""
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("no value to average: no seed has finished")
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -math.inf, math.inf)
    half = float(student.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def over_seeds(rows: Iterable[Mapping], by: Sequence[str], value: str, level: float = 0.95) -> dict[tuple, Estimate]:
    """`{(row[b] for b in by): mean_interval of row[value]}`, in the order of first appearance; rows without the value are left out."""
    groups: dict[tuple, list[float]] = {}
    for row in rows:
        if row.get(value) is not None:
            groups.setdefault(tuple(row[key] for key in by), []).append(float(row[value]))
    return {key: mean_interval(values, level) for key, values in groups.items()}


def not_told_apart(rows: Iterable[Mapping], value: str, best: str, level: float = 0.95) -> list[str]:
    """Methods whose `value` exceeds that of `best` by no more than chance, in order of appearance: the interval of the mean difference,
    paired by seed, reaches 0. Rows have `method` and `seed`; methods with other seeds than `best` are left out, and one seed tells
    nothing apart."""
    table: dict[str, dict] = {}
    for row in rows:
        table.setdefault(row["method"], {})[row["seed"]] = float(row[value])
    own = table[best]
    differences = {name: mean_interval([found[seed] - own[seed] for seed in own], level) for name, found in table.items()
                   if name != best and found.keys() == own.keys()}  # fmt: skip
    return [name for name, difference in differences.items() if difference.low <= 0]


def told(figure: Estimate | float | None, digits: int = 3) -> str:
    """`0.310 ± 0.021` for an estimate whose interval is symmetric, `0.310 (0.300 to 0.350)` otherwise, `-` for None."""
    if figure is None:
        return "-"
    if not isinstance(figure, Estimate):
        return f"{figure:.{digits}f}"
    if not math.isfinite(figure.high):
        return f"{figure.value:.{digits}f}"
    below, above = figure.value - figure.low, figure.high - figure.value
    if abs(below - above) < 0.5 * 10**-digits:
        return f"{figure.value:.{digits}f} ± {above:.{digits}f}"
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def markdown(rows: Sequence[Mapping], columns: Mapping[str, str] | Sequence[str] | None = None, digits: int = 3) -> str:
    """A Markdown table. `columns`: keys in order, with their headings where it is a mapping (default: the first row's keys)."""
    columns = list(rows[0]) if columns is None else columns
    headings = dict(columns) if isinstance(columns, Mapping) else {key: str(key) for key in columns}
    lines = [_line(headings.values()), _line("---" for _ in headings)]
    return "\n".join([*lines, *(_line(_cell(row.get(key), digits) for key in headings) for row in rows)]) + "\n"


def pivot(figures: Mapping[tuple, Estimate], heading: str, columns: Iterable, name: Callable = str, digits: int = 3) -> str:
    """A Markdown table of `{(row, column): figure}`: one line per row in order of appearance, one column per entry of `columns`."""
    rows = [{heading: row} | {name(c): figures.get((row, c)) for c in columns} for row in dict.fromkeys(key[0] for key in figures)]
    return markdown(rows, [heading, *(name(c) for c in columns)], digits)


def write_csv(path: str | Path, rows: Sequence[Mapping]) -> None:
    """All columns of all rows, in order of first appearance; floats with six significant digits. An estimate becomes three columns."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in flat)


def _flat(row: Mapping) -> dict:
    out = {}
    for key, value in row.items():
        if isinstance(value, Estimate):
            out |= {str(key): value.value, f"{key} low": value.low, f"{key} high": value.high}
        else:
            out[str(key)] = value
    return out


def _cell(value, digits: int) -> str:
    text = told(value, digits) if value is None or isinstance(value, (Estimate, float, np.floating)) else str(value)
    return text.replace("|", "\\|")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
