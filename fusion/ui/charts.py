"""Charts as SVG strings: numbers in, markup out. Every chart comes with a table of the same numbers (`table`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from fusion import figures

from .state import COLOURS, MARKS

DASHES = ("", "7 4", "2 4", "10 3 2 3", "4 4", "1 3", "12 5", "6 2 1 2")
PUOR = ((127, 59, 8), (224, 130, 20), (253, 224, 182), (247, 247, 247), (216, 218, 235), (128, 115, 172), (45, 0, 75))
CIVIDIS = ((0, 34, 78), (35, 62, 108), (77, 87, 109), (110, 112, 115), (145, 139, 118), (181, 168, 106), (219, 200, 82), (254, 232, 56))


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def mark(index: int) -> str:
    """A model's marker in its colour."""
    return f'<i class="mark" style="color:{colour(index)}" aria-hidden="true">{MARKS[index % len(MARKS)]}</i>'


def ramp(stops: Sequence[tuple[int, int, int]], x: float) -> tuple[int, int, int]:
    """Colour at `x` in 0..1 on a piecewise linear ramp."""
    at = min(max(x, 0.0), 1.0) * (len(stops) - 1)
    i = min(int(at), len(stops) - 2)
    return tuple(round(a + (at - i) * (b - a)) for a, b in zip(stops[i], stops[i + 1]))


def _ink(rgb: tuple[int, int, int]) -> str:
    return "#111" if 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 140 else "#fff"


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: bool = True) -> str:
    """A table whose first column is text; the others are numbers, or text too."""

    def cls(column: int) -> str:
        return ' class="num"' if column and numbers else ""

    head = "".join(f'<th scope="col"{cls(i)}>{escape(str(h))}</th>' for i, h in enumerate(heads))
    body = "".join("<tr>" + "".join(f"<td{cls(i)}>{escape(str(v))}</td>" for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], summary: str) -> str:
    """The numbers behind a chart, folded away."""
    return f'<details data-key="table"><summary>{escape(summary)}</summary>{plain_table(heads, rows)}</details>'


def percents(values) -> list[int]:
    """Whole percentages that sum to 100 where the values sum to 1: the largest remainders are rounded up."""
    exact = [100 * float(v) for v in values]
    whole = [int(v + 1e-9) for v in exact]
    order = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in order[: max(0, round(sum(exact)) - sum(whole))]:
        whole[i] += 1
    return whole


def decimals(values) -> list[str]:
    """Weights with two decimals that sum to 1 where the weights do, as the mixer shows them."""
    return [f"{whole / 100:.2f}" for whole in percents(values)]


def named(names: Sequence[str], values) -> list[str]:
    """`name 0.61` of every member whose weight does not round to nothing."""
    return [f"{name} {text}" for name, text in zip(names, decimals(values)) if text != "0.00"]


def shares(names: Sequence[str], values, interval=None, *, title: str = "") -> str:
    """One lane per model: a bar for the share, a whisker for its interval, both also as text."""
    items, whole = [], percents(values)
    for i, name in enumerate(names):
        value, text, whisker = float(values[i]), f"<b>{whole[i]}\u202f%</b>", ""
        if interval is not None:
            low, high = (float(v) for v in interval[i])
            text += f" <small>{100 * low:.0f}–{100 * high:.0f}\u202f%</small>"
            whisker = f'<u style="left:{100 * low:.1f}%;width:{100 * max(high - low, 0.004):.1f}%"></u>'
        bar = f'<i style="width:{100 * value:.1f}%;background:{colour(i)}"></i>'
        items.append(
            f'<li><span>{mark(i)}{escape(name)}</span><span class="lane">{bar}{whisker}</span><span class="val">{text}</span></li>'
        )
    return f'<ul class="shares" aria-label="{escape(title)}">' + "".join(items) + "</ul>"


