"""What a model, a folder or a file of weights is that cannot be fused, in words after its name, each with its cure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath

LORA = "is a LoRA: put it on its base, as BASE+LORA"
EMBEDDING = (
    "is a textual inversion, an embedding for prompts and no model alone: choose the model that it was trained on"
)
CONTROL = "is a ControlNet, which steers a model and is none alone: choose the model that it was made for"
AUTOENCODER = (
    "is an autoencoder alone: choose a whole model, or a network in one file and a whole model as its components"
)
ENCODER = "is a text encoder alone: choose a whole model"
UPSCALER = "is an upscaler, which draws nothing alone: choose a base model"
NETWORK = (
    "is the network of a model alone: name the whole folder that it belongs to, or its file of weights with "
    "components=MODEL for the rest"
)
LCM = (
    "is a latent consistency model, distilled to draw in few steps: it answers with no noise prediction that could be "
    "averaged with others, so choose the ordinary model that it was made of"
)

# pipelines by a part of their name, the first that fits
_PIPELINES = (
    ("LatentConsistency", LCM),
    ("Onnx", "is an ONNX export, whose weights cannot be averaged: choose the safetensors version of it"),
    ("ORT", "is an ONNX export, whose weights cannot be averaged: choose the safetensors version of it"),
    ("OV", "is an OpenVINO export, which cannot be read here: choose the safetensors version of it"),
    ("Flax", "is a model for Flax, which cannot be read here: choose the safetensors version of it"),
    ("Inpaint", "is an inpainting model, which does not fuse: choose the base model"),
    ("Upscale", UPSCALER),
    ("ControlNet", CONTROL),
    ("Adapter", "is a model with an adapter for pictures: choose the base model"),
    ("XLImg2Img", "is the refiner of Stable Diffusion XL, which draws nothing alone: use the base model"),
    ("Pix2Pix", "is an editing model, which does not fuse: choose the base model"),
    ("Depth2Img", "is a model for depth maps, which does not fuse: choose the base model"),
    ("Video", "is a video model, which does not fuse with picture models"),
)

# tensors by a part of their name, the first that fits: the telling ones before those that several kinds share
_TENSORS = (
    ((".lora_", "_lora", "lora_A.", "lora_B.", ".lora.down", ".lora.up"), LORA),
    (
        (".lokr_", ".hada_", ".oft_", ".boft_", ".glora_", ".diff_b", ".on_input"),
        "is an adapter: put it on its base, as BASE+ADAPTER",
    ),
    (
        ("ip_adapter.", "image_proj."),
        "is an IP-Adapter, which is no model alone: choose the model that it was made for",
    ),
    (("control_model.", "controlnet_", "input_hint_block.", "control_add_embedding"), CONTROL),
    (("motion_modules.",), "is a motion module of AnimateDiff, which is no model alone"),
    (("time_stack.", "temporal_transformer_blocks."), "is a video model, which does not fuse with picture models"),
    (("rdb1.", "RDB1.", "upsampler.", "conv_after_body"), UPSCALER),
    (("emb_params", "string_to_param"), EMBEDDING),
    (("exp_avg", "optimizer"), "is the state of a training, not a model: choose the weights that it saved"),
    (("model.layers.0.",), "is a language model: choose a model that draws pictures"),
    (("down_blocks.0.resnets.0.time_emb_proj", "time_embedding.linear_1"), NETWORK),
    (("quant_conv", "decoder.conv_in", "decoder.layers", "decoder.up", "taesd_"), AUTOENCODER),
    (("text_model.", "encoder.block.0", "transformer.resblocks", "shared.weight", "token_embedding"), ENCODER),
    (("vision_model.", "visual."), "is an encoder of pictures alone: choose a whole model"),
    (("down_blocks.", "transformer_blocks."), NETWORK),
)


def pipeline_words(name: str) -> str | None:
    """What a pipeline's class says that it is, None for one that is not known to be something else."""
    return next(
        (words for part, words in _PIPELINES if part in name and not (part == "OV" and not name.startswith("OV"))), None
    )


def tensor_words(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What weights of these names are, None for what is not known."""
    vectors = {*shapes} <= {"clip_l", "clip_g"} or (len(shapes) == 1 and next(iter(shapes)).startswith("<"))
    small = all(
        len(shape) <= 2 and shape[-1:] in ((768,), (1024,), (1280,), (2048,), (4096,)) for shape in shapes.values()
    )
    if shapes and (vectors or (len(shapes) <= 2 and small)):
        return EMBEDDING
    return next((words for signs, words in _TENSORS if any(sign in key for key in shapes for sign in signs)), None)


def folder_words(name: str, names: Iterable[str], config: Mapping | None = None) -> str:
    """What a folder or repository called `name` is that has no model_index.json. names: paths of its files below it; config: its
    config.json, where it was read."""
    held = [PurePath(path) for path in names]
    top, ends = {path.name for path in held if len(path.parts) == 1}, {path.suffix for path in held}
    kind = class_words(config or {})
    if kind:
        return kind
    if "adapter_config.json" in top or "pytorch_lora_weights.safetensors" in top:
        return LORA
    if "learned_embeds.safetensors" in top or "learned_embeds.bin" in top:
        return EMBEDDING
    below = sorted(path.parent.as_posix() for path in held if path.name == "model_index.json")
    if below:
        return f"holds a model in its folder {below[0]}: name that, as {name}/{below[0]}"
    weights = sorted(
        (path for path in held if path.suffix == ".safetensors"), key=lambda path: (len(path.parts), path.as_posix())
    )
    if weights:
        return (
            f"is not a diffusers model (no model_index.json): name one of its files, as {name}/{weights[0].as_posix()}"
        )
    exports = (
        (".onnx", "an ONNX export"),
        (".gguf", "of GGUF files, quantised for other programs"),
        (".engine", "an engine of TensorRT"),
        (".plan", "an engine of TensorRT"),
        (".msgpack", "a model for Flax"),
        (".mlmodel", "a Core ML export"),
    )
    for end, what in exports:
        if end in ends:
            return f"is {what}, which cannot be read here: choose a diffusers version of it with safetensors"
    if any(path.name.startswith("openvino_") for path in held):
        return "is an OpenVINO export, which cannot be read here: choose a diffusers version of it with safetensors"
    return "is not a diffusers model (no model_index.json): choose a diffusers version of it"


def class_words(config: Mapping) -> str | None:
    """What the configuration of a part of a model says that it is."""
    architectures = config.get("architectures") if isinstance(config.get("architectures"), Collection) else ()
    name = str(config.get("_class_name") or next(iter(architectures), ""))
    for pattern, words in (
        (r"ControlNet", CONTROL),
        (r"^Autoencoder|^VQModel|^ConsistencyDecoder", AUTOENCODER),
        (r"^UNet|Transformer2DModel$", NETWORK),
        (r"^(CLIPText|T5|UMT5|Gemma|Qwen|Llama)", ENCODER),
        (r"^CLIPVision|SafetyChecker", "is an encoder of pictures alone: choose a whole model"),
        (r"^MotionAdapter", "is a motion module of AnimateDiff, which is no model alone"),
        (r"Scheduler$", "is a scheduler alone: name the whole folder that it belongs to"),
    ):
        if re.search(pattern, name):
            return words
    return None
