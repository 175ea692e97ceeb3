"""Training on every family, and on members that are adapters themselves: untouched at step 0, better after a few, prompts through h."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from fusion.methods.drawing import draw
from fusion.methods.plan import SamplingPlan
from fusion.transfer.adapting import adapt, probe, with_trained
from fusion.transfer.networks import TransferError, conditions, embeddings, lora_bytes, trainable_copy
from fusion.transfer.sources import blank, fits, fresh
from fusion.transfer.training import Schedule
from models.families import FAMILIES
from models.loading import load_ensemble

FEW = Schedule(steps=8, batch=4, rate=1e-2, every=4, patience=None, warmup=1, average_over=1)
PROMPTS = ["a cat", "a dog", "a cat", "a dog"]


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)] * 4


def images(ensemble, prompt="a cat"):
    plan = SamplingPlan([prompt], [1], steps=2, guidance=2.0 if ensemble.family.guidance == "batch" else 1.0)
    return np.asarray(next(iter(draw(ensemble, plan, [1.0], method="test"))).image)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_changes_nothing_until_it_is_trained_then_lowers_the_loss(tiny_ensemble, family):
    ensemble = tiny_ensemble(family)
    before = images(ensemble.subset([1]))
    untouched = adapt(ensemble, 1, pictures(), PROMPTS, method="finetune", schedule=Schedule(steps=0))
    assert np.array_equal(before, images(with_trained(ensemble, untouched)))
    trained = adapt(ensemble, 1, pictures(), PROMPTS, method="finetune", schedule=FEW)
    assert trained.course.gain > 0 and not np.array_equal(before, images(with_trained(ensemble, trained)))
    assert np.array_equal(before, images(ensemble.subset([1])))  # the member itself is as it was
    assert lora_bytes(ensemble.members[1]) == sum(4 * t.numel() for t in trained.tensors.values()) and probe(ensemble, 1) > 0


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.text])
def test_prompts_of_every_family_pass_through_a_representation(tiny_ensemble, family):
    ensemble = tiny_ensemble(family)
    _, condition = conditions(ensemble, 0, ["a cat", "a dog"])
    code = fresh(ensemble, condition, 3)
    assert set(code.about.shapes) == set(embeddings(ensemble.family, condition)) == set(blank(ensemble)) and fits(code, ensemble, 0)
    trained = adapt(ensemble, 0, pictures(), PROMPTS, method="scratch", representation=code, freeze=False, schedule=FEW)
    assert trained.course.gain > 0 and trained.representation.about == code.about
    drawn = with_trained(ensemble, trained)
    assert not np.array_equal(images(drawn), images(ensemble.subset([0])))
    deaf = dataclasses.replace(trained, representation=constant(trained.representation))
    deaf = with_trained(ensemble, deaf)
    assert np.array_equal(images(deaf), images(deaf, "a dog"))  # a prompt reaches the network through h alone


def constant(code):
    """The same representation, with h always 0."""
    changed = type(code).of_tensors(code.about, code.state_dict())
    with torch.no_grad():
        changed.h[-1].weight.zero_()
        changed.h[-1].bias.zero_()
    return changed


@pytest.mark.parametrize("lora", ["switch", "merge"])
def test_members_that_are_adapters_are_trained_on_top_of_theirs(sd_cards, lora):
    ensemble = load_ensemble([sd_cards["base"], sd_cards["lora"], sd_cards["lora2"]], device="cpu", lora=lora)
    alone = [images(ensemble.subset([k])) for k in range(3)]
    for k in range(3):
        untouched = adapt(ensemble, k, pictures(), PROMPTS, method="finetune", schedule=Schedule(steps=0))
        assert np.array_equal(alone[k], images(with_trained(ensemble, untouched)))
    trained = adapt(ensemble, 1, pictures(), PROMPTS, method="finetune", schedule=FEW)
    assert trained.course.gain > 0 and not any("member" in name or "lora_" not in name for name in trained.tensors)
    assert not np.array_equal(alone[1], images(with_trained(ensemble, trained)))
    assert all(np.array_equal(alone[k], images(ensemble.subset([k]))) for k in range(3))


def test_a_copy_shares_every_tensor_and_no_module(tiny_ensemble):
    member = tiny_ensemble("sd").members[0]
    network, lora = trainable_copy(member, 2)
    mine = {p.data_ptr() for p in member.network.parameters()}
    theirs = {p.data_ptr() for name, p in network.named_parameters() if name not in lora}
    assert mine == theirs and not {id(m) for m in member.network.modules()} & {id(m) for m in network.modules()}
    assert all(p.requires_grad == (name in lora) for name, p in network.named_parameters())
    assert not any(p.requires_grad for p in member.network.parameters())


def test_networks_that_are_moved_about_are_refused(tiny_ensemble):
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    member = tiny_ensemble("sd").members[0]
    add_hook_to_module(member.network.conv_in, ModelHook())
    try:
        with pytest.raises(TransferError, match="whole on one device"):
            trainable_copy(member)
    finally:
        remove_hook_from_module(member.network.conv_in)
