"""What a fit settles: never more than its intervals bear."""

import numpy as np
import pytest

from fusion.settled import LARGEST, MOST, OPEN, OUTSIDE, PLAIN, SHARES, Settled, settled

WIDE, TIGHT = [0.0, 0.9], [0.4, 0.6]


@pytest.mark.parametrize(("shares", "interval", "outside", "found"), [
    ([0.41, 0.25, 0.01, 0.33], [[0, 0.89], [0, 0.75], [0, 0.23], [0, 1]], False, Settled(OPEN)),  # the example's first 12
    ([0.63, 0.29, 0.01, 0.07], [[0.32, 0.89], [0.05, 0.58], [0, 0.15], [0, 0.51]], False, Settled(OPEN, (), (0, 1))),  # 24
    ([0.66, 0.22, 0.09, 0.03], [[0.43, 0.85], [0.06, 0.41], [0, 0.26], [0, 0.32]], False, Settled(LARGEST, (0,), (1,))),  # 48
    ([0.5, 0.27, 0.0, 0.23], [[0.28, 0.73], [0.13, 0.42], [0, 0.06], [0.01, 0.47]], False, Settled(OPEN, (), (0, 1), (2,))),
    ([0.61, 0.27, 0.12], [[0.55, 0.7], [0.2, 0.35], [0.05, 0.2]], False, Settled(SHARES, (0, 1, 2))),
    ([0.3, 0.7], [[0.0, 0.45], [0.55, 1.0]], False, Settled(MOST, (1,))),
    ([0.5, 0.5], [WIDE, WIDE], False, Settled(OPEN)),  # a tie
    ([0.5, 0.5], [TIGHT, TIGHT], False, Settled(SHARES, (0, 1))),
    ([0.97, 0.03], [[0.9, 1.0], [0.0, 0.1]], True, Settled(OUTSIDE)),
    ([0.6, 0.4], None, False, Settled(PLAIN, (0, 1))),
    ([1.0], [[1.0, 1.0]], False, Settled(SHARES, (0,))),
])  # fmt: skip
def test_statements(shares, interval, outside, found):
    assert settled(shares, interval, outside) == found


def test_many_members_with_equal_shares_settle_nothing():
    assert settled(np.full(9, 1 / 9), np.tile([0.0, 0.8], (9, 1))).code == OPEN
