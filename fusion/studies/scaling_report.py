"""The page of `fusion.studies.scaling`: constants, measurements beside the model, figures, and what follows for a fit of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fusion.studies.figures import Panel, draw
from fusion.studies.scaling import CONSTANTS, MEMBERS, PARTS, TITLE, Fit, Size, fitted, predicted
from fusion.studies.tables import markdown, mean_interval, told, write_csv

LETTERS = {"k": "models K", "n": "pictures N", "l": "noise levels L", "p": "processes P"}


def write(out: Path, fits: list, drawn: list, size: Size) -> dict:
    """README.md, tables and a figure; plain JSON values. `fits`: `(Fit, repeat, {"busiest", "all"})`, `drawn`: `(K, P, repeat, ...)`."""
    out.mkdir(parents=True, exist_ok=True)
    constants = fitted([(point, found["busiest"]) for point, _, found in fits])
    rows = _rows(fits, constants)
    errors = np.array([abs(row["model"] / row["seconds"].value - 1) for row in rows])
    pictures = _drawn(drawn, size)
    write_csv(out / "fits.csv", rows)
    write_csv(out / "drawing.csv", pictures)
    draw(out / "scaling.svg", _panels(rows, constants))
    summary = {
        "seconds_per_unit": {part: dict(zip(CONSTANTS[part], map(float, constants[part]))) for part in PARTS},
        "median_error": float(np.median(errors)),
        "largest_error": float(errors.max()),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    repeats = 1 + max(repeat for _, repeat, _ in fits)
    (out / "README.md").write_text(_page(rows, pictures, constants, summary, size, repeats), encoding="utf-8")
    return summary


def _rows(fits: list, constants: dict) -> list[dict]:
    """One line for each measured fit: seconds with their interval over repetitions, and what the model says."""
    rows = []
    for point in dict.fromkeys(point for point, *_ in fits):
        own = [found for at, _, found in fits if at == point]
        parts = {part: mean_interval([one["busiest"][i] for one in own]) for i, part in enumerate(PARTS)}
        rows.append({"k": point.k, "n": point.n, "l": point.l, "p": point.p, "evaluations": point.evaluations, **parts,
                     "seconds": mean_interval([one["busiest"].sum() for one in own]), "model": float(predicted(constants, point).sum()),
                     "all": mean_interval([one["all"].sum() for one in own])})  # fmt: skip
    return rows


def _drawn(drawn: list, size: Size) -> list[dict]:
    rows = []
    for k, p in dict.fromkeys((k, p) for k, p, *_ in drawn):
        seconds = mean_interval([found["busiest"].sum() for *at, _, found in drawn if at == [k, p]])
        rows.append({"k": k, "p": p, "evaluations": k * size.steps * size.images, "seconds": seconds})
    return rows


def _panels(rows: list[dict], constants: dict) -> list[Panel]:
    """One panel for each letter that was varied with the others held."""
    panels = []
    for letter, title in LETTERS.items():
        others = [name for name in LETTERS if name != letter]
        groups: dict[tuple, list[dict]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in others), []).append(row)
        line = sorted(max(groups.values(), key=len), key=lambda row: row[letter])
        if len(line) < 2:
            continue
        held = ", ".join(f"{name.upper()} = {line[0][name]}" for name in others)
        model = [(row[letter], float(predicted(constants, Fit(row["k"], row["n"], row["l"], row["p"])).sum())) for row in line]
        series = {"measured": [(row[letter], row["seconds"]) for row in line], "model": model}
        ticks = [row[letter] for row in line]
        panels.append(Panel(f"{title} ({held})", title, "seconds, busiest process", series, ticks=ticks, y_range=(0, None)))
    return panels


def _small(milliseconds: float) -> str:
    return f"{milliseconds:.2g} ms" if milliseconds > 0 else "too little to measure"


def _page(rows: list[dict], pictures: list[dict], constants: dict, summary: dict, size: Size, repeats: int) -> str:
    milliseconds = {name: 1000 * value for part in PARTS for name, value in zip(CONSTANTS[part], constants[part])}
    evaluation, picture, copy, square, posterior = milliseconds.values()
    command = "python -m fusion study scaling" + ("" if repeats == size.repeats else f" --seeds {repeats}")
    biggest = max(rows, key=lambda row: row["evaluations"])
    table = [row | {"model": f"{row['model']:.2f}", "error": f"{row['model'] / row['seconds'].value - 1:+.0%}",
                    **{name: told(row[name], 2) for name in ("seconds", "network")}} for row in rows]  # fmt: skip
    return f"""# {TITLE}

