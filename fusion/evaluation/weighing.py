"""Weigh methods' samples by every kind of evidence at once: rows with samples go in, rows with figures and a recommendation come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fusion.evaluation.columns import remarks
from fusion.evaluation.denoiser_features import PromptSpace, denoiser_features, through_autoencoder
from fusion.evaluation.diversity import Copies, copies, diversity
from fusion.evaluation.estimate import Estimate
from fusion.evaluation.families import FEWEST, Descent, effective, families_of
from fusion.evaluation.features import distance_of_means
from fusion.evaluation.kid import kid
from fusion.evaluation.loss import held_out_gain, held_out_loss
from fusion.evaluation.own_loss import measured_on, own_losses
from fusion.evaluation.population import is_countable, population_distance
from fusion.evaluation.recommendation import NONE, Recommendation, nothing_to_compare, recommend
from fusion.methods import TRAINED
from fusion.methods.barycenter import UNCORRECTED
from fusion.methods.coordinates import Coordinates
from fusion.methods.single import best_single, one_hot
from fusion.objective import ResidualGram, fit_gram
from fusion.target import Target

LOSSES = ("single", "uniform", "scorefusion", "scorefusion_levels", "matched", "mixture", "switch")  # whose loss the statistic knows
RESIDUAL_SAMPLES = 32  # samples a method whose calibrated features are read: 2 L K evaluations each, 128 for four models


def weigh(ensemble, rows: Sequence, *, fit=None, held_out: ResidualGram | None = None, pictures: Target | None = None, population=None,
          residual_samples: int = RESIDUAL_SAMPLES, measured: Target | None = None, progress: Callable[[int, int, str], None] | None = None,
          stop: Callable[[], bool] | None = None) -> tuple[list, Recommendation]:  # fmt: skip
    """The rows with every figure that the arguments allow, and the recommendation. Rows without samples pass through.

    `held_out`: statistic of held-out target images, for losses and calibrated features. `pictures`: these images with their prompts, for
    KID, diversity and copies. `population`: the target's, a (3, 6) table that is known or images to count, where the models' cards say that
    kinds can be counted. `residual_samples`: of how many samples a method the calibrated features are read; 0 for none. `measured`: the
    pictures that `held_out` was measured on, where they are not all `pictures`: for the losses of methods with a network of their own.
    """
    rows, space = list(rows), _space(fit, held_out) if residual_samples else None
    drawn = [place for place, row in enumerate(rows) if row.samples]
    stages = len(drawn) * (2 if space is not None else 1)
    for place in drawn:
        _tell(progress, 0, stages, "held-out loss of " + rows[place].title)
        found = _company(rows[place]) | _losses(ensemble, rows[place], fit, held_out, measured, pictures, stop)
        if population is not None and is_countable(ensemble.cards):
            images = [sample.image for sample in rows[place].samples]
            found["population"] = population_distance(images, population, effective=found["effective"])
        rows[place] = replace(rows[place], **found)
    readings, kin = {}, {rows[place].method: families_of(_in_order(rows[place].samples)) for place in drawn}
    if space is not None:
        tell = lambda n: _tell(progress, n, stages, "calibrated features of " + rows[drawn[n]].title)  # noqa: E731
        readings = _by_features(ensemble, rows, drawn, space, held_out, residual_samples, kin, tell, stop)
    told = None
    if pictures is not None and not (stop is not None and stop()):
        tell = lambda n: _tell(progress, stages - len(drawn) + n, stages, "KID")  # noqa: E731
        told = _by_pictures(ensemble, rows, drawn, pictures, fit, kin, tell, stop)
    if told is None and len(readings) > 1:
        descent = Descent({method: kin[method][: len(reading)] for method, reading in readings.items()})
        told = recommend(rows, readings, space.read(held_out), kind="features", paired=_paired([rows[p] for p in drawn]), descent=descent,
                         uncorrected=_uncorrected(rows))  # fmt: skip
    measured = [row for row in rows if row.kid is not None or row.features is not None]
    return rows, told or Recommendation(nothing_to_compare(measured, measured) if len(measured) == 1 else NONE)


def _company(row) -> dict:
    """How many independent images a row's samples are worth, with what they say of their company, and else of how they were drawn."""
    said, of = remarks(row.samples), "effective" if any(sample.family is not None for sample in row.samples) else "method"
    return {"effective": effective(families_of(row.samples)), "notes": {**row.notes, **({of: said} if said else {})}}