def ticks(low: float, high: float, about: int = 5) -> tuple[list[float], int]:
    """Round numbers that enclose `low..high`, 1, 2 or 5 times a power of ten apart and about so many, and the decimals they need."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * n for n in (1, 2, 5, 10) if power * n * about >= span)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    return [round(n * step, places) + 0.0 for n in range(first, last + 1)], places


def lines(
    names: Sequence[str], xs: Sequence[float], series, *, x_title: str, y_title: str, label: str, emphasis: Sequence[str] = ()
) -> str:
    """Curves over noise levels, `series (K, L)`; a colour, a dash and a marker each."""
    width, height, left, bottom, top = 720, 340, 66, 56, 50
    marked, places = ticks(min(min(s) for s in series), max(max(s) for s in series))
    low, high = marked[0], marked[-1]
    x0, x1 = min(xs), max(xs)

    def px(x: float) -> float:
        return left + (x - x0) / ((x1 - x0) or 1) * (width - left - 20)

    def py(v: float) -> float:
        return top + (high - v) / (high - low) * (height - top - bottom)

    parts = [f'<svg class="chart curves" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for v in marked:
        parts.append(
            f'<path class="axis" d="M{left} {py(v):.1f}H{width - 20}"/>'
            f'<text x="{left - 8}" y="{py(v) + 5:.1f}" text-anchor="end">{figures.figure(v, places=places)}</text>'
        )
    across, places = ticks(x0, x1, 8)
    for x in (x for x in across if x0 <= x <= x1):
        parts.append(
            f'<path class="axis" d="M{px(x):.1f} {height - bottom}v5"/>'
            f'<text x="{px(x):.1f}" y="{height - bottom + 24}" text-anchor="middle">{figures.figure(x, places=places)}</text>'
        )
    parts.append(
        f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text x="4" y="20">{escape(y_title)}</text>'
    )
    for k, values in enumerate(series):
        line = " ".join(f"{x:.1f},{py(v):.1f}" for x, v in zip(map(px, xs), values))
        stroke = colour(k) if names[k] not in emphasis else "currentColor"
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{stroke}" stroke-width="2.2" stroke-dasharray="{DASHES[k % len(DASHES)]}"/>'
        )
        for n in range(k % 3, len(xs), 4):
            parts.append(
                f'<text class="mark-at" x="{px(xs[n]):.1f}" y="{py(values[n]) + 4:.1f}" text-anchor="middle" '
                f'style="fill:{stroke};font-size:11px">{MARKS[k % len(MARKS)]}</text>'
            )
    return "".join(parts) + "</svg>"


def column_places(found: Sequence[dict]) -> int:
    """Decimals that these figures have wherever they stand side by side: `{"value", "low", "high"}` each."""
    return figures.decimals([f["value"] for f in found], [figures.half(f["low"], f["high"]) for f in found])


def dots(names: Sequence[str], found: Sequence[dict], *, label: str) -> str:
    """One row per name: a dot at `value`, a line from `low` to `high`, a tick at `floor` (chance alone) where there is one."""
    width, left, high = 400, 150, 30
    ends = [v for f in found for v in (f["value"], f["low"], f["high"], f.get("floor")) if v is not None and math.isfinite(v)]
    low, top = min([0.0, *ends]), max([1e-12, *ends])
    places = column_places(found)

    def px(v: float | None) -> float:
        return left + (min(max(low if v is None else v, low), top) - low) / (top - low) * (width - left - 56)

    rows = [f'<path class="axis" d="M{px(0.0):.1f} 4V{high * len(names) + 4}"/>']
    for n, (name, f) in enumerate(zip(names, found)):
        y = high * n + 20
        rows.append(
            f'<text x="{left - 14}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<path d="M{px(f["low"]):.1f} {y}H{px(f["high"]):.1f}" stroke="{colour(n)}" stroke-width="2.5"/>'
            f'<text x="{px(f["value"]):.1f}" y="{y + 5}" text-anchor="middle" style="fill:{colour(n)};font-size:15px">'
            f"{MARKS[n % len(MARKS)]}</text>"
            f'<text x="{width - 4}" y="{y + 4}" text-anchor="end">{figures.figure(f["value"], places=places)}</text>'
        )
        if f.get("floor") is not None:
            rows.append(f'<path d="M{px(f["floor"]):.1f} {y - 8}v16" stroke="currentColor" stroke-width="1.5" opacity=".5"/>')
    frame = f'<svg class="chart" viewBox="0 0 {width} {high * len(names) + 10}" role="img" aria-label="{escape(label)}">'
    return frame + "".join(rows) + "</svg>"


def legend(names: Sequence[str]) -> str:
    return '<p class="legend">' + "".join(f"<span>{mark(i)}{escape(n)}</span>" for i, n in enumerate(names)) + "</p>"


def heatmap(
    rows: Sequence[str], columns: Sequence[str], values, *, label: str, signed: bool = False, digits: int = 2, top: float | None = None
) -> str:
    """Coloured cells with their number written in: PuOr centred on 0 if `signed`, otherwise Cividis from 0 to `top`."""
    left, cell, high, head = 110, 74, 40, 46 if any(" " in c for c in columns) else 30
    ceiling = top if top is not None else max(max(abs(float(v)) for v in row) for row in values) or 1.0
    parts = [
        f'<svg class="chart" style="max-width:{left + cell * len(columns)}px" '
        f'viewBox="0 0 {left + cell * len(columns)} {head + high * len(rows)}" '
        f'role="img" aria-label="{escape(label)}">'
    ]
    for j, name in enumerate(columns):
        for line, word in enumerate(reversed(name.split(" ", 1))):  # two words stand above each other: columns are narrow
            parts.append(f'<text x="{left + cell * (j + 0.5)}" y="{head - 11 - 17 * line}" text-anchor="middle">{escape(word)}</text>')
    for i, name in enumerate(rows):
        y = head + high * i
        parts.append(f'<text x="{left - 10}" y="{y + high / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(values[i]):
            rgb = ramp(PUOR, 0.5 + 0.5 * float(value) / ceiling) if signed else ramp(CIVIDIS, float(value) / ceiling)
            parts.append(
                f'<rect x="{left + cell * j + 1}" y="{y + 1}" width="{cell - 2}" height="{high - 2}" rx="5" fill="rgb{rgb}"/>'
                f'<text x="{left + cell * (j + 0.5)}" y="{y + high / 2 + 4}" text-anchor="middle" '
                f'style="fill:{_ink(rgb)}">{float(value):.{digits}f}</text>'
            )
    return "".join(parts) + "</svg>"


def population(table_: Sequence[Sequence[float]], label: str) -> str:
    """A population over presentation x tone as a small 3 x 6 plate, for a model's card: colour only, the numbers are in the label."""
    ceiling = max(max(row) for row in table_) or 1.0
    cells = "".join(
        f'<rect x="{20 * j + 0.5}" y="{11 * i + 0.5}" width="19" height="10" rx="2.5" fill="rgb{ramp(CIVIDIS, v / ceiling)}"/>'
        for i, row in enumerate(table_)
        for j, v in enumerate(row)
    )
    return f'<svg class="pop" viewBox="0 0 120 33" role="img" aria-label="{escape(label)}">{cells}</svg>'