`{command}`: the shipped portraits
({", ".join(MEMBERS)}; 4 x 16 x 16 latents), one thread a process, every point measured {repeats} times.
Seconds are processor time of the busiest process, with 95 % intervals over repetitions: waiting for other work does not count.
Loading is not in them. All pictures have one prompt, the dearest case.

## The model

With K models, N pictures, L noise levels (each with a draw and its mirror image), P processes:

    copies C   = 2 N L                                noisy copies of pictures; each is shown to all K models: K C network evaluations
    batches B  = ceil(C / b)                          b = 64 copies, fewer for large latents; batch i is process i mod P's
    share      = ceil(B / P) b, at most C             copies of the busiest process
    seconds    = e K share + d ceil(N / P) + share (a0 + a1 K^2 + a2 K N)

{markdown([{"constant": letter, "is the time of": name, "milliseconds": f"{value:.4g}"}
           for letter, (name, value) in zip(("e", "d", "a0", "a1", "a2"), milliseconds.items())])}
It is within {summary["median_error"]:.1%} of the measurements in the median and {summary["largest_error"]:.0%} at worst.

{markdown(table, {"k": "K", "n": "N", "l": "L", "p": "P", "evaluations": "evaluations", "seconds": "seconds", "network": "of them networks",
                  "model": "model", "error": "model against measured"})}
![Measured seconds and the model against K, N, L and P](scaling.svg)

## What follows

* **Linear in K, N and L.** At K = {biggest["k"]}, N = {biggest["n"]}, L = {biggest["l"]} the networks are
  {biggest["network"].value / biggest["seconds"].value:.0%} of the time even for networks as small as these. For other models put the
  time of one of their evaluations in place of e; a0, a1 and a2 grow with the size D of the latent (here 1,024), the rest stays.
* **K^2 and N^2 are there and small.** At K = 3, N = 24 a copy costs {_small(square * 9)} for its K x K products and
  {_small(posterior * 72)} for the posterior over the pictures of its prompt, against {3 * evaluation:.3g} ms for the networks.
* **Processes share batches, not pictures**, so N need not be a multiple of P. What is lost is the last round: with B batches at most B
  processes have work, and P of them take ceil(B / P) / B of the time. The sums that are exchanged at the end have
  8 N (2 K^2 L + 1) bytes, once.
* **The statistic is the same** for any P but for the order of float64 sums, so a fit can be moved between machines, and the images of
  `sample` are the same files (tests/fusion/test_parallel.py).
* **A fit that goes on, or grows, costs what is new**: another model 2 N L evaluations, another picture 2 K L, a killed run at most some
  seconds. For this, `fit` keeps 4 x K x C x D bytes beside the recipe (SDXL at 1024 pixels, K = 2, N = 32, L = 16: 0.5 GB).
* **Memory** does not grow with N or L but for the statistic, 16 N L K^2 bytes. Where a batch does not fit it is halved.

## Drawing

`uniform`, {size.images} images, steps: {size.steps}. K x steps evaluations an image (twice that with classifier-free guidance), in
batches of 16 that are shared out like those of a fit.

{markdown([{**row, "seconds": told(row["seconds"], 2)} for row in pictures], {"k": "K", "p": "P", "evaluations": "evaluations",
                                                                           "seconds": "seconds, busiest process"})}
## More than one GPU or machine

    accelerate launch --multi_gpu --num_processes 4 -m fusion fit --models ... --images ...
    accelerate launch --multi_gpu --num_machines 2 --machine_rank 0 --main_process_ip HOST --main_process_port 29500 \\
        --num_processes 8 -m fusion fit --models ... --images ... --work SHARED-FOLDER

Every process takes one GPU and loads all models; sums travel over gloo, so nothing but a network connection is needed. On CPUs the same
command with `--device cpu` behind `fit` starts several processes (`--cpu` in place of `--multi_gpu` starts one, without MPI). A folder that
all machines see as --work lets any of them go on with what the others had done.
"""