def _uncorrected(rows) -> list[str]:
    """Methods none of whose samples had others of its prompt to be weighed against."""
    return [row.method for row in rows if row.samples and all(sample.note == UNCORRECTED for sample in row.samples)]


def _tell(progress, done: int, total: int, message: str) -> None:
    if progress is not None:
        progress(done, total, message)


# ------------------------------------------------------------------------------------------------ denoising loss

def _losses(ensemble, row, fit, held_out, measured, pictures, stop) -> dict:
    """From the statistic where it knows the method; else, where its pictures are at hand, from the method's own network."""
    if held_out is None:
        return {}
    found, known = losses(held_out, fit, row.method, _applied(ensemble, row)), measured_on(held_out, measured, pictures)
    if found or known is None or (stop is not None and stop()):
        return found
    baseline = None if fit is None else one_hot(len(held_out.names), best_single(fit))
    return own_losses(ensemble, row.samples[0], row.method, held_out, known, baseline, stop=stop)


def losses(held_out: ResidualGram, fit, method: str, weights) -> dict:
    """Held-out loss, and what is saved against the best single model, for the methods whose loss the statistic knows; else nothing.

    `weights`: (K,), or `Weights` by level; for the mixture its proportions.
    """
    if method.split("/")[0] not in LOSSES:
        return {}
    routed = method == "mixture"
    found = {"loss": held_out_loss(held_out, weights, routed=routed)}
    if fit is not None:
        found["gain"] = held_out_gain(held_out, weights, one_hot(len(held_out.names), best_single(fit)), routed=routed)
    return found


def _applied(ensemble, row):
    """The weights whose loss stands for a row: those of its samples, one model's where they are one model's."""
    sample = row.samples[0]
    if sample.member is None or row.method == "mixture":
        return sample.applied
    return one_hot(len(ensemble.names), ensemble.names.index(sample.member))


# ------------------------------------------------------------------------------------------------ calibrated residual features

def _space(fit, held_out) -> Coordinates | None:
    if fit is None or held_out is None or fit.calibrated is None or len(held_out.names) < 2:
        return None
    return Coordinates.of(fit.calibrated, held_out.names)


def _by_features(ensemble, rows: list, drawn: list[int], space: Coordinates, held_out, most: int, kin: dict, tell, stop) -> dict:
    """Set the distance in calibrated features in `rows`, one after another until stopped; the readings by method."""
    readings = {}
    for number, place in enumerate(drawn):
        if stop is not None and stop():
            break
        tell(number)
        reading = _residuals(ensemble, rows[place], space, held_out, most, stop)
        if reading is None:
            break
        readings[rows[place].method] = reading
        distance = distance_of_means(reading, space.read(held_out), families=kin[rows[place].method][: len(reading)])
        rows[place] = replace(rows[place], features=distance, notes=rows[place].notes | _partly(rows[place], len(reading)))
    return readings


def _residuals(ensemble, row, space, held_out, most: int, stop) -> np.ndarray | None:
    """Coordinates `(N, K-1)` of the first samples by place in the plan; None when stopped before the first."""
    samples = _in_order(row.samples)[:most]
    images, prompts = [sample.image for sample in samples], [sample.prompt for sample in samples]
    try:
        return space.read(fit_gram(ensemble, images, prompts, **held_out.settings, seeds="place", stop=stop))
    except RuntimeError:
        if stop is None or not stop():
            raise
        return None


def _partly(row, read: int) -> dict[str, str]:
    if read == len(row.samples):
        return {}
    return {"features": f"Read on {read} of the {len(row.samples)} samples, since every image takes many network evaluations."}


