"""Autoencoders of other weights: what they do decides whether models are fused, whose is used, and what is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.autoencoders import IMAGE, LATENT, Gap, apart, example
from models.errors import ModelError
from models.loading import load_ensemble, look
from models.sizes import Sizes
from tests.conftest import tiny_card
from tests.models.originals import original, write

FILE = "vae/diffusion_pytorch_model.safetensors"
INSIDE = ("encoder.down_blocks.0.resnets.0.conv1.", "decoder.up_blocks.0.resnets.0.conv1.")  # normalised right behind it


@pytest.fixture
def changed(tiny_cards, tmp_path):
    """`changed(change)`: the second tiny SDXL with every tensor of its autoencoder as `change(name, tensor)` has it."""

    def make(change, name="changed"):
        folder = Path(shutil.copytree(tiny_cards("sdxl")[1].source, tmp_path / name))
        weights = {key: change(key, value).contiguous() for key, value in load_file(folder / FILE).items()}
        save_file(weights, folder / FILE, metadata={"format": "pt"})
        return tiny_card("sdxl", folder)

    return make


def scaled(name, value):
    """As sdxl-vae-fp16-fix: smaller inside, the same outside."""
    return value * 0.5 if name.startswith(INSIDE) else value


def load(*cards, **more):
    return load_ensemble(list(cards), device="cpu", **more)


def test_an_equivalent_autoencoder_is_replaced_by_the_first_members_and_said_so(tiny_cards, changed):
    first, other = tiny_cards("sdxl")[0], changed(scaled)
    ensemble = load(first, other, tiny_cards("sdxl")[1])
    one, two, three = (member.components["vae"] for member in ensemble.members)
    assert one is two is three and ensemble.members[1].new_pipeline("unet").vae is one
    assert re.fullmatch(r"changed: its autoencoder has other weights than that of sdxl-a and does the same \(latents of a test picture are "
                        r"\d\.\d% apart and images of one latent \d\.\d%; up to 5% and 2% count as equal\): that of sdxl-a is used",
                        ensemble.warnings[0])  # fmt: skip
    twin = "sdxl-b: it is the same model as changed, so that their shares cannot be told apart: leave one of them out"
    assert ensemble.warnings[1:] == (twin,)
    assert ensemble.plan is not None and Sizes.of([look(first), look(other)]).autoencoder > 0
    swapped = load(other, first)  # the first member decides, whoever it is
    assert torch.equal(swapped.pipeline.vae.state_dict()[INSIDE[0] + "weight"], load_file(Path(other.source) / FILE)[INSIDE[0] + "weight"])


def test_its_weights_count_once_in_the_memory_plan(tiny_cards, changed):
    from models.fusable import fusable

    first, other = look(tiny_cards("sdxl")[0]), look(changed(scaled))
    assert Sizes.of(fusable([first, other])).autoencoder == Sizes.of([first]).autoencoder < Sizes.of([first, other]).autoencoder


def test_one_that_does_something_else_is_refused_with_the_distance(tiny_cards, changed, monkeypatch):
    import diffusers

    other = changed(lambda name, value: value * 1.2 if name.startswith("encoder.conv_out") else value)

    def refuse(*_, **__):
        raise AssertionError("a network was loaded before the refusal")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(refuse))
    with pytest.raises(ModelError, match=r"'sdxl-a' and 'changed' cannot be fused: their autoencoders have different weights, so the same "
                                         r"latent means different images \(latents of a test picture are (1\d|2\d)\.\d% apart and images"):
        load(tiny_cards("sdxl")[0], other)


def test_the_distance_is_that_of_latents_and_of_images(tiny_cards, changed):
    """Scaling what encodes moves latents alone; a decoder that is brighter by 0.2 of [-1, 1] moves images by a tenth."""
    first = look(tiny_cards("sdxl")[0])
    larger = look(changed(lambda name, value: value * 1.1 if name.startswith(("quant_conv", "encoder.conv_out.bias")) else value, "larger"))
    brighter = look(changed(lambda name, value: value + 0.2 if name == "decoder.conv_out.bias" else value, "brighter"))
    gap = apart(first, brighter)
    assert gap.latent == 0 and gap.image == pytest.approx(0.1, abs=0.02) and not gap.small
    found = apart(first, larger)
    assert found.image == 0 and found.latent > LATENT
    assert apart(first, first) == Gap(0.0, 0.0) and apart(first, first).small


def test_what_is_no_number_is_never_small():
    assert Gap(LATENT, IMAGE).small and not Gap(float("nan"), 0.0).small and not Gap(0.0, float("nan")).small
    assert not Gap(LATENT * 1.01, 0).small and not Gap(0, IMAGE * 1.01).small


def test_the_picture_is_always_the_same_and_uses_the_whole_range():
    picture = example()
    assert torch.equal(picture, example()) and picture.shape == (1, 3, 256, 256)
    assert picture.min() < -0.8 and picture.max() > 0.8 and 0.2 < picture.std() < 0.7


def test_single_files_are_compared_in_the_same_way(tiny_cards, tiny_ensemble, tmp_path):
    tensors = original(tiny_ensemble("sdxl").members[1].new_pipeline("unet"), "sdxl")
    name = "first_stage_model.encoder.down.0.block.0.conv1."
    assert sum(key.startswith(name) for key in tensors) == 2
    small = {key: value * 0.5 if key.startswith(name) else value for key, value in tensors.items()}
    file = write(tmp_path / "fixed.safetensors", small, **{"modelspec.prediction_type": "epsilon"})
    ensemble = load(tiny_cards("sdxl")[0], tiny_card("sdxl", file, components=tiny_cards("sdxl")[1].source))
    assert ensemble.members[1].components["vae"] is ensemble.members[0].components["vae"] and "does the same" in ensemble.warnings[0]


def test_one_that_cannot_be_run_says_which(tiny_cards, changed):
    other = changed(scaled)
    weights = load_file(Path(other.source) / FILE)
    weights["encoder.conv_in.weight"] = weights["encoder.conv_in.weight"][:, :1].contiguous()
    save_file(weights, Path(other.source) / FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the autoencoder of 'changed' cannot be run"):
        load(tiny_cards("sdxl")[0], other)