def population_key(rows: Sequence[str], columns: Sequence[str], tones: Sequence[str], few: str, many: str, label: str) -> str:
    """How to read the plates of `population`: its rows by name, its columns as swatches `tones` over cells, and the ramp of colours."""
    parts = [f'<svg class="pop-key" viewBox="0 0 400 62" role="img" aria-label="{escape(label)}">']
    for j, (name, tone) in enumerate(zip(columns, tones)):
        parts.append(f'<circle cx="{20 * j + 10}" cy="8" r="6.5" fill="{tone}"><title>{escape(name)}</title></circle>')
        parts += [f'<rect class="cell" x="{20 * j + 0.5}" y="{14 * i + 20}" width="19" height="12" rx="2.5"/>' for i in range(len(rows))]
    parts += [f'<text x="128" y="{14 * i + 30}">{escape(name)}</text>' for i, name in enumerate(rows)]
    stops = "".join(f'<stop offset="{n / (len(CIVIDIS) - 1):.3f}" stop-color="rgb{c}"/>' for n, c in enumerate(CIVIDIS))
    parts.append(f'<defs><linearGradient id="pop-ramp">{stops}</linearGradient></defs>')
    parts.append(f'<rect x="240" y="20" width="140" height="12" rx="2.5" fill="url(#pop-ramp)"/><text x="240" y="48">{escape(few)}</text>')
    return "".join(parts) + f'<text x="380" y="48" text-anchor="end">{escape(many)}</text></svg>'