# ------------------------------------------------------------------------------------------------ denoiser features

def _by_pictures(ensemble, rows: list, drawn: list[int], pictures: Target, fit, kin: dict, tell, stop) -> Recommendation | None:
    """Set KID, diversity and copies in `rows`; the recommendation by KID, None where there are too few images or it was stopped.

    `kin`: families of the rows' samples in order, by method.
    """
    count = lambda place: len(set(kin[rows[place].method]))  # noqa: E731
    readable = [place for place in drawn if count(place) >= FEWEST]
    for place in drawn:
        if count(place) < FEWEST <= len(rows[place].samples):
            few = f"Not measured: its {len(rows[place].samples)} samples descend from {count(place)} particles, and {FEWEST} are needed."
            rows[place] = replace(rows[place], notes={**rows[place].notes, "kid": few, "diversity": few})
    if not readable or len(pictures) < FEWEST:  # images on either side of a kernel distance
        return None
    held = through_autoencoder(ensemble, pictures.images)
    try:
        target = denoiser_features(ensemble, held, pictures.prompts, stop=stop)
        features = []
        for number, place in enumerate(readable):
            tell(number)
            samples = _in_order(rows[place].samples)
            features.append(denoiser_features(ensemble, [s.image for s in samples], [s.prompt for s in samples], stop=stop))
    except RuntimeError:
        if stop is None or not stop():
            raise
        return None
    prompts = [[sample.prompt for sample in _in_order(rows[place].samples)] for place in readable]
    space, readings, copying = PromptSpace.of(features, prompts, (target, pictures.prompts)), {}, []
    descent = Descent(kin, {rows[place].method: said for place, said in zip(readable, prompts)}, pictures.prompts)
    target = space.whiten(space.held_out)
    known = None if fit is None or fit.target is None else _latents(ensemble, through_autoencoder(ensemble, fit.target.images))
    for place, reading in zip(readable, space.samples):
        method = rows[place].method
        readings[method], own = space.whiten(reading), descent.of(method)
        found = {"kid": kid(readings[method], target, **own), "diversity": diversity(reading, space.held_out, **own),
                 "notes": rows[place].notes}  # fmt: skip
        if known is not None:
            samples = _latents(ensemble, [sample.image for sample in _in_order(rows[place].samples)])
            seen = copies(samples, known, _latents(ensemble, held), kin[method])
            copying += [method] if seen.flagged and method in TRAINED else []
            share, remark = copied(seen, method)
            found |= {"copies": share, "notes": found["notes"] | remark}
        rows[place] = replace(rows[place], **found)
    if len(readings) < 2:
        return None
    paired = _paired([rows[place] for place in readable])
    return recommend(rows, readings, target, paired=paired, descent=descent, copying=copying, uncorrected=_uncorrected(rows))


def _latents(ensemble, images) -> np.ndarray:
    return ensemble.encode(list(images)).flatten(1).numpy()


def copied(seen: Copies, method: str) -> tuple[Estimate, dict[str, str]]:
    """The figure of the column, and a sentence where the samples of a method that trains on the fitted images repeat them.

    The others fit a few weights, which cannot hold an image: among so many tests one would be accused by chance.
    """
    share = Estimate(seen.share, seen.share, seen.share, seen.chance)
    if not seen.flagged or method not in TRAINED:
        return share, {}
    text = f"It repeats images it was fitted to: fresh images of the target show so many with probability {seen.p_value:.1g}."
    return share, {"copies": text}


def _in_order(samples) -> list:
    """Samples by seed and prompt, in whatever order the method yielded them: the first ones then have different prompts."""
    return sorted(samples, key=lambda sample: (sample.seed, sample.prompt))


def _paired(rows) -> bool:
    """Whether all rows have the same prompts and seeds."""
    jobs = [[(sample.seed, sample.prompt) for sample in _in_order(row.samples)] for row in rows]
    return all(one == jobs[0] for one in jobs)
