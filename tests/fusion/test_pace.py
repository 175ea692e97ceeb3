"""Times told are times taken: by a clock of the tests' own, on which every network evaluation takes what the test says."""

import gc
import math
import weakref
from types import SimpleNamespace

import pytest
import torch

from fusion import pace
from fusion.methods import METHODS, SamplingPlan
from fusion.objective import fit_gram
from fusion.target import Target
from fusion.transfer import adapting
from fusion.transfer.training import Schedule
from tests.fusion import small


class Clock:
    """Stands still but for what the work costs."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticking(tmp_path, monkeypatch):
    """An ensemble whose networks take 0.1 s for every image that goes through them, and whose autoencoder 0.5 s; and the clock."""
    clock, ensemble = Clock(), small.ensemble(tmp_path / "models")
    monkeypatch.setattr(pace, "clock", clock)

    def through(seconds):
        def hook(module, arguments, options):
            first = arguments[0] if arguments else next(iter(options.values()))
            clock.now += seconds * len(first)
        return hook

    for member in ensemble.members:
        member.network.register_forward_pre_hook(through(0.1), with_kwargs=True)
    decode = ensemble.members[0].components["vae"].decode

    def slow(z, *rest, **more):
        clock.now += 0.5 * len(z)
        return decode(z, *rest, **more)

    monkeypatch.setattr(ensemble.members[0].components["vae"], "decode", slow)
    return ensemble, clock


def drawn(ensemble, clock, name: str, images: int, steps: int, fit=None) -> tuple[float | None, float]:
    """What was told before drawing, and what it took."""
    plan = SamplingPlan("a cat", range(images), steps=steps)
    cost = METHODS[name].cost(ensemble, fit, plan)
    told, begun = pace.drawing(ensemble, plan, name, cost.evaluations, images), clock.now
    assert len(list(METHODS[name].run(ensemble, fit, plan))) == images
    pace.drew(ensemble, plan, name, cost.evaluations, images, clock.now - begun)
    return told, clock.now - begun


def test_after_the_first_run_times_hold_for_other_numbers_of_images_and_steps_and_for_other_methods(ticking):
    ensemble, clock = ticking
    fit = small.fit(ensemble)
    assert drawn(ensemble, clock, "uniform", 4, 4, fit)[0] is not None  # the fit told how fast the networks are
    for name, images, steps in (("uniform", 2, 12), ("uniform", 8, 2), ("scorefusion", 3, 6), ("mixture", 6, 5), ("single", 5, 3)):
        told, taken = drawn(ensemble, clock, name, images, steps, fit)
        assert 1 / 1.5 < told / taken < 1.5, (name, told, taken)


def test_nothing_is_told_before_anything_was_measured(ticking):
    ensemble, clock = ticking
    told, taken = drawn(ensemble, clock, "uniform", 2, 3)
    assert told is None and taken > 0 and pace.reading(ensemble, 10) > 0  # another kind of work stands in


def test_a_probe_is_a_first_pace_and_leaves_what_was_measured_alone(ticking):
    ensemble, _ = ticking
    plan = SamplingPlan("a cat", range(2), steps=3)
    adapting.probe_all(ensemble)
    assert pace.drawing(ensemble, plan, "uniform", 9, 2) == pytest.approx(2 * 9 * 0.1, rel=0.5)
    pace.drew(ensemble, plan, "uniform", 9, 2, 90.0)
    adapting.probe_all(ensemble)
    assert pace.drawing(ensemble, plan, "uniform", 9, 2) == pytest.approx(90.0)


def test_reading_is_told_by_reading(ticking):
    ensemble, clock = ticking
    small.gram(ensemble, small.pictures(3))
    begun, told = clock.now, pace.reading(ensemble, 2 * 4 * 5 * 3)
    small.gram(ensemble, small.pictures(5, 3))
    assert told == pytest.approx(clock.now - begun, rel=0.2)


def test_work_whose_answers_are_kept_leaves_no_pace(ticking, tmp_path):
    from fusion.kept import Kept

    ensemble, clock = ticking
    kept = Kept(tmp_path / "kept")
    fit_gram(ensemble, small.pictures(2), "a cat", levels=2, kept=kept)
    before = pace.reading(ensemble, 1)
    fit_gram(ensemble, small.pictures(2), "a cat", levels=2, kept=kept)
    assert before == pytest.approx(0.1) and pace.reading(ensemble, 1) == before


def test_a_training_is_told_by_the_one_before_and_how_far_that_went(ticking, monkeypatch):
    ensemble, clock = ticking
    monkeypatch.setattr("fusion.transfer.training.time", SimpleNamespace(perf_counter=clock))
    schedule = Schedule(steps=40, batch=4, every=4, patience=2, rate=0.0)  # nothing ever gets better: it stops after twelve steps or less
    images, prompts = small.pictures(8, 3), ["a cat"] * 8
    most = adapting.seconds(ensemble, 0, len(images), schedule)
    assert adapting.share(ensemble, 0) is None
    found = []
    for _ in range(2):
        told, begun = adapting.seconds(ensemble, 0, len(images), schedule), clock.now
        adapting.adapt(ensemble, 0, images, prompts, method="finetune", schedule=schedule)
        found.append((told, clock.now - begun))
    assert most > 2 * found[0][1]  # all steps: the most that it takes, and called so
    assert adapting.share(ensemble, 0) == pytest.approx(0.2) and 1 / 1.5 < found[1][0] / found[1][1] < 1.5


def test_the_price_of_a_training_says_that_it_is_the_most(ticking):
    from dataclasses import replace

    from fusion.commands.shared import priced

    ensemble, _ = ticking
    fit = replace(small.fit(ensemble), target=Target(tuple(small.pictures(6)), ("a cat",) * 6))
    plan = SamplingPlan("a cat", [0], steps=2)
    cost = METHODS["finetune"].cost(ensemble, fit, plan)
    assert cost.at_most and "at most" in priced(cost)
    for member in ensemble.members:
        pace.record([member.network], "course", 80, 300)
    again = METHODS["finetune"].cost(ensemble, fit, plan)
    assert not again.at_most and "about" in priced(again) and again.training_seconds < 0.4 * cost.training_seconds


def test_another_size_is_scaled_and_a_batch_of_like_size_comes_first():
    network = torch.nn.Linear(2, 2)
    pace.record([network], "draw", 1.0, 10, pixels=64 * 64, rows=1)
    pace.record([network], "draw", 0.2, 10, pixels=64 * 64, rows=16)
    at = lambda **about: pace.of([network], "draw", **about)  # noqa: E731
    assert at(pixels=64 * 64, rows=2) == pytest.approx(0.1) and at(pixels=64 * 64, rows=12) == pytest.approx(0.02)
    assert at(pixels=128 * 64, rows=1) == pytest.approx(0.2)
    pace.record([network], "draw", 5.0, 10, name="barycenter", pixels=64 * 64, rows=1)
    assert at(name="barycenter", pixels=64 * 64, rows=16) == pytest.approx(0.5)
    assert pace.of([network, torch.nn.Linear(2, 2)], "draw") is None
    for seconds, units in ((math.inf, 1), (-1.0, 1), (1.0, 0)):
        pace.record([network], "search", seconds, units)
    assert pace.of([network], "search", rows=1, pixels=64 * 64) != math.inf


def test_what_the_first_run_alone_prepares_is_not_told_again():
    network, plan = torch.nn.Linear(2, 2), SamplingPlan("a cat", range(4), steps=4)
    together = SimpleNamespace(members=[SimpleNamespace(network=network)], size=(8, 8))
    for seconds in (60.0, 5.0):  # the first run loads kernels for 55 s
        pace.record([network], "step", 16.0, 16, name="uniform", pixels=64, rows=4)
        pace.drew(together, plan, "uniform", 12, 4, seconds + 16.0)
    assert pace.drawing(together, plan, "uniform", 12, 4) == pytest.approx(21.0)


def test_paces_go_with_their_networks():
    network = torch.nn.Linear(2, 2)
    pace.record([network], "draw", 1.0, 1)
    still = weakref.ref(network)
    del network
    gc.collect()
    assert still() is None
