"""Single-file checkpoints: read as diffusers reads them where it can, complete or refused by name, from headers before weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fusion.sampler import fused
from models import headers, prediction
from models.catalog import ModelCard, card_for
from models.checkpoint import detect, layouts
from models.checkpoint_names import sources
from models.clip_tokenizer import clip_tokenizer
from models.errors import ModelError
from models.integrity import folder_hashes
from models.loading import load_ensemble
from models.pieces import _taken, wanted_shapes
from models.prediction import slope
from tests import tiny
from tests.conftest import SIZE, tiny_card
from tests.models.originals import LAYOUT, original, write

SAYS = {"modelspec.prediction_type": "epsilon"}


@pytest.fixture(scope="module")
def files(tiny_cards, tiny_ensemble, tmp_path_factory):
    """`files(kind)`: a single file of the second tiny member of a kind, whose companion is the folder of the first."""
    root, made = tmp_path_factory.mktemp("single"), {}

    def file(kind: str) -> Path:
        if kind not in made:
            pipe = tiny_ensemble(kind).members[1].new_pipeline(tiny_ensemble(kind).family.slot)
            made[kind] = write(
                root / f"{kind}.safetensors",
                original(pipe, LAYOUT[kind]),
                **{**SAYS, **({"modelspec.prediction_type": "v"} if kind == "sd2" else {})},
            )
        return made[kind]

    return file


def card(file: Path, companion: ModelCard, **more) -> ModelCard:
    return ModelCard(
        **{"id": file.stem, "title": file.stem, "family": companion.family, "source": str(file), "components": companion.source, **more}
    )


def load(*cards, **more):
    return load_ensemble(list(cards), device="cpu", **more)


def changed(file: Path, path: Path, remove: str = "\0", **more: torch.Tensor) -> Path:
    """A copy of a file without the tensors whose names start with `remove`, and with others."""
    kept = {key: value for key, value in load_file(file).items() if not key.startswith(remove)}
    return write(path, {**kept, **{key: value for key, value in more.items() if value is not None}}, **headers.read(file).metadata)


def draw(pipe, **more) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("a cat", num_inference_steps=2, guidance_scale=3.0, output_type="np", generator=generator, **more).images


def same_image(first: np.ndarray, second: np.ndarray) -> None:
    """To rounding: equal weights at other addresses take other paths through the processor."""
    np.testing.assert_allclose(first, second, atol=2e-6)


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("kind", LAYOUT)
def test_a_file_is_the_folder_it_was_made_of(tiny_cards, files, kind):
    """Equal weights, equal images, and everything but the network shared in memory with a member from a folder."""
    first, second = tiny_cards(kind)
    ensemble = load(first, card(files(kind), first), size=SIZE.get(kind))
    own, member = load(second, size=SIZE.get(kind)).members[0], ensemble.members[1]
    ours, theirs = member.network.state_dict(), own.network.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not any(p.requires_grad for p in member.network.parameters()) and not member.network.training
    for part in (*ensemble.family.text, "vae"):
        assert member.components[part] is ensemble.members[0].components[part], part
    assert member.noise == own.noise and ensemble.warnings == () and len(ensemble._voices[0]) == 1
    pixels = dict(zip(("height", "width"), ensemble.size))
    with fused(ensemble, [0, 1]) as pipe:
        same_image(draw(pipe, **pixels), draw(own.new_pipeline(ensemble.family.slot), **pixels))


@pytest.mark.parametrize("kind", ["sd", "sd2"])
def test_as_diffusers_reads_the_same_file(tiny_cards, files, kind):
    first = tiny_cards(kind)[0]
    pipe = diffusers.StableDiffusionPipeline.from_single_file(str(files(kind)), config=first.source, local_files_only=True)
    pipe.scheduler = diffusers.DDIMScheduler.from_pretrained(first.source, subfolder="scheduler")
    with fused(load(card(files(kind), first)), [1]) as ours:
        same_image(draw(ours), draw(pipe))


def test_as_diffusers_reads_a_file_of_sdxl(tmp_path):
    """Text encoders of different widths: diffusers tells them apart by it."""
    folder = tiny.sdxl(tmp_path / "sdxl", second=24)
    own = load(tiny_card("sdxl", folder))
    file = write(tmp_path / "xl.safetensors", original(own.pipeline, "sdxl"), **SAYS)
    pipe = diffusers.StableDiffusionXLPipeline.from_single_file(str(file), config=str(folder), local_files_only=True)
    with fused(load(card(file, own.cards[0])), [1]) as ours:
        same_image(draw(ours), draw(pipe))
        same_image(draw(ours), draw(own.pipeline))


@pytest.mark.parametrize("kind", ["sd3", "sd35"])
def test_as_diffusers_reads_transformers_of_sd3(tiny_cards, tiny_ensemble, files, kind):
    first = tiny_cards(kind)[0]
    for cls, part in ((diffusers.SD3Transformer2DModel, "transformer"), (diffusers.AutoencoderKL, "vae")):
        theirs = cls.from_single_file(str(files(kind)), config=first.source, subfolder=part, local_files_only=True).state_dict()
        member = tiny_ensemble(kind).members[1]
        ours = (member.network if part == "transformer" else member.components["vae"]).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("layout", ["flux-dev", "flux-schnell"])
def test_as_diffusers_converts_flux(layout, tmp_path):
    """Its converter knows one width, 3,072, and reads rows alone: so a file of full height and width 1 is converted, value by value."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    told = layouts()[layout]["parts"]["transformer"]
    shapes = wanted_shapes(
        "diffusers", told["class"], tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in told["config"].items())
    )
    named = sources("flux", shapes, told["config"])
    rows: dict[str, int] = {}
    for name, source in named.items():
        rows[source.key] = max(rows.get(source.key, 0), source.rows[1] if source.rows else shapes[name][0])
    values = iter(range(sum(rows.values())))
    tensors = {key: torch.tensor([next(values) for _ in range(count)], dtype=torch.int32).view(-1, 1) for key, count in rows.items()}
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(tensors))
    file = write(tmp_path / "flux.safetensors", tensors)
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        ours = {name: _taken(opened, source, {key: key for key in tensors}, (shapes[name][0], 1)) for name, source in named.items()}
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float8_e4m3fn, 0.1)])
def test_files_in_few_bits(tiny_cards, tiny_ensemble, files, tmp_path, dtype, tolerance):
    narrow = {key: value.to(dtype) for key, value in load_file(files("flux")).items()}
    member = load(card(write(tmp_path / "f.safetensors", narrow), tiny_cards("flux")[0]), size=(16, 16)).members[0]
    for key, value in tiny_ensemble("flux").members[1].network.state_dict().items():
        torch.testing.assert_close(member.network.state_dict()[key], value, atol=tolerance, rtol=tolerance)
    assert member.network.dtype == torch.float32


