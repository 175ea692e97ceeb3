"""Distance between the population of some samples and the target's, for the portraits, where the attribute probe can count it."""

from __future__ import annotations

import numpy as np

from fusion.evaluation.estimate import Estimate, inverted_interval
from models.portraits import probe
from models.portraits.population import total_variation


def is_countable(cards) -> bool:
    """Whether every card states a population over presentation and tone, so that the probe knows these pictures."""
    return all(card.population is not None for card in cards)


def cells(images) -> np.ndarray:
    """`(18,)` counts over presentation x tone, as the probe reads them."""
    return np.bincount([portrait.cell for portrait in probe.read(list(images))], minlength=18)


def population_distance(images, target, *, effective: float | None = None, draws: int = 400, seed: int = 0) -> Estimate:
    """Total variation, 0..1, between the population of `images` and of `target`: a (3, 6) table that is known, or a list of images.

    `floor`: what a perfect sampler of the target measures with as many images, the target's own sampling noise included. `effective`: how
    many independent images these are worth (`fusion.evaluation.families`), where some descend from one; None: all are independent.
    """
    known = isinstance(target, np.ndarray)
    return distance_of_counts(cells(images), np.asarray(target) if known else cells(target), known=known, effective=effective, draws=draws,
                              seed=seed)  # fmt: skip


def distance_of_counts(counts: np.ndarray, target: np.ndarray, *, known: bool, effective: float | None = None, draws: int = 400,
                       seed: int = 0) -> Estimate:  # fmt: skip
    """The same from `(18,)` counts; `target` is a population (`known`) or counts that are resampled as well."""
    rng = np.random.default_rng(seed)
    if counts.sum() < 1 or target.sum() <= 0:
        raise ValueError("no image to read a population from: draw some samples first")
    number = max(round(counts.sum() if effective is None else effective), 1)
    p, q = counts / counts.sum(), np.ravel(target) / target.sum()

    other = q if known else rng.multinomial(int(target.sum()), q, size=draws) / target.sum()  # (draws, 18)

    def simulated(shares: np.ndarray) -> np.ndarray:  # (G, draws)
        populations = np.maximum(q + shares[:, None] * (p - q), 0.0)
        populations /= populations.sum(1, keepdims=True)
        return 0.5 * np.abs(rng.multinomial(number, populations[:, None], size=(len(shares), draws)) / number - other).sum(2)

    value = total_variation(p, q)
    low, high = inverted_interval(value, simulated, most=1.0)
    return Estimate(value, low, high, float(simulated(np.zeros(1)).mean()))
