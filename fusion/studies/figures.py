"""Figures of a study: curves with intervals, each with a colour, a marker and a dash of its own, as SVG or PNG without a display.

The same input gives the same bytes. This module does not know what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusion.evaluation.estimate import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A")  # Okabe-Ito, then grey
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)))

Points = Sequence[tuple[float, "Estimate | float"]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `series`: label -> points `(x, figure)`; an estimate is drawn with its interval. `levels`: label -> a horizontal
    line for comparison. `marks=False` draws plain lines (densities); `ticks`: the x values that are written."""

    title: str
    x: str
    y: str
    series: Mapping[str, Points]
    levels: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    marks: bool = True
    ticks: Sequence[float] | None = None
    y_range: tuple[float, float] | None = None


def draw(path: str | Path, panels: Sequence[Panel], *, columns: int = 2, width: float = 4.6, height: float = 3.4) -> None:
    """Write `panels` as one figure with one legend; the suffix of `path` (.svg, .png) chooses the format. Sizes in inches a panel.

    A label has one style in all panels. ValueError for more than eight labels: nobody could tell them apart.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(label for panel in panels for label in panel.series))
    if len(labels) > len(COLOURS):
        raise ValueError(f"{len(labels)} curves in one figure cannot be told apart: draw at most {len(COLOURS)}")
    styles = {label: {"color": c, "marker": m, "linestyle": d} for label, c, m, d in zip(labels, COLOURS, MARKERS, DASHES)}
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    with rc_context({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(width * columns, height * rows + 0.22 * math.ceil(len(labels) / 4) + 0.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, axis in zip(panels, axes):
            _panel(axis, panel, styles)
        for axis in axes[len(panels) :]:
            axis.remove()
        known = {}
        for axis in figure.axes:
            known |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels()) if label not in known}
        figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=4, frameon=False, handlelength=3.5)
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix == ".svg" else {"Software": None}, dpi=110)


def _panel(axis, panel: Panel, styles: Mapping[str, dict]) -> None:
    for label, points in panel.series.items():
        style = styles[label] if panel.marks else styles[label] | {"marker": None}
        xs, ys = [x for x, _ in points], [_value(y) for _, y in points]
        axis.plot(xs, ys, label=label, markersize=4.5, linewidth=1.4, **style)
        bands = [(x, y) for x, y in points if isinstance(y, Estimate) and math.isfinite(y.high)]
        if bands:
            below = [min(y.low, y.value) if not panel.log_y else max(y.low, y.value / 30) for _, y in bands]
            axis.fill_between([x for x, _ in bands], below, [y.high for _, y in bands], color=style["color"], alpha=0.13, linewidth=0)
    for label, value in panel.levels.items():
        axis.axhline(value, color="#444444", linewidth=0.9, linestyle=(0, (2, 3)))
        axis.annotate(label, (0.99, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7, color="#444444")
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log")
    if panel.ticks is not None:
        axis.set_xticks(list(panel.ticks), [f"{tick:g}" for tick in panel.ticks])
        axis.minorticks_off()
    if panel.y_range is not None:
        axis.set_ylim(panel.y_range)
    axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)


def _value(figure: Estimate | float) -> float:
    return figure.value if isinstance(figure, Estimate) else float(figure)
