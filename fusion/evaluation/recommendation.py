"""The recommendation: one short sentence on which method to use, and others on how sure that is and what it costs.

It is made from samples against held-out target images: the kernel distance in denoiser features, else the calibrated residual features.
Never from denoising loss, since averaging lowers the loss without matching the population (design: "the ensemble effect"), and never from
labels or a known population, since nobody has those for their own images.

The nearest method is recommended also where its lead is within noise, and the sentence then says so: over drawn targets that loses less
population than staying with the single model (`assets/studies/recommendation`). A method that repeats images it was fitted to is not
recommended, however near it comes: nearness is then no merit. Nor is one whose correction had nothing to work on, since its samples are
those of another.

Differences between two methods are judged, not overlaps of their intervals: both are compared with the same held-out images, whose chance
cancels. The nearest method was chosen among several, so its lead has to hold at a level divided by their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fusion import figures
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.families import Descent
from fusion.evaluation.features import difference_of_distances
from fusion.evaluation.kid import difference
from fusion.methods import NAMES

NONE = "There is no evidence from samples against held-out pictures, so no method is recommended: a lower denoising loss alone is none."
ALONE = Descent()
ONLY = "No method is recommended over another: {why}, so nothing is left to compare."
REASONS = {"copying": "for repeating images it was fitted to",
           "uncorrected": "since every image was alone with its prompt and none was corrected"}  # fmt: skip
KINDS = {"kid": "KID", "features": "distance in calibrated features"}


@dataclass(frozen=True)
class Recommendation:
    """`sentence`: the verdict, short; `details`: sentences on how sure it is, its price, and who was left out. `method`: the nearest one,
    None without evidence. `lead`: how much nearer than the best single model (than the runner-up, where it is that itself); `decided`: that
    is more than chance. `ties`: methods that cannot be told from it; `rival`: the method that `lead` is over. `kind`: of evidence, a row's
    figure; `value`: that of `method`. `copying`, `uncorrected`: methods left out, and why (`REASONS`).
    """

    sentence: str
    method: str | None = None
    kind: str = ""
    value: float | None = None
    decided: bool = False
    lead: Estimate | None = None
    rival: str | None = None
    ties: tuple[str, ...] = ()
    copying: tuple[str, ...] = ()
    uncorrected: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def recommend(rows: Sequence, readings: Mapping[str, np.ndarray], held_out: np.ndarray, *, kind: str = "kid", paired: bool = False,
              descent: Descent = ALONE, copying: Collection[str] = (), uncorrected: Collection[str] = ()) -> Recommendation:  # fmt: skip
    """From coordinates of every method's samples, `readings[method]` (N, F), and of the held-out images (M, F).

    `rows`: the methods' `Row`s, for titles, distances and costs. `paired`: row i of all readings has the same prompt and seed. `descent`:
    what samples have in common beside their method. `copying`: methods whose samples repeat fitted images more than chance explains;
    `uncorrected`: those whose correction had nothing to work on. Neither is recommended.
    """
    seen = [row for row in rows if row.method in readings and getattr(row, kind) is not None]
    out = {why: [row for row in seen if row.method in names] for why, names in (("copying", copying), ("uncorrected", uncorrected))}
    methods_out = {why: tuple(row.method for row in found) for why, found in out.items()}
    near = lambda row: (getattr(row, kind).value, row.method != "single")  # noqa: E731
    compared = sorted((row for row in seen if not any(row.method in names for names in methods_out.values())), key=near)
    same = [row for row in compared[1:] if np.array_equal(readings[row.method], readings[compared[0].method])]  # such as weights by level
    others = [row for row in compared[1:] if row not in same]
    if not others:
        return Recommendation(nothing_to_compare(compared, seen), **methods_out, details=_left_out(out, None, kind))
    best, level = compared[0], 1 - 0.05 / len(others)
    lead_of = _by_kernel if kind == "kid" else _by_means
    leads = {row.method: lead_of(row.method, best.method, readings, held_out, paired, level, descent) for row in others}
    ties = [*same, *(row for row in others if leads[row.method].low <= 0)]
    rival = next((row for row in others if row.method == "single"), others[0])
    lead, say = leads[rival.method], _single if best.method == "single" else _fused
    sentence = say(best, rival, lead, _distances(KINDS[kind], getattr(best, kind), lead))
    details = (_how_sure(rival, lead, len(readings[best.method]), len(held_out)), _costs(best, rival, ties), *_left_out(out, best, kind))
    return Recommendation(sentence, best.method, kind, getattr(best, kind).value, bool(lead.low > 0), lead, rival.method,
                          tuple(row.method for row in ties), **methods_out, details=details)  # fmt: skip


def _by_kernel(method: str, best: str, readings, held_out, paired: bool, level: float, descent: Descent) -> Estimate:
    one, other = descent.of(method), descent.of(best)
    return difference(readings[method], readings[best], held_out, paired=paired, level=level, families=(one["families"], other["families"]),
                      prompts=(one["prompts"], other["prompts"]))  # fmt: skip


def _by_means(method: str, best: str, readings, held_out, paired: bool, level: float, descent: Descent) -> Estimate:
    kin = descent.of(method)["families"], descent.of(best)["families"]
    return difference_of_distances(readings[method], readings[best], held_out, paired=paired, level=level, families=kin)


def _fused(best, rival, lead: Estimate, distances: str) -> str:
    """The nearest method is not the single model."""
    other = "the best single model" if rival.method == "single" else rival.title
    if lead.low > 0:
        return f"Recommended: {best.title}. It comes nearer to the held-out images than {other} by more than chance explains ({distances})."
    return f"Recommended, but not certain: {best.title}. Its lead over {other} is within noise ({distances})."


def _single(best, rival, lead: Estimate, distances: str) -> str:
    """Nothing beats the single model: say whether that is certain."""
    if lead.low > 0:
        return f"Recommended: {best.title}. The next, {rival.title}, is farther by more than chance explains ({distances})."
    return f"Recommended, but not certain: {best.title}. Its lead over the next, {rival.title}, is within noise ({distances})."


def _distances(kind: str, distance: Estimate, lead: Estimate) -> str:
    """`KID 0.008 against 0.013`: both with the decimals that the difference bears."""
    values = (distance.value, distance.value + lead.value)
    places = figures.decimals(values, [figures.half(lead.low, lead.high)])
    return f"{kind} {' against '.join(figures.figure(value, places=places) for value in values)}"


def _how_sure(rival, lead: Estimate, samples: int, images: int) -> str:
    """The difference with its interval, and what it was measured on."""
    ends = figures.interval(lead.low, lead.high)
    told = f"{figures.figure(lead.value, figures.half(lead.low, lead.high))}, 95 % interval {ends}" if ends else (
        f"{figures.figure(lead.value)}; so few images give no interval")  # fmt: skip
    more = "" if lead.low > 0 else ": draw more to be sure"
    other = "the best single model" if rival.method == "single" else rival.title
    return (f"The difference to {other} is {told}, by {_counted(samples, 'sample')} a method and {_counted(images, 'held-out image')}"
            f"{more}.")  # fmt: skip


def _costs(best, rival, ties) -> str:
    """What the recommended method costs, and which of those that cannot be told from it costs least."""
    against = rival if best.method != "single" else best
    row = best if best.method != "single" else rival
    said = f"{row.title} comes {price(row, against)}"
    cheapest = _cheapest([best, *ties])
    return said + ("." if not ties or cheapest is best else f"; of those not told apart, {cheapest.title} costs least.")


def nothing_to_compare(compared, seen) -> str:
    """Why there is no choice: one method alone was measured, the others were left out, or all of them drew the same images."""
    if len(compared) > 1:
        names = ", ".join(row.title for row in compared)
        return ONLY.format(why=f"{names} drew the same images ({_cheapest(compared).title} costs least)")
    if len(seen) > len(compared):
        return ONLY.format(why=f"{compared[0].title} alone was not left out" if compared else "every method was left out")
    return ONLY.format(why=f"{compared[0].title} alone was measured") if compared else NONE


def _left_out(out: Mapping[str, list], best, kind: str) -> tuple[str, ...]:
    """A sentence for every reason for which methods were left out, with how near they came; empty without any."""
    near = lambda row: best is not None and getattr(row, kind).value < getattr(best, kind).value  # noqa: E731
    own = lambda row: getattr(row, kind)  # noqa: E731
    at = lambda row: figures.figure(own(row).value, figures.half(own(row).low, own(row).high))  # noqa: E731
    nearer = lambda row: f" (nearer: {KINDS[kind]} {at(row)})" if near(row) else ""  # noqa: E731
    told = {why: "; ".join(row.title + nearer(row) for row in rows) for why, rows in out.items() if rows}
    return tuple(f"Left out {REASONS[why]}: {names}." for why, names in told.items())


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


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
