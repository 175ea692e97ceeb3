"""Every method on one target of portraits, for studies: statistic, fit, what methods prepare and what they draw, each kept on disk."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fusion.calibration import Calibration
from fusion.fitting import Fit, fit_all
from fusion.methods import METHODS, TRAINED, MethodError, Sample, SamplingPlan
from fusion.methods.drawing import values_of
from fusion.methods.single import best_single, one_hot
from fusion.methods.switch import choose
from fusion.methods.training import found_of
from fusion.objective import ResidualGram, fit_gram
from fusion.studies.portrait_samples import BATCH, Pictures, prompt_of, read_pictures, routed, samples
from fusion.studies.shelf import keep, kept, undamaged
from fusion.target import Target
from fusion.transfer.trained import Trained, TrainedError
from fusion.weights import Weights
from models.catalog import REPOSITORY


class Bench:
    """One target, `name`: images to fit and held-out ones. `count` samples a method and seed at `steps`. What depends on no target (the
    members' own samples, the plain average) is shared by all benches of one `work` folder and sample size."""

    def __init__(self, ensemble, name: str, fitted: Target, held: Target, work: Path, count: int, steps: int):
        self.ensemble, self.name, self.fitted, self.held, self.work = ensemble, name, fitted, held, work
        self.count, self.steps = count, steps
        self.calibration = Calibration.load(REPOSITORY / "assets" / "calibration" / "portraits.safetensors")

    def plan(self, stop=None) -> SamplingPlan:
        return SamplingPlan(prompt_of(0), [0], steps=self.steps, batch_size=BATCH, stop=stop)

    def fit(self, seed: int) -> Fit:
        """The fit to the statistic with this seed's noise."""
        return fit_all(self._statistic(f"fit-{seed}", self.fitted, seed), self.calibration, self.fitted)

    @cached_property
    def held_out(self) -> ResidualGram:
        return self._statistic("held-out", self.held, 1)

    @cached_property
    def fitted_pictures(self) -> Pictures:
        return read_pictures(self.ensemble, self.fitted.images, self.fitted.prompts)

    @cached_property
    def held_pictures(self) -> Pictures:
        return read_pictures(self.ensemble, self.held.images, self.held.prompts)

    def _statistic(self, name: str, images: Target, seed: int) -> ResidualGram:
        file = self.work / f"{self.name}-{name}.gram.safetensors"
        if not file.is_file():
            fit_gram(self.ensemble, images.images, list(images.prompts), seed=seed, **self.calibration.settings).save(file)
        with undamaged(file):
            return ResidualGram.load(file)

    # ------------------------------------------------------------------------------------------ what methods prepare

    def prepared(self, name: str, fit: Fit, stop=None) -> tuple[Fit, float]:
        """`fit` with what a method searched or trained for this target, and the seconds that took; done once, with seed 0's fit."""
        method, told, file = METHODS[name], self.work / f"{self.name}-{name}.prepared.json", self.work / f"{self.name}-{name}.trained"
        if method.prepare is None:
            return fit, 0.0
        if not told.is_file() or (name in TRAINED and not file.is_file()):
            begun = time.perf_counter()
            made = method.prepare(self.ensemble, self.fit(0), self.plan(stop))
            content = {"seconds": time.perf_counter() - begun}
            if name in made.trained:
                file.write_bytes(made.trained[name].content)
            elif made.matched is not None:
                content["matched"] = {"values": made.matched.values.tolist(), "interval": made.matched.interval.tolist()}
            keep(told, content)
        content = kept(told)
        if "matched" in content:
            found = content["matched"]
            weights = Weights(np.array(found["values"]), np.array(found["interval"]), fit.gram.names, "matched")
            return replace(fit, matched=weights), content["seconds"]
        try:
            return replace(fit, trained={**fit.trained, name: Trained.load(file)}), content["seconds"]
        except TrainedError as error:
            raise ValueError(f"{file} is damaged ({error}): delete it and start again, which trains anew") from None

    def trained(self, name: str, fit: Fit) -> Trained | None:
        """What a method trained for this target; None for others."""
        return self.prepared(name, fit)[0].trained[name] if name in TRAINED else None

    def found(self, name: str, fit: Fit) -> str:
        """A sentence where a method's training found nothing; else empty."""
        return found_of(self.trained(name, fit)) if name in TRAINED else ""

    # ------------------------------------------------------------------------------------------ samples

    def cell(self, name: str, seed: int, stop=None) -> tuple[Pictures | None, dict] | None:
        """A method's samples of one seed with what they cost, or no samples and why it could not run; None when stopped."""
        told = self.work / f"{self.name}-{seed}-{name}.json"
        if not told.is_file():
            content = self._measure(name, seed, stop)
            if content is None:
                return None
            keep(told, content)
        content = kept(told)
        return (None if "problem" in content else self._pictures(name, seed, None, stop)), content

    def _measure(self, name: str, seed: int, stop) -> dict | None:
        """Prepare, draw and say what it took."""
        method, fit = METHODS[name], self.fit(seed)
        try:
            cost = method.cost(self.ensemble, fit, self.plan())
            fit, preparing = self.prepared(name, fit, stop)
        except MethodError as error:
            return None if stop is not None and stop() else {"problem": str(error)}
        begun, first = time.perf_counter(), []
        if self._pictures(name, seed, fit, stop, first) is None:
            return None
        seconds = (time.perf_counter() - begun) / self.count if first else None  # None where the pictures were there already
        if not first:
            first = list(method.run(self.ensemble, fit, SamplingPlan(prompt_of(0), [0], steps=1)))
        return {"cost": asdict(cost), "preparing": preparing, "seconds": seconds, "applied": _applied(first[0])}

    def _pictures(self, name: str, seed: int, fit: Fit | None, stop, first: list | None = None) -> Pictures | None:
        """The samples, from disk or drawn now; `first` receives the first one that is drawn. None when stopped."""
        fit = self.fit(seed) if fit is None else fit
        k = one_member(name, fit)
        if k is not None:
            return self.alone(k, seed, stop, first)
        if name == "mixture":
            pools = [self.alone(at, seed, stop) for at in range(len(self.ensemble))]
            return None if None in pools else routed(pools, fit.calibrated.proportions_)
        if name == "scorefusion_levels" and constant_levels(fit):
            name = "scorefusion"
        return self._drawn("any" if name == "uniform" else self.name, name, seed, fit, stop, first)

    def alone(self, k: int, seed: int, stop=None, first: list | None = None) -> Pictures | None:
        """Member k's own samples of one seed, which serve every method and target that draws with it alone. None when stopped."""
        return self._drawn(f"member-{self.ensemble.names[k]}", "single", seed, None, stop, first, one_hot(len(self.ensemble), k))

    def _drawn(self, owner: str, name: str, seed: int, fit: Fit | None, stop, first: list | None, weights=None) -> Pictures | None:
        seeds = range(seed * self.count, (seed + 1) * self.count)

        def draw(plan):
            for sample in METHODS[name].run(self.ensemble, fit, plan.with_(weights=weights)):
                if first is not None and not first:
                    first.append(sample)
                yield sample

        return samples(self.ensemble, draw, self.work / f"{owner}-{seed}-{name}.safetensors", seeds, at_once=len(seeds), steps=self.steps,
                       stop=stop)  # fmt: skip


def one_member(name: str, fit: Fit) -> int | None:
    """The member that draws all samples of a method, where it is one: its own samples serve all targets."""
    if name == "single":
        return best_single(fit)
    rows = np.atleast_2d(values_of(choose(fit.gram))) if name == "switch" else np.zeros((0, 1))
    return int(rows[0].argmax()) if len(rows) and (rows == rows[0]).all() else None


def constant_levels(fit: Fit) -> bool:
    """Whether the weights by level are the published ones at every level, so that the pictures are the same."""
    return bool(np.allclose(values_of(fit.levels.as_weights()), fit.published.weights_, atol=1e-6))


def _applied(sample: Sample) -> dict:
    """The weights that a sample was drawn with, by level where they are."""
    strata = getattr(sample.applied, "strata", None)
    return {"values": values_of(sample.applied).tolist(), "strata": None if strata is None else np.asarray(strata).tolist()}


def applied(told: dict, names) -> Weights:
    """What a cell notes of the weights that its samples were drawn with."""
    strata = told["applied"]["strata"]
    return Weights(np.array(told["applied"]["values"]), None, tuple(names), "applied", None if strata is None else np.array(strata))
