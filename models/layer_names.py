"""Every name a layer goes by: in diffusers, in the original code of its family, and in the trainers that build on either.

Stable Diffusion's original U-Net numbers its blocks through, SD3's and Flux's transformers keep query, key and value in one layer. `Layer`
says which diffusers layers one original layer is. Nothing here reads a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .families import Family


@dataclass(frozen=True)
class Layer:
    """One layer of the original code. paths: the diffusers layers that hold its rows, in order; swapped: their halves change places."""

    paths: tuple[str, ...]
    swapped: bool = False


# ------------------------------------------------------------------------------------------------ the U-Net of SD 1, 2 and SDXL

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
          "conv_shortcut": "skip_connection"}  # fmt: skip
OUTSIDE = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
           "conv_out": "out.2"}  # fmt: skip
MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def original_unet(path: str, depth: int, attentive: Iterable[int] = ()) -> str:
    """The original name of a U-Net layer. depth: `layers_per_block`; attentive: the up blocks that have attention."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("mid_block."):
        _, kind, number, rest = path.split(".", 3)
        return f"{MIDDLE[f'{kind}.{number}']}.{RESNET.get(rest, rest)}"
    side, block, kind, number, rest = BLOCK.fullmatch(path).groups()
    block, number, step = int(block), int(number), depth + 1
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * step}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{block * step + depth}.{2 if block in attentive else 1}.{rest}"
    place = f"input_blocks.{1 + block * step + number}" if side == "down" else f"output_blocks.{block * step + number}"
    return f"{place}.0.{RESNET.get(rest, rest)}" if kind == "resnets" else f"{place}.1.{rest}"


# ------------------------------------------------------------------------------------------------ the transformers of SD3 and Flux

