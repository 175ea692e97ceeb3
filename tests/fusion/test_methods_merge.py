"""One averaged model: parameters against sums written out, adapters against peft's own weighting, images of every family, refusals."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion.methods import METHODS, MethodError, SamplingPlan
from fusion.methods.merge import merged
from fusion.methods.parameters import Source, average
from models.loading import load_ensemble
from tests import tiny


def plan(**changes):
    return SamplingPlan(**{"prompts": ["a cat"], "seeds": [0, 1], "steps": 2, "batch_size": 2} | changes)


def pixels(name, ensemble, weights):
    return [np.asarray(sample.image) for sample in METHODS[name].run(ensemble, None, plan(weights=weights))]


def answer(member, seed=0):
    """What a tiny SD member predicts for one latent, time and prompt."""
    generator = torch.Generator().manual_seed(seed)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 16, generator=generator)
    return member(x, torch.tensor(300), encoder_hidden_states=text)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_parameters_are_the_weighted_sums_and_the_members_stay_as_they_are(tiny_ensemble, kind):
    ensemble = tiny_ensemble(kind)
    before = [copy.deepcopy(member.network.state_dict()) for member in ensemble.members]
    one = merged(ensemble, np.array([0.3, 0.7]))
    assert len(one) == 1 and one.size == ensemble.size
    for name, value in one.members[0].network.state_dict().items():
        torch.testing.assert_close(value, 0.3 * before[0][name] + 0.7 * before[1][name], atol=1e-6, rtol=1e-6)
    for member, state in zip(ensemble.members, before):
        assert all(torch.equal(value, state[name]) for name, value in member.network.state_dict().items())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_one_hot_is_the_single_model_and_a_blend_is_neither(tiny_ensemble, kind):
    ensemble = tiny_ensemble(kind)
    alone = [pixels("single", ensemble, hot) for hot in np.eye(2)]
    for member, hot in enumerate(np.eye(2)):
        assert all(np.array_equal(a, b) for a, b in zip(pixels("merge", ensemble, hot), alone[member]))
    blend = pixels("merge", ensemble, [0.5, 0.5])
    assert not any(np.array_equal(blend[0], images[0]) for images in alone)


def test_samples_state_the_weights_and_the_cost_is_one_models(tiny_ensemble):
    ensemble, seen = tiny_ensemble("portraits"), []
    asked = plan(weights=[0.5, 0.0, 0.5], progress=lambda *report: seen.append(report))
    samples = list(METHODS["merge"].run(ensemble, None, asked))
    assert {sample.method for sample in samples} == {"merge"} and samples[0].weights.tolist() == [0.5, 0.0, 0.5]
    cost = METHODS["merge"].cost(ensemble, None, asked)
    assert (cost.evaluations, cost.memory, len(seen)) == (2, 1.0, 2)
    assert list(METHODS["merge"].run(ensemble, None, plan(weights=[0.5, 0.5, 0.0], stop=lambda: True))) == []


# ------------------------------------------------------------------------------------------------ adapters

def test_switched_adapters_are_weighted_as_peft_weighs_them(sd_cards):
    ensemble = load_ensemble([sd_cards[name] for name in ("lora", "lora2", "base")], device="cpu", lora="switch")
    one = merged(ensemble, np.array([0.2, 0.5, 0.3])).members[0]
    assert not any("lora" in name for name in one.network.state_dict())
    switched = ensemble.members[0].network
    assert one.network is not switched and one.switch is None
    ours = answer(one)
    names = [member.adapter for member in ensemble.members[:2]]
    apart = load_ensemble([sd_cards[name] for name in ("lora", "lora2", "base")], device="cpu", lora="switch").members[0].network
    apart.enable_adapters()
    apart.set_adapters(names, [0.2, 0.5])  # peft adds the scaled adapters to the base in each forward pass
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 16, generator=generator)
    with torch.no_grad():
        theirs = apart(x, torch.tensor(300), encoder_hidden_states=text, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - answer(ensemble.members[0])).abs().max() > 1e-2  # or the comparison says nothing


@pytest.mark.parametrize("names", [("lora", "lora2"), ("lora", "second"), ("second", "lora", "base")])
def test_switched_and_merged_loading_average_to_the_same_model(sd_cards, names):
    """Adapters alone, with a full member, and first or second in the ensemble: effective weights, however they are held."""
    weights = np.linspace(1, 2, len(names)) / np.linspace(1, 2, len(names)).sum()
    models = [merged(load_ensemble([sd_cards[name] for name in names], device="cpu", lora=lora), weights).members[0]
              for lora in ("switch", "merge")]  # fmt: skip
    states = [model.network.state_dict() for model in models]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], atol=2e-6, rtol=1e-5)


def test_a_switched_member_answers_as_before_after_a_merge(sd_cards):
    ensemble = load_ensemble([sd_cards["lora"], sd_cards["base"]], device="cpu", lora="switch")
    before = [answer(member) for member in ensemble.members]
    merged(ensemble, np.array([0.5, 0.5]))
    assert all(torch.equal(answer(member), old) for member, old in zip(ensemble.members, before))


@pytest.mark.parametrize("lora", ["switch", "merge"])
def test_text_encoders_of_a_members_own_are_averaged_too(sd_cards, lora):
    ensemble = load_ensemble([sd_cards["base"], sd_cards["lora_text"]], device="cpu", lora=lora)
    base, own = (member.components["text_encoder"] for member in ensemble.members)
    text = merged(ensemble, np.array([0.25, 0.75])).members[0].components["text_encoder"]
    assert text is not base and not any("lora" in name for name in text.state_dict())
    ids = torch.tensor([[0, 5, 9, 1]])
    with torch.no_grad():
        layer = [module for name, module in text.named_modules() if name.endswith("layers.0.self_attn.q_proj")][0]
        name = [name for name, module in text.named_modules() if module is layer][0]
        theirs, ours = own.get_submodule(name), base.get_submodule(name)
        probe = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(layer(probe), 0.25 * ours(probe) + 0.75 * theirs(probe), atol=1e-5, rtol=1e-5)  # linear in the weights
        assert not torch.allclose(text(ids)[0], base(ids)[0])


# ------------------------------------------------------------------------------------------------ refusals

def refused(ensemble, weights=(0.5, 0.5)):
    messages = []
    for attempt in (lambda: METHODS["merge"].cost(ensemble, None, plan(weights=weights)), lambda: pixels("merge", ensemble, weights)):
        with pytest.raises(MethodError) as caught:
            attempt()
        messages.append(str(caught.value))
    assert all(name in messages[0] for name in ensemble.names) and messages[0] == messages[1] and ": " in messages[0]
    return messages[0]


def test_other_predictions_schedules_and_templates_are_refused_with_cause_and_cure(sd_cards, tmp_path):
    assert "epsilon and v_prediction" in refused(load_ensemble([sd_cards["base"], sd_cards["v"]], device="cpu"))
    other = tiny.sd(tmp_path / "other", 3, beta_schedule="linear", sibling=sd_cards["base"].source)
    card = replace(sd_cards["base"], id="other", title="other", source=str(other))
    assert "schedules" in refused(load_ensemble([sd_cards["base"], card], device="cpu"))
    spoken = replace(sd_cards["second"], prompt_template="a drawing of {prompt}")
    assert "trigger words" in refused(load_ensemble([sd_cards["base"], spoken], device="cpu"))


def test_other_architectures_are_refused_before_anything_is_copied(tiny_ensemble, monkeypatch):
    network = tiny_ensemble("sd").members[0].network
    wide, deep = torch.nn.Sequential(torch.nn.Linear(2, 3)), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    small = torch.nn.Sequential(torch.nn.Linear(2, 2))
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("copied"))
    for other, words in [(wide, "0.weight (2x2 and 3x2)"), (deep, "1.weight (missing and 2x2)"), (network, "Sequential and one a UNet")]:
        with pytest.raises(MethodError) as caught:
            average([Source("Ada", small), Source("Bea", other)], [0.5, 0.5])
        assert words in str(caught.value) and "Ada and Bea" in str(caught.value) and "predict" in str(caught.value)


def test_numbers_that_count_must_agree():
    one, other = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    assert average([Source("Ada", one), Source("Bea", other)], [0.5, 0.5]).num_batches_tracked == 0
    other.num_batches_tracked += 1
    with pytest.raises(MethodError, match="num_batches_tracked"):
        average([Source("Ada", one), Source("Bea", other)], [0.5, 0.5])


def test_adapters_that_are_more_than_a_product_are_refused(sd_cards):
    ensemble = load_ensemble([sd_cards["lora"], sd_cards["base"]], device="cpu", lora="switch")
    from peft.tuners.tuners_utils import BaseTunerLayer

    layer = next(part for part in ensemble.members[0].network.modules() if isinstance(part, BaseTunerLayer))
    layer.lora_bias[ensemble.members[0].adapter] = True
    with pytest.raises(MethodError, match="lora='merge'"):
        merged(ensemble, np.array([0.5, 0.5]))
