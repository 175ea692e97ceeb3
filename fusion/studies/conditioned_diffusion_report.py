"""The page of the study `conditioned-diffusion`: published figures beside ours, ablations, and why they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fusion.studies import transfer_report as report
from fusion.studies.conditioned_diffusion import BASELINES, TARGETS, TITLE, Size
from fusion.studies.figures import draw
from fusion.studies.tables import write_csv
from fusion.studies.transfer_protocol import WAYS

PUBLISHED_PAIRS = (10, 20, 30, 40, 50, 100)
PUBLISHED = {
    "5.5": {"transferred": (14.47, 3.68, 2.45, 1.82, 1.90, 0.91), "scratch": (21.99, 10.61, 5.71, 2.38, 1.77, 1.04)},
    "15": {"transferred": (6.14, 2.65, 1.61, 1.08, 0.96, 0.45), "scratch": (24.41, 20.62, 18.67, 13.49, 7.03, 1.23)},
}
PUBLISHED_STEPS = (400_000, 512)  # of Phase 1, and pairs in each
WORDS = WAYS | BASELINES

ABOUT = """# {title}

`python -m fusion study conditioned-diffusion` ({seeds} seeds)

The transfer paper's first experiment (Cheng, Xie, Zhang, Zhang; NeurIPS 2025; arXiv 2502.04491, section 5 and appendix E.1). A path x of
50 values follows `du = β u (1 - u²) / (1 + u²) ds + dw` in steps of 0.02; `y = M x + N(0, I/4)` has 100 values. {sources} sources have β
from 1 to 10 with n = {n:,} pairs each, the targets β₀ = 5.5 and 15 with m = {fewest} ... {most} pairs. f has {f[0]} linear layers, {f[1]}
wide; h has {h[0]}, {h[1]} wide, and {code} outputs. Phase 1 learns h with one f for each source, Phase 2 the target's f.

The error is the squared distance in R⁵⁰ between the mean of samples and the true posterior mean, averaged over {tests} test y, as
published. 0 is perfect; using no y at all costs {prior} (β₀ = 5.5) and {prior15} (15). The true mean comes from Hamiltonian Monte Carlo,
whose own error is below {own}. An estimate of the path itself could not do better than the posterior's variance, {variance} and
{variance15}.
"""
DIFFERENCES = """## Where ours differs, and why

| | paper | here |
| --- | --- | --- |
| drift | cites Cui et al. 2016 and Yu et al. 2023 | β u (1 - u²) / (1 + u²): Cui et al.'s, also in that group's code |
| M | "a pre-defined projection matrix" | rows drawn from the unit sphere, one M for all seeds |
| reference | Langevin Monte Carlo | Hamiltonian Monte Carlo, checked against the closed form at β = 0 |
| network | "60 input channels", time not described | x and h(y) enter the first layer, time scales and shifts the hidden units |
| prediction, loss | score, weight not stated | velocity, unweighted (the same score up to an affine map) |
| Phase 1 | 400,000 steps of 512 pairs | {first:,} steps of {batch} pairs, each noised {noises} times |
| Phase 2 | 200,000 steps of m pairs | {second:,} steps of {batch2} pairs, each noised {noises2} times |
| sampler | reverse SDE | probability-flow ODE, {steps} steps, {draws} antithetic samples a y |
| repetitions | "different replicates", no number, no spread | {seeds} seeds, all drawn anew; 95 % Student intervals |

* {beside} The paper's Phase 1 sees {longer:.0f} times the pairs of ours. results.csv has the errors after 10 % and 30 % of our steps, and
  the table of best moments shows which way they go. Its measure is read as a sum over the 50 values, not as their mean.
* With unit rows ten numbers nearly suffice, as the paper assumes: the best linear estimate loses {rank} (β₀ = 5.5) and {rank15} (15) where
  it may read y through ten numbers only. With N(0, 1) entries it would lose {normal} and {normal15}. Which M it was is not said.
* The paper has neither linear regression on the same m pairs nor a source's network used untouched. All targets share M and the noise,
  which fix most of the posterior: the last lines of the tables show how little is left for a representation to do.