_SELF, _ADDED = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_EMBEDDER = "time_text_embed.{}_embedder.linear_{}"
SD3 = {
    "joint_blocks.{i}.x_block.": ("transformer_blocks.{i}.", {
        "attn.qkv": _SELF, "attn.proj": ("attn.to_out.0",), "attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
        "attn2.proj": ("attn2.to_out.0",), "mlp.fc1": ("ff.net.0.proj",), "mlp.fc2": ("ff.net.2",),
        "adaLN_modulation.1": ("norm1.linear",)}),
    "joint_blocks.{i}.context_block.": ("transformer_blocks.{i}.", {
        "attn.qkv": _ADDED, "attn.proj": ("attn.to_add_out",), "mlp.fc1": ("ff_context.net.0.proj",), "mlp.fc2": ("ff_context.net.2",),
        "adaLN_modulation.1": ("norm1_context.linear",)}),
    "": ("", {
        "x_embedder.proj": ("pos_embed.proj",), "context_embedder": ("context_embedder",), "final_layer.linear": ("proj_out",),
        "t_embedder.mlp.0": (_EMBEDDER.format("timestep", 1),), "t_embedder.mlp.2": (_EMBEDDER.format("timestep", 2),),
        "y_embedder.mlp.0": (_EMBEDDER.format("text", 1),), "y_embedder.mlp.2": (_EMBEDDER.format("text", 2),),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",)}),
}  # fmt: skip
FLUX = {
    "double_blocks.{i}.": ("transformer_blocks.{i}.", {
        "img_attn.qkv": _SELF, "txt_attn.qkv": _ADDED, "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
        "img_mlp.0": ("ff.net.0.proj",), "img_mlp.2": ("ff.net.2",), "txt_mlp.0": ("ff_context.net.0.proj",),
        "txt_mlp.2": ("ff_context.net.2",), "img_mod.lin": ("norm1.linear",), "txt_mod.lin": ("norm1_context.linear",)}),
    "single_blocks.{i}.": ("single_transformer_blocks.{i}.", {
        "linear1": (*_SELF, "proj_mlp"), "linear2": ("proj_out",), "modulation.lin": ("norm.linear",)}),
    "": ("", {
        "img_in": ("x_embedder",), "txt_in": ("context_embedder",), "final_layer.linear": ("proj_out",),
        "time_in.in_layer": (_EMBEDDER.format("timestep", 1),), "time_in.out_layer": (_EMBEDDER.format("timestep", 2),),
        "vector_in.in_layer": (_EMBEDDER.format("text", 1),), "vector_in.out_layer": (_EMBEDDER.format("text", 2),),
        "guidance_in.in_layer": (_EMBEDDER.format("guidance", 1),), "guidance_in.out_layer": (_EMBEDDER.format("guidance", 2),),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",)}),
}  # fmt: skip


def original_layers(family: Family, paths: Iterable[str], config: Mapping) -> dict[str, Layer]:
    """`{original name: Layer}` of a denoiser with these diffusers layers; empty for families that have no other layout.

    The original code shifts before it scales in the last normalisations, diffusers the other way round: these are `swapped`.
    """
    paths = set(paths)
    if family.slot == "unet":
        if not family.text:
            return {}
        attentive = {int(path.split(".")[1]) for path in paths if path.startswith("up_blocks.") and ".attentions." in path}
        return {original_unet(path, config["layers_per_block"], attentive): Layer((path,)) for path in paths}
    table = {"sd3": SD3, "flux": FLUX}.get(family.name, {})
    blocks = max([config.get("num_layers", 0), config.get("num_single_layers", 0)])
    found = {}
    for prefix, (ours, layers) in table.items():
        for i in range(blocks if "{i}" in prefix else 1):
            for name, parts in layers.items():
                here = tuple(ours.format(i=i) + part for part in parts)
                if all(path in paths for path in here):
                    last = name == "adaLN_modulation.1" and "context" in prefix and i == config.get("num_layers", 0) - 1
                    found[prefix.format(i=i) + name] = Layer(here, swapped=last or name == "final_layer.adaLN_modulation.1")
    return found


# ------------------------------------------------------------------------------------------------ names in LoRA files

def denoiser_names(family: Family, paths: Iterable[str], config: Mapping) -> dict[str, Layer]:
    """`{name before .lora_down and the like: Layer}` for every way in which trainers name the denoiser's layers."""
    names = {}
    for path in paths:
        for prefix in (*_DOTTED, f"{family.slot}."):
            names[prefix + path] = Layer((path,))
        for prefix in _FLAT:
            names[prefix + path.replace(".", "_")] = Layer((path,))
    for name, layer in original_layers(family, paths, config).items():
        spelled = {name: layer}
        if len(layer.paths) > 1:  # OneTrainer numbers the layers that are one in the original code
            spelled |= {f"{name}.{number}": Layer((path,)) for number, path in enumerate(layer.paths)}
        for word, meant in spelled.items():
            for prefix in (*_DOTTED, f"{family.slot}."):
                names.setdefault(prefix + word, meant)
            for prefix in _FLAT:
                names.setdefault(prefix + word.replace(".", "_"), meant)
    return names | (_xlabs(paths) if family.name == "flux" else {})


_DOTTED = ("", "unet.", "transformer.", "base_model.model.", "diffusion_model.", "model.diffusion_model.")
_FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")


def _xlabs(paths: Iterable[str]) -> dict[str, Layer]:
    """Of XLabs' trainer for Flux: attention alone, in the original code's blocks, `1` for the picture's half and `2` for the text's."""
    names = {}
    for path in paths:
        if hit := re.fullmatch(r"transformer_blocks\.(\d+)\.attn\.to_q", path):
            block, place = f"transformer_blocks.{hit[1]}.", f"double_blocks.{hit[1]}.processor."
            for half, layers, last in (("1", _SELF, "attn.to_out.0"), ("2", _ADDED, "attn.to_add_out")):
                names[f"{place}qkv_lora{half}"] = Layer(tuple(block + layer for layer in layers))
                names[f"{place}proj_lora{half}"] = Layer((block + last,))
        elif hit := re.fullmatch(r"single_transformer_blocks\.(\d+)\.attn\.to_q", path):
            block, place = f"single_transformer_blocks.{hit[1]}.", f"single_blocks.{hit[1]}.processor."
            names[f"{place}qkv_lora"] = Layer(tuple(block + layer for layer in _SELF))
            names[f"{place}proj_lora"] = Layer((block + "proj_out",))
    return names | {f"diffusion_model.{name}": layer for name, layer in names.items()}


def encoder_names(component: str, paths: Iterable[str], t5: bool) -> dict[str, Layer]:
    """The same for a text encoder: `text_encoder`, `text_encoder_2` or `text_encoder_3`."""
    number = {"text_encoder": 1, "text_encoder_2": 2, "text_encoder_3": 3}[component]
    prefixes = [f"{component}.", f"lora_te{number}_", *(["lora_te_"] if number == 1 else []), *(["lora_te3_"] if t5 else [])]
    sizes = ("t5xxl", "t5") if t5 else ("clip_l", "clip_h") if number == 1 else ("clip_g",)
    for size in sizes:  # ComfyUI's and OneTrainer's
        prefixes += [f"text_encoders.{size}.transformer.", f"{size}."]
    names = {}
    for path in paths:
        # CLIP's layers lie below text_model in files, and in memory only in some releases of transformers
        bare = path.removeprefix("text_model.")
        for prefix in prefixes:
            for spelled in {path, bare, *(() if t5 else (f"text_model.{bare}",))}:
                names[prefix + (spelled.replace(".", "_") if prefix.startswith("lora_") else spelled)] = Layer((path,))
    return names


ENCODERS = ("lora_te", "text_encoder", "clip_", "t5.", "t5xxl.", "bundle_emb.")  # how names of text encoders' layers start
OLD = [(re.compile(pattern), new) for pattern, new in (
    (r"\.processor\.(to_[qkv])_lora$", r".\1"), (r"\.processor\.to_out_lora$", ".to_out.0"),
    (r"self_attn\.to_([qkv])_lora$", r"self_attn.\1_proj"), (r"self_attn\.to_out_lora$", "self_attn.out_proj"),
    (r"\.lora_linear_layer$", ""),
)]  # fmt: skip


def modern(name: str) -> str:
    """A name as diffusers wrote it before it used peft, in today's words; others as they are."""
    for pattern, new in OLD:
        name = pattern.sub(new, name)
    return name
