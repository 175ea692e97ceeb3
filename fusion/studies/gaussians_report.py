"""The page of the study `gaussians`: tables and figures from its rows, with the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fusion.evaluation.estimate import Estimate
from fusion.studies.figures import Panel, draw
from fusion.studies.gaussians import AUXILIARY, KINDS, METHODS, PUBLISHED, TARGET
from fusion.studies.mixtures import distance_of_densities, geometric_average
from fusion.studies.tables import markdown, mean_interval, not_told_apart, over_seeds, pivot, told, write_csv

PUBLISHED_SCRATCH = {32: 106, 64: 13.2, 128: 16.6, 256: 2.02, 512: 0.49, 1024: 0.18}  # W1, evaluated from the authors' checkpoints
PUBLISHED_OTHERS = {"auxiliaries alone": "1.66 and 1.72", "fusion at the published weights": "0.31", "floor": "0.07"}
TITLES = {"closed form": "Members in closed form", "trained": "Trained members",
          "plain units": "Members in closed form, in plain units"}  # fmt: skip
CURVES = tuple(method for method in METHODS if method != "published weights")


def write(out: Path, rows: list[dict], size) -> dict:
    """Write README.md, results.csv and curves.svg into `out`; returns the summary, plain JSON values."""
    figures = over_seeds(rows, ("kind", "method", "n"), "w1")
    weights = over_seeds(rows, ("kind", "method", "n"), "weight")
    write_csv(out / "results.csv", rows)
    panels = [Panel(TITLES[kind], "target samples n", "W1 to the target", _curves(figures, kind, size.sizes),
                    {"as many target samples": figures["", "floor", size.samples].value}, log_x=True, log_y=True, ticks=size.sizes)
              for kind in KINDS]  # fmt: skip
    draw(out / "curves.svg", panels, columns=3, width=3.9, height=3.6)
    (out / "README.md").write_text(_page(rows, figures, weights, size))
    plain = lambda table: {" | ".join(map(str, key)): [one.value, one.low, one.high] for key, one in table.items() if np.isfinite(one.high)}  # noqa: E731
    return {"w1": plain(figures), "weight of the first auxiliary": plain(weights)}


def _curves(figures: Mapping, kind: str, sizes) -> dict[str, list]:
    """One curve per method; scratch and the n samples themselves do not depend on the members, so every panel shows them."""
    source = lambda method: kind if (kind, method, sizes[0]) in figures else "trained"  # noqa: E731
    return {method: [(n, figures[source(method), method, n]) for n in sizes] for method in CURVES}


def _table(figures: Mapping, kind: str, sizes, digits: int = 2) -> str:
    part = {(method, n): figures[kind, method, n] for method in METHODS for n in sizes if (kind, method, n) in figures}
    return pivot(part, "method", sizes, lambda n: f"n = {n}", digits)


def _page(rows: list[dict], figures: Mapping, weights: Mapping, size) -> str:
    kinds = "\n".join(f"### {TITLES[kind]}\n\n{_table(figures, kind, size.sizes)}" for kind in KINDS)
    lines, seeds = "\n".join(f"* {_found(rows, figures, kind, size.sizes)}" for kind in KINDS), len({row["seed"] for row in rows})
    return f"""# Gaussians: W1 against the number of target samples

Made by `python -m fusion study gaussians`. Do not edit.

The target is 0.6 N(-6, 0.8²) + 0.4 N(6, 0.8²); the auxiliary populations are 0.5/0.5 at (-3, 10) and 0.7/0.3 at (-7, 9), deviation 1. W1 of
{size.samples:,} samples to the target, mean over {seeds} seeds with Student's 95 % interval; as many samples of the target itself measure
{told(figures["", "floor", size.samples])}. A seed draws new target samples, new sources ({size.sources:,} each) and new networks.

![W1 against the number of target samples](curves.svg)

## Result

Over methods that fit their weights here; `published weights` (in the tables) were fitted elsewhere, to 1,024 samples.

{lines}

{kinds}
`fusion`: the published method, weights of least denoising loss over the whole noise path. `lowest level`: the same at noise below 0.01
only, as the authors' 1-D code does. `per level`: weights that change with the noise. `barycenter`: the exact geometric average with the
weights of `fusion`, by Feynman-Kac weights and resampling. `mixture`: every sample from one member, in proportions found by EM on the
members' likelihoods. `best single`: the member of least loss. `the n samples`: the target's samples themselves, no model. `scratch`: a
network trained on the n samples, of which a fifth stops it in time; it and `the n samples` need no members.

### Weight of the first auxiliary

{_weights(weights, size.sizes)}
The published weight is {PUBLISHED[0]} (1,024 samples).

## Beside the published figures

{_beside(figures, size)}
## Why ours differs

* **The coordinates do most of the work.** The authors standardise every data set by its own mean and deviation and map what a member draws
  back with the target's. That moves the auxiliary modes from (-3, 10) and (-7, 9) to {_modes(0)} and {_modes(1)}, close to the target's
  (-6, 6), using the target's own moments. The third table leaves the populations where they are: there fusion ends at W1
  {told(figures["plain units", "fusion", size.sizes[-1]], 2)} for n = {size.sizes[-1]}.
