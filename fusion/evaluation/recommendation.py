"""The recommendation: one sentence on which method to use, how sure that is and what it costs.

It is made from samples against held-out target images: the kernel distance in denoiser features, else the calibrated residual features.
Never from denoising loss, since averaging lowers the loss without matching the population (design: "the ensemble effect"), and never from
labels or a known population, since nobody has those for their own images.

Differences between two methods are judged, not overlaps of their intervals: both are compared with the same held-out images, whose chance
cancels. The nearest method was chosen among several, so its lead has to hold at a level divided by their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.evaluation.estimate import Estimate
from fusion.evaluation.features import difference_of_distances
from fusion.evaluation.kid import difference
from fusion.methods import NAMES

NONE = "There is no evidence from samples against held-out pictures, so no method is recommended: a lower denoising loss alone is none."
KINDS = {"kid": "KID", "features": "distance in calibrated features"}


@dataclass(frozen=True)
class Recommendation:
    """`method`: the nearest one, None without evidence. `lead`: how much nearer than the best single model (than the runner-up, where it
    is that itself); `decided`: that is more than chance. `ties`: methods that cannot be told from it. `kind`: of evidence, a row's figure.
    """

    sentence: str
    method: str | None = None
    kind: str = ""
    decided: bool = False
    lead: Estimate | None = None
    ties: tuple[str, ...] = ()


def recommend(rows: Sequence, readings: Mapping[str, np.ndarray], held_out: np.ndarray, *, kind: str = "kid",
              paired: bool = False, families: Mapping[str, np.ndarray] | None = None) -> Recommendation:  # fmt: skip
    """From coordinates of every method's samples, `readings[method]` (N, F), and of the held-out images (M, F).

    `rows`: the methods' `Row`s, for titles, distances and costs. `paired`: row i of all readings has the same prompt and seed. `families`:
    labels (N,) of the samples that descend from one particle, for methods that have such.
    """
    compared = [row for row in rows if row.method in readings and getattr(row, kind) is not None]
    if len(compared) < 2:
        return Recommendation(NONE)
    best, *others = sorted(compared, key=lambda row: (getattr(row, kind).value, row.method != "single"))
    same = [row for row in others if np.array_equal(readings[row.method], readings[best.method])]  # such as constant weights by level
    others = [row for row in others if row not in same]
    if not others:
        return Recommendation(NONE)
    judge, level = difference if kind == "kid" else difference_of_distances, 1 - 0.05 / len(others)
    kin = families or {}
    leads = {
        row.method: judge(readings[row.method], readings[best.method], held_out, paired=paired, level=level,
                          families=(kin.get(row.method), kin.get(best.method)))
        for row in others
    }  # fmt: skip
    ties = [*same, *(row for row in others if leads[row.method].low <= 0)]
    rival = next((row for row in others if row.method == "single"), others[0])
    lead, counts = leads[rival.method], (len(readings[best.method]), len(held_out))
    say = _single if best.method == "single" else _fused
    return Recommendation(
        say(best, rival, lead, ties, KINDS[kind], getattr(best, kind), counts), best.method, kind, bool(lead.low > 0), lead,
        tuple(row.method for row in ties),
    )  # fmt: skip


def _fused(best, rival, lead: Estimate, ties, kind: str, distance: Estimate, counts) -> str:
    """The nearest method is not the single model: does it earn its price?"""
    other = "the best single model" if rival.method == "single" else rival.title
    seen, (samples, held_out) = _difference(lead), counts
    if lead.low > 0:
        return (
            f"Recommended: {best.title}. Its samples come nearer to the {held_out} held-out images than those of {other} ({kind} "
            f"{distance.value:.3g} against {distance.value + lead.value:.3g}, a difference of {seen}, more than chance explains), "
            f"{price(best, rival)}{_tied(best, ties)}."
        )
    return (
        f"No method is told apart from {other} by {samples} samples a method and {held_out} held-out images: {best.title} comes nearest "
        f"({kind} {distance.value:.3g}), but its lead of {seen} is within noise, {price(best, rival)}; draw more samples, or stay with "
        f"{_cheapest([best, *ties]).title}, which costs least among those."
    )


def _single(best, rival, lead: Estimate, ties, kind: str, distance: Estimate, counts) -> str:
    """Nothing beats the single model: say whether that is certain."""
    samples, held_out = counts
    sure = "more than chance explains" if lead.low > 0 else f"within noise at {samples} samples a method"
    return (
        f"Recommended: {best.title}. No other method's samples come nearer to the {held_out} held-out images ({kind} "
        f"{distance.value:.3g}); the next, {rival.title}, lies {_difference(lead)} farther, {sure}, {price(rival, best)}."
    )


def _difference(lead: Estimate) -> str:
    return f"{lead.value:.2g} ({lead.low:.2g} to {lead.high:.2g})"


def _tied(best, ties) -> str:
    if not ties:
        return ""
    cheapest = _cheapest([best, *ties])
    names = ", ".join(row.title for row in ties)
    return f"; not told apart from it: {names}" + (f" ({cheapest.title} costs least)" if cheapest is not best and len(ties) > 1 else "")


def _cheapest(rows):
    """The row of least cost; of equal ones the single model, then the one whose method comes first in `NAMES`, simple ones first."""

    def cost(row):
        kind = row.method.split("/")[0]
        order = (row.method != "single", NAMES.index(kind) if kind in NAMES else len(NAMES))
        if row.cost is None:
            return (np.inf, 0.0, 0.0, 0, *order)
        return (row.cost.evaluations, round(row.cost.memory, 2), row.cost.training_seconds, row.cost.preparation, *order)

    return min(rows, key=cost)


def price(row, against) -> str:
    """What `row` costs against another method, as a clause."""
    if row.cost is None or against.cost is None:
        return "at a cost that was not stated"
    base = "the single model" if against.method == "single" else against.title
    parts = []
    ratio, memory = row.cost.evaluations / against.cost.evaluations, row.cost.memory / against.cost.memory
    if abs(ratio - 1) > 0.01:
        parts.append(f"{ratio:.2g} times the network evaluations")
    if abs(memory - 1) > 0.01:
        parts.append(f"{memory:.2g} times the memory")
    once = []
    if row.cost.training_seconds > against.cost.training_seconds:
        once.append(f"about {row.cost.training_seconds - against.cost.training_seconds:.0f} s of training")
    if row.cost.preparation > against.cost.preparation:
        once.append(f"{row.cost.preparation - against.cost.preparation:,} evaluations of preparation")
    text = f"at {' and '.join(parts)} of {base}" if parts else f"at no more than the cost of {base}"
    return text + (f", after {' and '.join(once)} once" if once else "")
