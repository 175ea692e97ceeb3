"""Loading: what is shared, what is refused and in which words, hashes, adapters, and the predictor of the fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalog import ModelCard
from models.errors import ModelError
from models.integrity import ADAPTER, folder_hashes
from models.loading import load_ensemble
from tests import tiny
from tests.conftest import SIZE, tiny_card

NETWORK = "unet/diffusion_pytorch_model.safetensors"


def load(*cards, **more):
    return load_ensemble(list(cards), device="cpu", **more)


@pytest.fixture
def broken(sd_cards, tmp_path):
    """`broken()`: a card on a fresh copy of the tiny SD base, to be damaged."""

    def copy(card: str = "second") -> ModelCard:
        folder = tmp_path / "damaged"
        shutil.copytree(sd_cards[card].source, folder)
        return tiny_card("sd", folder)

    return copy


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def no_weights_read(monkeypatch, tiny_cards):
    """Fails the test when any network is loaded: refusals must come before."""
    for kind in ("sd", "portraits", "sdxl", "flux"):
        tiny_cards(kind)  # made with pipelines that the test is not about

    def refuse(*_, **__):
        raise AssertionError("weights were loaded before the refusal")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(refuse))


# ------------------------------------------------------------------------------------------------ what is shared

def test_members_share_equal_parts_in_memory(tiny_ensemble):
    for family in (kind for kind in tiny.KINDS if kind != "ddpm"):
        first, second = tiny_ensemble(family).members
        assert first.network is not second.network
        for part in (*tiny_ensemble(family).family.text, "vae"):
            assert first.components[part] is second.components[part], (family, part)
        assert len(tiny_ensemble(family)._voices[0]) == 1  # so text is encoded once for all


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_members_are_the_networks_that_diffusers_loads(tiny_cards, tiny_ensemble, kind):
    cls = {"sd3": diffusers.SD3Transformer2DModel, "flux": diffusers.FluxTransformer2DModel, "ddpm": diffusers.UNet2DModel,
           "pixart": diffusers.PixArtTransformer2DModel}  # fmt: skip
    for card, member in zip(tiny_cards(kind), tiny_ensemble(kind).members):
        network, slot = cls.get(tiny.family_of(kind), diffusers.UNet2DConditionModel), tiny_ensemble(kind).family.slot
        plain = network.from_pretrained(card.source, subfolder=slot)
        ours = member.network.state_dict()
        assert all(torch.equal(value, ours[key]) for key, value in plain.state_dict().items())
        assert not any(p.requires_grad for p in member.network.parameters()) and not member.network.training


def test_ensemble_describes_itself(tiny_ensemble):
    ensemble = tiny_ensemble("sd")
    assert ensemble.names == ("sd-a", "sd-b") and len(ensemble) == 2 and ensemble.shape == (4, 8, 8) and ensemble.size == (16, 16)
    assert ensemble.family.name == "sd" and ensemble.dtype == torch.float32 and ensemble.device.type == "cpu"
    assert type(ensemble.pipeline) is diffusers.StableDiffusionPipeline and ensemble.pipeline is ensemble.pipeline
    assert tiny_ensemble("portraits").shape == (4, 16, 16) and tiny_ensemble("portraits").noise.prediction_type == "v_prediction"


def test_subset_shares_everything_but_the_pipeline_object(tiny_ensemble):
    whole = tiny_ensemble("portraits")
    part = whole.subset([2, 0])
    assert part.names == ("portraits-c", "portraits-a") and part.members[0].network is whole.members[2].network
    assert part.pipeline is not whole.pipeline and part.pipeline.vae is whole.pipeline.vae
    assert part.pipeline.unet is whole.members[2].network
    for wrong in ([], [3]):
        with pytest.raises(ModelError, match="choose at least one"):
            whole.subset(wrong)


def test_progress_counts_to_the_end(tiny_cards):
    told = []
    load(*tiny_cards("sd"), progress=lambda done, total, message: told.append((done, total, message)))
    assert [done for done, *_ in told] == [0, 1, 2, 3, 4] and {total for _, total, _ in told} == {4}
    assert told[0][2] == "Looking at sd-a" and told[2][2] == "Loading sd-a"


def test_dtypes(tiny_cards):
    assert load(tiny_cards("sd")[0], dtype="bfloat16").dtype == torch.bfloat16
    assert load(tiny_cards("sd")[0], dtype=torch.float64).dtype == torch.float64
    with pytest.raises(ModelError, match="floating-point"):
        load(tiny_cards("sd")[0], dtype="int8")


def test_choices_that_do_not_exist(tiny_cards):
    with pytest.raises(ModelError, match="at least one"):
        load()
    with pytest.raises(ModelError, match="auto, switch or merge"):
        load(tiny_cards("sd")[0], lora="both")
    for size in ((15, 16), (0, 16)):
        with pytest.raises(ModelError, match="multiples of 2 pixels"):
            load(tiny_cards("sd")[0], size=size)
    with pytest.raises(ModelError, match="8 x 8 pixels only"):
        load(tiny_cards("ddpm")[0], size=(16, 16))


# ------------------------------------------------------------------------------------------------ members that cannot be fused

def test_other_family(tiny_cards, no_weights_read):
    with pytest.raises(ModelError, match="'sd-a' and 'sdxl-a' cannot be fused: the first is Stable Diffusion 1 and 2, the second .* XL"):
        load(tiny_cards("sd")[0], tiny_cards("sdxl")[0])


def test_other_latent_size(tiny_cards, no_weights_read):
    with pytest.raises(ModelError, match=r"'sd-a' and 'portraits-b' cannot be fused: their latent size differs \(8 and 16\)"):
        load(tiny_cards("sd")[0], tiny_cards("portraits")[1])


def test_other_latent_size_meets_at_a_chosen_one(tiny_cards, tmp_path):
    """Stable Diffusion 2 base (512 pixels, epsilon) and 2.1 (768, v) share a latent space: a size in pixels is all that is missing."""
    large = tiny_card("sd", tiny.sd(tmp_path / "large", 3, sibling=Path(tiny_cards("sd")[0].source), size=12, prediction="v_prediction"))
    with pytest.raises(ModelError, match="latent size differs"):
        load(tiny_cards("sd")[0], large)
    ensemble = load(tiny_cards("sd")[0], large, size=(24, 24))
    assert ensemble.shape == (4, 12, 12) and ensemble.members[1].noise.prediction_type == "v_prediction"
    assert ensemble.predictor(["a cat"])(torch.randn(1, 4, 12, 12), torch.zeros(1)).shape == (2, 1, 4, 12, 12)


def test_other_text_width(tiny_cards, tmp_path, no_weights_read):
    wide = tiny_card("sd", tiny.sd(tmp_path / "wide", context=24))
    with pytest.raises(ModelError, match=r"'sd-a' and 'wide' cannot be fused: their text width differs \(16 and 24\)"):
        load(tiny_cards("sd")[0], wide)


def test_other_autoencoder_weights(tiny_cards, tmp_path, no_weights_read):
    other = tiny_card("sd", tiny.sd(tmp_path / "other", seed=99))
    with pytest.raises(ModelError, match="'sd-a' and 'other' cannot be fused: their autoencoders have different weights, .*9\d.\d% apart"):
        load(tiny_cards("sd")[0], other)


def test_other_autoencoder_scaling(sd_cards, broken, no_weights_read):
    card = broken()
    edit(Path(card.source) / "vae/config.json", scaling_factor=0.5)
    with pytest.raises(ModelError, match=r"'sd-a' and 'damaged' .*: their autoencoders differ \(scaling_factor 0.18215 and 0.5\)"):
        load(sd_cards["base"], card)


def test_other_guidance_of_flux(tiny_cards, tmp_path, no_weights_read):
    other = tiny_card("flux", tiny.flux(tmp_path / "plain", guidance=False))
    with pytest.raises(ModelError, match="embedded guidance differs"):
        load(tiny_cards("flux")[0], other)


def test_autoencoder_rounded_to_half_precision_or_with_another_decoder_is_the_same_latent_space(sd_cards, broken):
    card = broken()
    file = Path(card.source) / "vae/diffusion_pytorch_model.safetensors"
    weights = {key: value.half().float() for key, value in load_file(file).items()}
    weights["decoder.conv_out.bias"] += 0.5
    save_file(weights, file, metadata={"format": "pt"})
    ensemble = load(sd_cards["base"], card)
    assert ensemble.members[0].components["vae"] is not ensemble.members[1].components["vae"]


def test_inpainting_and_learned_variance(broken, no_weights_read):
    card = broken()
    edit(Path(card.source) / "unet/config.json", in_channels=9)
    with pytest.raises(ModelError, match="'damaged' takes 9 channels for a latent of 4"):
        load(card)
    edit(Path(card.source) / "unet/config.json", in_channels=4, out_channels=8)
    with pytest.raises(ModelError, match="predicts 8 channels from 4"):
        load(card)


# ------------------------------------------------------------------------------------------------ folders that cannot be trusted

@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.ckpt", "x.pkl", "y.PTH"])
def test_parts_that_are_pickles_only_are_refused_by_name(broken, name, no_weights_read):
    card = broken()
    (Path(card.source) / NETWORK).rename(Path(card.source) / "unet" / name)
    with pytest.raises(ModelError, match=f"'damaged' holds pickled weights only \\(unet/{name}\\), .*: convert it to safetensors"):
        load(card)


def test_no_safetensors(broken, no_weights_read):
    card = broken()
    (Path(card.source) / NETWORK).unlink()
    with pytest.raises(ModelError, match="'damaged' has no safetensors weights in unet/"):
        load(card)


def test_own_code_is_refused(broken, no_weights_read):
    card = broken()
    edit(Path(card.source) / "model_index.json", unet=["my_model", "UNet2DConditionModel"])
    with pytest.raises(ModelError, match="asks for its own code"):
        load(card)
    edit(Path(card.source) / "model_index.json", unet=["diffusers", "AutoencoderKL"])
    with pytest.raises(ModelError, match="needs a UNet2DConditionModel"):
        load(card)
    edit(Path(card.source) / "model_index.json", _class_name="EvilPipeline")
    with pytest.raises(ModelError, match="'EvilPipeline' is not a pipeline we can fuse"):
        load(card)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 64, b"xy" * 4, None])
def test_damaged_safetensors(broken, damage, no_weights_read):
    card = broken()
    file = Path(card.source) / NETWORK
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    with pytest.raises(ModelError, match="'damaged': diffusion_pytorch_model.safetensors is damaged"):
        load(card)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_weights_that_are_not_numbers(broken, part, value):
    card = broken("base")
    file = next((Path(card.source) / part).glob("*.safetensors"))
    weights = load_file(file)
    weights[max(weights)].view(-1)[0] = value
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"'damaged': weight .* of its {part} is not a number"):
        load(card)


def test_weights_that_do_not_fit_their_configuration(broken):
    card = broken()
    edit(Path(card.source) / "unet/config.json", layers_per_block=2)
    with pytest.raises(ModelError, match="'damaged' cannot be loaded"):
        load(card)


def test_missing_and_damaged_configuration(broken, no_weights_read):
    card = broken()
    (Path(card.source) / "vae/config.json").write_text("{")
    with pytest.raises(ModelError, match="config.json cannot be read"):
        load(card)
    (Path(card.source) / "vae/config.json").unlink()
    with pytest.raises(ModelError, match="lacks vae/config.json"):
        load(card)
    with pytest.raises(ModelError, match="there is no folder"):
        load(replace(card, source=card.source + "-nowhere"))


def test_card_of_the_wrong_family(sd_cards, no_weights_read):
    with pytest.raises(ModelError, match="correct the family to sd"):
        load(replace(sd_cards["base"], family="sdxl"))


def test_hashes(sd_cards, broken):
    card = broken()
    card = replace(card, sha256=folder_hashes(Path(card.source)))
    load(card)
    extra = Path(card.source) / "unet/diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(Path(card.source) / NETWORK, extra)
    with pytest.raises(ModelError, match="holds unet/diffusion_pytorch_model.fp16.safetensors, which its card does not list"):
        load(card)
    extra.unlink()
    weights = load_file(Path(card.source) / NETWORK)
    weights["conv_in.bias"] += 1e-6
    save_file(weights, Path(card.source) / NETWORK, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model.safetensors is not the file its card describes \(sha256 differs\)"):
        load(card)
    with pytest.raises(ModelError, match="lacks unet/gone.safetensors, which its card lists"):
        load(replace(card, sha256={"unet/gone.safetensors": "0" * 64, **folder_hashes(Path(card.source))}))


def test_hashes_of_an_adapter(sd_cards, tmp_path):
    folder = shutil.copytree(sd_cards["lora"].adapter, tmp_path / "adapter")
    hashes = {ADAPTER + path: value for path, value in folder_hashes(folder).items()}
    card = replace(sd_cards["lora"], adapter=str(folder), sha256={**folder_hashes(Path(sd_cards["lora"].source)), **hashes})
    load(card)
    shutil.copy(Path(sd_cards["lora2"].adapter) / "pytorch_lora_weights.safetensors", folder / "pytorch_lora_weights.safetensors")
    with pytest.raises(ModelError, match="sha256 differs"):
        load(card)


# ------------------------------------------------------------------------------------------------ latents and predictions

@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_encode_is_what_the_pipelines_decode(tiny_ensemble, family):
    """Decoding our latents equals the pipeline's own last step for them."""
    from PIL import Image

    ensemble = tiny_ensemble(family)
    images = [Image.effect_noise((32, 32), 80).convert("RGB"), Image.new("RGB", (20, 40), "red")]
    latents = ensemble.encode(images)
    assert latents.shape == (2, *ensemble.shape) and latents.dtype == torch.float32
    assert torch.equal(latents, ensemble.encode(images))
    pipe = ensemble.pipeline
    z = pipe._unpack_latents(latents, *ensemble.size, pipe.vae_scale_factor) if family == "flux" else latents
    with torch.no_grad():
        moments = pipe.vae.encode(pipe.image_processor.preprocess(images[0].resize((16, 16), Image.Resampling.LANCZOS)))
        raw = z / pipe.vae.config.scaling_factor + (pipe.vae.config.get("shift_factor") or 0)
        torch.testing.assert_close(raw[:1], moments.latent_dist.mode(), atol=1e-4, rtol=1e-4)
        shown = pipe.image_processor.postprocess(pipe.vae.decode(raw).sample, output_type="pil")
    assert [a.tobytes() for a in ensemble.decode(latents)] == [b.tobytes() for b in shown]


