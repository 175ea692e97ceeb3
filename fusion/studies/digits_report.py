"""The page of the study `digits`: tables, figures and pictures from its cells, with the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fusion.studies.digits import METHODS, ONCE, SHOWN
from fusion.studies.digits_data import SEVENS, TARGET
from fusion.studies.figures import Panel, draw
from fusion.studies.tables import markdown, mean_interval, not_told_apart, over_seeds, pivot, told, write_csv

# ScoreFusion's digit weights, of members with 10, 30, 70 and 90 % sevens, by number of target images (the authors' code, fusion_HD_NLL.py)
PUBLISHED = {
    64: (0.199, 0.305, 0.279, 0.217), 128: (0.187, 0.326, 0.267, 0.220), 256: (0.182, 0.328, 0.284, 0.206),
    512: (0.181, 0.319, 0.285, 0.216), 1024: (0.167, 0.345, 0.319, 0.170), 16_384: (0.176, 0.310, 0.295, 0.220),
}  # fmt: skip
SHARES = tuple(SEVENS.values())


def write(out: Path, cells: list[dict], facts: dict, size) -> dict:
    """Write README.md, results.csv, weights.csv, curves.svg and samples.png into `out`; returns the summary, plain JSON values."""
    rows = [{"n": cell["n"], "seed": cell["seed"], **row} for cell in cells for row in cell["rows"]]
    fits = [_fit_row(cell) for cell in cells]
    write_csv(out / "results.csv", rows)
    write_csv(out / "weights.csv", fits)
    nll, sevens = over_seeds(rows, ("method", "n"), "nll"), over_seeds(rows, ("method", "n"), "sevens")
    off = over_seeds([row | {"off": abs(row["sevens"] - TARGET)} for row in rows], ("method", "n"), "off")
    _curves(out / "curves.svg", nll, sevens, facts["sizes"])
    _pictures(out / "samples.png", [cell for cell in cells if cell["seed"] == 0])
    (out / "README.md").write_text(_page(nll, sevens, off, rows, fits, facts, size))
    plain = lambda figures: {f"{method}, n = {n}": [one.value, *((one.low, one.high) if np.isfinite(one.high) else ())]  # noqa: E731
                             for (method, n), one in figures.items()}  # fmt: skip
    return {"nll": plain(nll), "sevens": plain(sevens), "facts": facts | {"sizes": list(facts["sizes"])}}


def _fit_row(cell: dict) -> dict:
    parts = {f"{kind} {name}": float(v) for kind in ("weights", "proportions") for name, v in zip(SEVENS, cell[kind])}
    implied = {f"sevens by {kind}": float(np.dot(cell[kind], SHARES)) for kind in ("weights", "proportions")}
    return {"n": cell["n"], "seed": cell["seed"], **parts, **implied, "widest interval": float(np.ptp(cell["interval"], 1).max()),
            "scratch steps": int(cell["steps"][0]), "fine-tuned steps": int(cell["steps"][1])}  # fmt: skip


def _curves(path: Path, nll: Mapping, sevens: Mapping, sizes) -> None:
    curve = lambda figures: {m: [(n, figures[m, n]) for n in sizes if (m, n) in figures] for m in METHODS}  # noqa: E731
    left = Panel("Likelihood of held-out images", "target images n", "bits per pixel (less is better)", curve(nll), log_x=True, ticks=sizes)
    right = Panel("Population of the samples", "target images n", "share of sevens", curve(sevens), {"target": TARGET}, log_x=True,
                  ticks=sizes)  # fmt: skip
    draw(path, [left, right])


def _pictures(path: Path, cells: list[dict]) -> None:
    """The first samples of every method, at the smallest and the largest n."""
    shown = [cells[0], cells[-1]]
    lines = [method for method in (*METHODS, *ONCE) if any(method in cell["shown"] for cell in shown)]
    left, width = 90, SHOWN * 28
    sheet = Image.new("L", (left + 2 * width + 12, 20 + 30 * len(lines)), 255)
    pen = ImageDraw.Draw(sheet)
    for column, cell in enumerate(shown):
        at = left + column * (width + 12)
        pen.text((at, 4), f"n = {cell['n']}", fill=0)
        for line, method in enumerate(lines):
            pen.text((2, 28 + 30 * line), method, fill=0)
            for place, picture in enumerate(cell["shown"].get(method, ())):
                sheet.paste(Image.fromarray(picture), (at + 28 * place, 20 + 30 * line))
    sheet.save(path, optimize=True)


# ------------------------------------------------------------------------------------------------ the page


def _page(nll, sevens, off, rows, fits, facts, size) -> str:
    sizes, seeds = facts["sizes"], len({row["seed"] for row in rows})
    column = lambda n: f"n = {n}"  # noqa: E731
    return f"""# Digits: sevens and nines

