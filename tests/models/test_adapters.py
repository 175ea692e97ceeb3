"""LoRA members: switched on one network, or merged into copies; both against diffusers' own way of using them."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion.sampler import fused
from models.errors import ModelError
from models.loading import load_ensemble
from tests import tiny
from tests.conftest import tiny_card

X, T, WORDS = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 700.0]), torch.randn(2, 16, 16)


def load(cards, lora):
    return load_ensemble(cards, device="cpu", lora=lora)


def independent(card) -> diffusers.StableDiffusionPipeline:
    """diffusers alone: a pipeline of its own with the adapter loaded."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(card.source, requires_safety_checker=False)
    if card.adapter:
        pipe.load_lora_weights(card.adapter)
    return pipe


def draw(pipe) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", num_inference_steps=3, guidance_scale=3.0, output_type="np", generator=torch.Generator().manual_seed(0)).images


def bytes_of(*modules) -> int:
    return sum({p.data_ptr(): p.numel() * p.element_size() for module in modules for p in module.parameters()}.values())


@pytest.fixture(scope="module")
def cards(sd_cards):
    return [sd_cards[name] for name in ("lora", "base", "lora2")]


def test_switched_members_equal_independent_copies_bit_for_bit(cards):
    ensemble = load(cards, "switch")
    assert len({id(member.network) for member in ensemble.members}) == 1
    own = [independent(card).unet for card in cards]
    with torch.no_grad():
        for k in (0, 1, 2, 1, 0, 0, 2):  # in any order, also twice
            assert torch.equal(ensemble.members[k](X, T, encoder_hidden_states=WORDS), own[k](X, T, WORDS).sample)
        assert not torch.allclose(own[0](X, T, WORDS).sample, own[1](X, T, WORDS).sample, atol=1e-3)


