"""Find the blend whose own samples look like the target: the search behind `matched`.

The map from weights to the population of the samples is monotone but steep (design: maths.md, "From proportions to samples"), so it is
measured: small batches are drawn at a few weights, read by the same calibrated features as the target, and a smooth map is laid through
the readings, in the coordinates of `methods.coordinates`. The corners of the simplex are known from the calibration and cost nothing.

Cost: `(K + 4)` batches (K + 1 around the proportions, 2 refinements, 1 check), each image taking `steps` times its active members for
drawing and `2 L K` evaluations for reading. For 4 shipped portraits, 24 images a batch and 20 steps: about 40,000 evaluations of a
16 x 16 network, near two minutes on two cores; see `search_evaluations`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusion.kept import digest, identities
from fusion.methods.coordinates import Coordinates
from fusion.methods.drawing import draw, evaluations
from fusion.methods.plan import MethodError, SamplingPlan
from fusion.objective import ResidualGram, fit_gram
from fusion.weights import Weights

IMAGES = 24  # per batch; the target itself is seldom larger
REFINEMENTS = 2
REACH = 0.35  # how far from the proportions towards each corner the first batches lie
LENGTH, AMPLITUDE = 0.5, 0.3  # of the smooth map, in weights and in distances between members


@dataclass(frozen=True, eq=False)
class Point:
    """One batch: drawn at `weights` (K,), read as `shares` (K,) (unbounded proportions, sum 1) and as coordinates `u` (K-1,)."""

    weights: np.ndarray
    shares: np.ndarray
    u: np.ndarray
    images: int


@dataclass(frozen=True, eq=False)
class Match:
    """State of the search after `done` of `total` batches. `weights` is the best answer so far (None before the first batch).

    `distance`: of the last check batch from the target, in standard deviations of one picture; `chance`: what two perfect samples of
    these sizes would measure on average; both None until the check. `target` (K,): the target's own unbounded proportions.
    """

    done: int
    total: int
    message: str
    target: np.ndarray
    points: tuple[Point, ...] = ()
    weights: Weights | None = None
    distance: float | None = None
    chance: float | None = None


class SmoothMap:
    """Weights (n, K) -> coordinates (n, K-1): exact mixtures plus a kernel ridge on how far the readings lie from them."""

    def __init__(self, coordinates: Coordinates, points):
        spread = coordinates.corners
        self.at = np.concatenate([np.eye(len(spread))] + [p.weights[None] for p in points])
        readings = np.concatenate([spread] + [p.u[None] for p in points])
        noise = np.concatenate([1.0 / coordinates.calibration.counts, [1.0 / p.images for p in points]])
        size = AMPLITUDE**2 * max(((spread[:, None] - spread[None]) ** 2).sum(-1).max() / max(spread.shape[1], 1), 1e-12)
        self.coordinates = coordinates
        gap = readings - coordinates.mixed(self.at)
        self.amounts = np.linalg.solve(size * self._kernel(self.at) + np.diag(noise), gap) * size

    def _kernel(self, weights: np.ndarray) -> np.ndarray:
        return np.exp(-((weights[:, None] - self.at[None]) ** 2).sum(-1) / (2 * LENGTH**2))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self.coordinates.mixed(weights) + self._kernel(weights) @ self.amounts


def search(ensemble, fit, plan: SamplingPlan, *, images: int = IMAGES, refinements: int = REFINEMENTS, seed: int = 0) -> Iterator[Match]:
    """Yield the state after every batch; the last one carries the answer. Stopping ends it early with the best answer so far.

    `plan` gives steps, guidance, size, stop and progress; prompts are the target's own, since features depend on them.
    Raises MethodError without a calibration.
    """
    space = _space(fit)
    target, start = space.read(fit.gram).mean(0), np.asarray(fit.calibrated.proportions_, dtype=float)
    goal, total = space.shares(target), batches(len(start), refinements)
    yield Match(0, total, f"{total} batches of {images} pictures to draw and read", goal)
    first = [start] + [(1 - REACH) * start + REACH * corner for corner in np.eye(len(start))]
    points, weights, smooth = [], None, None
    for number in range(total):
        last = number == total - 1
        here = first[number] if number < len(first) else weights.values
        point = _measure(ensemble, fit, plan, space, here, images, 2**40 + seed * 10**6 + number * images, number, total)
        if point is None:
            return
        gap = float(np.linalg.norm(point.u - target))
        if not last:  # the check stays out of the map: it judges the answer that the map gave
            points.append(point)
            smooth = SmoothMap(space, points)
            weights = _solve(smooth, target, start, len(fit.gram), ensemble.names)
        chance = float(np.sqrt(len(target) * (1 / images + 1 / len(fit.gram))))
        yield Match(
            number + 1, total, _message(number, total, gap, chance), goal, tuple(points), weights,
            gap if last else None, chance if last else None,
        )  # fmt: skip


def batches(members: int, refinements: int = REFINEMENTS) -> int:
    """Batches of a whole search: around the proportions, refinements, and the check."""
    return members + 1 + refinements + 1


def distance_form(fit, found: Match | None = None) -> dict:
    """How far samples at weights `w` lie from the target, as numbers that a browser can evaluate, in standard deviations of one picture.

    `|w a + b|` for a mixture with these proportions (`a` (K, K-1), `b` (K-1,)). With a search, for blends: `|w a + b + k(w) amounts|`,
    `k_i = exp(-|w - at_i|^2 / (2 length^2))`, `at` (P, K), `amounts` (P, K-1). `best`: the value at the fitted (matched) weights.
    """
    space = _space(fit)
    target = space.read(fit.gram).mean(0)
    form = {"a": space.corners.tolist(), "b": (-target).tolist()}
    reached = space.mixed(fit.calibrated.proportions_)
    if found is not None and found.points:
        smooth = SmoothMap(space, found.points)
        form |= {"at": smooth.at.tolist(), "amounts": smooth.amounts.tolist(), "length": LENGTH}
        reached = smooth(found.weights.values[None])[0]
    return form | {"best": float(np.linalg.norm(reached - target))}


def _message(number: int, total: int, gap: float, chance: float) -> str:
    if number < total - 1:
        return f"batch {number + 1} of {total}: {gap:.2f} from the target"
    verdict = "as close as chance allows" if gap < 1.5 * chance else "farther than chance alone: perhaps no blend reaches the target"
    return f"a fresh batch lies {gap:.2f} from the target, {verdict} ({chance:.2f} for perfect samples)"


def _space(fit) -> Coordinates:
    if fit is None or fit.calibrated is None:
        raise MethodError(
            "matching needs a calibration, which says how each model's own pictures look to all of them: the shipped portraits have one; "
            "for other models run the calibration once (it draws samples from each), then fit again"
        )
    return Coordinates.of(fit.calibrated, fit.gram.names)


def _measure(ensemble, fit, plan, space, weights, images: int, seed: int, number: int, total: int) -> Point | None:
    """Draw and read one batch; None when stopped before it was complete."""
    prompts = [fit.gram.prompts[i % len(fit.gram.prompts)] for i in range(images)]

    def report(done, out_of, _message):
        if plan.progress is not None:
            plan.progress(int(1000 * (number + 0.5 * done / out_of)), 1000 * total, f"batch {number + 1} of {total}")

    batch = plan.with_(prompts=prompts, seeds=range(seed, seed + images), weights=None, progress=report)
    file = None if plan.work is None else plan.work / f"batch-{_name(ensemble, fit, batch, weights, seed)}.safetensors"
    if file is not None and file.is_file():
        return _read(space, ResidualGram.load(file), weights)
    samples = list(draw(ensemble, batch, weights, method="matched"))
    if len(samples) < images:
        return None
    gram = fit_gram(
        ensemble, [s.image for s in samples], prompts, **fit.gram.settings, seeds="place", seed=seed % 2**31,
        progress=lambda done, out_of, message: report(out_of + done, out_of, message), stop=plan.stop,
    )  # fmt: skip
    if len(gram) < images:
        return None
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        gram.save(unfinished)
        unfinished.replace(file)
    return _read(space, gram, weights)


def _read(space, gram, weights) -> Point:
    """A batch as a point of the map."""
    u = space.read(gram).mean(0)
    return Point(np.asarray(weights), space.shares(u), u, len(gram))


def _name(ensemble, fit, batch: SamplingPlan, weights, seed: int) -> str:
    """Of the file of a batch: another one for whatever its pictures and their reading depend on."""
    settings = (batch.jobs, batch.steps, batch.guidance, batch.guidance_interval, batch.height, batch.width, batch.batch_size)
    return digest(*identities(ensemble), settings, np.asarray(weights, dtype=float).tobytes(), sorted(fit.gram.settings.items()), seed)


def _solve(smooth: SmoothMap, target: np.ndarray, start: np.ndarray, target_images: int, names) -> Weights:
    """Weights whose mapped coordinates lie nearest the target; interval from the target's own sampling noise (400 normal draws)."""
    candidates = _candidates(start)
    mapped = smooth(candidates)
    lean = 1e-3 * ((candidates - start) ** 2).sum(1)  # a tie goes to the proportions
    rng = np.random.default_rng(0)
    goals = np.concatenate([target[None], target + rng.standard_normal((400, len(target))) / np.sqrt(target_images)])
    squares = (mapped**2).sum(1) + lean
    chosen = np.array([candidates[np.argmin(squares - 2 * mapped @ goal)] for goal in goals])
    interval = np.quantile(chosen[1:], [0.025, 0.975], axis=0).T
    interval = np.stack([np.minimum(interval[:, 0], chosen[0]), np.maximum(interval[:, 1], chosen[0])], 1)
    return Weights(values=chosen[0], interval=interval, names=tuple(names), how="matched")


def _candidates(start: np.ndarray, count: int = 6000) -> np.ndarray:
    """`(n, K)` points that fill the simplex, its faces and the surroundings of `start`."""
    size, rng = len(start), np.random.default_rng(0)
    inside = rng.dirichlet(np.ones(size), count)
    faces = rng.dirichlet(np.full(size, 0.3), count)
    faces = np.where(faces < 0.02, 0.0, faces)
    near = start + 0.5 * rng.random((count, 1)) * (inside - start)
    edges = [(1 - t) * a + t * b for a in np.eye(size) for b in np.eye(size) for t in np.linspace(0, 1, 51)]
    every = np.concatenate([start[None], inside, faces, near, edges])
    return every / every.sum(1, keepdims=True)


def search_evaluations(ensemble, fit, plan: SamplingPlan, *, images: int = IMAGES, refinements: int = REFINEMENTS) -> int:
    """Network evaluations of a whole search: drawing with all members and reading at every level, twice (antithetic)."""
    members, levels = len(ensemble.members), len(fit.gram.strata) - 1
    return int(batches(members, refinements) * images * (evaluations(ensemble, plan, members) + 2 * levels * members))
