"""Held-out denoising loss of fused weights: what both papers minimise. Weak evidence about a population; shown with that remark."""

from __future__ import annotations

import numpy as np

from fusion.evaluation.estimate import Estimate, bootstrap_mean
from fusion.objective import ResidualGram
from fusion.weights import Weights, quadratic


def image_losses(gram: ResidualGram, weights, *, routed: bool = False, weighting: str = "simple", smooth: bool = False) -> np.ndarray:
    """`(N,)`: mean squared error per latent number of the fused noise prediction on every image.

    `weights`: (K,) or `Weights`, by level too. `routed`: every sample comes from one member with these proportions, so it is the mean of
    the members' own losses and not the loss of their average.
    """
    if not isinstance(weights, Weights):
        weights = Weights(np.asarray(weights, dtype=float), None, gram.names, "given")
    at = weights.at((gram.strata[:-1] + gram.strata[1:]) / 2)  # (L, K)
    rows = gram.rows(smooth)  # (N, L, K, K)
    per_level = np.einsum("nlii,li->nl", rows, at) if routed else quadratic(at[None], rows)
    return per_level @ gram.weights_of(weighting)


def held_out_loss(gram: ResidualGram, weights, *, routed: bool = False) -> Estimate:
    """Mean loss over held-out images, interval over images."""
    return bootstrap_mean(image_losses(gram, weights, routed=routed))


def held_out_gain(gram: ResidualGram, weights, baseline, *, routed: bool = False, baseline_routed: bool = False) -> Estimate:
    """Loss saved against `baseline` on the same images and noise (positive is better); the smooth rows where measured, for less noise."""
    smooth = gram.smooth is not None
    saved = image_losses(gram, baseline, routed=baseline_routed, smooth=smooth) - image_losses(gram, weights, routed=routed, smooth=smooth)
    return bootstrap_mean(saved)