def test_a_network_alone_without_its_prefix(tiny_cards, tiny_ensemble, tmp_path):
    """As FLUX.1 is published: the rest comes from the companion."""
    first = tiny_cards("schnell")[0]
    pipe = tiny_ensemble("schnell").members[1].new_pipeline("transformer")
    file = write(tmp_path / "alone.safetensors", original(pipe, "flux-schnell", ["transformer"], alone=True))
    ensemble = load(first, card(file, first), size=(16, 16))
    assert ensemble.warnings == () and ensemble.members[1].components["text_encoder_2"] is ensemble.members[0].components["text_encoder_2"]
    assert torch.equal(ensemble.members[1].network.proj_out.weight, pipe.transformer.proj_out.weight)
    with pytest.raises(
        ModelError, match="'alone': alone.safetensors lacks vae, text_encoder, text_encoder_2, tokenizer_2: name a FLUX.1 schnell"
    ):
        load(replace(card(file, first), components=None))


# ------------------------------------------------------------------------------------------------ configurations of full size

NUMBERS = {  # parameters that the models' authors state or publish
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "text_encoder_2": 694_659_840},
    "sd3": {"transformer": 2_028_328_000, "vae": 83_819_683},
    "sd35-medium": {"transformer": 2_243_171_520},
    "sd35-large": {"transformer": 8_056_627_520},
    "flux-dev": {"transformer": 11_901_408_320, "text_encoder_2": 4_762_310_656},
    "flux-schnell": {"transformer": 11_891_178_560},
}
BLOCK = "transformer_blocks.0.attn2.to_k.weight"
REAL = {  # names and shapes as they stand in published files
    ("sd1", "unet"): {"input_blocks.1.1." + BLOCK: (320, 768), "input_blocks.3.0.op.weight": (320, 320, 3, 3),
                      "middle_block.1.proj_in.weight": (1280, 1280, 1, 1), "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
                      "output_blocks.5.2.conv.weight": (1280, 1280, 3, 3), "output_blocks.2.1.conv.bias": (1280,),
                      "out.2.weight": (4, 320, 3, 3), "time_embed.2.weight": (1280, 1280),
                      "input_blocks.4.0.emb_layers.1.weight": (640, 1280)},
    ("sd1", "vae"): {"encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1), "encoder.mid.attn_1.q.weight": (512, 512),
                     "decoder.up.3.upsample.conv.weight": (512, 512, 3, 3), "decoder.mid.block_2.conv1.weight": (512, 512, 3, 3),
                     "encoder.norm_out.weight": (512,), "post_quant_conv.weight": (4, 4, 1, 1)},
    ("sd1", "text_encoder"): {"text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
                              "text_model.embeddings.position_embedding.weight": (77, 768)},
    ("sd2", "unet"): {"input_blocks.1.1.proj_in.weight": (320, 320), "input_blocks.2.1." + BLOCK: (320, 1024)},
    ("sd2", "text_encoder"): {"transformer.resblocks.22.attn.in_proj_weight": (3072, 1024), "ln_final.bias": (1024,),
                              "positional_embedding": (77, 1024)},
    ("sdxl", "unet"): {"label_emb.0.0.weight": (1280, 2816), "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
                       "input_blocks.8.1." + BLOCK.replace("0", "9"): (1280, 2048),
                       "output_blocks.8.0.in_layers.2.weight": (320, 640, 3, 3)},
    ("sdxl", "text_encoder_2"): {"text_projection": (1280, 1280), "transformer.resblocks.31.mlp.c_proj.weight": (1280, 5120)},
    ("sd3", "transformer"): {"joint_blocks.23.context_block.adaLN_modulation.1.weight": (3072, 1536), "pos_embed": (1, 36864, 1536),
                             "joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536), "y_embedder.mlp.0.weight": (1536, 2048),
                             "x_embedder.proj.weight": (1536, 16, 2, 2), "final_layer.linear.weight": (64, 1536)},
    ("sd35-large", "transformer"): {"joint_blocks.37.x_block.mlp.fc1.weight": (9728, 2432),
                                    "joint_blocks.3.context_block.attn.ln_k.weight": (64,)},
    ("sd35-medium", "transformer"): {"joint_blocks.12.x_block.attn2.qkv.weight": (4608, 1536), "pos_embed": (1, 147456, 1536)},
    ("flux-dev", "transformer"): {"double_blocks.18.img_attn.norm.key_norm.scale": (128,), "single_blocks.37.linear1.weight": (21504, 3072),
                                  "guidance_in.in_layer.weight": (3072, 256), "img_in.weight": (3072, 64),
                                  "single_blocks.0.norm.query_norm.scale": (128,)},
}  # fmt: skip


