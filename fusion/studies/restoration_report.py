"""The page of the study `restoration`: published figures beside ours, ablations, restored digits, and why the figures differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fusion.studies import transfer_report as report
from fusion.studies.figures import draw
from fusion.studies.restoration import BASELINES, TARGET, TITLE, Size
from fusion.studies.tables import write_csv
from fusion.studies.transfer_protocol import WAYS

PUBLISHED_PAIRS = (10, 20, 30, 40, 50, 100)
PUBLISHED = {"transferred": (0.3799, 0.2846, 0.2544, 0.2406, 0.2404, 0.2268), "scratch": (0.4409, 0.3180, 0.2746, 0.2551, 0.2501, 0.2344)}
WORDS = WAYS | BASELINES
NAME = str(TARGET)

ABOUT = """# {title}

`python -m fusion study restoration --data FOLDER-WITH-IDX-FILES` ({seeds} seeds, {images:,} images in the folder)

The transfer paper's second experiment (Cheng, Xie, Zhang, Zhang; NeurIPS 2025; arXiv 2502.04491, section 5 and appendix E.2): restore
digits from `y = x + N(0, I/4)`. Sources are the digits 1 to 9 with n = {n:,} images each, the target is the digit 0 with m = 10 ... 100.
f has 3 linear layers, 512 wide; h has 5, 512 wide, and 64 outputs. Phase 1 learns h with one f for each source, Phase 2 the target's f.

The error is the mean square over pixels of the mean of samples minus the clean image, over {tests} test images, pixels in [-1, 1]. The
noisy image itself has 0.25.
"""
DIFFERENCES = """## Where ours differs, and why

| | paper | here |
| --- | --- | --- |
| images | MNIST's training split, n = 5,000 a source | {images:,} images, n = {n:,} a source |
| pixels | scale not stated | [-1, 1] |
| measure | posterior mean (text) or posterior samples (appendix) | both; the tables say which |
| network | "784 input channels", nothing on h(y) and time | x and h(y) enter the first layer, time scales and shifts hidden units |
| prediction, loss | score, weight not stated | clean image, weighted by 1 + SNR up to 5 |
| Phase 1 | 2,000 epochs of 45,000 pairs | {first:,} steps of {batch} pairs, each noised {noises} times |
| Phase 2 | 20,000 steps of m pairs | {second:,} steps of {batch2} pairs, each noised {noises2} times |
| sampler | reverse SDE | probability-flow ODE, {steps} steps, {draws} antithetic samples a y |
| repetitions | one table, no error bars | {seeds} seeds, all drawn anew; 95 % Student intervals |

* n is a fraction of the paper's where the folder holds MNIST's test split only; the tables over n show what that costs. A folder with the
  training split beside it gives the paper's n.
* f is narrower (512) than an image (784 pixels), so it cannot output noise: trained to predict the score or the velocity, samples keep
  the noise that it cannot represent. Predicting the clean image avoids that. The paper does not say what its networks output.
* The scale of the pixels is a guess that fits: in [0, 1] the plain mean of the target's images would have a quarter of the error that it
  has in the table, far below every published figure.
* The paper has no other method in its table. A Wiener filter, the exact posterior mean for a Gaussian prior, needs no training at all, and
  the exact posterior mean for the m images alone shows what a network that has memorised them would answer.
"""
QUESTIONS = {
    "Does transfer beat training from scratch?": ("transferred", "scratch"),
    "Should h be frozen?": ("transferred", "unfrozen"),
    "Is it the learned h?": ("transferred", "untrained"),
    "Would a source's network do, untouched?": ("source", "transferred"),
    "Does fitting that network to the pairs beat starting anew?": ("warm", "transferred"),
    "Is it better than the noisy image itself?": ("transferred", "noisy"),
    "Does it beat memorising?": ("transferred", "nearest"),
    "Does any of it beat a Wiener filter of the same images?": ("transferred", "Wiener"),
}


def write(out: Path, rows: Sequence[dict], pictures: Mapping[str, np.ndarray], facts: Mapping, size: Size) -> dict:
    """README.md, results.csv, error.svg and digits.png; returns a summary as plain JSON values."""
    pairs, base, seeds = size.protocol.pairs, size.settings[0][0], 1 + max(row["seed"] for row in rows)
    main = [row for row in rows if (row["K"], row["n"]) == (base, facts["n"])]
    end, published = report.final(main), PUBLISHED if pairs == PUBLISHED_PAIRS else {}
    write_csv(out / "results.csv", rows)
    shown = {way: words for way, words in WORDS.items() if way not in ("noisy", "mean", "untrained")}
    draw(out / "error.svg", report.curves(end, {NAME: f"target: the digit {NAME}"}, "error", shown, pairs, "error of the posterior mean"))
    gallery(out / "digits.png", pictures)
    first, second, protocol = size.protocol.first, size.protocol.second, size.protocol
    verdicts = report.answers(end, (NAME,), "error", pairs, QUESTIONS, WORDS, 3)
    tables = {"Posterior mean": report.against_m(end, NAME, "error", WORDS, pairs, published, 3),
              "Single samples": report.against_m(end, NAME, "sample", WAYS, pairs, published, 3)}  # fmt: skip
    settings = [(count, max(2, round(share * facts["n"]))) for count, share in size.settings]
    restored = f"The first tests of the first seed, networks fitted to m = {max(pairs)} images. From top to bottom: {', '.join(pictures)}."
    text = [ABOUT.format(title=TITLE, seeds=seeds, tests=size.tests, **facts), report.findings(verdicts),
            report.section("Error against the number of images", ("At the end of training.", "![Error against m](error.svg)"), tables),
            report.section("Restored digits", (restored, "![Restored digits](digits.png)"), {}),
            report.stopping(main, {NAME: ""}, "error", WORDS, pairs, 3),
            report.section("How many sources, and how many images of each", (
                           "Transferred with h frozen, at the end of training. Fewer sources are spread evenly over 1 ... 9: three are "
                           "1, 5 and 9, a single one is 5.",),
                           {"": report.ablation(report.final(rows), NAME, "error", settings, pairs, digits=3)}),
            DIFFERENCES.format(first=first.steps, batch=first.batch, noises=first.noises, second=second.steps, batch2=second.batch,
                               noises2=second.noises, steps=protocol.steps, draws=protocol.draws, seeds=seeds, **facts)]  # fmt: skip
    (out / "README.md").write_text("\n".join(text))
    return {"seeds": seeds, "verdicts": verdicts, **facts}


def gallery(path: Path, pictures: Mapping[str, np.ndarray], scale: int = 2) -> None:
    """One row for every label, its words at the left."""
    rows = [np.clip((np.asarray(row) + 1) * 127.5, 0, 255).astype(np.uint8) for row in pictures.values()]
    side = int(round(np.sqrt(rows[0].shape[1])))
    left, step = 170, side * scale + 4
    sheet = Image.new("L", (left + step * len(rows[0]), step * len(rows)), 255)
    pen = ImageDraw.Draw(sheet)
    for number, (label, row) in enumerate(zip(pictures, rows)):
        pen.text((4, number * step + step // 2 - 6), label, fill=0)
        for column, pixels in enumerate(row):
            tile = Image.fromarray(pixels.reshape(side, -1)).resize((side * scale, side * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * step, number * step))
    sheet.save(path, optimize=True)
