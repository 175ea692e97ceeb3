"""Every method is on offer with its group, its sentence and its price; what needs preparing is prepared once, and can be stopped."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types

import numpy as np
import pytest

import fusion.methods
from fusion.fitting import fit_all
from fusion.lazy import Lazy
from fusion.methods import METHODS, NAMES, Cost, Method, MethodError, Sample
from fusion.ui import compare, engine, fit, jobs, methods, state, texts
from tests.fusion import small


def test_every_method_is_in_exactly_one_group():
    grouped = [m for group in methods.GROUPS.values() for m in group]
    assert len(grouped) == len(set(grouped)) == 16
    assert set(NAMES) <= set(grouped) and set(methods.CHOICES) == {*NAMES, "yours"}
    assert all(members for members in methods.grouped().values())


def test_titles_are_those_of_reports_and_studies():
    assert {name: texts.say("en", f"method.{name}") for name in NAMES} == {name: METHODS[name].title for name in NAMES}


def test_a_method_of_one_file_and_one_name_is_on_the_page_with_its_own_words(monkeypatch):
    mine = dataclasses.replace(METHODS["uniform"], name="mine", title="My way", summary="As I please.")
    monkeypatch.setitem(sys.modules, "fusion.methods.mine", types.SimpleNamespace(METHOD=mine))
    names = (*NAMES, "mine")
    monkeypatch.setattr(fusion.methods, "NAMES", names)
    monkeypatch.setattr(fusion.methods, "METHODS", Lazy(names, "fusion.methods", "METHOD"))
    texts.table.cache_clear()
    try:
        importlib.reload(texts)
        importlib.reload(methods)
        assert methods.grouped()["others"] == ("mine",) and methods.CHOICES[-2:] == ("mine", "yours")
        assert (texts.say("en", "method.mine"), texts.say("ja", "about.mine")) == ("My way", "As I please.")
        page = methods.render(state.Session())
        assert "My way" in page and page.count("As I please.") == 2
    finally:
        monkeypatch.undo()
        importlib.reload(texts)
        importlib.reload(methods)
    assert "others" not in methods.grouped()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three tiny models and a fit of them with a calibration."""
    cards = {card.id: card for card in small.cards(tmp_path_factory.mktemp("models"))}
    loaded = small.load_ensemble(list(cards.values()), device="cpu")
    return types.SimpleNamespace(cards=cards, ensemble=loaded, fit=small.fit(loaded))


@pytest.fixture
def session(world, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(engine, "cards", lambda: world.cards)
    made = state.Session(selected=list(world.cards), plan=state.Plan(("a cat",), 3, 2, 2, ("single", "yours")))
    made.take_fit(world.fit, tuple(world.cards))
    yield made
    engine._ensembles.clear()


def load(world) -> None:
    engine._ensembles[engine.key_of(world.cards.values())] = world.ensemble


def test_prices_are_stated_before_anything_runs(session, world):
    assert methods.price(session, "single") is None and "known once" in methods.render(session)
    load(world)
    single, uniform = methods.price(session, "single"), methods.price(session, "uniform")
    assert single.evaluations == 2 and uniform.evaluations == 6  # steps times members
    text = methods.render(session)
    assert "2 evaluations an image" in text and f"{uniform.memory:.1f} × memory" in text
    assert methods.total(session)[0] == 2 * 2 + 2 * methods.price(session, "yours").evaluations
    session.plan.steps = 5
    assert methods.price(session, "single").evaluations == 5


def test_a_method_that_cannot_run_says_why_and_the_others_run(session, world):
    load(world)
    session.take_fit(dataclasses.replace(world.fit, calibrated=None), tuple(world.cards))
    assert "calibration" in methods.price(session, "matched")
    session.plan.methods = ("single", "matched")
    list(compare.run(session))
    assert [c.method for c in session.columns] == ["single"] and len(session.columns[0].shots) == 2
    (kind, sentence), *_ = session.notes["compare"]
    assert kind == "bad" and sentence.startswith("Blend: ") and "calibrat" in sentence


class Trainer:
    """A method that trains: counts how often, reports progress, and stops between two of its ten rounds."""

    def __init__(self):
        self.trained = 0

    def prepare(self, ensemble, fit_, plan):
        for done in range(10):
            if plan.stopped():
                raise MethodError("stopped before there was anything to keep")
            plan.progress(done + 1, 10, "round")
        self.trained += 1
        return dataclasses.replace(fit_, trained={**fit_.trained, "merge": "an adapter"})

    def run(self, ensemble, fit_, plan):
        assert fit_.trained["merge"] == "an adapter"
        for prompt, seed in plan.jobs:
            yield Sample(_picture(seed), "merge", prompt, seed, np.full(3, 1 / 3), applied=np.full(3, 1 / 3), batch=((prompt, seed),),
                         note="effective sample size 9.3 of 16")  # fmt: skip

    def method(self):
        return Method("merge", "Merged model", self.run, lambda *_: Cost(2, 1.1, training_seconds=100), "", self.prepare)


def _picture(seed):
    from PIL import Image

    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8))


@pytest.fixture
def trainer(monkeypatch):
    made = Trainer()
    everything = {name: fusion.methods.METHODS[name] for name in NAMES} | {"merge": made.method()}
    monkeypatch.setattr(fusion.methods, "METHODS", everything)
    monkeypatch.setattr("fusion.recipe.METHODS", everything)
    monkeypatch.setattr("fusion.recipe_schema.METHODS", everything)
    return made


def test_training_runs_once_and_its_fit_is_kept(session, world, trainer):
    load(world)
    session.plan.methods = ("merge",)
    assert "about 2 min of training" in methods.told(session, methods.price(session, "merge"))
    list(compare.run(session))
    list(compare.run(session))
    assert trainer.trained == 1 and session.fit.trained["merge"] == "an adapter"
    (column,) = session.columns
    assert len(column.shots) == 2 and "effective sample size 9.3 of 16" in compare.grid(session)
    fresh = fit_all(world.fit.gram, None, session.fit.target)
    session.fit = dataclasses.replace(session.fit, target=engine.with_target(session.fit, [_picture(0)], ["a"]).target)
    fresh = dataclasses.replace(fresh, target=session.fit.target)
    assert fit._with_trained(session, fresh).trained["merge"] == "an adapter"
    other = engine.with_target(fresh, [_picture(1)], ["a"])
    assert not fit._with_trained(session, other).trained


def test_training_can_be_stopped_and_nothing_is_lost(session, world, trainer, monkeypatch):
    load(world)
    session.plan.methods = ("single", "merge")
    seen = []
    report = jobs.Job.report

    def stop_in_training(job, done, total, message=""):
        report(job, done, total, message)
        seen.append((job.stage, job.percent, job.label))
        if job.stage == "preparing" and done == 3:
            job.stop()

    monkeypatch.setattr(jobs.Job, "report", stop_in_training)
    before = session.fit
    list(compare.run(session))
    assert ("preparing", True, "Merged model (2 of 2)") in seen and ("drawing", False, "Best single model (1 of 2)") in seen
    assert trainer.trained == 0 and session.fit is before
    assert len(session.columns[0].shots) == 2 and session.notes["compare"][0][0] == "warn"