@pytest.mark.parametrize("layout", layouts())
def test_shipped_configurations_are_those_of_the_published_models(layout):
    from models.pieces import skeleton

    for part, told in layouts()[layout]["parts"].items():
        if "names" not in told or (part not in NUMBERS[layout] and (layout, part) not in REAL):
            continue
        module = skeleton("transformers" if told["names"] in ("clip", "open_clip", "t5") else "diffusers", told["class"], told["config"])
        if part in NUMBERS[layout]:
            assert sum(p.numel() for p in module.parameters()) == NUMBERS[layout][part]
        shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
        sizes: dict[str, tuple[int, ...]] = {}
        for name, source in sources(told["names"], shapes, told["config"]).items():
            rows = max(sizes.get(source.key, (0,))[0], source.rows[1] if source.rows else shapes[name][0])
            sizes[source.key] = (rows, *(shapes[name][::-1] if source.turned else shapes[name])[1:])
        for key, shape in REAL.get((layout, part), {}).items():
            assert sizes[key] == shape, (layout, part, key)


def test_clip_tokenizer_gives_the_published_numbers():
    words = clip_tokenizer()
    assert words("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert words("A Portrait of a Scientist, 35mm").input_ids == [49406, 320, 5352, 539, 320, 11083, 267, 274, 276, 2848, 49407]
    assert words("", padding="max_length").input_ids == [49406] + [49407] * 76 and len(words.get_vocab()) == 49408
    assert clip_tokenizer("!")("a", padding="max_length").input_ids[:5] == [49406, 320, 49407, 0, 0]


def test_a_file_of_usual_shape_needs_no_companion(files, monkeypatch):
    """With configurations of the tiny model in place of the shipped ones: nothing but the file is read."""
    small = {part: dict(told) for part, told in layouts()["sd1"]["parts"].items()}
    network, vae, text = tiny.unet(), tiny.vae(), tiny.text_encoder()
    small["unet"]["config"], small["vae"]["config"] = dict(network.config), dict(vae.config)
    small["text_encoder"]["config"] = text.config.to_dict() | {"max_position_embeddings": 16}
    monkeypatch.setitem(layouts()["sd1"], "parts", small)
    monkeypatch.setattr("models.pieces.built_tokenizer", lambda pad: tiny.tokenizer())
    alone = ModelCard(id="alone", title="alone", family="sd", source=str(files("sd")))
    ensemble = load(alone, alone)
    assert type(ensemble.pipeline.scheduler) is diffusers.PNDMScheduler
    assert ensemble.warnings == ("alone (2): it is the same model as alone, so that their shares cannot be told apart: leave one of them "
                                 "out",)  # fmt: skip
    assert ensemble.members[0].network is ensemble.members[1].network
    assert draw(ensemble.pipeline).shape == (1, 16, 16, 3)


# ------------------------------------------------------------------------------------------------ what is missing or too much


def test_missing_text_encoder_and_autoencoder(tiny_cards, files, tmp_path):
    first = tiny_cards("sdxl")[0]
    pruned = changed(files("sdxl"), tmp_path / "pruned.safetensors", ("first_stage_model.", "conditioner.embedders.1"))
    ensemble = load(first, card(pruned, first))
    assert ensemble.members[1].components["vae"] is ensemble.members[0].components["vae"] and ensemble.warnings == ()
    with pytest.raises(
        ModelError, match="'pruned': pruned.safetensors lacks vae, text_encoder_2: name a Stable Diffusion XL in diffusers form"
    ):
        load(replace(card(pruned, first), components=None))
    with pytest.raises(ModelError, match="is Stable Diffusion XL, and its companion is a StableDiffusionPipeline"):
        load(card(pruned, tiny_cards("sd")[0], family="sdxl"))


def test_sd3_without_t5_says_so(tiny_cards, files, tmp_path):
    first = tiny_cards("sd3")[0]
    folder = shutil.copytree(first.source, tmp_path / "companion")
    for part in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / part)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"T5EncoderModel"', "null").replace('"T5Tokenizer"', "null"))
    file = changed(files("sd3"), tmp_path / "short.safetensors", "text_encoders.t5xxl.")
    ensemble = load(card(file, tiny_card("sd3", folder)))
    assert "used without it" in ensemble.warnings[0] and "text_encoder_3" in ensemble.warnings[0]
    assert ensemble.pipeline.text_encoder_3 is None and draw(ensemble.pipeline).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(("key", "tensor", "message"), [
    ("model.diffusion_model.out.9.weight", torch.ones(2), "out.9.weight is none of its weights"),
    ("first_stage_model.encoder.extra", torch.ones(2), "vae of .*encoder.extra is none of its weights"),
    ("cond_stage_model.transformer.text_model.encoder.layers.9.mlp.fc1.weight", torch.ones(2), "layers.9.mlp.fc1.weight is none of its"),
    ("model.diffusion_model.out.2.bias", torch.ones(5), "out.2.bias is 5, not as conv_out.bias must be"),
    ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", torch.ones(8, 9, 3, 3), "in_layers.2.weight is 8 x 9 x 3 x 3"),
])  # fmt: skip
def test_tensors_that_do_not_belong_are_named(tiny_cards, files, tmp_path, key, tensor, message):
    file = changed(files("sd"), tmp_path / "x.safetensors", **{key: tensor})
    with pytest.raises(ModelError, match=f"'x': .*{message}"):
        load(card(file, tiny_cards("sd")[0]))


