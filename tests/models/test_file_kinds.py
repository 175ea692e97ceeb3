"""Files and folders that are no model, each named for what it is, wherever it was given: as a model, a LoRA, or a part of a folder."""

from __future__ import annotations

import json
import re
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from fusion.recipe import Recipe, RecipeError
from models.catalog import REPOSITORY, card_for, catalog, typed_card
from models.checkpoint import detect
from models.errors import ModelError
from models.file_kinds import kind
from models.headers import Header, Tensor
from models.loading import load_ensemble
from models.relatives import folder_words, pipeline_words
from tests.conftest import tiny_card

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 6938040682\n"
KINDS = {  # name -> (content, what is said)
    "gguf": (b"GGUF\3\0\0\0" + bytes(200), "is a GGUF file.*choose the safetensors version"),
    "html": (
        b"\n<!DOCTYPE html><html><head><title>Sign in</title>" * 9,
        "is a web page, saved in place of the file.*log in",
    ),
    "comment": (b"<!-- x --><html lang='en'><body>404</body></html>" * 9, "is a web page"),
    "bucket": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>x</Message></Error>',
        r"is a server's message in XML \(AccessDenied\)",
    ),
    "json": (
        b'{"error":"Unauthorized","message":"The creator of this asset requires you to be logged in"}',
        "is a server's error \\(Unauthorized.*log in",
    ),
    "index": (
        b'{"metadata":{"total_size":1},"weight_map":{"a":"x-00001.safetensors"}}',
        "is the index of a model in several files",
    ),
    "other": (b'{"nodes": [], "last_node_id": 7, "links": []}', "is a text in JSON, not weights"),
    "denied": (b"Access to model x/y is restricted. You must have access to it", "is a server's error"),
    "pointer": (
        POINTER,
        r"is a Git LFS pointer, 135 bytes in place of the file of 6,938,040,682 bytes: run `git lfs pull`",
    ),
    "annex": (b"/annex/objects/SHA256E-s12--00.safetensors", "is a git-annex pointer"),
    "pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(90), "holds pickled weights.*convert it"),
    "torch": (
        b"PK\x03\x04\0\0\x08\x08" + bytes(18) + b"\x10\0\x12\0archive/data.pkl" + bytes(90),
        "holds pickled weights",
    ),
    "zip": (
        b"PK\x03\x04\0\0\x08\x08" + bytes(18) + b"\x10\0\x12\0model.safetensors" + bytes(90),
        "is a zip archive: unpack it",
    ),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(90), r"is packed \(gzip\): unpack it"),
    "tar": (b"model/x.safetensors".ljust(257, b"\0") + b"ustar\0" + bytes(300), r"is packed \(tar\)"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(90), r"is packed \(7-Zip\)"),
    "pdf": (b"%PDF-1.7\n" + bytes(90), "is a PDF document"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(90), r"is a picture \(JPEG\).*not its preview"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(90), r"is a picture \(WebP\)"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + bytes(90), "is an ONNX export"),
    "engine": (b"ftrt" + bytes(90), "is an engine of TensorRT"),
    "openvino": (
        b'<?xml version="1.0"?>\n<net name="unet" version="11">' + b" " * 90,
        "is the description of an OpenVINO export",
    ),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file of Keras"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(90), "is a TensorFlow Lite"),
    "text": (b"A readme, and nothing else in here.\n" * 9, r"is a text \(A readme, and"),
    "empty": (b"", "is damaged .*empty.*download the model again"),
    "zeros": (bytes(4096), "is damaged .*zeros only.*download the model again"),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOREFUSION_MODELS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_a_file_under_the_name_of_a_model_is_named(place, sd_cards, name):
    """As a model, as a LoRA, and as the weights of a folder."""
    content, words = KINDS[name]
    file = place / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"^x\.safetensors {words}"):
        card_for(str(file))
    with pytest.raises(ModelError, match=rf"^x\.safetensors {words}"):
        card_for(str(REPOSITORY / catalog["portraits/harbor"].source), adapter=str(file))
    folder = shutil.copytree(sd_cards["base"].source, place / "whole")
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=rf"diffusion_pytorch_model\.safetensors {words}"):
        load_ensemble([tiny_card("sd", folder)])


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x05", b"\x1f\x8b", b"BZ", b"<!", b"{ ", b"\x08\x01"])
def test_a_header_whose_length_begins_like_another_format(place, start):
    """The first two bytes of safetensors are the length of its header: any two."""
    length = int.from_bytes(start, "little")
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    file = place / "x.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert text.startswith(b"{") and file.read_bytes()[:2] == start
    with pytest.raises(ModelError, match=r"is no checkpoint of a model known here \(its first tensor is a\)"):
        card_for(str(file))


def test_weights_are_no_strangers(place, sd_cards):
    whole = place / "model.sft"
    save_file({"a": torch.zeros(2)}, whole)
    assert kind(whole.read_bytes(), whole.stat().st_size) is None
    with pytest.raises(ModelError, match="model.sft is a safetensors file by its content: rename it"):
        card_for(str(whole))
    with zipfile.ZipFile(place / "y.ckpt", "w") as packed:
        packed.writestr("y/data.pkl", b"x")
    with pytest.raises(ModelError, match="'y.ckpt' holds pickled weights only"):
        card_for(str(place / "y.ckpt"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.onnx", "ONNX export"),
        ("x.engine", "TensorRT"),
        ("x.part", "has not ended"),
        ("x.mlmodel", "Core ML"),
        ("x.msgpack", "Flax"),
    ],
)
def test_a_name_tells_where_bytes_do_not(place, name, words):
    (place / name).write_bytes(bytes(range(1, 255)))
    with pytest.raises(ModelError, match=f"^{name} .*{words}"):
        card_for(str(place / name))


@pytest.mark.parametrize("text", [b"404: Not Found", b"error code: 1020", b"Forbidden", b"<script>location='/login'</script>"])
def test_short_answers_of_servers(place, text):
    (place / "x.safetensors").write_bytes(text)
    with pytest.raises(ModelError, match="x.safetensors is a (server's error|web page).*saved in place of the file"):
        card_for(str(place / "x.safetensors"))


def test_pointers_in_a_clone_without_lfs(place, sd_cards):
    for part in ("unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "unet/config.json"):
        folder = shutil.copytree(sd_cards["base"].source, place / re.sub(r"\W", "", part))
        (folder / part).write_bytes(POINTER)
        with pytest.raises(ModelError, match=rf"{part.rpartition('/')[2]} is a Git LFS pointer"):
            load_ensemble([tiny_card("sd", folder)])


def test_a_download_that_broke_off_is_told_from_damage(place):
    save_file({"a": torch.zeros(200)}, place / "x.safetensors")
    whole = (place / "x.safetensors").read_bytes()
    for kept, words in (
        (whole[:-9], "need 800 bytes and it holds 791, so its download broke off"),
        (whole[:30], "so its download broke off"),
    ):
        (place / "x.safetensors").write_bytes(kept)
        with pytest.raises(ModelError, match=f"is damaged .*{words}"):
            card_for(str(place / "x.safetensors"))


# ------------------------------------------------------------------------------------------------ folders, pipelines, weights

FOLDERS = {  # files -> what is said
    "is a LoRA: put it on its base": {"adapter_config.json": {"peft_type": "LORA"}, "adapter_model.safetensors": None},
    "is a ControlNet": {"config.json": {"_class_name": "ControlNetModel"}},
    "is an autoencoder alone": {"config.json": {"_class_name": "AutoencoderKL"}},
    "is a text encoder alone": {"config.json": {"architectures": ["CLIPTextModel"]}},
    "is the network of a model alone": {"config.json": {"_class_name": "UNet2DConditionModel"}},
    "is an OpenVINO export": {"openvino_model.xml": None},
    "is an ONNX export": {"model.onnx": None},
    "is of GGUF files": {"flux1-dev-Q6_K.gguf": None},
    "is a textual inversion": {"learned_embeds.safetensors": None},
    "holds a model in its folder inner: name that, as x/inner": {"inner/model_index.json": {}},
    "name one of its files, as x/dream.safetensors": {"dream.safetensors": None},
    r"lacks x/model_index.json": {"holiday.jpg": None},
}


@pytest.mark.parametrize("words", FOLDERS)
def test_a_folder_that_is_no_model_is_named(place, words):
    for name, content in FOLDERS[words].items():
        (place / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "x" / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"^'x' .*{words}"):
        card_for(str(place / "x"))


def test_a_repository_is_named_from_its_listing():
    assert folder_words("a/b", ["pytorch_lora_weights.safetensors"]).startswith("is a LoRA")
    assert folder_words("a/b", ["q.gguf", "README.md"]).startswith("is of GGUF files")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LatentConsistencyModelPipeline", "latent consistency"),
        ("OnnxStableDiffusionPipeline", "ONNX"),
        ("OVStableDiffusionPipeline", "OpenVINO"),
        ("StableDiffusionUpscalePipeline", "upscaler"),
        ("FluxControlNetPipeline", "ControlNet"),
        ("StableDiffusionXLInpaintPipeline", "inpainting"),
        ("StableDiffusionXLImg2ImgPipeline", "refiner"),
    ],
)
def test_other_pipelines_are_named(place, name, words):
    (place / "x").mkdir()
    (place / "x/model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ModelError, match=f"'{name}' is .*{words}"):
        card_for(str(place / "x"))
    assert pipeline_words("StableDiffusionPipeline") is None


WEIGHTS = {
    "is a ControlNet": {
        "controlnet_cond_embedding.conv_in.weight": (2, 2),
        "down_blocks.0.resnets.0.conv1.weight": (2, 2),
    },
    "is an autoencoder alone": {"decoder.conv_in.weight": (2, 2), "decoder.mid_block.resnets.0.conv1.weight": (2, 2)},
    "is a text encoder alone": {"encoder.block.0.layer.0.SelfAttention.q.weight": (2, 2), "shared.weight": (9, 2)},
    "is an upscaler": {"body.0.rdb1.conv1.weight": (2, 2), "conv_first.weight": (2, 2)},
    "is a textual inversion": {"clip_l": (8, 768), "clip_g": (8, 1280)},
    "is an adapter": {"lora_unet_x.hada_w1_a": (2, 2)},
    "is a LoRA": {"base_model.model.x.lora_A.weight": (2, 2)},
    "is an IP-Adapter": {"image_proj.proj.weight": (2, 2), "ip_adapter.1.to_k_ip.weight": (2, 2)},
    "is a motion module": {"down_blocks.0.motion_modules.0.x": (2, 2)},
    "is a language model": {"model.layers.0.self_attn.q_proj.weight": (2, 2)},
    "is an upscaler, ": {"model.diffusion_model.input_blocks.0.0.weight": (8, 7, 3, 3)},
}


@pytest.mark.parametrize("words", WEIGHTS)
def test_weights_that_are_no_model_are_named(words):
    header = Header({key: Tensor("F32", shape, 0) for key, shape in WEIGHTS[words].items()})
    with pytest.raises(ModelError, match=rf"x\.safetensors {words}"):
        detect(header, "x.safetensors")


def test_a_typed_model_is_named_too(place):
    (place / "x.gguf").write_bytes(KINDS["gguf"][0])
    with pytest.raises(ModelError, match="x.gguf is a GGUF file"):
        typed_card(str(place / "x.gguf"))


@pytest.mark.parametrize("name", ["html", "pointer", "json", "bucket"])
def test_a_recipe_that_a_download_replaced_is_named(tmp_path, name):
    (tmp_path / "recipe.json").write_bytes(KINDS[name][0])
    words = "it has no `version`" if name == "json" else f"this is not a recipe: it {KINDS[name][1]}"
    with pytest.raises(RecipeError, match=words):
        Recipe.load(tmp_path / "recipe.json")


@pytest.mark.parametrize("sign", [b"\x80\x02", b"\x80\x04", b"BM", b"\x1f\x8b", b"\x08\x01\x12\x01", b"GGUF", b"%PDF"])
def test_safetensors_whose_header_has_any_length_stay_what_they_are(sign):
    start = sign.ljust(8, b"\0") + b'{"layer.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    assert kind(start, 2**33) is None
