"""A `Report` as lines for a terminal: an aligned table, what is unusual in it, the recommendation."""

from __future__ import annotations

from fusion import figures
from fusion.evaluation.columns import FIGURES, notes, value
from fusion.evaluation.estimate import Estimate

MARKS = "* recommended, = not told apart from it by these images."


def table(report) -> str:
    """Methods by columns, figures with their intervals, aligned; then a line for every column and every unusual cell."""
    columns, ran = report.columns(), [row for row in report.rows if not row.problem]
    head = ["Method", *(column.title for column in columns)]
    body = [[row.title + mark(report, row), *cells] for row, cells in zip(ran, _cells(columns, ran))]
    lines = aligned([head, *body]) if body else []
    lines += [f"{row.title}: {row.problem}" for row in report.rows if row.problem]
    titles = {column.name: column.title for column in columns} | {"method": "Samples"}
    told = [(row.title, titles[name], text) for row in ran for name, text in notes(row).items() if name in titles]
    meanings = [f"{column.title} ({column.unit}): {column.explanation}" for column in columns if column.name in (*FIGURES, "effective")]
    told = [*(f"{row}, {column}: {text}" for row, column, text in told), *report.unread_words()]
    told += [MARKS] if report.recommendation.method else []
    return "\n".join([*lines, "", *meanings, *told, "", report.verdict, *report.recommendation.details, *report.record()])


def mark(report, row) -> str:
    """` *` for the recommended method, ` =` for those that cannot be told from it."""
    found = report.recommendation
    return " *" if row.method == found.method else " =" if row.method in found.ties else ""


def _cells(columns, rows) -> list[list[str]]:
    """Rows of cells; the figures of a column have the same decimals."""
    by_column = [[value(row, column.name) for row in rows] for column in columns]
    told = [[cell(one, places_of(found)) for one in found] for found in by_column]
    return [[column[at] for column in told] for at in range(len(rows))]


def places_of(found: list) -> int | None:
    """Decimals that all figures of a column have; None for a column of plain numbers, each of which stands as it is."""
    known = [one for one in found if isinstance(one, Estimate)]
    return figures.decimals([one.value for one in known], [figures.half(one.low, one.high) for one in known]) if known else None


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows of cells as lines in columns: the first to the left, figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(c.ljust(w) if at == 0 else c.rjust(w) for at, (c, w) in enumerate(zip(row, widths))).rstrip() for row in rows]


def cell(figure, places: int | None = None) -> str:
    """`0.12 (0.08 to 0.17)` with so many decimals, by default as many as its own interval bears; a dash where there is nothing."""
    if figure is None:
        return figures.NOTHING
    if not isinstance(figure, Estimate):
        return figures.figure(figure)
    return figures.spread(figure.value, figure.low, figure.high, places=places)