@pytest.mark.parametrize("key", ["model.diffusion_model.middle_block.0.in_layers.2.bias", "first_stage_model.quant_conv.bias",
                                 "cond_stage_model.transformer.text_model.final_layer_norm.weight"])  # fmt: skip
def test_tensors_that_are_missing_are_named(tiny_cards, files, tmp_path, key):
    file = changed(files("sd"), tmp_path / "x.safetensors", key)
    with pytest.raises(
        ModelError, match=f"'x': .*{key.split('.', 2)[2] if 'transformer' not in key else 'final_layer_norm.weight'} is missing"
    ):
        load(card(file, tiny_cards("sd")[0]))


def test_what_no_part_uses_is_a_warning(tiny_cards, files, tmp_path):
    more = {"model_ema.diffusion_modelout2bias": torch.ones(4), "something.else": torch.ones(2), "betas": torch.ones(3),
            "global_step": torch.ones(1),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(16)[None],
            "first_stage_model.loss.logvar": torch.ones(1)}  # fmt: skip
    file = changed(files("sd"), tmp_path / "x.safetensors", **more)
    ensemble = load(tiny_cards("sd")[0], card(file, tiny_cards("sd")[0]))
    assert len(ensemble.warnings) == 2
    assert "x: x.safetensors holds a second, averaged copy of its weights (1 tensors), which is not used" in ensemble.warnings
    assert any("1 tensors that no part of Stable Diffusion 1 uses (something.else)" in warning for warning in ensemble.warnings)


