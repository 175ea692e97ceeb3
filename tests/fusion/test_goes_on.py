"""A search or a training that was stopped goes on where it was, with its representation, and ends where it would have ended."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fusion.methods import METHODS, SamplingPlan, Unfinished
from fusion.methods import training as shared
from fusion.target import Target
from fusion.transfer import adapting, source_phase
from fusion.transfer.training import Schedule
from tests.fusion import small

SHORT = Schedule(steps=6, batch=4, rate=3e-2, every=2, patience=None, warmup=1, average_over=1)


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def fit(ensemble):
    target = Target(small.pictures(6, 9, 40), [small.PROMPTS[i % 3] for i in range(6)])
    return dataclasses.replace(small.fit(ensemble), target=target)


def steps(seen, stop_at=10**9):
    """A plan's `progress` and `stop`: every step is written into `seen`, and it stops once so many are."""
    def progress(done, total, message):
        seen.append(done)

    return {"progress": progress, "stop": lambda: len(seen) >= stop_at}


def test_a_training_goes_on_and_ends_as_if_it_had_never_stopped(ensemble, fit, tmp_path, monkeypatch):
    monkeypatch.setattr(adapting, "SCHEDULE", SHORT)
    way, plan = METHODS["finetune"], SamplingPlan(["a cat"], [0], steps=2)
    whole = way.prepare(ensemble, fit, plan).trained["finetune"]
    first, second, other = [], [], []
    with pytest.raises(Unfinished):
        way.prepare(ensemble, fit, plan.with_(work=tmp_path, **steps(first, 3)))
    again = way.prepare(ensemble, fit, plan.with_(work=tmp_path, **steps(second))).trained["finetune"]
    assert first == [1, 2, 3] and second == [4, 5, 6]
    assert again.course.curve == whole.course.curve and again.course.best == whole.course.best
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(again.tensors[name].numpy(), tensor.numpy())
    fewer = dataclasses.replace(fit, target=Target(fit.target.images[:5], fit.target.prompts[:5]))
    way.prepare(ensemble, fewer, plan.with_(work=tmp_path, **steps(other)))
    assert other == [1, 2, 3, 4, 5, 6]  # of other pictures: a training of its own


def test_a_learned_representation_is_not_learned_again(ensemble, fit, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(source_phase, "gather", lambda *a, **k: calls.append("gather"))
    monkeypatch.setattr(source_phase, "represent", lambda *a, **k: calls.append(k["work"]) or small.code(ensemble))
    first = source_phase.learned_for(ensemble, ["a", "b", "a"], work=tmp_path)
    again = source_phase.learned_for(ensemble, ["a", "b"], work=tmp_path)
    assert calls == ["gather", calls[1]] and calls[1].parent == tmp_path and again.to_bytes() == first.to_bytes()
    source_phase.learned_for(ensemble, ["c"], work=tmp_path)
    assert len(calls) == 4


def test_a_stopped_training_hands_its_folder_to_the_representation(ensemble, fit, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(shared, "shipped", lambda ensemble, k: None)
    monkeypatch.setattr(source_phase, "learned_for", lambda *a, work, **k: seen.append(work) or small.code(ensemble))
    shared.represented(ensemble, fit, 0, SamplingPlan(["a cat"], [0], work=tmp_path))
    assert seen == [tmp_path]


def test_the_page_gives_work_a_place_in_the_visitor_s_folder(ensemble, monkeypatch):
    from types import SimpleNamespace

    from fusion.ui import compare, draw, state

    seen = []
    method = SimpleNamespace(prepare=lambda *a: a[1], cost=lambda *a: SimpleNamespace(training_seconds=0, preparation=0))
    monkeypatch.setattr("fusion.methods.METHODS", {"finetune": method})
    monkeypatch.setattr(draw, "ensemble", lambda *a: ensemble)
    monkeypatch.setattr(draw.hosting, "call", lambda task, chosen, fit, name, asked, *a, **k: seen.append(asked.work) or (fit, None))
    session, result = state.Session(), SimpleNamespace(trained={}, matched=None)
    plan = state.Plan(prompts=("a cat",), methods=("finetune",))
    compare._prepared(session, ensemble.cards, result, "finetune", plan, SimpleNamespace(loading=None))
    assert seen == [session.folder / "work"]
