"""A `Report` as lines for a terminal: an aligned table, what is unusual in it, the recommendation."""

from __future__ import annotations

import math

from fusion.evaluation.columns import FIGURES, notes, value
from fusion.evaluation.estimate import Estimate

MISSING = "-"


def table(report) -> str:
    """Methods by columns, figures with their intervals, aligned; then a line for every column and every unusual cell."""
    columns, ran = report.columns(), [row for row in report.rows if not row.problem]
    head = ["Method", *(column.title for column in columns)]
    body = [[row.title, *(cell(value(row, column.name)) for column in columns)] for row in ran]
    lines = aligned([head, *body]) if body else []
    lines += [f"{row.title}: {row.problem}" for row in report.rows if row.problem]
    titles = {column.name: column.title for column in columns} | {"method": "Samples"}
    told = [(row.title, titles[name], text) for row in ran for name, text in notes(row).items() if name in titles]
    meanings = [f"{column.title} ({column.unit}): {column.explanation}" for column in columns if column.name in (*FIGURES, "effective")]
    return "\n".join([*lines, "", *meanings, *(f"{row}, {column}: {text}" for row, column, text in told), "", report.verdict])


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines in columns: the first to the left, figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) if at == 0 else c.rjust(w) for at, (c, w) in enumerate(zip(row, widths))).rstrip() for row in rows]


def cell(figure) -> str:
    """`0.12 (0.08 to 0.17)`; a dash where there is nothing."""
    if figure is None:
        return MISSING
    if not isinstance(figure, Estimate):
        return number(figure)
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)) or figure.low == figure.high:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})"


def number(figure: float) -> str:
    """Three decimals at most, whole numbers plain, small ones with two significant digits."""
    figure = float(figure)
    if figure == round(figure) and abs(figure) < 1e7:
        return f"{figure:.0f}"
    return f"{figure:.3f}" if abs(figure) >= 0.01 else f"{figure:.1e}"
