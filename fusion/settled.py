"""What a fit settles: the statement that its intervals bear, and no more than that. It knows no language and no page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OUTSIDE, OPEN, MOST, SHARES, PLAIN = "outside", "open", "most", "shares", "plain"
NARROW = 0.3  # an interval at most this wide states a share
FEW = 0.02  # a share below this is not named


@dataclass(frozen=True)
class Settled:
    """`code`: `outside`, no mix of the members explains the pictures; `open`, their shares cannot be told yet; `most`, more than half is
    one member's; `shares`, every interval is narrow; `plain`, there are no intervals (no calibration), which settles nothing.
    `members`: indices of those that the statement is about, largest share first."""

    code: str
    members: tuple[int, ...] = ()


def settled(shares: Sequence[float], interval: Sequence[Sequence[float]] | None = None, outside: bool = False) -> Settled:
    """The statement for shares (K,) with their intervals (K, 2); None: without a calibration."""
    order = [int(k) for k in np.argsort(-np.asarray(shares), kind="stable")]
    if outside:
        return Settled(OUTSIDE)
    named = tuple(k for k in order if shares[k] >= FEW)
    if interval is None:
        return Settled(PLAIN, named)
    ends = np.asarray(interval, dtype=float)
    if float(np.ptp(ends, axis=1).max()) <= NARROW:
        return Settled(SHARES, named)
    if ends[order[0], 0] > 0.5:
        return Settled(MOST, tuple(order[:1]))
    return Settled(OPEN, named)