def test_text_encoders_saved_without_their_upper_level(tiny_cards, tiny_ensemble, files, tmp_path):
    old = {key.replace("transformer.text_model.", "transformer."): value for key, value in load_file(files("sd")).items()}
    member = load(tiny_cards("sd")[0], card(write(tmp_path / "x.safetensors", old, **SAYS), tiny_cards("sd")[0])).members[1]
    assert torch.equal(member.components["text_encoder"].state_dict()[k := next(iter(member.components["text_encoder"].state_dict()))],
                       tiny_ensemble("sd").members[0].components["text_encoder"].state_dict()[k])  # fmt: skip


KINDS = {
    "takes 9 channels": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 9, 3, 3)},
    "is the refiner": {"conditioner.embedders.0.model.text_projection": torch.ones(2, 2)},
    "another kind of noise schedule": {"edm_mean": torch.ones(4)},
    "is quantised .*absmax": {"model.diffusion_model.out.2.weight.absmax": torch.ones(4)},
}
OTHERS = {
    "is a LoRA: put it on its base": {"lora_unet_x.lora_down.weight": torch.ones(2, 2)},
    "is a ControlNet": {"control_model.time_embed.0.weight": torch.ones(2, 2)},
    "is the network of a model alone: name the whole folder": {"down_blocks.0.resnets.0.conv1.weight": torch.ones(2, 2)},
    "is an autoencoder alone": {"decoder.conv_in.weight": torch.ones(2, 2)},
    "is a text encoder alone": {"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2, 2)},
    "is a textual inversion": {"emb_params": torch.ones(2, 2)},
    "no checkpoint of a model known here .its first tensor is x.: known are Stable Diffusion 1": {"x": torch.ones(1)},
    "is a Flux for inpainting": {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(8), "img_in.weight": torch.ones(8, 384)},
    "is Chroma": {"double_blocks.0.img_attn.norm.key_norm.scale": torch.ones(8), "img_in.weight": torch.ones(8, 64),
                  "distilled_guidance_layer.in_proj.weight": torch.ones(2, 2)},
}  # fmt: skip


@pytest.mark.parametrize("message", [*KINDS, *OTHERS])
def test_relatives_are_refused_by_what_they_are(files, tmp_path, monkeypatch, message):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    file = tmp_path / "x.safetensors"
    changed(files("sd"), file, **KINDS[message]) if message in KINDS else write(file, OTHERS[message])
    with pytest.raises(ModelError, match=f"x.safetensors .*{message}"):
        card_for(str(file))


def test_other_autoencoder_than_a_folders(tiny_cards, files, tmp_path, monkeypatch):
    """The halves that make latents are compared across a folder and a file, and across two files."""
    key = "first_stage_model.encoder.conv_in.weight"
    other = changed(files("sd"), tmp_path / "other.safetensors", **{key: torch.randn(8, 3, 3, 3)})
    with pytest.raises(ModelError, match="'sd-a' and 'other' cannot be fused: their autoencoders have different weights"):
        load(tiny_cards("sd")[0], card(other, tiny_cards("sd")[0]))
    with pytest.raises(ModelError, match="'sd' and 'other' cannot be fused"):
        load(card(files("sd"), tiny_cards("sd")[0]), card(other, tiny_cards("sd")[0]))
    decoder = changed(files("sd"), tmp_path / "decoder.safetensors", **{"first_stage_model.decoder.conv_out.bias": torch.ones(3)})
    ensemble = load(tiny_cards("sd")[0], card(decoder, tiny_cards("sd")[0]))
    assert ensemble.members[0].components["vae"] is not ensemble.members[1].components["vae"]


def test_weights_that_are_not_numbers(tiny_cards, files, tmp_path):
    file = changed(files("sd"), tmp_path / "x.safetensors", **{"model.diffusion_model.out.2.bias": torch.full((4,), torch.nan)})
    with pytest.raises(ModelError, match="'x': weight conv_out.bias of its unet is not a number"):
        load(card(file, tiny_cards("sd")[0]))


# ------------------------------------------------------------------------------------------------ what it predicts


@pytest.mark.parametrize(("note", "marks", "found", "how"), [
    ({"modelspec.prediction_type": "v"}, {}, "v_prediction", "the file says so"), ({}, {}, "epsilon", "usual for its kind"),
    ({"modelspec.prediction_type": "epsilon"}, {"v_pred": torch.zeros(0)}, "epsilon", "the file says so"),
    ({}, {"v_pred": torch.zeros(0)}, "v_prediction", "marked so"), ({"ss_v_parameterization": "True"}, {}, "v_prediction", "says so"),
])  # fmt: skip
def test_prediction_type_from_the_header(files, tmp_path, note, marks, found, how):
    kept = load_file(files("sdxl"))
    checkpoint = detect(headers.read(write(tmp_path / "x.safetensors", {**kept, **marks}, **note)), "x")
    assert checkpoint.prediction == found and how in checkpoint.how
    assert (
        detect(checkpoint.header, "x", prediction="v").prediction == "v_prediction"
        and detect(checkpoint.header, "x", prediction="v").stated
    )


def test_prediction_type_of_sd2_from_its_architecture(files, tmp_path):
    kept = load_file(files("sd2"))
    for kind, found in (("stable-diffusion-v2-768-v", "v_prediction"), ("stable-diffusion-v2-512", "epsilon")):
        note = {"modelspec.architecture": kind}
        assert detect(headers.read(write(tmp_path / "x.safetensors", kept, **note)), "x").prediction == found
    silent = detect(headers.read(write(tmp_path / "x.safetensors", kept)), "x")
    assert silent.prediction is None and "the network is asked" in silent.how


def test_prediction_that_a_person_gives(tiny_cards, files, tmp_path, monkeypatch):
    """For files and for folders alike; it reaches the noise path and the pipeline's scheduler."""
    first = tiny_cards("sd")[0]
    plain = write(tmp_path / "plain.safetensors", load_file(files("sd")))
    for given in (card(plain, first, prediction="v_prediction"), replace(first, prediction="v_prediction", id="v", title="v")):
        ensemble = load(first, given)
        assert [member.noise.prediction_type for member in ensemble.members] == ["epsilon", "v_prediction"]
        assert ensemble.members[1].components["scheduler"].config.prediction_type == "v_prediction" and ensemble.warnings == ()
    monkeypatch.setenv("SCOREFUSION_MODELS", f"{tmp_path}:{Path(first.source).parent}")
    typed = card_for(str(plain), prediction="v", components=first.source)
    assert (typed.prediction, typed.components, typed.family) == ("v_prediction", str(Path(first.source).resolve()), "sd")
    for wrong, message in ((dict(prediction="score"), "'score' is no prediction type"),
                           (dict(prediction="flow"), "family sd cannot predict flow"),
                           (dict(family="sdxl"), "has the layers of Stable Diffusion 1, so its family is sd, not sdxl")):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            card_for(str(plain), **wrong)
    with pytest.raises(ModelError, match="family sd3 cannot predict epsilon"):
        load(replace(tiny_cards("sd3")[0], prediction="epsilon"))


def test_the_noise_that_a_file_was_trained_with(tiny_cards, files, tmp_path):
    first = tiny_cards("sd")[0]
    usual = diffusers.DDIMScheduler.from_pretrained(first.source, subfolder="scheduler").alphas_cumprod
    own = diffusers.DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02).alphas_cumprod
    same = changed(files("sd"), tmp_path / "same.safetensors", alphas_cumprod=usual.half())
    assert load(card(same, first)).warnings == ()
    ensemble = load(first, card(changed(files("sd"), tmp_path / "own.safetensors", alphas_cumprod=own), first))
    assert "own noise" in ensemble.warnings[0].replace("noise schedule of its own", "own noise")
    torch.testing.assert_close(ensemble.members[1].components["scheduler"].alphas_cumprod, own, atol=1e-5, rtol=1e-3)
    assert ensemble.members[1].noise.range[1] > ensemble.members[0].noise.range[1]
    marked = changed(files("sd"), tmp_path / "zero.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    zero = load(card(write(tmp_path / "zero2.safetensors", load_file(marked)), first)).members[0]
    assert zero.noise.prediction_type == "v_prediction" and zero.noise.terminal
    assert zero.components["scheduler"].config.timestep_spacing == "trailing"


@pytest.fixture(scope="module")
def honest(tiny_ensemble):
    """A shipped portrait model, which predicts v, and its other face that predicts the same as noise."""
    from models.catalog import catalog

    return load_ensemble([catalog["portraits/harbor"]], device="cpu")


def test_a_trained_network_shows_what_it_predicts(honest):
    pipe, family = honest.subset([0]).pipeline, honest.family
    assert abs(slope(pipe, family)) < 0.1
    network, path = pipe.unet, honest.noise

    class AsNoise(torch.nn.Module):
        config, dtype, device = network.config, network.dtype, network.device

        def forward(self, sample, timestep, return_dict=False, **given):
            level = path.level(timestep)
            return (path.to_noise(network(sample, timestep, **given, return_dict=False)[0], sample, level),)

    pipe.unet = AsNoise()
    assert abs(slope(pipe, family) - 1) < 0.1


@pytest.mark.parametrize(("seen", "result"), [(0.02, "v_prediction"), (0.97, "epsilon"), (0.5, None)])
def test_a_silent_sd2_file_is_asked(tiny_cards, files, tmp_path, monkeypatch, seen, result):
    silent = write(tmp_path / "silent.safetensors", load_file(files("sd2")))
    monkeypatch.setattr(prediction, "slope", lambda pipe, family: seen)
    if result is None:
        with pytest.raises(ModelError, match=r"'silent': .*its answer to noise \(0.50, .*give prediction=epsilon or v_prediction"):
            load(card(silent, tiny_cards("sd2")[0]))
        return
    ensemble = load(card(silent, tiny_cards("sd2")[0]))
    assert ensemble.noise.prediction_type == result and f"its answer to noise shows {result}" in ensemble.warnings[0]
    assert ensemble.pipeline.scheduler.config.prediction_type == result


def test_a_silent_file_that_answers_unlike_its_kind_is_a_warning(tiny_cards, files, tmp_path, monkeypatch):
    silent = write(tmp_path / "silent.safetensors", load_file(files("sd")))
    for seen, count in ((0.0, 1), (1.0, 0), (0.5, 0)):
        monkeypatch.setattr(prediction, "slope", lambda pipe, family, seen=seen: seen)
        ensemble = load(card(silent, tiny_cards("sd")[0]))
        assert len(ensemble.warnings) == count and ensemble.noise.prediction_type == "epsilon"
    monkeypatch.undo()
    assert "looks like v_prediction: if its images are noise" in load(card(silent, tiny_cards("sd")[0])).warnings[0]  # really asked


# ------------------------------------------------------------------------------------------------ trust


def test_typed_files(files, tmp_path, monkeypatch):
    file = shutil.copy(files("sd"), tmp_path / "my model.safetensors")
    with pytest.raises(ModelError, match="nor below an allowed folder"):
        card_for(str(file))
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    typed = card_for(str(file))
    assert (typed.family, typed.title, typed.is_file, typed.is_hub) == ("sd", "my model", True, False)
    for wrong in ("/etc", "/etc/hostname"):
        with pytest.raises(ModelError, match="nor below an allowed folder"):
            card_for(str(file), components=wrong)
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled weights"):
        card_for(str(tmp_path / "old.ckpt"))


def test_hashes_of_a_file(tiny_cards, files):
    good = card(files("sd"), tiny_cards("sd")[0], sha256=folder_hashes(files("sd")))
    load(good)
    with pytest.raises(ModelError, match="sd.safetensors is not the file its card describes"):
        load(replace(good, sha256={"sd.safetensors": "0" * 64}))


def test_a_card_of_another_family(tiny_cards, files):
    with pytest.raises(ModelError, match="correct the family to sd"):
        load(card(files("sd"), tiny_cards("sd")[0], family="sdxl"))
    with pytest.raises(ModelError, match="there is no file"):
        load(replace(card(files("sd"), tiny_cards("sd")[0]), source="/nowhere/x.safetensors"))
    with pytest.raises(ModelError, match="unknown prediction type"):
        card(files("sd"), tiny_cards("sd")[0], prediction="v")
    with pytest.raises(ModelError, match="components must name a full commit"):
        card(files("sd"), tiny_cards("sd")[0], components="owner/name@main")