* **Fusion is not the geometric average.** Averaging the scores of noised members follows another flow than the noised average: each mode
  of the samples lands between the members' modes, with a share between theirs. The exact geometric average gives more mass to the mode
  where the members overlap more: at the published weights it has W1 {_exact():.2f}, by quadrature, where fusion has
  {told(figures["closed form", "published weights", size.sizes[-1]], 2)} (n = {size.sizes[-1]}). `barycenter` samples that average, and the
  target is not one.
* **Scratch.** The published networks end at their last checkpoint, not their best, and extrapolate wildly for few samples (W1 106 at
  n = 32). Ours stop on held-out samples, so they lose by less: compare them with `the n samples`, which any generator should match.
* **Weights.** The published one is a single run of gradient descent at the lowest noise level; ours is the exact minimum, over seeds.
* **Sampler.** Ours is SDE-DPM-Solver++(2M) in {size.steps_sample} steps from a level without signal; the published one Euler-Maruyama in
  1,000 steps from N(0, 9.85²), and W1 there is between two samples, so its floor is higher.
"""


def _found(rows: list[dict], figures: Mapping, kind: str, sizes) -> str:
    """What one table shows, in a sentence: best method with members at both ends, what cannot be told from it over seeds, and where a
    network of its own takes over. The published weights are left out: they were fitted to other samples."""
    with_members = [m for m in METHODS if m not in ("scratch", "the n samples", "published weights") and (kind, m, sizes[0]) in figures]
    parts = []
    for n in (sizes[0], sizes[-1]):
        best = min(with_members, key=lambda m: figures[kind, m, n].value)
        same = not_told_apart([r for r in rows if (r["kind"], r["n"]) == (kind, n) and r["method"] in with_members], "w1", best)
        parts.append(f"at n = {n} `{best}` is nearest ({told(figures[kind, best, n], 2)}"
                     + (f"; not told from it by these seeds: {', '.join(f'`{name}`' for name in same)})" if same else ")"))  # fmt: skip
    for rival, words in (("scratch", "networks of their own"), ("the n samples", "the n samples themselves")):
        saved = {n: _saved(rows, kind, rival, n) for n in sizes}
        ahead, mean = ([n for n in sizes if all(better(saved[m]) for m in sizes if m >= n)]
                       for better in (lambda one: one.low > 0, lambda one: one.value > 0))  # fmt: skip
        first = f" (on the mean of the seeds from {mean[0]})" if mean and mean[0] != (ahead or [None])[0] else ""
        parts.append(f"{words} do better than `fusion` by more than these seeds' chance "
                     + (f"from n = {ahead[0]}{first}" if ahead else f"at no n{first}"))  # fmt: skip
    return f"**{TITLES[kind]}**: {'; '.join(parts)}."


def _saved(rows: list[dict], kind: str, rival: str, n: int) -> Estimate:
    """By how much W1 of `fusion` exceeds that of a rival that needs no members, paired by seed."""
    w1 = {(row["kind"], row["method"], row["seed"]): row["w1"] for row in rows if row["n"] == n}
    return mean_interval([w1[kind, "fusion", seed] - w1["trained", rival, seed] for k, m, seed in w1 if (k, m) == (kind, "fusion")])


def _weights(weights: Mapping, sizes) -> str:
    table = {(f"{method}, {kind}", n): weights[kind, method, n] for kind in KINDS
             for method in ("fusion", "fusion, lowest level", "per level", "mixture") for n in sizes}  # fmt: skip
    return pivot(table, "method", sizes, lambda n: f"n = {n}", 2)


def _beside(figures: Mapping, size) -> str:
    rows = [{"figure": f"network trained on {n} samples", "published": f"{PUBLISHED_SCRATCH[n]:g}",
             "ours": figures["trained", "scratch", n]} for n in size.sizes if n in PUBLISHED_SCRATCH]  # fmt: skip
    last = size.sizes[-1]
    singles = [TARGET.spread * _standard_distance(k) for k in (0, 1)]
    ours = {"auxiliaries alone": f"{singles[0]:.2f} and {singles[1]:.2f} (exact)",
            "fusion at the published weights": _both(figures, "published weights", last),
            "floor": figures["", "floor", size.samples]}  # fmt: skip
    rows += [{"figure": name, "published": value, "ours": ours[name]} for name, value in PUBLISHED_OTHERS.items()]
    rows.append({"figure": f"fusion at its own weights, n = {last}", "published": "-", "ours": _both(figures, "fusion", last)})
    return markdown(rows, digits=2)


def _both(figures: Mapping[tuple, Estimate], method: str, n: int) -> str:
    one, other = (told(figures[kind, method, n], 2) for kind in ("closed form", "trained"))
    return f"{one} in closed form, {other} trained"


def _grid() -> tuple[np.ndarray, np.ndarray, list]:
    """An even grid in standard coordinates, the target's density on it, and the members."""
    grid = np.linspace(-5, 5, 20_001)
    return grid, TARGET.moved(TARGET.mean, TARGET.spread).density(grid), [m.moved(m.mean, m.spread) for m in AUXILIARY]


def _standard_distance(k: int) -> float:
    grid, target, members = _grid()
    return distance_of_densities(members[k].density(grid), target, grid)


def _exact() -> float:
    grid, target, members = _grid()
    return TARGET.spread * distance_of_densities(geometric_average(members, PUBLISHED, grid), target, grid)


def _modes(k: int) -> str:
    moved = AUXILIARY[k].moved(AUXILIARY[k].mean, AUXILIARY[k].spread)
    return "({:.1f}, {:.1f})".format(*(m * TARGET.spread + TARGET.mean for m in moved.means))
