"""How long work takes here: seconds for a unit of work of these very networks, as last measured on this machine.

Every run leaves its pace behind, and the next price rests on it; before the first run a kind of work is priced from another kind, or from
a short probe (`fusion.transfer.adapting.probe`). Kinds and their units:

    draw    a network evaluation of one image, by a method's name: steps, members and guidance are counted in its `Cost`
    step    a step of one image, by a method's name: timed between the first step of a batch and its last
    beside  what a batch takes beside its steps: reading prompts, decoding, and preparing; the least that was seen
    read    a network evaluation while residuals are measured (`fusion.objective.fit_gram`)
    search  a network evaluation of what a method looks for once (`Cost.preparation`)
    train   a forward pass of one noisy copy; a backward pass counts as two
    course  what share of its steps a training went before it stopped by itself; no seconds

Paces belong to the network objects and go with them. They are measurements and no state of a visitor: whoever ran last leaves the newest.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

clock = time.perf_counter  # tests put their own here
STAND_IN = {"draw": ("read", "train"), "read": ("draw", "train"), "search": ("draw", "read", "train")}
_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # network -> {(kind, name, pixels, rows): (seconds, when)}
_lock = threading.Lock()


def record(networks: Iterable[object], kind: str, seconds: float, units: float, *, name: str = "", pixels: int = 0, rows: int = 1,
           least: bool = False) -> None:  # fmt: skip
    """Note that `units` of work took `seconds`. `name`: of the method; `pixels`: of one image; `rows`: images that went together. `least`:
    keep the least that was ever noted, for work whose first run prepares things that the others find done."""
    if units <= 0 or not math.isfinite(seconds) or seconds < 0:
        return
    key = (kind, name, pixels, _bucket(rows))
    with _lock:
        for network in networks:
            known = _known.setdefault(network, {})
            before = known[key][0] if least and key in known else math.inf
            known[key] = (min(seconds / units, before), clock())


def of(networks: Iterable[object], kind: str, *, name: str = "", pixels: int = 0, rows: int = 1) -> float | None:
    """Seconds for a unit of work, the mean over the networks; None where one of them has never run. What was measured for this method comes
    before any other, a batch of like size before another, the newest last of all; another picture size is scaled by its pixels."""
    networks = list(networks)
    found = [_one(network, kind, name, pixels, _bucket(rows)) for network in networks]
    return None if not found or None in found else sum(found) / len(found)


def _one(network, kind: str, name: str, pixels: int, bucket: int) -> float | None:
    with _lock:
        known = dict(_known.get(network, {}))
    for kind_ in (kind, *STAND_IN.get(kind, ())):
        of_kind = {key: value for key, value in known.items() if key[0] == kind_}
        if of_kind:
            nearness = lambda item: (item[0][1] != name, item[0][2] != pixels, abs(item[0][3] - bucket), -item[1][1])  # noqa: E731
            (_, _, size, _), (seconds, _) = min(of_kind.items(), key=nearness)
            return seconds * (pixels / size if pixels and size else 1.0)
    return None


def _bucket(rows: int) -> int:
    """Batches within a power of two of each other have one pace."""
    return round(math.log2(max(rows, 1)))


@contextmanager
def timed(networks: Iterable[object], kind: str, units: float, **about) -> Iterator[None]:
    """Record what the block takes, if it comes to its end."""
    begun = clock()
    yield
    record(networks, kind, clock() - begun, units, **about)


def networks_of(ensemble) -> list:
    """The distinct networks of an ensemble: LoRAs that take turns on one share it. What has no members of its own has none."""
    found = [getattr(member, "network", None) for member in getattr(ensemble, "members", ())]
    return list({id(network): network for network in found if network is not None}.values())


def pixels(ensemble) -> int:
    """Of one image at the ensemble's own size; 0 where it has none."""
    size = getattr(ensemble, "size", 0)
    return math.prod(size) if isinstance(size, tuple) else int(size)


class Steps:
    """Times the steps of one batch: call it after each."""

    def __init__(self):
        self.begun, self.marks = clock(), []

    def __call__(self) -> None:
        self.marks.append(clock())


def batch(ensemble, steps: Steps, name: str, images: int, count: int) -> None:
    """Note the pace of a batch's `count` steps. Where the method steps otherwise (several passes, several groups of prompts), nothing is
    noted."""
    if len(steps.marks) == count >= 2:
        record(networks_of(ensemble), "step", steps.marks[-1] - steps.marks[0], (count - 1) * images, name=name, pixels=pixels(ensemble),
               rows=images)  # fmt: skip


def drew(ensemble, plan, name: str, evaluations: float, images: int, seconds: float) -> None:
    """Note how long a method took for `images` of a plan, at `evaluations` each: what its steps took, and what the rest."""
    networks, about = networks_of(ensemble), {"name": name, "pixels": pixels(ensemble), "rows": min(images, plan.batch_size)}
    step = of(networks, "step", **about)
    stepping = seconds if step is None else min(step * plan.steps * images, seconds)
    record(networks, "draw", stepping, images * evaluations, **about)
    record(networks, "beside", seconds - stepping, _batches(plan, images), **about, least=True)


def drawing(ensemble, plan, name: str, evaluations: float, images: int) -> float | None:
    """Seconds that a method takes for so many images, None before anything was measured."""
    networks, about = networks_of(ensemble), {"name": name, "pixels": pixels(ensemble), "rows": min(images, plan.batch_size)}
    pace = of(networks, "draw", **about)
    return None if pace is None else images * evaluations * pace + _batches(plan, images) * (of(networks, "beside", **about) or 0.0)


def _batches(plan, images: int) -> int:
    return -(-images // plan.batch_size)


def searching(ensemble, name: str, evaluations: float) -> float | None:
    """Seconds of a search that asks for so many network evaluations."""
    pace = of(networks_of(ensemble), "search", name=name, pixels=pixels(ensemble))
    return None if pace is None else evaluations * pace


def read(ensemble, evaluations: float, seconds: float) -> None:
    """Note how long measuring residuals took."""
    record(networks_of(ensemble), "read", seconds, evaluations, pixels=pixels(ensemble), rows=64)


def reading(ensemble, evaluations: float) -> float | None:
    """Seconds of measuring residuals with so many network evaluations."""
    pace = of(networks_of(ensemble), "read", pixels=pixels(ensemble), rows=64)
    return None if pace is None else evaluations * pace
