"""Images as a few numbers: the part of the calibrated features that tells members apart.

With member means `M` (K, F) and within-member covariance `S` of the calibration, orthonormal contrasts `H` (K, K-1), `Q = M S^-1 M'` and
`C = H' Q H`, an image with features `phi` has the coordinates

    u = C^(-1/2) H' (M S^-1 phi - Q 1/K).

One image's noise is 1 in each of them. What all generated images share, such as the traces of an autoencoder, does not enter, nor does a
direction in which no members differ. `u` is linear in the population; for a mixture of members it is the same mixture of their `u`.
"""

from __future__ import annotations

import numpy as np

from fusion.calibration import CalibratedProportions, Calibration
from fusion.methods.plan import MethodError
from fusion.objective import ResidualGram


class Coordinates:
    """The map of one calibration. `corners` (K, K-1): the members' own coordinates."""

    def __init__(self, calibration: Calibration):
        self.calibration, count = calibration, len(calibration.names)
        if count < 2:
            raise MethodError("there is one model only, so there is nothing to tell apart: choose two or more")
        self._discriminants = np.linalg.solve(calibration.covariance, calibration.means.T)  # (F, K)
        Q = calibration.means @ self._discriminants
        contrasts = np.linalg.svd(np.eye(count) - 1.0 / count)[0][:, : count - 1]
        values, vectors = np.linalg.eigh(contrasts.T @ Q @ contrasts)
        kept = values > 1e-6 * max(values.max(), 1e-300)
        scale = np.where(kept, 1.0 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
        self._centre, self._white = Q.mean(1), contrasts @ vectors * scale  # (K,), (K, K-1)
        self.corners = (Q - self._centre) @ self._white

    @classmethod
    def of(cls, calibrated: CalibratedProportions, names) -> Coordinates:
        """Those of a fit whose target was measured with the members `names`."""
        calibration = calibrated.calibration
        return cls(calibration if calibration.names == tuple(names) else calibration.select(names))

    def read(self, gram: ResidualGram) -> np.ndarray:
        """`(N, K-1)`: every image of a statistic measured with the calibration's members, levels and draws."""
        return (self.calibration.features(gram.plain) @ self._discriminants - self._centre) @ self._white

    def mixed(self, shares: np.ndarray) -> np.ndarray:
        """`(..., K)` proportions -> `(..., K-1)` coordinates of that mixture."""
        return np.asarray(shares) @ self.corners

    def shares(self, u: np.ndarray) -> np.ndarray:
        """The proportions, unbounded but summing to 1, whose mixture has coordinates `u` (..., K-1)."""
        return 1.0 / len(self.corners) + u @ self._white.T