def test_encode_of_pixels(tiny_cards, tmp_path):
    from PIL import Image

    ensemble = load(tiny_cards("ddpm")[0])
    image = Image.effect_noise((8, 8), 80).convert("RGB")
    assert ensemble.decode(ensemble.encode([image]))[0].tobytes() == image.tobytes()
    grey = load(tiny_card("ddpm", tiny.ddpm(tmp_path / "grey", channels=1)))
    assert grey.decode(grey.encode([image]))[0].tobytes() == image.convert("L").tobytes()
    assert ensemble.encode([]).shape == (0, 3, 8, 8) and ensemble.decode(torch.zeros(0, 3, 8, 8)) == []


@pytest.mark.parametrize("family", tiny.KINDS)
def test_predictor_rows_follow_the_index(tiny_ensemble, family):
    ensemble, prompts = tiny_ensemble(family), ["a cat", "a dog", "a cat"]
    predict = ensemble.predictor(prompts)
    x, level = torch.randn(3, *ensemble.shape), torch.tensor([-2.0, 0.5, 3.0])
    whole = predict(x, level)
    assert whole.shape == (2, 3, *ensemble.shape) and whole.dtype == torch.float32
    torch.testing.assert_close(predict(x[[2, 0]], level[[2, 0]], torch.tensor([2, 0])), whole[:, [2, 0]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ensemble.predictor(["a dog"])(x[1:2], level[1:2]), whole[:, 1:2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ensemble.subset([1]).predictor(prompts)(x, level)[0], whole[1], atol=1e-6, rtol=1e-5)
    if family != "ddpm":
        assert not torch.allclose(predict(x, level, [1, 1, 1])[:, 0], whole[:, 0], atol=1e-5)  # the prompt matters
    with pytest.raises(ModelError, match="one of the 3 prompts"):
        predict(x, level, [0, 1, 3])


def test_predictor_of_sd_by_hand(tiny_ensemble):
    """Text through the pipeline's tokenizer and encoder, the network at a fractional timestep: no recorder involved."""
    ensemble = tiny_ensemble("sd")
    pipe, x, level = ensemble.pipeline, torch.randn(1, 4, 8, 8), torch.tensor([1.0])
    padded = dict(padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    ids = [pipe.tokenizer(text, **padded).input_ids for text in ("a cat", "")]
    with torch.no_grad():
        words = [pipe.text_encoder(each)[0] for each in ids]
        given = [ensemble.members[1].network(x, ensemble.noise.timestep(level), word).sample for word in words]
    torch.testing.assert_close(ensemble.predictor(["a cat"])(x, level)[1], given[0], atol=1e-6, rtol=1e-5)
    guided = given[1] + 3 * (given[0] - given[1])
    torch.testing.assert_close(ensemble.predictor(["a cat"], guidance=3.0)(x, level)[1], guided, atol=1e-5, rtol=1e-5)


def test_predictor_gives_each_member_its_template(tiny_cards):
    first, second = tiny_cards("sd")
    plain, ensemble = load(first, second), load(first, replace(second, prompt_template="old {prompt}"))
    x, level = torch.randn(1, 4, 8, 8), torch.tensor([0.0])
    got = ensemble.predictor(["cat"])(x, level)
    torch.testing.assert_close(got[0], plain.predictor(["cat"])(x, level)[0])
    torch.testing.assert_close(got[1], plain.predictor(["old cat"])(x, level)[1])
    assert not torch.allclose(got[1], plain.predictor(["cat"])(x, level)[1], atol=1e-5)


def test_predictor_leaves_the_pipeline_alone(tiny_ensemble):
    ensemble = tiny_ensemble("sd")
    before = ensemble.pipeline.unet
    ensemble.predictor(["a cat"] * 3)
    assert ensemble.pipeline.unet is before is ensemble.members[0].network


def test_ddpm_cannot_be_guided(tiny_ensemble):
    with pytest.raises(ModelError, match="cannot be guided"):
        tiny_ensemble("ddpm").predictor([""], guidance=3.0)


def test_sizes_other_than_the_default(tiny_cards):
    for family in ("sd", "sdxl", "sd3", "flux", "pixart"):
        ensemble = load(tiny_cards(family)[0], size=(16, 8) if family in ("sd3", "pixart") else (24, 16))
        x = torch.randn(1, *ensemble.shape)
        assert ensemble.predictor(["a cat"])(x, torch.tensor([0.0])).shape == (1, *x.shape)
    assert SIZE == {"flux": (16, 16), "schnell": (16, 16)}
