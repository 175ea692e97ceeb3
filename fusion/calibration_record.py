"""A calibration: the members' statistic on images of their own, and the features and likelihood ratios that it teaches.

Knows no network: it is made from `ResidualGram`s, saved as safetensors, and cut to some of its members with `select`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fusion.features import FOLDS, contrasts, cross_fitted_scores, discriminant, level_shapes, means_of, raw_features, score
from fusion.gram import ResidualGram
from fusion.likelihood import ledoit_wolf, logistic, softmax
from fusion.outside import MixtureTest
from models import bounded, room

REFITS = 64  # bootstrap refits of the calibration, for its own share of the uncertainty


@dataclass(frozen=True, eq=False)
class Calibration:
    """The statistic of K members on images of their own: `products` (M, L, K, K) plain, `owner` (M,) whose image each row is.

    Everything else is computed from these on first use, so that a calibration can be cut to some of its members with `select`.
    """

    names: tuple[str, ...]
    products: np.ndarray
    owner: np.ndarray
    strata: np.ndarray
    draws: int

    def __post_init__(self):
        counts = self.counts
        if len(counts) != len(self.names) or counts.min() < FOLDS:
            raise ValueError(f"calibration needs at least {FOLDS} images of each member, but has {dict(zip(self.names, counts.tolist()))}")
        if not np.isfinite(self.products).all():
            raise ValueError("the calibration holds values that are not finite: measure it again")

    @staticmethod
    def from_grams(grams: Sequence[ResidualGram], names: Sequence[str] | None = None) -> Calibration:
        """`grams[k]`: the statistic of all members on images of member k, in the order of the members."""
        first = grams[0]
        names = tuple(names or first.names)
        if len(grams) != len(names) or any(g.names != first.names for g in grams):
            raise ValueError(f"calibration needs one statistic for each of {', '.join(names)}, all measured with the same members")
        joined = ResidualGram.merge(*grams)
        owner = np.repeat(np.arange(len(grams)), [len(g) for g in grams])
        return Calibration(names, joined.plain.astype(np.float32), owner, first.strata, first.draws)

    def select(self, members: Sequence[int | str]) -> Calibration:
        """The calibration of some members, in the order given (indices or names)."""
        unknown = [m for m in members if isinstance(m, str) and m not in self.names]
        if unknown:
            raise ValueError(f"not calibrated: {', '.join(unknown)}. This calibration has {', '.join(self.names)}")
        chosen = [self.names.index(m) if isinstance(m, str) else int(m) for m in members]
        rows = np.concatenate([np.flatnonzero(self.owner == c) for c in chosen])
        owner = np.repeat(np.arange(len(chosen)), [int((self.owner == c).sum()) for c in chosen])
        products = self.products[np.ix_(rows, range(self.products.shape[1]), chosen, chosen)]
        return Calibration(tuple(self.names[c] for c in chosen), products, owner, self.strata, self.draws)

    def save(self, path: str | Path) -> None:
        arrays = {"products": self.products, "owner": self.owner, "strata": self.strata}
        rest = json.dumps({"names": self.names, "draws": self.draws})
        with room.writing(path, sum(x.nbytes for x in arrays.values())):
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, str(path), metadata={"calibration": rest})

    @staticmethod
    def load(path: str | Path) -> Calibration:
        """Raises ValueError for a file that is missing or is none."""
        name = Path(path).name
        try:
            with safe_open(str(path), framework="np") as file:
                if "calibration" not in (file.metadata() or {}):
                    raise ValueError(f"{name} is not a saved calibration: choose one that was made with --calibrate")
                rest = bounded.parse(file.metadata()["calibration"])
                return Calibration(tuple(rest["names"]), *(file.get_tensor(k) for k in ("products", "owner", "strata")), rest["draws"])
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{name} cannot be read as a calibration ({error}): check the name, or measure one with --calibrate") from None

    # ------------------------------------------------------------------------------------------ the features of an image

    @property
    def counts(self) -> np.ndarray:  # (K,)
        return np.bincount(self.owner, minlength=len(self.names))

    @property
    def settings(self) -> dict[str, int]:
        """How a target must be measured to be compared: `fit_gram(..., **calibration.settings)`."""
        return {"levels": len(self.strata) - 1, "draws": self.draws // 2}

    @cached_property
    def scale(self) -> np.ndarray:
        """Within-member standard deviation of every raw feature, `(L, f)`."""
        raw = raw_features(self.products)
        return np.sqrt(np.mean([raw[self.owner == k].var(0) for k in range(len(self.names))], axis=0)) + 1e-30

    def features(self, products: np.ndarray) -> np.ndarray:
        """`phi(x)` of images, `(N, F)`, from their plain products `(N, L, K, K)`: standardised, projected on smooth functions of level."""
        raw = raw_features(np.asarray(products, dtype=np.float64)) / self.scale
        return np.einsum("nlf,ql->nqf", raw, level_shapes(raw.shape[1])).reshape(len(raw), -1)

    @cached_property
    def own_features(self) -> np.ndarray:  # (M, F)
        return self.features(self.products)

    @cached_property
    def means(self) -> np.ndarray:  # (K, F)
        return means_of(self.own_features, self.owner)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Pooled within-member covariance, shrunk (Ledoit-Wolf), `(F, F)`."""
        return ledoit_wolf(self.own_features - self.means[self.owner])

    # ------------------------------------------------------------------------------------------ likelihood ratios

    @cached_property
    def own_scores(self) -> np.ndarray:
        """Discriminant scores of the calibration images, `(M, K)`, cross-fitted."""
        return cross_fitted_scores(self.own_features, self.owner)

    @cached_property
    def theta(self) -> np.ndarray:
        """Logistic coefficients `(1 + REFITS, K, K)`: the first on the calibration images, the others on resamples of them."""
        weight = (1 / self.counts)[self.owner] * self.counts.mean()  # every member counts alike, however many images it has
        X, rng = self._inputs(self.own_scores), np.random.default_rng(0)
        base = logistic(X, self.owner, weight)
        times = np.concatenate([rng.multinomial(n, np.full(n, 1 / n), size=REFITS) for n in self.counts], axis=1)  # (REFITS, M)
        return np.concatenate([base[None], logistic(X, self.owner, weight * times, start=base)])

    @cached_property
    def _score_scale(self) -> tuple[np.ndarray, np.ndarray]:
        own = contrasts(self.own_scores)
        return own.mean(0), own.std(0) + 1e-30

    def _inputs(self, scores: np.ndarray) -> np.ndarray:
        """Constant and standardised contrasts of scores, `(N, K)`."""
        centre, spread = self._score_scale
        return np.concatenate([np.ones((len(scores), 1)), (contrasts(scores) - centre) / spread], axis=1)

    def likelihoods(self, phi: np.ndarray) -> np.ndarray:
        """`f` (1 + REFITS, N, K): likelihood of each image under each member up to a factor per image; the first is the estimate."""
        return softmax(self._inputs(score(phi, *self._whole)) @ self.theta)

    @cached_property
    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        return discriminant(self.own_features, self.owner)

    @cached_property
    def own_likelihoods(self) -> np.ndarray:  # (M, K), cross-fitted
        return softmax(self._inputs(self.own_scores) @ self.theta[0])

    @cached_property
    def mixture_test(self) -> MixtureTest:
        """The test that a mixture of the members explains a target."""
        return MixtureTest(self.own_likelihoods, self.own_features, self.owner)
