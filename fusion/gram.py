"""The record that fitting passes around: the members' residual products per image and noise level. It knows no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from models import bounded, room


@dataclass(frozen=True, eq=False)
class ResidualGram:
    """Inner products of the members' residuals: N images, L strata of noise level, K members.

    `plain` (N, L, K, K): products of residuals against the drawn noise, divided by the D numbers of a latent. `smooth`: with the same
    expectation row by row and less noise (see `fusion.objective`), or None. `levels` (N, L): mean level of an image's draws in a stratum.
    `strata` (L + 1,): rising edges of level. `draws`: noise draws per image and stratum, antithetic copies included.
    """

    plain: np.ndarray
    smooth: np.ndarray | None
    levels: np.ndarray
    strata: np.ndarray
    level_weights: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    prompts: tuple[str, ...]
    evaluations: int
    dimensions: int
    draws: int = 2

    def __len__(self) -> int:
        return len(self.plain)

    @property
    def settings(self) -> dict[str, int]:
        """How other images must be measured to be compared with these: `fit_gram(..., **gram.settings)`."""
        return {"levels": len(self.strata) - 1, "draws": max(self.draws // 2, 1)}

    def rows(self, smooth: bool = True) -> np.ndarray:
        """`(N, L, K, K)`. Raises ValueError when the smooth rows are wanted and were not measured."""
        if smooth and self.smooth is None:
            raise ValueError("this statistic was measured without the smooth target: ask for smooth=False")
        return self.smooth if smooth else self.plain

    def weights_of(self, weighting: str) -> np.ndarray:
        """`(L,)` level weights, sum 1: `simple` (uniform in the training timestep) or `likelihood` (uniform in logSNR)."""
        if weighting not in self.level_weights:
            raise ValueError(f"weighting must be one of {sorted(self.level_weights)}, not {weighting!r}")
        return self.level_weights[weighting]

    def per_image(self, weighting: str = "simple", smooth: bool = True) -> np.ndarray:  # (N, K, K)
        return np.einsum("l,nlij->nij", self.weights_of(weighting), self.rows(smooth))

    def per_level(self, smooth: bool = True) -> np.ndarray:  # (L, K, K)
        return self.rows(smooth).mean(0)

    def mean(self, weighting: str = "simple", smooth: bool = True) -> np.ndarray:  # (K, K)
        return self.per_image(weighting, smooth).mean(0)

    def select(self, images: Sequence[int] | None = None, members: Sequence[int | str] | None = None) -> ResidualGram:
        """The rows of some images (indices or a mask) and the columns of some members (indices or names)."""
        rows = np.arange(len(self)) if images is None else np.arange(len(self))[np.asarray(images)]
        chosen = range(len(self.names)) if members is None else members
        cols = [self.names.index(m) if isinstance(m, str) else int(m) for m in chosen]
        cut = lambda x: None if x is None else x[np.ix_(rows, range(x.shape[1]), cols, cols)]  # noqa: E731
        share = len(rows) * len(cols) / (len(self) * len(self.names))
        return replace(self, plain=cut(self.plain), smooth=cut(self.smooth), levels=self.levels[rows],
                       names=tuple(self.names[c] for c in cols), prompts=tuple(self.prompts[r] for r in rows),
                       evaluations=round(self.evaluations * share))  # fmt: skip

    @staticmethod
    def merge(*grams: ResidualGram) -> ResidualGram:
        """Concatenate images of statistics measured with the same members, strata and draws. Raises ValueError otherwise."""
        first = grams[0]
        for other in grams[1:]:
            if other.names != first.names:
                raise ValueError(f"cannot merge statistics of different members: {first.names} and {other.names}")
            if not (np.array_equal(other.strata, first.strata) and (other.draws, other.dimensions) == (first.draws, first.dimensions)):
                raise ValueError("cannot merge statistics with different noise levels, draws or latent sizes")
        join = lambda name: np.concatenate([getattr(g, name) for g in grams])  # noqa: E731
        smooth = None if any(g.smooth is None for g in grams) else join("smooth")
        return replace(first, plain=join("plain"), smooth=smooth, levels=join("levels"),
                       prompts=sum((g.prompts for g in grams), ()), evaluations=sum(g.evaluations for g in grams))  # fmt: skip

    def save(self, path: str | Path) -> None:
        """One safetensors file: the arrays, and everything else as JSON in its metadata."""
        arrays = {n: getattr(self, n) for n in ("plain", "smooth", "levels", "strata")}
        arrays = {n: np.ascontiguousarray(x) for n, x in arrays.items() if x is not None}
        arrays |= {f"level_weights.{n}": np.ascontiguousarray(w) for n, w in self.level_weights.items()}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name in ("names", "prompts", "evaluations", "dimensions", "draws")}
        with room.writing(path, sum(x.nbytes for x in arrays.values())):
            save_file(arrays, str(path), metadata={"residual_gram": json.dumps(rest)})

    @staticmethod
    def load(path: str | Path) -> ResidualGram:
        with safe_open(str(path), framework="np") as file:
            if "residual_gram" not in (file.metadata() or {}):
                raise ValueError(f"{Path(path).name} is not a saved ResidualGram")
            rest = bounded.parse(file.metadata()["residual_gram"])
            arrays = {key: file.get_tensor(key) for key in file.keys()}
        weights = {k.split(".")[1]: arrays.pop(k) for k in list(arrays) if k.startswith("level_weights.")}
        rest |= {"names": tuple(rest["names"]), "prompts": tuple(rest["prompts"])}
        return ResidualGram(**({"smooth": None} | arrays), level_weights=weights, **rest)
