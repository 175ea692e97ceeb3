"""Methods' portraits against a target's: true distances by cells, and the evidence and the recommendation that anybody would see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch

from fusion.evaluation.denoiser_features import PromptSpace
from fusion.evaluation.diversity import copies, diversity
from fusion.evaluation.families import Descent, effective, joined, labels
from fusion.evaluation.kid import kid
from fusion.evaluation.population import distance_of_counts
from fusion.evaluation.recommendation import Recommendation, recommend
from fusion.evaluation.report import Row
from fusion.methods import METHODS, TRAINED, Cost
from fusion.studies.portrait_samples import Pictures


def judged(drawn: Mapping[str, Pictures], held_out: Pictures, population: np.ndarray, costs: Mapping[str, Cost],
           copying: Collection[str] = ()) -> tuple[list[Row], Recommendation]:  # fmt: skip
    """A row for every method, its population against the known one, and the recommendation, which does not see that. `copying`: methods
    that are not recommended, since they repeat what they were fitted to."""
    space = PromptSpace.of([one.features for one in drawn.values()], [one.prompts for one in drawn.values()],
                           (held_out.features, held_out.prompts))  # fmt: skip
    descent = Descent({name: families(name, one) for name, one in drawn.items()}, {name: one.prompts for name, one in drawn.items()},
                      held_out.prompts)  # fmt: skip
    plain, target = dict(zip(drawn, space.samples)), space.whiten(space.held_out)
    readings = {name: space.whiten(one) for name, one in plain.items()}
    rows = []
    for name, one in drawn.items():
        worth = effective(labels(descent.families[name], len(one)))
        found = distance_of_counts(np.bincount(one.cells, minlength=18), np.asarray(population).ravel(), known=True, effective=worth)
        near, spread = kid(readings[name], target, **descent.of(name)), diversity(plain[name], space.held_out, **descent.of(name))
        rows.append(Row(name, METHODS[name].title, {}, costs.get(name), kid=near, diversity=spread, effective=worth, population=found))
    first = next(iter(drawn.values())).seeds
    paired = all(np.array_equal(one.seeds, first) for one in drawn.values())
    return rows, recommend(rows, readings, target, paired=paired, descent=descent, copying=copying)


def copying(ensemble, drawn: Mapping[str, Sequence[Pictures]], fitted: Pictures, held_out: Pictures) -> dict[str, float]:
    """Chance of so many copies, by method that repeats images it was trained on; all samples of one network count together."""
    known, chances = [latents(ensemble, one) for one in (fitted, held_out)], {}
    for name in (name for name, parts in drawn.items() if name in TRAINED and parts):
        seen = copies(np.concatenate([latents(ensemble, one) for one in drawn[name]]), *known)
        if seen.flagged:
            chances[name] = seen.p_value
    return chances


def latents(ensemble, pictures: Pictures) -> np.ndarray:
    """`(N, F)`: what the autoencoder makes of the pictures."""
    with torch.autocast("cpu", torch.bfloat16):
        return ensemble.encode(pictures.pil()).float().flatten(1).numpy()


def families(method: str, pictures: Pictures) -> tuple | None:
    """Labels of pictures that may descend from one particle; None where all are independent. Where no ancestor was noted, pictures of one
    prompt, which alone are resampled into one another, all count as kin."""
    if method != "barycenter":
        return None
    return pictures.prompts if pictures.kin is None else tuple(pictures.kin.tolist())


def share_of_cells(pictures: Pictures) -> np.ndarray:
    """`(18,)` shares of presentation x tone."""
    return np.bincount(pictures.cells, minlength=18) / len(pictures)


def population_lead(one: Pictures, other: Pictures, population: np.ndarray, *, draws: int = 2000) -> tuple[float, float, float]:
    """`TV(other) - TV(one)` to a known population, with a 95 % interval over samples; those of one seed, and those that descend from one
    particle, are resampled together.

    Both distances carry the same upward bias of sampling, which the difference takes off. Positive: `one` is the closer.
    """
    if not np.array_equal(one.seeds, other.seeds):
        raise ValueError("samples of different seeds cannot be compared pairwise: draw both methods with the same seeds")
    q, groups = np.asarray(population).ravel(), joined(labels(one.kin, len(one)), labels(other.kin, len(one)))
    far = lambda counts: 0.5 * np.abs(counts / counts.sum(-1, keepdims=True) - q).sum(-1)  # noqa: E731
    by_group = [np.zeros((groups.max() + 1, 18)) for _ in range(2)]
    for counts, cells in zip(by_group, (one.cells, other.cells)):
        np.add.at(counts, (groups, cells), 1.0)
    times = np.random.default_rng(0).multinomial(len(by_group[0]), np.full(len(by_group[0]), 1 / len(by_group[0])), size=draws)
    low, high = np.quantile(far(times @ by_group[1]) - far(times @ by_group[0]), [0.025, 0.975])
    return float(far(by_group[1].sum(0)) - far(by_group[0].sum(0))), float(low), float(high)
