"""Losses of networks that methods made: against the statistic's own where the network is a member's, and what must be left open."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.evaluation import compare
from fusion.evaluation.loss import held_out_gain, held_out_loss
from fusion.evaluation.own_loss import SEED, measured_on, own_losses
from fusion.methods import METHODS, SamplingPlan
from fusion.target import Target
from tests.fusion import small


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    return small.ensemble(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pictures():
    return Target(small.pictures(4, 77, 40), [small.PROMPTS[i % 3] for i in range(4)])


@pytest.fixture(scope="module")
def held_out(ensemble, pictures):
    return small.gram(ensemble, pictures.images, seed=SEED)


def drawn(ensemble, method, **changes):
    return next(METHODS[method].run(ensemble, None, SamplingPlan(["a cat"], [0], steps=1, **changes)))


def untaught(ensemble, method="finetune"):
    """What a method trains, before it has learned anything: its LoRA adds nothing."""
    record = small.trained(ensemble, method)
    return replace(record, tensors={name: torch.zeros_like(tensor) for name, tensor in record.tensors.items()})


@pytest.mark.parametrize("method", ["merge", "finetune"])
def test_a_network_that_is_a_members_has_its_loss_and_saves_what_it_saves(ensemble, held_out, pictures, method):
    k, other, changes = 1, np.eye(3)[2], {"weights": np.eye(3)[1]} if method == "merge" else {"trained": untaught(ensemble)}
    found = own_losses(ensemble, drawn(ensemble, method, **changes), method, held_out, pictures, other)
    one, saved = held_out_loss(held_out, np.eye(3)[k]), held_out_gain(held_out, np.eye(3)[k], other)
    assert found["loss"].value == pytest.approx(one.value, rel=1e-4) and found["gain"].value == pytest.approx(saved.value, abs=1e-4)
    assert abs(saved.value) > 1e-3 and found["gain"].high - found["gain"].low == pytest.approx(saved.high - saved.low, rel=0.01)


def test_a_merged_network_differs_from_the_blend_of_predictions(ensemble, held_out, pictures):
    shares = np.full(3, 1 / 3)
    found = own_losses(ensemble, drawn(ensemble, "merge", weights=shares), "merge", held_out, pictures, None)
    assert list(found) == ["loss"] and found["loss"].value != pytest.approx(held_out_loss(held_out, shares).value, rel=1e-4)


def test_what_was_learned_changes_the_loss(ensemble, held_out, pictures):
    taught, bare = small.trained(ensemble, "scratch"), untaught(ensemble, "finetune")
    one, other = (own_losses(ensemble, drawn(ensemble, r.method, trained=r), r.method, held_out, pictures, None) for r in (taught, bare))
    assert one["loss"].value != pytest.approx(other["loss"].value, rel=1e-4)


def test_the_cells_are_filled_where_the_pictures_are_known(ensemble, held_out, pictures):
    fit = small.fit(ensemble)
    asked = dict(fit=fit, held_out=held_out, steps=1, read_features=False)
    made = compare(ensemble, ["single", "merge"], ["a cat"], [0], pictures=pictures, **asked)
    row = made.row("merge")
    assert row.loss.value > 0 and row.gain is not None and "loss" not in made.to_dict()["rows"][1]["notes"]
    assert made.row("single").gain.value == 0
    more = Target([*pictures.images, *small.pictures(2, 3)], [*pictures.prompts, "a cat", "a dog"])
    bare = compare(ensemble, ["merge"], ["a cat"], [0], pictures=more, **asked)
    assert bare.row("merge").loss is None and "was not asked" in bare.to_dict()["rows"][0]["notes"]["loss"]
    assert compare(ensemble, ["merge"], ["a cat"], [0], measured=pictures, pictures=more, **asked).row("merge").loss.value == row.loss.value


def test_no_loss_where_it_could_not_be_compared(ensemble, held_out, pictures):
    merge = drawn(ensemble, "merge", weights=np.full(3, 1 / 3))
    assert own_losses(ensemble, drawn(ensemble, "uniform"), "uniform", held_out, pictures, None) == {}
    shifted = replace(held_out, strata=held_out.strata + 0.5)
    assert own_losses(ensemble, merge, "merge", shifted, pictures, None) == {}
    assert own_losses(ensemble, merge, "merge", held_out, pictures, None, stop=lambda: True) == {}
    assert measured_on(held_out, None, pictures) is pictures and measured_on(held_out, Target(pictures.images[:1], ["a cat"]), None) is None