def test_merged_members_equal_switched_ones(cards):
    switched, merged = load(cards, "switch"), load(cards, "merge")
    assert len({id(member.network) for member in merged.members}) == 3
    assert not any("lora" in name for member in merged.members for name, _ in member.network.named_parameters())
    for one, other in zip(switched.members, merged.members):
        torch.testing.assert_close(one(X, T, encoder_hidden_states=WORDS), other(X, T, encoder_hidden_states=WORDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("member", [0, 1, 2])
def test_one_hot_lora_draws_what_diffusers_draws(cards, member):
    with fused(load(cards, "switch"), np.eye(3)[member]) as pipe:
        assert np.array_equal(draw(pipe), draw(independent(cards[member])))


def test_fusing_loras_is_averaging_their_predictions(cards):
    ensemble = load(cards, "switch")
    own = [independent(card).unet for card in cards]
    with fused(ensemble, [0.2, 0.3, 0.5]) as pipe, torch.no_grad():
        got = pipe.unet(X[:1], torch.tensor(500), encoder_hidden_states=WORDS[:1]).sample
        expected = sum(w * unet(X[:1], 500, WORDS[:1]).sample for w, unet in zip([0.2, 0.3, 0.5], own))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_off(cards):
    with torch.enable_grad():
        assert not load(cards, "switch").members[0](X.clone().requires_grad_(), T, encoder_hidden_states=WORDS).requires_grad


def test_the_pipeline_of_a_lora_member_has_its_adapter_active(cards):
    ensemble = load(cards, "switch")
    ensemble.members[1](X, T, encoder_hidden_states=WORDS)  # the bare base was used last
    assert np.array_equal(draw(ensemble.pipeline), draw(independent(cards[0])))
    assert np.array_equal(draw(ensemble.subset([2]).pipeline), draw(independent(cards[2])))


def test_one_adapter_for_two_cards_is_loaded_once(sd_cards):
    ensemble = load([sd_cards["lora"], sd_cards["lora"]], "switch")
    assert ensemble.members[0].adapter == ensemble.members[1].adapter and len(ensemble.members[0].network.peft_config) == 1


def test_memory_decides_between_the_two(cards, monkeypatch):
    import models.adapters

    size = bytes_of(load(cards[1:2], "auto").members[0].network)
    monkeypatch.setattr(models.adapters, "free_memory", lambda device: 4 * size)
    assert len({id(member.network) for member in load(cards, "auto").members}) == 3
    monkeypatch.setattr(models.adapters, "free_memory", lambda device: 4 * size - 1)
    assert len({id(member.network) for member in load(cards, "auto").members}) == 1


def test_adapter_of_the_text_encoder(sd_cards):
    """Its member has text encoders of its own; the others keep hearing the base's."""
    cards = [sd_cards["base"], sd_cards["lora_text"]]
    for lora in ("switch", "merge"):
        ensemble = load(cards, lora)
        base, member = (m.components["text_encoder"] for m in ensemble.members)
        assert base is not member and not any("lora" in name for name, _ in base.named_parameters())
        for k in range(2):
            with fused(ensemble, np.eye(2)[k]) as pipe:
                np.testing.assert_allclose(draw(pipe), draw(independent(cards[k])), atol=0 if lora == "switch" else 2e-5)
    without = load([sd_cards["base"], sd_cards["lora"]], "switch")
    assert without.members[0].components["text_encoder"] is without.members[1].components["text_encoder"]


def test_a_file_is_an_adapter_too(sd_cards, cards):
    from dataclasses import replace

    file = Path(sd_cards["lora"].adapter) / "pytorch_lora_weights.safetensors"
    one, other = load(cards[:1], "switch").members[0], load([replace(cards[0], adapter=str(file))], "switch").members[0]
    assert torch.equal(one(X, T, encoder_hidden_states=WORDS), other(X, T, encoder_hidden_states=WORDS))


# ------------------------------------------------------------------------------------------------ refusals

@pytest.fixture
def adapter(sd_cards, tmp_path):
    return Path(shutil.copytree(sd_cards["lora"].adapter, tmp_path / "adapter"))


def card_with(sd_cards, folder):
    return tiny_card("sd", Path(sd_cards["base"].source), id="x", title="x", adapter=str(folder))


def test_adapter_for_another_text_width(sd_cards, tmp_path):
    other = tiny.lora(tmp_path / "lora", tiny.sd(tmp_path / "wide", context=24))
    with pytest.raises(ModelError, match="'x': the adapter was made for text of width 24, its base has 16"):
        load([card_with(sd_cards, other)], "switch")


def test_adapter_for_another_network(sd_cards, adapter):
    file = adapter / "pytorch_lora_weights.safetensors"
    save_file({key: torch.cat([value, value], int("lora_A" not in key and "down" not in key) ^ 1) if "attn1" in key else value
               for key, value in load_file(file).items()}, file)  # fmt: skip
    with pytest.raises(ModelError, match="'x': the adapter does not fit its base"):
        load([card_with(sd_cards, adapter)], "switch")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("lora", ["switch", "merge"])
def test_adapter_that_is_not_a_number(sd_cards, adapter, value, lora):
    file = adapter / "pytorch_lora_weights.safetensors"
    weights = load_file(file)
    weights[min(weights)][0, 0] = value
    save_file(weights, file)
    with pytest.raises(ModelError, match="'x': weight .* is not a number"):
        load([card_with(sd_cards, adapter)], lora)


def test_adapter_files_that_cannot_be_used(sd_cards, adapter):
    file = adapter / "pytorch_lora_weights.safetensors"
    shutil.copy(file, adapter / "a.safetensors")
    assert load([card_with(sd_cards, adapter)], "switch").names == ("x",)  # the usual name wins
    file.rename(adapter / "b.safetensors")
    with pytest.raises(ModelError, match="holds a.safetensors, b.safetensors: name the file itself"):
        load([card_with(sd_cards, adapter)], "switch")
    (adapter / "b.safetensors").rename(adapter / "b.bin")
    assert "never read (b.bin)" in load([card_with(sd_cards, adapter)], "switch").warnings[0]
    (adapter / "a.safetensors").unlink()
    with pytest.raises(ModelError, match=r"'x' holds pickled weights only \(b.bin\)"):
        load([card_with(sd_cards, adapter)], "switch")
    (adapter / "b.bin").unlink()
    (adapter / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="a.safetensors is damaged"):
        load([card_with(sd_cards, adapter)], "switch")
    save_file({"plain": torch.zeros(2)}, adapter / "a.safetensors")
    with pytest.raises(ModelError, match="holds no LoRA weights"):
        load([card_with(sd_cards, adapter)], "switch")
    with pytest.raises(ModelError, match="there is no adapter"):
        load([card_with(sd_cards, adapter / "nowhere")], "switch")
