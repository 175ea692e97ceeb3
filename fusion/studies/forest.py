"""A figure for many methods at once: one line each, a dot with its interval, the same order in every panel; SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusion.evaluation.estimate import Estimate
from fusion.studies.figures import COLOURS


@dataclass(frozen=True)
class Forest:
    """One pair of axes. `rows`: label -> figure, None where there is none. `marked`: labels drawn filled in the second colour.
    `line`: a value for comparison with its label."""

    title: str
    x: str
    rows: Mapping[str, Estimate | None]
    marked: Sequence[str] = ()
    line: tuple[float, str] | None = None


def draw(path: str | Path, forests: Sequence[Forest], *, columns: int = 3, width: float = 3.6, row_height: float = 0.24) -> None:
    """Write the panels as one figure; the labels of all stand at the left. The same input gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for forest in forests for label in forest.rows))
    columns = min(columns, len(forests))
    lines = math.ceil(len(forests) / columns)
    with rc_context({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(1.6 + width * columns, lines * (row_height * len(labels) + 0.9)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        for forest, axis in zip(forests, axes):
            _panel(axis, forest, labels)
        for axis in axes[len(forests) :]:
            axis.remove()
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix == ".svg" else {"Software": None}, dpi=110)


def _panel(axis, forest: Forest, labels: list[str]) -> None:
    for place, label in enumerate(labels):
        figure = forest.rows.get(label)
        if figure is None:
            continue
        marked = label in forest.marked
        colour, y = COLOURS[1] if marked else COLOURS[0], -place
        if math.isfinite(figure.low) and math.isfinite(figure.high):
            axis.plot([figure.low, figure.high], [y, y], color=colour, linewidth=2.2, alpha=0.5, solid_capstyle="butt")
        axis.plot(figure.value, y, marker="D" if marked else "o", color=colour, markersize=5)
    if forest.line is not None:
        axis.axvline(forest.line[0], color="#444444", linewidth=0.9, linestyle=(0, (2, 3)))
        at = (forest.line[0], 0.6 - len(labels))
        axis.annotate(forest.line[1], at, fontsize=7, color="#444444", rotation=90, ha="right", va="bottom")
    axis.set_yticks([-place for place in range(len(labels))], labels)
    axis.set_ylim(0.6 - len(labels), 0.6)
    axis.set(title=forest.title, xlabel=forest.x)
