"""One fit of an ensemble to a target: every estimator on one statistic, in one frozen record that passes from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fusion.calibration import CalibratedProportions, Calibration
from fusion.objective import ResidualGram
from fusion.target import Target
from fusion.weights import Gain, LevelWeights, MixtureProportions, SimplexWeights, Weights


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

    def explain(self) -> str:
        """One sentence on why the published weights and the calibrated proportions differ, or that they do not."""
        published = self.published.weights_
        if self.calibrated is None:
            return ("The published weights minimise denoising loss, which averaging lowers whatever the target is; calibrate these members "
                    "once to see the target's proportions.")  # fmt: skip
        shares = self.calibrated.proportions_
        low, high = self.calibrated.interval_.T
        beyond = np.maximum(low - published, published - high)  # how far each published weight lies outside its interval
        k = int(np.argmax(beyond))
        if beyond[k] <= 0:
            images = f"{len(self.gram)} image{'s' * (len(self.gram) > 1)}"
            return f"{images} cannot tell the published weights from the calibrated proportions: every weight lies within its interval."
        name = self.gram.names[k]
        return (f"The published weights give {name} {published[k]:.0%} where its calibrated share is {shares[k]:.0%}, because averaging "
                "cancels the members' own training errors and so pulls the weights of least loss towards equal; calibration takes those "
                "errors out and compares the target with each member's own images.")  # fmt: skip

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


def _gain(gain: Gain | None) -> dict | None:
    return None if gain is None else {"mean": gain.mean, "interval": list(gain.interval), "relative": gain.relative}


def fit_all(gram: ResidualGram, calibration: Calibration | None = None, target: Target | None = None) -> Fit:
    """Milliseconds to a second; no network runs. `target`: the images that `gram` was measured on, in its order.

    Raises ValueError for a calibration of other members, noise levels or draws.
    """
    calibrated = None if calibration is None else CalibratedProportions(calibration).fit(gram)
    return Fit(gram, SimplexWeights().fit(gram), LevelWeights().fit(gram), MixtureProportions().fit(gram), calibrated, target=target)
