"""What a fit settles: the statement that its intervals bear, and no more than that. It knows no language and no page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTSIDE, OPEN, LARGEST, MOST, SHARES, PLAIN = "outside", "open", "largest", "most", "shares", "plain"
NARROW = 0.3  # an interval at most this wide states a share
FEW = 0.02  # a share below this is not named
SOME = 0.05  # a member of which at least so much is certain is among them
HARDLY = 0.1  # one of which no more than this is possible is hardly there


@dataclass(frozen=True)
class Settled:
    """`code`: `outside`, no mix of the members explains the pictures; `open`, which mix it is cannot be told yet; `largest`, one member has
    the largest part; `most`, it has more than half; `shares`, every interval is narrow; `plain`, there are no intervals (no calibration),
    which settles nothing. `members`: indices of those that the statement is about, largest share first. What else is settled where the
    shares are not: `some`, members that are certainly among them; `hardly`, members of which there is hardly any."""

    code: str
    members: tuple[int, ...] = ()
    some: tuple[int, ...] = ()
    hardly: tuple[int, ...] = ()


def settled(shares: Sequence[float], interval: Sequence[Sequence[float]] | None = None, outside: bool = False) -> Settled:
    """The statement for shares (K,) with their intervals (K, 2); None: without a calibration."""
    order = [int(k) for k in np.argsort(-np.asarray(shares), kind="stable")]
    if outside:
        return Settled(OUTSIDE)
    named = tuple(k for k in order if shares[k] >= FEW)
    if interval is None:
        return Settled(PLAIN, named)
    low, high = np.asarray(interval, dtype=float).T
    if float((high - low).max()) <= NARROW:
        return Settled(SHARES, named)
    first = order[0]
    code = MOST if low[first] > 0.5 else LARGEST if low[first] > np.delete(high, first).max(initial=0.0) else OPEN
    members = () if code == OPEN else (first,)
    some = tuple(k for k in order if low[k] >= SOME and k not in members)
    return Settled(code, members, some, tuple(k for k in order if high[k] <= HARDLY))
