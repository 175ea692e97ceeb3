"""From the statistic to weights: the published objective solved exactly, per level, and as mixture proportions.

Nothing here calls a network: every estimator reads a `ResidualGram` and takes milliseconds. What the loss alone cannot see (the population,
drowned by the members' own training errors) is the business of `fusion.calibration`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.objective import ResidualGram
from fusion.simplex import solve_blocks, solve_simplex


@dataclass(frozen=True, eq=False)
class Weights:
    """Fusion weights, `(K,)` or `(L, K)` with `strata` (L + 1,), on the simplex; `interval` (K, 2) or None; `how` they were found."""

    values: np.ndarray
    interval: np.ndarray | None
    names: tuple[str, ...]
    how: str
    strata: np.ndarray | None = None

    def __post_init__(self):
        values = np.asarray(self.values, dtype=np.float64)
        object.__setattr__(self, "values", values)
        if values.ndim not in (1, 2) or values.shape[-1] != len(self.names):
            raise ValueError(f"weights of shape {values.shape} do not fit {len(self.names)} members")
        if not np.isfinite(values).all() or (values < -1e-9).any() or np.abs(values.sum(-1) - 1).max() > 1e-6:
            raise ValueError("weights must be finite, not negative, and sum to 1")
        if values.ndim == 2 and (self.strata is None or len(self.strata) != len(values) + 1):
            raise ValueError("weights per level need the L + 1 edges of their levels")

    def at(self, level) -> np.ndarray:
        """Weights at a level (or levels, `(B,)`): `(K,)` (or `(B, K)`); beyond the strata, those of the nearest."""
        shape = np.shape(level)
        if self.values.ndim == 1:
            return np.broadcast_to(self.values, (*shape, len(self.names)))
        return self.values[np.searchsorted(self.strata[1:-1], np.asarray(level), side="right")]

    def summary(self) -> dict:
        """Plain JSON values: `how`, and for every member its weight (mean over levels) and interval."""
        mean = self.values.reshape(-1, len(self.names)).mean(0)
        members = {n: {"weight": float(w)} for n, w in zip(self.names, mean)}
        if self.interval is not None:
            for name, bounds in zip(self.names, self.interval):
                members[name]["interval"] = [float(b) for b in bounds]
        per_level = {} if self.values.ndim == 1 else {"strata": np.asarray(self.strata).tolist(), "levels": self.values.tolist()}
        return {"how": self.how, "members": members} | per_level


@dataclass(frozen=True)
class Gain:
    """Held-out loss saved against a baseline (per number of a latent, positive is better), its 95 % interval, and as a share of it."""

    mean: float
    interval: tuple[float, float]
    relative: float


def leave_one_out(rows: np.ndarray) -> np.ndarray:
    """Mean matrices without each image, `(N, ..., K, K)` from `(N, ..., K, K)`: `R_-n = (N R - R_n) / (N - 1)`."""
    return (rows.sum(0) - rows) / (len(rows) - 1)


def quadratic(w: np.ndarray, R: np.ndarray) -> np.ndarray:  # (...,)
    return np.einsum("...i,...ij,...j->...", w, R, w)


class SimplexWeights:
    """The published fit, solved exactly: `argmin w' R w` on the simplex.

    `weighting` of the levels: `simple` (both papers' loss) or `likelihood`. `smooth`: use the Rao-Blackwell rows. `bootstrap`
    resamples of the images give a percentile interval of width `level`. After `fit(gram)`:
    `weights_` (K,), `interval_` (K, 2), `loss_` (mean squared error of the fused noise prediction), `best_single_` (index),
    `gain_uniform_` and `gain_single_` (leave-one-out `Gain`, None for one image), `determined_`, `verdict_`.
    """

    def __init__(self, weighting: str = "simple", smooth: bool = True, bootstrap: int = 400, level: float = 0.95, seed: int = 0):
        self.weighting, self.smooth, self.bootstrap, self.level, self.seed = weighting, smooth, bootstrap, level, seed

    def fit(self, gram: ResidualGram) -> SimplexWeights:
        rows, plain = gram.per_image(self.weighting, self.smooth), gram.mean(self.weighting, smooth=False)
        rng, count = np.random.default_rng(self.seed), len(rows)
        self.names_, self.images_, mean = gram.names, count, rows.mean(0)
        self.weights_, self.best_single_ = solve_simplex(mean), int(np.argmin(np.diag(plain)))
        self.loss_ = float(quadratic(self.weights_, plain))
        resampled = rng.multinomial(count, np.full(count, 1 / count), size=self.bootstrap) / count  # (bootstrap, N)
        self.resampled_ = solve_simplex(np.einsum("bn,nij->bij", resampled, rows))
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        whole = np.tile([0.0, 1.0], (len(gram.names), 1))  # one image says nothing about other images
        self.interval_ = np.quantile(self.resampled_, tails, axis=0).T if count > 1 else whole
        self.gain_uniform_, self.gain_single_ = self._gains(rows, rng) if count > 1 else (None, None)
        self._judge(mean)
        return self

    def _gains(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Gain, Gain]:
        """Leave-one-out: weights, and the best single member, from the other images; both scored on the one left out."""
        others, members = leave_one_out(rows), rows.shape[-1]
        fused = quadratic(solve_simplex(others), rows)
        uniform = quadratic(np.full(members, 1 / members), rows)
        best = np.einsum("nii->ni", others).argmin(1)
        single = rows[np.arange(len(rows)), best, best]
        return tuple(self._gain(base - fused, base, rng) for base in (uniform, single))

    def _gain(self, saved: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> Gain:
        means = rng.choice(saved, size=(self.bootstrap, len(saved))).mean(1)
        low, high = np.quantile(means, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Gain(float(saved.mean()), (float(low), float(high)), float(saved.mean() / base.mean()))

    def _judge(self, mean: np.ndarray) -> None:
        """Do these images determine the weights? Not with few images, copies among the members, or a wide interval."""
        apart = np.diag(mean)[:, None] + np.diag(mean) - 2 * mean + np.diag(np.full(len(mean), np.inf))  # ||eps_i - eps_j||^2 / D
        twins, width = np.unravel_index(apart.argmin(), apart.shape), np.ptp(self.interval_, axis=1)
        widest, count = int(width.argmax()), self.images_
        if count < 4:
            few = "One image does" if count == 1 else f"{count} images do"
            reason = f"{few} not determine the weights: give at least 4, better 12."
        elif apart.min() < 1e-6 * np.diag(mean).mean():
            one, two = (self.names_[i] for i in twins)
            reason = f"{one} and {two} predict the same, so only the sum of their weights means anything."
        elif width[widest] > 0.5:
            low, high = self.interval_[widest]
            member = self.names_[widest]
            reason = f"These {count} images do not determine the weights: {member} could have anything from {low:.0%} to {high:.0%}."
        else:
            reason = ""
        self.determined_ = not reason
        self.verdict_ = reason or f"These {count} images determine the weights of least loss to within {width[widest] / 2:.0%}."

    def as_weights(self) -> Weights:
        return Weights(self.weights_, self.interval_, self.names_, f"least denoising loss, {self.weighting} level weights")


class LevelWeights:
    """Weights per noise level: `argmin sum_l omega_l w_l' R_l w_l + rho sum_l ||w_l - w_{l+1}||^2`, every `w_l` on the simplex.

    `rho` (in units of the mean curvature of the loss) is chosen from `smoothings` by leave-one-out; `inf` is the constant fit.
    After `fit(gram)`: `weights_` (L, K), `smoothing_`, `losses_` (held-out loss of each smoothing), `loss_`.
    """

    def __init__(self, weighting: str = "simple", smooth: bool = True, smoothings=(0.01, 0.1, 1.0, 10.0, 100.0, np.inf)):
        self.weighting, self.smooth, self.smoothings = weighting, smooth, smoothings

    def fit(self, gram: ResidualGram) -> LevelWeights:
        omega = gram.weights_of(self.weighting)
        rows, plain = (omega[:, None, None] * gram.rows(smooth) for smooth in (self.smooth, False))  # (N, L, K, K)
        self.names_, self.strata_ = gram.names, gram.strata
        self.losses_ = np.full(len(self.smoothings), np.nan)
        self.smoothing_ = np.inf
        if len(rows) > 1:
            others = leave_one_out(rows)
            held_out = [quadratic(self._solve(others, rho, finish=False), rows).sum(-1).mean() for rho in self.smoothings]
            self.losses_ = np.array(held_out)
            self.smoothing_ = float(self.smoothings[int(self.losses_.argmin())])
        self.weights_ = self._solve(rows.mean(0), self.smoothing_)
        self.loss_ = float(quadratic(self.weights_, plain.mean(0)).sum())
        return self

    @staticmethod
    def _solve(R: np.ndarray, rho: float, finish: bool = True) -> np.ndarray:
        """`R` (..., L, K, K), level weights included -> (..., L, K)."""
        levels, members = R.shape[-3], R.shape[-1]
        if np.isinf(rho):
            return np.repeat(solve_simplex(R.sum(-3))[..., None, :], levels, axis=-2)
        centre = np.eye(members) - 1 / members
        rho = rho * np.einsum("...lij,ij->...", R, centre) / (levels * max(members - 1, 1))  # mean curvature along the simplex
        chain = np.diff(np.eye(levels), axis=0)
        coupling = np.kron(chain.T @ chain, np.eye(members))
        Q = np.zeros((*R.shape[:-3], levels, members, levels, members))
        for at in range(levels):
            Q[..., at, :, at, :] = R[..., at, :, :]
        size = levels * members
        Q = Q.reshape(*R.shape[:-3], size, size) + np.asarray(rho)[..., None, None] * coupling
        return solve_blocks(Q, np.zeros(size), levels, finish=finish).reshape(*R.shape[:-1])

    def as_weights(self) -> Weights:
        how = "least denoising loss per noise level" if np.isfinite(self.smoothing_) else "least denoising loss; levels do not differ"
        return Weights(self.weights_, None, self.names_, how, self.strata_)


class MixtureProportions:
    """Which member explains which image: EM on `log p_i(x_n) = -D/2 * integral of E||r_i||^2 / D dlogSNR`, up to a shared constant.

    The members' training errors enter these likelihoods undiminished: read them as evidence, and proportions from `fusion.calibration`.
    After `fit(gram)`: `proportions_` (K,), `responsibilities_` (N, K), `log_likelihood_` (N, K) nats, `outliers_` (N,): images that even
    their best member explains much worse than it does the others (robust z above 3.5; none is called among fewer than 5).
    """

    def fit(self, gram: ResidualGram) -> MixtureProportions:
        error = np.einsum("nlii,l->ni", gram.plain, np.diff(gram.strata))  # (N, K)
        self.names_, self.log_likelihood_ = gram.names, -gram.dimensions / 2 * error
        likelihood = np.exp(self.log_likelihood_ - self.log_likelihood_.max(1, keepdims=True))
        pi = np.full(error.shape[1], 1 / error.shape[1])
        for _ in range(500):
            pi = (pi * likelihood / (likelihood @ pi)[:, None]).mean(0)
        self.proportions_ = pi / pi.sum()
        self.responsibilities_ = pi * likelihood / (likelihood @ pi)[:, None]
        badness = error.min(1)
        spread = 1.4826 * np.median(np.abs(badness - np.median(badness)))
        self.outliers_ = (badness - np.median(badness) > 3.5 * max(spread, 1e-12)) & (len(gram) >= 5)
        return self

    def as_weights(self) -> Weights:
        return Weights(self.proportions_, None, self.names_, "mixture proportions by EM on the members' likelihoods")
