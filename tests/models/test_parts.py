"""What of a folder is used: plain weights before variants, no pickle beside safetensors, and no filter of images."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from fusion.methods import METHODS, SamplingPlan
from models.catalog import ModelCard
from models.errors import ModelError
from models.loading import load_ensemble, look
from models.parts import variant_of, weights_among
from models.sizes import Sizes
from tests.conftest import tiny_card
from tests.models.checker import with_checker
from tests.models.originals import original, write


@pytest.fixture
def copy(tiny_cards, tmp_path):
    """`copy(kind)`: a folder of one's own with the second tiny member of a kind."""
    return lambda kind="sd": Path(shutil.copytree(tiny_cards(kind)[1].source, tmp_path / f"own-{kind}"))


def load(*cards: ModelCard):
    return load_ensemble(list(cards), device="cpu")


# ------------------------------------------------------------------------------------------------ variants

def test_which_files_are_weights():
    names = ["model.safetensors", "model.fp16.safetensors", "config.json", "model.bin", "ema.safetensors", "pytorch_model.safetensors.x"]
    assert weights_among(names) == ["model.safetensors"] and weights_among(names, "fp16") == ["model.fp16.safetensors"]
    assert weights_among(names, "bf16") == ["model.safetensors"] and weights_among(["ema.safetensors"]) == []
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert weights_among(shards) == shards
    assert weights_among([*shards, "diffusion_pytorch_model.safetensors"]) == ["diffusion_pytorch_model.safetensors"]
    for named in ("model.fp16-00001-of-00001.safetensors", "model-00001-of-00001.fp16.safetensors"):
        assert weights_among([named]) == [] and weights_among([named], "fp16") == [named]


def test_which_variant():
    plain, half, brain = "model.safetensors", "model.fp16.safetensors", "model.bf16.safetensors"
    assert variant_of({"a": [plain, half], "b": [plain], "c": ["tokenizer.json"]}, "x") is None
    assert variant_of({"a": [plain, brain], "b": [half, brain]}, "x") == "fp16"
    assert variant_of({"a": [brain], "b": [half, brain]}, "x") == "bf16"
    with pytest.raises(ModelError, match=r"'x' holds its parts in different variants only \(a: bf16; b: fp16\): save it once"):
        variant_of({"a": [brain], "b": [half]}, "x")


def test_a_folder_with_variants_only_is_what_its_plain_folder_is_in_half_precision(copy, tiny_cards, tmp_path):
    folder, plain = tmp_path / "half", copy("sdxl")
    diffusers.StableDiffusionXLPipeline.from_pretrained(plain).to(torch.float16).save_pretrained(folder, variant="fp16")
    half = tiny_card("sdxl", folder)
    assert Sizes.of([look(half)]) == Sizes.of([look(tiny_card("sdxl", plain))])
    ensemble = load(tiny_cards("sdxl")[0], half)
    for key, value in diffusers.UNet2DConditionModel.from_pretrained(plain, subfolder="unet").state_dict().items():
        assert torch.equal(ensemble.members[1].network.state_dict()[key], value.half().float())


def test_both_precisions_in_one_folder_count_once_and_the_plain_one_is_read(copy):
    folder = copy("sd")
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"never read")
    assert load(tiny_card("sd", folder)).names == (folder.name,)


def test_a_companion_with_variants_only(copy, tiny_ensemble, tmp_path):
    companion = copy("sdxl")
    file = companion / "text_encoder_2/model.safetensors"
    file.rename(file.with_suffix(".fp16.safetensors"))
    tensors = original(tiny_ensemble("sdxl").members[1].new_pipeline("unet"), "sdxl", ["unet", "vae", "text_encoder"])
    single = write(tmp_path / "one.safetensors", tensors, **{"modelspec.prediction_type": "epsilon"})
    found = load(tiny_card("sdxl", single, components=str(companion))).members[0].components["text_encoder_2"]
    wanted = tiny_ensemble("sdxl").members[1].components["text_encoder_2"].state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in found.state_dict().items())


# ------------------------------------------------------------------------------------------------ pickles beside safetensors

def test_pickles_beside_safetensors_are_named_and_never_read(copy):
    folder = copy("sd")
    for name in ("unet/diffusion_pytorch_model.bin", "v1-5-pruned.ckpt"):
        (folder / name).write_bytes(b"\x80 not a pickle that could be read")
    ensemble = load(tiny_card("sd", folder))
    said = "pickled files lie beside its safetensors weights and are never read (unet/diffusion_pytorch_model.bin and 1 more)"
    assert ensemble.warnings == (f"{folder.name}: {said}",)


def test_a_folder_that_a_lora_training_left(sd_cards, tmp_path):
    """Its checkpoints hold optimizers as pickles, and the same adapter as it was earlier."""
    folder = Path(shutil.copytree(sd_cards["lora"].adapter, tmp_path / "trained"))
    early = folder / "checkpoint-500"
    shutil.copytree(sd_cards["lora2"].adapter, early)
    for name in ("optimizer.bin", "random_states_0.pkl"):
        (early / name).write_bytes(b"")
    cards = [tiny_card("sd", Path(sd_cards["base"].source), id=name, title=name, adapter=str(place))
             for name, place in (("trained", folder), ("plain", sd_cards["lora"].adapter))]  # fmt: skip
    ensemble = load(*cards)
    assert ensemble.warnings[0] == ("trained: pickled files lie beside its safetensors weights and are never read "
                                    "(checkpoint-500/optimizer.bin and 1 more)")  # fmt: skip
    assert ensemble.warnings[1:] == ("plain: it is the same model as trained, so that their shares cannot be told apart: leave one of them "
                                     "out",)  # fmt: skip
    one, two = ensemble.predictor(["a cat"])(torch.ones(1, *ensemble.shape), torch.zeros(1))
    assert torch.equal(one, two)


# ------------------------------------------------------------------------------------------------ filters of images

def test_no_method_blackens_images_and_it_is_said(copy, tiny_cards):
    """The checker would blacken what stock pipelines draw and not what chains draw: methods could not be compared."""
    plain = tiny_cards("sd")[0]
    checked = tiny_card("sd", with_checker(copy("sd")))
    stock = diffusers.StableDiffusionPipeline.from_pretrained(checked.source)
    assert not np.asarray(stock("a cat", num_inference_steps=1, output_type="np").images).any()  # what the fixture is for
    ensemble = load(checked, plain)
    assert [warning for warning in ensemble.warnings if "its images are not filtered, so look at them before you show them" in warning]
    assert ensemble.members[0].components["safety_checker"] is None and ensemble.pipeline.config.requires_safety_checker is False
    assert Sizes.of([look(checked)]) == Sizes.of([look(plain)])
    plan = SamplingPlan(["a cat"], [1], steps=2, weights=np.array([0.5, 0.5]))
    for method in ("uniform", "barycenter"):
        assert all(np.asarray(sample.image).any() for sample in METHODS[method].run(ensemble, None, plan)), method
