"""Models as they lie about: keys left out, sizes that differ, weights that are not numbers, networks alone in one file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.card import ModelCard
from models.checkpoint import detect
from models.defaults import completed
from models.errors import ModelError, SizesDiffer
from models.headers import Header, Tensor
from models.loading import load_ensemble
from tests import tiny
from tests.conftest import tiny_card
from tests.models.test_single_file import original

LEFT_OUT = {  # part -> keys whose values in the tiny models are their classes' defaults
    "vae/config.json": ["scaling_factor", "shift_factor", "latent_channels", "force_upcast", "latents_mean"],
    "scheduler/scheduler_config.json": ["prediction_type", "timestep_spacing", "num_train_timesteps", "rescale_betas_zero_snr"],
    "text_encoder/config.json": ["hidden_act", "layer_norm_eps", "attention_dropout", "architectures"],
    "unet/config.json": ["in_channels", "out_channels", "time_cond_proj_dim", "center_input_sample"],
}


def load(*cards, **more):
    return load_ensemble(list(cards), device="cpu", **more)


def without(folder: Path, file: str, key: str) -> Path:
    config = json.loads((folder / file).read_text())
    assert key in config or key == "rescale_betas_zero_snr"
    (folder / file).write_text(json.dumps({name: value for name, value in config.items() if name != key}))
    return folder


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in LEFT_OUT.items() for key in keys])
def test_a_key_left_out_is_its_class_default(sd_cards, tmp_path, file, key):
    """A model as older versions saved it and its fine-tune as newer ones do: fused, and the equal parts are held once."""
    old = without(shutil.copytree(sd_cards["base"].source, tmp_path / "old"), file, key)
    for cards in ((tiny_card("sd", old), sd_cards["second"]), (sd_cards["second"], tiny_card("sd", old))):
        first, second = load(*cards).members
        assert first.components["vae"] is second.components["vae"] and first.components["text_encoder"] is second.components["text_encoder"]
        assert first.noise == second.noise


def test_defaults_are_what_the_classes_take():
    vae = diffusers.AutoencoderKL()
    assert completed({"_class_name": "AutoencoderKL"})["scaling_factor"] == vae.config.scaling_factor == 0.18215
    assert completed({"model_type": "clip_text_model"})["num_hidden_layers"] == 12
    for strange in ({"_class_name": "Nothing"}, {"model_type": "nothing"}, {"_class_name": 3}, {}):
        assert completed(strange) == strange


def test_a_default_that_differs_is_still_refused(tmp_path):
    """A model of another scale must not pass because its configuration is silent."""
    first = tiny.sdxl(tmp_path / "first")
    second = without(tiny.sdxl(tmp_path / "second", 1, sibling=first), "vae/config.json", "scaling_factor")
    with pytest.raises(ModelError, match=r"autoencoders differ \(scaling_factor 0.13025 and 0.18215\)"):
        load(tiny_card("sdxl", first), tiny_card("sdxl", second))


@pytest.mark.parametrize("key", ["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 1])
def test_an_autoencoder_that_is_not_a_number_is_named(sd_cards, tmp_path, key, value, place):
    bad = shutil.copytree(sd_cards["second"].source, tmp_path / "bad")
    file = bad / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights[key].view(-1)[0] = value
    save_file(weights, file, metadata={"format": "pt"})
    cards = [sd_cards["base"]]
    cards.insert(place, tiny_card("sd", bad))
    with pytest.raises(ModelError, match=f"'bad': weight {key} of its vae is not a number: the file was saved broken"):
        load(*cards)


# ------------------------------------------------------------------------------------------------ sizes

@pytest.fixture
def sizes(tiny_cards, tmp_path):
    base = tiny_cards("sd")[0]
    return base, tiny_card("sd", tiny.sd(tmp_path / "large", 3, sibling=Path(base.source), size=12))


def test_sizes_that_differ_are_refused_with_a_proposal(sizes):
    words = r"latent size differs \(8 and 12\), their own pictures have 16 x 16 and 24 x 24 .* size=\(16, 16\)"
    with pytest.raises(SizesDiffer, match=words) as caught:
        load(*sizes)
    assert caught.value.size == (16, 16)


@pytest.mark.parametrize(
    ("meeting", "size"), [((None, None), (16, 16)), ((24, 24), (24, 24)), ((24, None), (24, 16)), ((None, 32), (16, 32))]
)
def test_sizes_that_differ_meet(sizes, meeting, size):
    ensemble = load(*sizes, meeting=meeting)
    assert ensemble.size == size
    assert ensemble.warnings == (f"large: its own pictures have 24 x 24 pixels, and here it draws {size[0]} x {size[1]}, as the others",)


def test_one_size_of_their_own_is_kept(sd_cards):
    ensemble = load(sd_cards["base"], sd_cards["second"], meeting=(32, 32))
    assert ensemble.size == (16, 16) and ensemble.warnings == ()


def test_a_size_left_out_is_the_pipelines_own(sd_cards, tmp_path):
    """As diffusers takes it where a U-Net does not say: 64 cells."""
    silent = without(shutil.copytree(sd_cards["base"].source, tmp_path / "silent"), "unet/config.json", "sample_size")
    assert load(tiny_card("sd", silent)).size == (128, 128)


# ------------------------------------------------------------------------------------------------ distilled, and networks alone

def test_a_consistency_model_beside_an_ordinary_one_is_named(sd_cards, tmp_path):
    lcm = shutil.copytree(sd_cards["second"].source, tmp_path / "lcm")
    config = lcm / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"time_cond_proj_dim": 8}))
    for cards in ((sd_cards["base"], tiny_card("sd", lcm)), (tiny_card("sd", lcm), sd_cards["base"])):
        with pytest.raises(ModelError, match=r"'lcm' is a latent consistency model \(LCM\), distilled .* ordinary model") as caught:
            load(*cards)
        assert "one family" not in str(caught.value)


NETWORKS = {"sd": ("unet", "sd1"), "sdxl": ("unet", "sdxl"), "sd2": ("unet", "sd2"), "flux": ("transformer", "flux-dev"),
            "schnell": ("transformer", "flux-schnell"), "sd3": ("transformer", "sd3"), "sd35": ("transformer", "sd35-medium")}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("naming", ["", "prefix", "original"])
def test_a_network_alone_with_its_companion(tiny_cards, tiny_ensemble, tmp_path, kind, naming):
    """Under the names of diffusers, with and without a prefix, and under the original ones without theirs."""
    slot, layout = NETWORKS[kind]
    base, second = tiny_cards(kind)[0], tiny_ensemble(kind).members[1]
    pipe = second.new_pipeline(slot)
    if naming == "original":
        state = original(pipe, layout, [slot], alone=True)
    else:
        state = {(f"{slot}." if naming else "") + key: value.contiguous() for key, value in second.network.state_dict().items()}
    file = tmp_path / "alone.safetensors"
    save_file(state, file, metadata={"modelspec.prediction_type": "epsilon"})
    card = ModelCard(id="alone", title="alone", family=base.family, source=str(file), components=base.source)
    size = (16, 16) if base.family == "flux" else None
    member = load(base, card, size=size).members[1]
    for key, value in second.network.state_dict().items():
        assert torch.equal(member.network.state_dict()[key], value), key
    with pytest.raises(ModelError, match="alone.safetensors lacks .*name a .* in diffusers form"):
        load(replace(card, components=None))


def test_components_that_are_no_whole_model(sd_cards, tmp_path):
    network = load_file(Path(sd_cards["base"].source) / "unet/diffusion_pytorch_model.safetensors")
    file = tmp_path / "alone.safetensors"
    save_file(network, file)
    card = ModelCard(id="alone", title="alone", family="sd", source=str(file), components=str(file))
    with pytest.raises(ModelError, match="components must be a whole model, .* and alone.safetensors is one file"):
        load(card)
    with pytest.raises(ModelError, match="'alone' is an autoencoder alone: choose a whole model"):
        load(replace(card, components=str(Path(sd_cards["base"].source) / "vae")))


UNET = {"conv_in.weight": (8, 4, 3, 3), "conv_out.weight": (4, 8, 3, 3), "time_embedding.linear_1.weight": (8, 8),
        "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"time_embedding.cond_proj.weight": (8, 8)}, "is a latent consistency model"), ({"conv_in.weight": (8, 9, 3, 3)}, "takes 9 channels"),
     ({"conv_in.weight": (8, 7, 3, 3)}, "is an upscaler"), ({"controlnet_cond_embedding.conv_in.weight": (8, 3)}, "is a ControlNet"),
     ({"input_hint_block.0.weight": (8, 3)}, "is a ControlNet")],
)  # fmt: skip
def test_relatives_of_a_network_alone(changes, words):
    header = Header({key: Tensor("F32", shape, 0) for key, shape in (UNET | changes).items()})
    with pytest.raises(ModelError, match=f"x.safetensors {words}"):
        detect(header, "x.safetensors")
