"""What the calibrated fit looks at in an image, and the discriminants that tell members apart by it. Plain numpy on residual products."""

from __future__ import annotations

import numpy as np

from fusion.likelihood import ledoit_wolf

SHAPES = 5  # smooth functions of level that a feature is projected on: 16 strata are more than 192 images can weigh one by one
FOLDS = 8


def raw_features(products: np.ndarray) -> np.ndarray:
    """Per level, `(N, L, f)`: losses against the mean member (K - 1) and pairwise disagreements `||eps_i - eps_j||^2 / D`."""
    loss = np.einsum("nlii->nli", products)
    i, j = np.triu_indices(loss.shape[-1], 1)
    apart = loss[..., i] + loss[..., j] - 2 * products[..., i, j]
    return np.concatenate([(loss - loss.mean(-1, keepdims=True))[..., :-1], apart], axis=-1)


def means_of(phi: np.ndarray, owner: np.ndarray) -> np.ndarray:
    return np.stack([phi[owner == k].mean(0) for k in range(owner.max() + 1)])


def discriminant(phi: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminants with a shrunk covariance: `(F, K)` and `(K,)`, whose scores are Gaussian log-likelihoods up to a constant."""
    means = means_of(phi, owner)
    W = np.linalg.solve(ledoit_wolf(phi - means[owner]), means.T)
    return W, -0.5 * np.einsum("kf,fk->k", means, W)


def score(phi: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    return phi @ W + b


def contrasts(scores: np.ndarray) -> np.ndarray:
    return scores[:, :-1] - scores[:, -1:]


def level_shapes(levels: int) -> np.ndarray:
    """The first cosines over the strata, `(q, L)`: what a feature is projected on."""
    place = (np.arange(levels) + 0.5) / levels
    return np.cos(np.pi * np.arange(min(SHAPES, levels))[:, None] * place) / np.sqrt(levels)


def cross_fitted_scores(phi: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Scores `(M, K)` of the calibration images, each from discriminants that never saw the image (`FOLDS` folds within every member)."""
    out, fold = np.empty((len(owner), owner.max() + 1)), np.empty(len(owner), dtype=int)
    for k in range(owner.max() + 1):
        fold[owner == k] = np.arange((owner == k).sum()) % FOLDS
    for f in range(FOLDS):
        out[fold == f] = score(phi[fold == f], *discriminant(phi[fold != f], owner[fold != f]))
    return out