Made by `python -m fusion study digits --data FOLDER`, FOLDER holding {_source(facts)}. Do not edit.

Four members know populations of sevens and nines with 10, 30, 70 and 90 % sevens; the target has 60 %. {_sizes(facts, size, seeds)}

![Likelihood and population against the number of target images](curves.svg)

## Result

{_found(rows, nll, off, sizes)}

### Negative log likelihood of {size.nll_images} held-out images of the target, bits per pixel

{pivot(_only(nll, METHODS), "method", sizes, column)}
The four members alone: {_members(facts, "nll")}. By the probability-flow ODE (Heun, {size.steps_nll} steps), uniform
dequantisation, Hutchinson's divergence, the same draws for all methods; the networks' space is a logit of the pixel, whose volume is
counted. `mixture` is the exact density of the routed samples.

### Share of sevens among {size.samples} samples (target {TARGET:.2f})

{pivot(_only(sevens, (*METHODS, *ONCE)), "method", sizes, column, 2)}
The members alone: {_members(facts, "sevens", 2)}. Read by a small classifier that no sample and no member's image has
taught ({facts["reader_accuracy"]:.1%} right on images it has not seen) and corrected for its errors. `barycenter` (the exact geometric
average, by Feynman-Kac weights) and `superposition` (SuperDiff's OR, with the proportions of `mixture`) are drawn at the largest n only.
Both figures: mean over {seeds} seeds with Student's 95 % interval; a seed draws new target images and new networks, the members stay.

![Samples of every method](samples.png)

## Weights beside the published ones

{_weights(fits, sizes)}
Implied share of sevens: the members' shares, averaged with the weights. The last column: width of the widest 95 % bootstrap interval.

## Why ours differs

* **Sizes.** The paper has 25,000 EMNIST images for each member and up to 16,384 of the target; here a member has {facts["member_images"]}.
* **Weights.** The published ones stay near uniform at every n and imply 50 to 52 % sevens, where the target has 60 %. Ours, at
  n = {sizes[-1]}, differ from uniform by at most {_from_uniform(fits, sizes[-1]):.2f} (mean over seeds). Averaging cancels the members' own
  errors whatever the target is, which pulls the minimum of the loss off its proportions; the
  calibrated proportions use the same statistic with
  those errors removed. Shares of sevens are on a line, so many weights imply the same share: read the column of implied shares first.
* **Likelihood.** The authors' code adds 8 bits per pixel for the 256 levels of a pixel that it has also divided by 0.3081; that leaves out
  log2 0.3081, so its figures are 1.70 bits above the likelihood they stand for. Ours count the volume of every map.
* **From scratch** ours stops on a fifth of its images that it does not train on. The paper gives its baseline a validation set as large as
  its training set.
* **Merge** averages the parameters of the members, which share their initialisation here; the paper merges no digit models.
"""


def _source(facts: Mapping) -> str:
    return f"{facts['images']:,} digits in idx files, {facts['sevens']:,} sevens and {facts['nines']:,} nines among them"


def _sizes(facts: Mapping, size, seeds: int) -> str:
    left_out = [n for n in size.sizes if n not in facts["sizes"]]
    text = f"""Each member is
trained on {facts["member_images"]} images; targets of up to {facts["sizes"][-1]} images, {size.evaluation} evaluation images and those for
calibration and the classifier are kept apart."""
    if left_out:
        text += f" For n = {', '.join(map(str, left_out))} this folder holds too few (the MNIST test split, say; the full sets would do)."
    return text


def _members(facts: Mapping, key: str, digits: int = 3) -> str:
    return ", ".join(f"{value[key]:.{digits}f} ({name} sevens)" for name, value in facts["members"].items())


def _only(figures: Mapping, methods) -> dict:
    return {key: figures[key] for method in methods for key in figures if key[0] == method}


def _found(rows: list[dict], nll: Mapping, off: Mapping, sizes) -> str:
    """What the tables show, in sentences made from them; what the seeds cannot tell from the best is named beside it."""
    lines = []
    for n in (sizes[0], sizes[-1]):
        here = [row | {"off": abs(row["sevens"] - TARGET)} for row in rows if row["n"] == n and row["method"] in METHODS]
        best = min(METHODS, key=lambda m: nll[m, n].value)
        true = min(METHODS, key=lambda m: off[m, n].value)
        lines += [f"* At n = {n} the likeliest is `{best}` ({told(nll[best, n])}; `fusion` {told(nll['fusion', n])}, `scratch` "
                  f"{told(nll['scratch', n])}){_same(here, 'nll', best)}, and the samples of `{true}` are nearest to 60 % sevens (off by "
                  f"{off[true, n].value:.2f}; `fusion` {off['fusion', n].value:.2f}, `mixture` {off['mixture', n].value:.2f})"
                  f"{_same(here, 'off', true)}."]  # fmt: skip
    ahead = [n for n in sizes if all(nll["scratch", m].value < nll["fusion", m].value for m in sizes if m >= n)]
    lines.append(f"* From n = {ahead[0]} a network of its own is likelier than fusion." if ahead else
                 "* No network of its own becomes likelier than fusion at these sizes.")  # fmt: skip
    everywhere = {m: float(np.mean([off[m, n].value for n in sizes])) for m in METHODS}
    order = sorted(METHODS, key=everywhere.get)
    lines.append("* Mean distance to 60 % sevens over all n: " + ", ".join(f"`{m}` {everywhere[m]:.2f}" for m in order) + ".")
    return "\n".join(lines)


def _same(rows: list[dict], value: str, best: str) -> str:
    """What the seeds cannot tell from the best, as a clause; empty where all are told apart."""
    found = not_told_apart(rows, value, best)
    return f", not told by these seeds from {', '.join(f'`{name}`' for name in found)}" if found else ""


def _weights(fits: list[dict], sizes) -> str:
    rows = []
    for n in sizes:
        here = [row for row in fits if row["n"] == n]
        for kind, title in (("weights", "fusion"), ("proportions", "calibrated proportions")):
            rows.append({"n": n, "kind": title, **{name: mean_interval([row[f"{kind} {name}"] for row in here]) for name in SEVENS},
                         "implied": mean_interval([row[f"sevens by {kind}"] for row in here]),
                         "interval": f"{np.mean([row['widest interval'] for row in here]):.2f}" if kind == "weights" else ""})  # fmt: skip
    rows += [{"n": n, "kind": "published", **dict(zip(SEVENS, map(float, w))), "implied": float(np.dot(w, SHARES)), "interval": ""}
             for n, w in PUBLISHED.items()]  # fmt: skip
    names = {"n": "n", "kind": "weights", **{name: f"{name} sevens" for name in SEVENS}}
    return markdown(rows, names | {"implied": "implied sevens", "interval": "interval"}, digits=2)


def _from_uniform(fits: list[dict], n: int) -> float:
    """Largest difference of a fusion weight, mean over seeds, from that of uniform weights."""
    here = [[row[f"weights {name}"] for name in SEVENS] for row in fits if row["n"] == n]
    return float(np.abs(np.mean(here, axis=0) - 1 / len(SHARES)).max())
