"""Held-out loss of a method that made a network of its own: it is asked about the pictures that the statistic was measured on.

The statistic of the members cannot tell what another network predicts. An ensemble of that one network can: with the pictures, the noise
levels and the noise of the members' statistic, so that what it saves against a member is a difference on the same noisy pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fusion.evaluation.estimate import bootstrap_mean
from fusion.evaluation.loss import held_out_loss, image_losses
from fusion.methods.drawing import values_of
from fusion.objective import ResidualGram, fit_gram
from fusion.target import Target

SEED = 1  # of the noise of held-out statistics: far from that of fits, whose seed is 0


def measured_on(held_out: ResidualGram, given: Target | None, pictures: Target | None) -> Target | None:
    """The pictures behind a held-out statistic: those `given`, else `pictures` where their prompts are its own; None where unknown."""
    found = pictures if given is None else given
    return found if found is not None and tuple(found.prompts) == tuple(held_out.prompts) else None


def own_losses(ensemble, sample, method: str, held_out: ResidualGram, measured: Target, baseline: np.ndarray | None, *,
               stop: Callable[[], bool] | None = None) -> dict:  # fmt: skip
    """`loss`, and `gain` against the members' weights `baseline` (K,), of the one network that drew `sample`; nothing for other methods,
    for a network on another noise path than the statistic's, and when stopped. Takes `2 draws` evaluations a picture and noise level.
    """
    alone = _network(ensemble, sample, method)
    if alone is None:
        return {}
    try:
        gram = fit_gram(alone, measured.images, list(measured.prompts), **held_out.settings, seed=SEED, stop=stop)
    except RuntimeError:
        if stop is None or not stop():
            raise
        return {}
    if len(gram) < len(held_out) or not _alike(gram, held_out):
        return {}
    found = {"loss": held_out_loss(gram, np.ones(1))}
    if baseline is not None:
        smooth = held_out.smooth is not None and np.array_equal(gram.levels, held_out.levels)  # its constant cancels on equal noise alone
        saved = image_losses(held_out, baseline, smooth=smooth) - image_losses(gram, np.ones(1), smooth=smooth)
        found["gain"] = bootstrap_mean(saved)
    return found


def _network(ensemble, sample, method: str):
    """The ensemble of the one network that a merging or training method drew `sample` with; None for other methods."""
    if sample.trained is not None:
        from fusion.transfer.adapting import with_trained

        return with_trained(ensemble, sample.trained)
    if method == "merge":
        from fusion.methods.merge import merged

        return merged(ensemble, values_of(sample.applied))
    return None


def _alike(one: ResidualGram, other: ResidualGram) -> bool:
    """Whether two statistics have the same noise levels, and weigh them alike: those of one noise path."""
    same = one.strata.shape == other.strata.shape and np.allclose(one.strata, other.strata, atol=1e-6)
    return same and np.allclose(one.weights_of("simple"), other.weights_of("simple"), atol=1e-6)
