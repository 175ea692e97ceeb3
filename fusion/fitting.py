"""One fit of an ensemble to a target: every estimator on one statistic, in one frozen record that passes from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fusion.calibration import CalibratedProportions, Calibration
from fusion.objective import ResidualGram
from fusion.target import Target
from fusion.weights import Gain, LevelWeights, MixtureProportions, SimplexWeights, Weights

WIDE = 0.5  # an interval this wide decides nothing
ALIKE = 0.1  # total variation up to which two answers are called the same


@dataclass(frozen=True, eq=False)
class Fit:
    """`published`: the papers' weights; `levels`: those by noise level; `mixture`: proportions from likelihoods alone; `calibrated`: the
    proportions to trust, None without a calibration; `matched`: weights of a blend, once `methods.matched.match` has searched for them;
    `target`: the fitted images, for methods that train on them; `trained`: what these have trained, by the method's name."""

    gram: ResidualGram
    published: SimplexWeights
    levels: LevelWeights
    mixture: MixtureProportions
    calibrated: CalibratedProportions | None = None
    matched: Weights | None = None
    target: Target | None = None
    trained: Mapping[str, object] = field(default_factory=dict)

    @property
    def undecided(self) -> bool:
        """Whether the images hardly narrow the calibrated proportions down; False without a calibration."""
        return self.calibrated is not None and float(np.ptp(self.calibrated.interval_, axis=1).max()) > WIDE

    def verdict(self) -> str:
        """How the published weights and the calibrated proportions stand to each other, the ground of every sentence about it:

        `uncalibrated`; `agree`, to within a tenth of the images; `open`: the images cannot tell them apart, every weight lies within its
        interval; `evened`: they differ, the published ones are nearer to equal weights, as the cancelling of the members' errors makes
        them; `mixed`: they differ in another direction, in which errors and population cannot be told apart by the loss.
        """
        if self.calibrated is None:
            return "uncalibrated"
        published, shares = self.published.weights_, self.calibrated.proportions_
        if _variation(published, shares) <= ALIKE and not self.undecided:
            return "agree"
        if self._beyond().max() <= 0:
            return "open"
        even = np.full(len(shares), 1 / len(shares))
        return "evened" if _variation(published, even) < _variation(shares, even) else "mixed"

    def _beyond(self) -> np.ndarray:
        """`(K,)`: how far each published weight lies outside the interval of its proportion; at most 0 for one inside."""
        low, high = self.calibrated.interval_.T
        return np.maximum(low - self.published.weights_, self.published.weights_ - high)

    def explain(self) -> str:
        """One sentence on why the published weights and the calibrated proportions differ, or that they do not."""
        verdict = self.verdict()
        if verdict == "uncalibrated":
            return ("The published weights minimise denoising loss, which averaging lowers whatever the target is; calibrate these members "
                    "once to see the target's proportions.")  # fmt: skip
        if verdict == "agree":
            return f"The published weights and the calibrated proportions agree to within {ALIKE:.0%} of the images."
        if verdict == "open":
            images = f"{len(self.gram)} image{'s' * (len(self.gram) > 1)}"
            return f"{images} cannot tell the published weights from the calibrated proportions: every weight lies within its interval."
        k = int(np.argmax(self._beyond()))
        pulled = "averaging cancels the members' own training errors and so pulls the weights of least loss towards equal"
        why = pulled if verdict == "evened" else "the loss that they minimise mixes the members' own training errors with the population"
        return (f"The published weights give {self.gram.names[k]} {self.published.weights_[k]:.0%} where its calibrated share is "
                f"{self.calibrated.proportions_[k]:.0%}, because {why}; calibration takes those errors out and compares the target with "
                "each member's own images.")  # fmt: skip

    def summary(self) -> dict:
        """Plain JSON values: everything a script or a report needs of the fit."""
        out = {
            "members": list(self.gram.names), "images": len(self.gram), "evaluations": self.gram.evaluations,
            "published": self.published.as_weights().summary() | {
                "loss": self.published.loss_, "determined": self.published.determined_, "verdict": self.published.verdict_,
                "gain_over_uniform": _gain(self.published.gain_uniform_),
                "gain_over_best_single": _gain(self.published.gain_single_),
                "best_single": self.gram.names[self.published.best_single_],
            },
            "levels": self.levels.as_weights().summary() | {
                "loss": self.levels.loss_, "smoothing": self.levels.smoothing_ if np.isfinite(self.levels.smoothing_) else None,
            },
            "mixture": self.mixture.as_weights().summary() | {"outliers": np.flatnonzero(self.mixture.outliers_).tolist()},
            "explanation": self.explain(),
        }  # fmt: skip
        if self.calibrated is not None:
            c = self.calibrated
            out["calibrated"] = c.as_weights().summary() | {"p_value": c.p_value_, "outside": bool(c.outside_), "verdict": c.verdict_}
        if self.matched is not None:
            out["matched"] = self.matched.summary()
        return out


def _variation(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation between two points of the simplex, 0 to 1."""
    return 0.5 * float(np.abs(one - other).sum())


def _gain(gain: Gain | None) -> dict | None:
    return None if gain is None else {"mean": gain.mean, "interval": list(gain.interval), "relative": gain.relative}


def fit_all(gram: ResidualGram, calibration: Calibration | None = None, target: Target | None = None) -> Fit:
    """Milliseconds to a second; no network runs. `target`: the images that `gram` was measured on, in its order.

    Raises ValueError for a calibration of other members, noise levels or draws.
    """
    calibrated = None if calibration is None else CalibratedProportions(calibration).fit(gram)
    return Fit(gram, SimplexWeights().fit(gram), LevelWeights().fit(gram), MixtureProportions().fit(gram), calibrated, target=target)
