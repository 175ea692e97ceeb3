"""The calibrated fit: which shares of the members' populations would make these images look as they do to these very networks?

The plain fit hardly sees the population, because averaging cancels the members' independent training errors whatever the target is. But
plain residual products are linear in the target population, training errors included. So the same statistic is measured once on each
member's own images; a target is then compared with those, and the errors drop out.

Two estimators of the proportions, from the same calibration. `moments_` is the one of design/maths.md: match the mean features,
`argmin (phi - sum pi_k mu_k)' S^-1 (phi - sum pi_k mu_k)` with a shrunk pooled covariance. `proportions_` is maximum likelihood: the
calibration images teach the likelihood ratios of the members for one image (discriminant scores, recalibrated by a logistic model on
cross-fitted scores), and the shares maximise the likelihood of all images. Moments weigh every image alike, likelihood weighs an image by
what it says. Root-mean-square error over the oracle's (4 members, 12 images, 192 calibration images a member, ten mixtures): on the
shipped portraits 1.23 for moments, 1.15 for likelihood, 1.12 with the weak prior below (480 draws); in the simulated world of
tests/fusion/world.py 1.27, 1.18 and 1.11. So the last is what we report.

This module reads `ResidualGram`s; it runs networks only through `fit_gram` and a member's own pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from fusion.calibration_record import Calibration
from fusion.likelihood import expansion, profile_intervals, shares
from fusion.objective import ResidualGram, fit_gram
from fusion.parallel import ALONE, Team, pack, unpack
from fusion.png import as_png, from_png
from fusion.settled import OPEN, settled
from fusion.simplex import solve_simplex
from fusion.weights import Weights

__all__ = ["CalibratedProportions", "Calibration", "calibrate"]

OWN_SEEDS = 2**41  # members' own pictures begin here, far from what is drawn to be judged: those must not be the calibration's
PRIOR = 0.1  # of an image of each member, added to the target: no member is ever ruled out, and the error falls by 6 % at 12 images


def calibrate(ensemble, images_by_member=None, *, samples=192, prompts=None, guidance=None, levels=16, draws=1, seed=0,
              progress=None, stop=None, team: Team = ALONE, kept=None) -> Calibration:  # fmt: skip
    """Measure an ensemble on images of its members' own: once, then saved beside it.

    `images_by_member`: for each member `(images, prompts)`, best of its training population. None: `samples` pictures drawn from each
    member, for `prompts` in turn (needed where the models read text), at `guidance` (None: the models' own), which
    should be that of the images to come: guidance changes what a model's population looks like.
    `progress(done, total, message)` counts thousandths of a member.
    `team`: processes that share drawing and measuring. `kept` (`fusion.kept.Kept`): pictures and predictions of a run that was cut short.
    Raises ValueError for too few images or no prompts, RuntimeError when stopped: half a calibration compares nothing.
    """
    members = range(len(ensemble.names))
    if images_by_member is not None and len(images_by_member) != len(members):
        raise ValueError(f"images of {len(images_by_member)} members for an ensemble of {len(members)}: give one list for each")
    if images_by_member is None and prompts is None and ensemble.family.text:
        raise ValueError("give the prompts that the members' own pictures should be drawn for, best those of the targets to come")
    grams = []
    for k in members:
        tell = progress and (lambda done, total, message, k=k: progress(1000 * k + 1000 * done // total, 1000 * len(members), message))
        if images_by_member is None:
            images, said = _own_pictures(ensemble, k, prompts or [""], samples, seed, guidance, stop, team, kept)
        else:
            images, said = images_by_member[k]
        gram = fit_gram(ensemble, images, said, levels=levels, draws=draws, seed=seed + k, seeds="place", progress=tell,
                        stop=stop, team=team, kept=kept)
        if len(gram) < len(images):
            raise RuntimeError(f"stopped before the images of {ensemble.names[k]} were measured: nothing was calibrated")
        grams.append(gram)
    return Calibration.from_grams(grams, ensemble.names)


def _own_pictures(ensemble, k: int, prompts: Sequence[str], samples: int, seed: int, guidance: float | None, stop, team: Team,
                  kept) -> tuple[list, list[str]]:  # fmt: skip
    """`samples` pictures of member k alone, for the prompts in turn. Seeds differ between members. PNG keeps every bit of a picture."""
    from fusion.methods.alone import as_drawn, draw_alone  # they stand on calibrated features: imported when called, or both would circle
    from fusion.methods.plan import Part, SamplingPlan

    said, alone = [prompts[i % len(prompts)] for i in range(samples)], ensemble.subset([k])
    recall = (lambda _plan, make: make()) if kept is None else kept.album(alone)
    plan = SamplingPlan(said, [OWN_SEEDS + seed + k * 2**24 + i for i in range(samples)], stop=stop, part=Part(team.rank, team.size),
                        guidance=ensemble.guidance if guidance is None else guidance)  # fmt: skip
    plan = as_drawn(alone, plan, 0)  # few-step models in few steps

    def drawn():
        for batch in plan.batches():
            own = plan.with_(prompts=[prompt for prompt, _ in batch], seeds=[seed for _, seed in batch], part=Part())
            make = lambda own=own: [as_png(sample.image) for sample in draw_alone(alone, own, 0, method="calibration")]
            yield pack(recall(own, make))

    images = [from_png(data) for piece in team.in_turn(drawn()) for data in unpack(piece)]
    if len(images) < samples:
        raise RuntimeError(f"stopped while {ensemble.names[k]} was drawing: nothing was calibrated")
    return images, said


class CalibratedProportions:
    """Shares of the members' populations in the target, with intervals and a test that they explain it.

    After `fit(gram)`: `proportions_` (K,), `interval_` (K, 2): profile likelihood, widened by what refits of the calibration add;
    `moments_` (K,): the estimate from mean features, for comparison; `responsibilities_` (N, K);
    `p_value_`, `outside_`: do the images differ from the members' own, mixed with these shares, by more than chance (`fusion.outside`)?
    `likeliest_` (K,): the proportions without the prior; `quadratic_` (K, K), `linear_` (K,), `constant_`: `x' Q x - 2 c' x + constant`,
    the loss of log-likelihood per image against them (nats, second order), whose minimum on the simplex they are; `verdict_`: a sentence.
    """

    def __init__(self, calibration: Calibration, bootstrap: int = 400, level: float = 0.95, seed: int = 0):
        self.calibration, self.bootstrap, self.level, self.seed = calibration, bootstrap, level, seed

    def fit(self, gram: ResidualGram) -> CalibratedProportions:
        cal = self._fitting(gram)
        phi, self.names_, self.images_, self.captions_ = cal.features(gram.plain), gram.names, len(gram), len(set(gram.prompts))
        f = cal.likelihoods(phi)
        every = shares(f, PRIOR)  # (1 + REFITS, K)
        self.proportions_, self.likeliest_ = pi, top = every[0], shares(f[0])
        inner = profile_intervals(f[0], top, self.level)
        deviations = NormalDist().inv_cdf((1 + self.level) / 2)
        extra = deviations * np.sqrt(((every[1:] - pi) ** 2).mean(0))  # (K,): the calibration's own uncertainty
        low = pi - np.hypot(np.maximum(pi - inner[:, 0], 0), extra)
        high = pi + np.hypot(np.maximum(inner[:, 1] - pi, 0), extra)
        self.interval_ = np.clip(np.stack([low, high], 1), 0, 1)
        whitened = np.linalg.solve(cal.covariance, cal.means.T)
        self.moments_ = solve_simplex(cal.means @ whitened, phi.mean(0) @ whitened)
        self.responsibilities_ = pi * f[0] / (f[0] @ pi)[:, None]
        self.quadratic_, self.linear_ = expansion(top, f[0])
        self.constant_ = float(2 * self.linear_ @ top - top @ self.quadratic_ @ top)
        self.p_value_ = cal.mixture_test.p_value(f[0], phi, top, self.bootstrap, np.random.default_rng(self.seed))
        self.outside_ = self.p_value_ < 1 - self.level
        self.verdict_ = self._verdict()
        return self

    def _fitting(self, gram: ResidualGram) -> Calibration:
        """The calibration cut to the gram's members. Raises ValueError where the two were not measured alike."""
        cal = self.calibration
        same = gram.strata.shape == cal.strata.shape and np.allclose(gram.strata, cal.strata, atol=1e-4)
        if not (same and gram.draws == cal.draws):
            raise ValueError("target and calibration were measured at other noise levels or with other draws: use the same settings")
        return cal if cal.names == gram.names else cal.select(gram.names)

    def _verdict(self) -> str:
        order = np.argsort(-self.proportions_)
        parts = [f"{self.proportions_[k]:.0%} {self.names_[k]} ({self.interval_[k, 0]:.0%} to {self.interval_[k, 1]:.0%})" for k in order]
        images = "this one image looks" if self.images_ == 1 else f"these {self.images_} images look"
        text = f"To these models {images} like {', '.join(parts)}."
        if settled(self.proportions_, self.interval_).code == OPEN:
            text += " That is not settled: the intervals leave nearly any mix open, so add images."
        if self.outside_:
            text += f" But no mixture of these members explains them well (p = {self.p_value_:.2g}): part of the target lies outside."
            if self.images_ > 1 and self.captions_ == 1:  # a picture under a wrong caption looks foreign to a model that reads it
                text += " All have the same caption, though, which alone can look foreign: caption each picture, then fit again."
        return text

    def as_weights(self) -> Weights:
        return Weights(self.proportions_, self.interval_, self.names_, "calibrated proportions")
