"""What a fit settles: never more than its intervals bear."""

import numpy as np
import pytest

from fusion.settled import MOST, OPEN, OUTSIDE, PLAIN, SHARES, Settled, settled

WIDE, TIGHT = [0.0, 0.9], [0.4, 0.6]


@pytest.mark.parametrize(("shares", "interval", "outside", "found"), [
    ([0.41, 0.25, 0.01, 0.33], [[0, 0.89], [0, 0.75], [0, 0.23], [0, 1]], False, Settled(OPEN, (0, 3, 1))),  # the published example at 12
    ([0.61, 0.27, 0.12], [[0.55, 0.7], [0.2, 0.35], [0.05, 0.2]], False, Settled(SHARES, (0, 1, 2))),
    ([0.3, 0.7], [[0.0, 0.45], [0.55, 1.0]], False, Settled(MOST, (1,))),
    ([0.5, 0.5], [WIDE, WIDE], False, Settled(OPEN, (0, 1))),  # a tie
    ([0.5, 0.5], [TIGHT, TIGHT], False, Settled(SHARES, (0, 1))),
    ([0.97, 0.03], [[0.9, 1.0], [0.0, 0.1]], True, Settled(OUTSIDE)),
    ([0.6, 0.4], None, False, Settled(PLAIN, (0, 1))),
    ([1.0], [[1.0, 1.0]], False, Settled(SHARES, (0,))),
])  # fmt: skip
def test_statements(shares, interval, outside, found):
    assert settled(shares, interval, outside) == found


def test_many_members_with_equal_shares_settle_nothing():
    assert settled(np.full(9, 1 / 9), np.tile([0.0, 0.8], (9, 1))).code == OPEN
