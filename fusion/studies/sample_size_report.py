"""The page of the study `sample-size`: the curves, and how many images each method needs to be as good as a given one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from fusion.evaluation.estimate import Estimate
from fusion.studies.figures import COLOURS, DASHES, MARKERS
from fusion.studies.tables import markdown, mean_interval, pivot, write_csv

ABOUT = """# How many target images does each method need?

Made by `python -m fusion study sample-size{more}`. Do not edit.

Images of the population `{target}`: {sizes} of them are fitted, nested, {held_out} further ones are held out; {samples} samples a method
at {steps} steps; seeds: {seeds} (other images and other sampling seeds). Total variation between the samples' population, read by the
probe, and the known one: a perfect sampler would measure {floor:.3f} on so many samples. In brackets the 95 % interval {over}.
"""
OVER = {True: "over samples: other images of the same population would move the curves by more than that", False: "over seeds (Student's)"}
SAVED = "Nearer than the best single model by (same images, same sampling seeds)"
NEEDED = """A quality is a total variation as measured above, of which chance alone makes {floor:.3f}. {over}.
"""
NEEDED_OVER = {True: "In brackets what the interval over samples leaves possible",
               False: "The median of the seeds, in brackets the least and the most that one of them needed"}  # fmt: skip
QUALITIES = (0.40, 0.35, 0.30, 0.25, 0.20)


def write(out: Path, rows: list[dict], settings: dict) -> dict:
    """README.md, sample-size.json, CSV and the figure; returns what the JSON holds."""
    curves = _curves(rows)
    needed = {name: _needed(curve["population"], [row for row in rows if row["method"] == name]) for name, curve in curves.items()}
    summary = {"settings": settings, "curves": curves, "break_even": needed, "rows": rows}
    if not rows:  # stopped before there was anything: what is there stays
        return summary
    out.mkdir(parents=True, exist_ok=True)
    (out / "sample-size.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    text = ABOUT.format(**settings | {"sizes": ", ".join(map(str, settings["sizes"])), "over": OVER[settings["seeds"] == 1],
                                      "more": "" if settings["seeds"] == 1 else f" --seeds {settings['seeds']}"})
    text += "" if settings["complete"] else "\n**Stopped early: the same command goes on and completes it.**\n"
    text += _tables(rows, curves, settings)
    text += "\n![Distance to the population against the number of target images](sample-size.svg)\n" + _business(summary)
    (out / "README.md").write_text(text)
    write_csv(out / "sample-size.csv", [_flat(row) for row in rows])
    _figure(out / "sample-size.svg", curves, settings)
    return summary


def _curves(rows: list[dict]) -> dict:
    """Per method: `[size, value, low, high]` (over seeds; over samples where there is one seed), and what it costs."""
    curves = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        same = [row for row in rows if row["method"] == name]
        sizes = dict.fromkeys(row["size"] for row in same)
        points = {figure: [[size, *_mean([row[figure] for row in same if row["size"] == size])] for size in sizes]
                  for figure in ("population", "kid")}  # fmt: skip
        costs = {key: float(np.mean([row["cost"][key] for row in same])) for key in ("evaluations", "memory")}
        once = {key: float(np.mean([value(row) for row in same])) for key, value in (
            ("preparing", lambda row: row["preparing"]), ("preparation", lambda row: row["cost"]["preparation"]))}  # fmt: skip
        curves[name] = {"title": same[0]["title"], **points, **costs, **once}
    return curves


def _mean(estimates: list[dict]) -> list[float]:
    if len(estimates) == 1:
        return [estimates[0][end] for end in ("value", "low", "high")]
    over = mean_interval([one["value"] for one in estimates])
    return [over.value, over.low, over.high]


def _tables(rows: list[dict], curves: dict, settings: dict) -> str:
    """Distances, what is saved against the best single model where there are seeds to tell it from chance, and KID."""
    blocks = {label: {(curve["title"], size): Estimate(*point) for curve in curves.values() for size, *point in curve[name]}
              for name, label in (("population", "Distance to the population"), ("kid", "KID against held-out images"))}  # fmt: skip
    paired = _saved(rows) if settings["seeds"] > 1 and "single" in settings["methods"] else {}
    by_size = lambda figures: pivot(figures, "method", settings["sizes"], lambda size: f"{size} images")  # noqa: E731
    text = "".join(f"\n## {label}\n\n{by_size(figures)}" for label, figures in blocks.items())
    return text + (f"\n## {SAVED}\n\n{by_size(paired)}\n{_beyond_chance(paired, settings['sizes'])}" if paired else "")


def _beyond_chance(paired: dict, sizes) -> str:
    """Which methods are nearer than the best single model, and which farther, by intervals that leave out 0."""
    lines = []
    for size in sizes:
        at = {title: found for (title, of), found in paired.items() if of == size}
        nearer = [title for title, found in at.items() if found.low > 0]
        farther = [title for title, found in at.items() if found.high < 0]
        lines.append(f"* {size} images: {', '.join(nearer) or 'none'}" + (f"; farther: {', '.join(farther)}" if farther else "") + ".")
    by_luck = f"of {len(paired)} figures, about {len(paired) / 40:.0f} would be so without any difference"
    return f"Nearer by more than chance, where the interval leaves out 0 ({by_luck}):\n\n" + "\n".join(lines) + "\n"


def _saved(rows: list[dict]) -> dict:
    """`{(title, size): Estimate}`: what a method is nearer to the population than the best single model, paired by seed."""
    far = {(row["method"], row["size"], row["seed"]): row["population"]["value"] for row in rows}
    saved: dict[tuple[str, int], list[float]] = {}
    for row in rows:  # a study that was stopped has seeds without all sizes
        if row["method"] != "single" and ("single", row["size"], row["seed"]) in far:
            saved.setdefault((row["title"], row["size"]), []).append(far["single", row["size"], row["seed"]] - row["population"]["value"])
    return {key: mean_interval(values) for key, values in saved.items()}


def _needed(curve: list, rows: list[dict]) -> dict:
    """Per quality `[images, at best, at worst]`: the (upper) median over seeds of where a seed's curve crosses it, the first and the last.

    Seeds that were stopped before the largest size are left out: whether they keep a quality is not known. Of one seed: where the curve
    and the ends of its interval over samples cross it. Intervals of a mean of few seeds are no use here: the
    curves fall slowly, and Student's factor alone would stretch every range over all sizes.
    """
    sizes = {row["size"] for row in rows}
    seeds = [seed for seed in sorted({row["seed"] for row in rows}) if {row["size"] for row in rows if row["seed"] == seed} == sizes]
    own = [[[row["size"], row["population"]["value"]] for row in rows if row["seed"] == seed] for seed in seeds]
    if len(seeds) < 2:
        own = [[[point[0], point[end]] for point in curve] for end in (1, 2, 3)]
    found = [break_even(one) for one in own]
    ranked = {quality: sorted((one[quality] for one in found), key=lambda n: math.inf if n is None else n) for quality in found[0]}
    return {quality: [images[len(images) // 2], images[0], images[-1]] for quality, images in ranked.items()}


def break_even(curve: list) -> dict:
    """For every quality the number of images from which on a method keeps it, between two sizes of `[size, value, ...]` on a logarithmic
    scale; None where it never does up to the largest, the smallest size where it does there already."""
    found = {}
    for quality in QUALITIES:
        reached = None
        for (size, value, *_), (before, worse, *_) in zip(curve[::-1], curve[-2::-1] + [(None, math.inf)]):
            if value > quality:
                break
            reached = size if before is None or worse <= quality or worse == value else _between(before, worse, size, value, quality)
        found[f"{quality:.2f}"] = reached
    return found


def _between(before: float, worse: float, size: float, value: float, quality: float) -> float:
    share = (worse - quality) / (worse - value)
    return float(math.exp(math.log(before) + share * (math.log(size) - math.log(before))))


def _business(summary: dict) -> str:
    """Images needed for a quality, and what each method costs: for an image, for a target, and before any target."""
    smallest, largest, lines = summary["settings"]["sizes"][0], summary["settings"]["sizes"][-1], []
    for name, curve in summary["curves"].items():
        needed = {q: _range(n, smallest, largest) for q, n in summary["break_even"][name].items()}
        parts = (f"{curve['preparing']:.0f} s" if curve["preparing"] else "",
                 f"{curve['preparation']:,.0f} evaluations" if curve["preparation"] else "")  # fmt: skip
        once = ", ".join(filter(None, parts)) or "-"
        lines.append({"method": curve["title"]} | needed | {"evaluations an image": f"{curve['evaluations']:.3g}", "once a target": once})
    headings = {q: f"TV {q}" for q in lines[0] if q.startswith("0.")}
    about = NEEDED.format(floor=summary["settings"]["floor"], over=NEEDED_OVER[summary["settings"]["seeds"] == 1])
    text = f"\n## Images needed for a quality\n\n{about}\n" + markdown(lines, {key: headings.get(key, key) for key in lines[0]})
    before = summary["settings"]["before"]
    text += (
        f"\nBefore any target: a calibration, which the mixture, the blend and the choice of the best single model stand on, takes "
        f"{before['calibration']['evaluations']:,} network evaluations ({before['calibration']['images']} images of the models' own)"
    )
    phase = before["source phase"]
    source = "" if phase is None else f"; the source phase of Transfer trained for {phase['seconds']:,.0f} s"
    return f"{text}{source}, once for an ensemble.\n"


def _range(found: list, smallest: int, largest: int) -> str:
    """`12 (6 to not by 64)`: the number of images, and between what it lies."""
    at, best, worst = (_told(images, smallest, largest) for images in found)
    return at if best == worst else f"{at} ({best} to {worst})"


def _told(images: float | None, smallest: int, largest: int) -> str:
    if images is None:
        return f"not by {largest}"
    return f"{smallest} or fewer" if round(images) <= smallest else f"{images:.0f}"


def _flat(row: dict) -> dict:
    flat = {key: row[key] for key in ("seed", "size", "method", "preparing")}
    return flat | {f"{name} {end}": row[name][end] for name in ("population", "kid") for end in ("value", "low", "high")} | row["cost"]


def _figure(path: Path, curves: dict, settings: dict) -> None:
    """All methods in one pair of axes, each with its name at its end; colour, marker and dash tell neighbours apart."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "study", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(8.4, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        ends = []
        for number, curve in enumerate(curves.values()):
            sizes, values = [point[0] for point in curve["population"]], [point[1] for point in curve["population"]]
            style = {"color": COLOURS[number % 8], "marker": MARKERS[(number + number // 8) % 8], "linestyle": DASHES[number // 8 * 2 % 8]}
            axis.plot(sizes, values, markersize=4.5, linewidth=1.4, **style)
            ends.append((values[-1], curve["title"], style["color"]))
        axis.set_xscale("log")
        axis.set_xticks(settings["sizes"], [str(size) for size in settings["sizes"]])
        axis.minorticks_off()
        axis.set(xlabel="target images", ylabel="total variation to the target's population")
        for place, (value, title, colour) in _spread(sorted(ends), axis.get_ylim()):
            axis.annotate(title, (settings["sizes"][-1], value), xytext=(1.04, place), textcoords=("axes fraction", "data"), color=colour,
                          fontsize=8, va="center", arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6})  # fmt: skip
        figure.savefig(path, metadata={"Date": None})


def _spread(ends: list, limits: tuple[float, float]) -> list:
    """Places for labels, a line apart, near their curves' ends."""
    step, placed, at = (limits[1] - limits[0]) / 26, [], -math.inf
    for end in ends:
        at = max(end[0], at + step)
        placed.append((at, end))
    return placed
