"""Two populations and one weight: the ScoreFusion paper's portrait experiment (arXiv 2406.19619, section on SDXL) on the shipped family.

The authors blend two adapters of SDXL and ask CLIP how many portraits look male and how many White, as the weight moves from one to the
other. Here the two members are `harbor` (men, lighter tones) and `summit` (women, darker tones), which differ most in both attributes; the
populations are known and the probe reads them. Four ways of using the weight: fused scores, merged parameters, routed samples, and the
exact barycenter by particles. Images are drawn once and kept in `work`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fusion.methods import METHODS, barycenter
from fusion.methods.barycenter import side_by_side
from fusion.studies.portrait_samples import BATCH, Pictures, prompt_of, routed, samples
from models.catalog import catalog
from models.loading import load_ensemble

TITLE = "Portraits: two populations and one weight"
MEMBERS = ("harbor", "summit")
SHARES = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)  # of the second member, as published
HALF = 0.5
QUIETEST = 0.5  # place s / (a + s): below it noise is weaker than the picture, and trained members differ mostly by their errors
DRAWN = ("scorefusion", "merge", "barycenter")
SWEPT = ("scorefusion", "merge", "mixture", "barycenter")


@dataclass(frozen=True)
class Size:
    """`samples` a point, for each of `seeds` repetitions; `steps` of the sampler."""

    samples: int = 192
    seeds: int = 2
    steps: int = 10
    shares: tuple[float, ...] = SHARES


QUICK = Size(samples=32, seeds=1, steps=2, shares=(0.0, 0.5, 1.0))


def run(out: Path, work: Path, *, quick: bool, seeds: int | None, progress, stop) -> dict:
    """The whole study: plain JSON figures; `seeds` times the samples of a point. When stopped: `{"stopped": True}`, nothing is written."""
    from fusion.studies import portraits_report

    size = QUICK if quick else Size()
    count = size.samples * (seeds or size.seeds)
    points = pictures(load_ensemble([catalog[f"portraits/{name}"] for name in MEMBERS]), work, size, count, progress, stop)
    if points is None:
        return {"stopped": True}
    return portraits_report.write(out, points, size, count)


def pictures(ensemble, work: Path, size: Size, count: int, progress=None, stop: Callable | None = None) -> dict | None:
    """`{(method, share): Pictures}` of `count` images each, seeds 0 to count - 1; None when stopped. Methods share the single members.

    `("noisy", 1/2)`: the exact barycenter weighed above `QUIETEST` only.
    """
    inner = [share for share in size.shares if 0 < share < 1]
    total, done = 3 + len(inner) * len(DRAWN), 0

    def drawn(name: str, weights, file: str) -> Pictures | None:
        nonlocal done
        begun = done
        tell = None if progress is None else lambda at, of, label: progress(int(1000 * (begun + at / of)), 1000 * total, label)
        together = name in ("barycenter", "noisy")  # their batches hold one prompt's images side by side
        draw = partial(barycenter.run, quietest=QUIETEST) if name == "noisy" else METHODS[name].run
        sample = lambda plan: draw(ensemble, None, plan.with_(weights=weights))  # noqa: E731
        kept = work / f"{file}-{size.steps}-{count if together else 'n'}.safetensors"
        found = samples(ensemble, sample, kept, range(count), at_once=count if together else BATCH, steps=size.steps, progress=tell,
                        stop=stop, label=file)  # fmt: skip
        done += 1
        return found

    singles = []
    for member, name in enumerate(MEMBERS):
        singles.append(drawn("single", np.eye(2)[member], name))
        if singles[-1] is None:
            return None
    points = {(method, float(end)): singles[end] for method in SWEPT for end in (0, 1)}
    for share in inner:
        weights = np.array([1 - share, share])
        for method in DRAWN:
            points[method, share] = drawn(method, weights, f"{method}-{share:g}")
            if points[method, share] is None:
                return None
        points["mixture", share] = routed(singles, weights)
    points["noisy", HALF] = drawn("noisy", np.array([HALF, HALF]), "barycenter-noisy")
    return None if points["noisy", HALF] is None else points


def companies(count: int) -> np.ndarray:
    """`(count,)`: which images of a barycenter run could replace one another, by number: one prompt's within one batch."""
    order = side_by_side([(prompt_of(seed), seed) for seed in range(count)])
    found, keys = np.zeros(count, dtype=int), {}
    for place, (prompt, seed) in enumerate(order):
        found[seed] = keys.setdefault((place // BATCH, prompt), len(keys))
    return found