"""
QUESTIONS = {
    "Does transfer beat training from scratch?": ("transferred", "scratch"),
    "Should h be frozen?": ("transferred", "unfrozen"),
    "Is it the learned h?": ("transferred", "untrained"),
    "Would a source's network do, untouched?": ("source", "transferred"),
    "Does fitting that network to the pairs help it?": ("warm", "source"),
    "Does any of it beat linear regression on the same pairs?": ("transferred", "ridge"),
}


def write(out: Path, rows: Sequence[dict], facts: Mapping, size: Size) -> dict:
    """README.md, results.csv and error.svg; returns a summary as plain JSON values."""
    pairs, (k, n), seeds = size.protocol.pairs, size.settings[0], 1 + max(row["seed"] for row in rows)
    main = [row for row in rows if (row["K"], row["n"]) == (k, n)]
    end, published = report.final(main), PUBLISHED if pairs == PUBLISHED_PAIRS else {}
    write_csv(out / "results.csv", rows)
    shown = {way: words for way, words in WORDS.items() if way not in ("untrained", "Brownian")}
    draw(out / "error.svg", report.curves(end, TARGETS, "error", shown, pairs, "squared error of the posterior mean"))
    verdicts = report.answers(end, TARGETS, "error", pairs, QUESTIONS, WORDS)
    tables = {words: report.against_m(end, target, "error", WORDS, pairs, published.get(target)) for target, words in TARGETS.items()}
    text = [_about(facts, seeds, size), report.findings(verdicts), report.section("Error against the number of target pairs", (
            "At the end of training.", "![Error against m](error.svg)"), tables), report.stopping(main, TARGETS, "error", WORDS, pairs),
            _sources(rows, size), _spread(end, pairs), _differences(size, facts, seeds, _beside(end, published, pairs))]  # fmt: skip
    (out / "README.md").write_text("\n".join(text))
    return {"seeds": seeds, "verdicts": verdicts, "facts": facts}


def _about(facts: Mapping, seeds: int, size: Size) -> str:
    sizes, pairs, (sources, n) = size.protocol.sizes, size.protocol.pairs, size.settings[0]
    return ABOUT.format(title=TITLE, seeds=seeds, sources=sources, n=n, fewest=min(pairs), most=max(pairs), f=sizes.score, h=sizes.encoder,
                        code=sizes.code, tests=size.tests, prior=f"{facts['prior']['5.5']:.0f}", prior15=f"{facts['prior']['15']:.0f}",
                        own=f"{max(facts['own'].values()) + 5e-4:.3f}", variance=f"{facts['variance']['5.5']:.2f}",
                        variance15=f"{facts['variance']['15']:.2f}")  # fmt: skip


def _sources(rows: Sequence[dict], size: Size) -> str:
    end = [row for row in report.final(rows) if row["seed"] < size.ablation_seeds]
    repeated = len({row["seed"] for row in end})
    tables = {words: report.ablation(end, target, "error", size.settings, size.protocol.pairs) for target, words in TARGETS.items()}
    return report.section("How many sources, and how many pairs of each", (
        f"Transferred with h frozen, at the end of training, {repeated} seeds. Fewer sources are spread evenly over 1 ... 10, "
        "a single one is the middle.",), tables)  # fmt: skip


def _spread(end: Sequence[dict], pairs: Sequence[int]) -> str:
    tables = {words: report.against_m(end, target, "spread", WAYS, pairs) for target, words in TARGETS.items()}
    return report.section("Are the samples as spread as the posterior?", (
        "Total variance of the samples over the posterior's: 1 is right, less is too sure. The paper's theory bounds a distance between "
        "distributions; its experiment looks at means only.",), tables)  # fmt: skip


def _beside(end: Sequence[dict], published: Mapping, pairs: Sequence[int]) -> str:
    """How large our errors are beside the published ones, in words; nothing where this run's pairs are not the paper's."""
    told = []
    for at in (0, len(pairs) - 1) if published else ():
        ratios = [np.mean([row["error"] for row in end if (row["target"], row["way"], row["m"]) == (target, way, pairs[at])]) / figures[at]
                  for target, ways in published.items() for way, figures in ways.items()]  # fmt: skip
        told.append(f"{min(ratios):.2g} to {max(ratios):.2g} times the published ones at m = {pairs[at]}")
    return f"Our errors are {', '.join(told)}." if told else "This run's pairs are not the paper's, so its errors stand alone."


def _differences(size: Size, facts: Mapping, seeds: int, beside: str) -> str:
    first, second = size.protocol.first, size.protocol.second
    longer = PUBLISHED_STEPS[0] * PUBLISHED_STEPS[1] / (first.steps * first.batch)
    rank, normal = ({t: f"{v:.2f}" for t, v in facts[name].items()} for name in ("rank", "rank, normal"))
    return DIFFERENCES.format(
        first=first.steps, batch=first.batch, noises=first.noises, second=second.steps, batch2=second.batch, noises2=second.noises,
        beside=beside, longer=longer, steps=size.protocol.steps, draws=size.protocol.draws, seeds=seeds, rank=rank["5.5"],
        rank15=rank["15"], normal=normal["5.5"], normal15=normal["15"],
    )  # fmt: skip
