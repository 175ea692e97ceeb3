"""Where each weight of a model lies in a single-file checkpoint: one source per weight, worked out from the model's own parameter names.

Going from the model to the file leaves no weight unasked for, and what nobody asked for can be named. Blocks are numbered as the original
code does it (`models.layer_names`); attention of autoencoders is a 1 x 1 convolution there, CLIP's of OpenCLIP one matrix for all three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .families import FAMILIES
from .layer_names import original_layers, original_unet


@dataclass(frozen=True)
class Source:
    """A tensor of the file, or `rows` of it. swapped: its halves change places. turned: transposed. identity: the file may lack it."""

    key: str
    rows: tuple[int, int] | None = None
    swapped: bool = False
    turned: bool = False
    identity: bool = False

    def shape(self, held: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is taken from a tensor of shape `held`."""
        held = held[::-1] if self.turned else held
        return held if self.rows is None else (min(self.rows[1], held[0]) - min(self.rows[0], held[0]), *held[1:])


Shapes = Mapping[str, tuple[int, ...]]


def sources(kind: str, shapes: Shapes, config: Mapping) -> dict[str, Source]:
    """`{parameter: Source}` of a part. kind: `names` of models/layouts.yaml; shapes: of its parameters and kept buffers."""
    named = {"unet": _unet, "sd3": _sd3, "flux": _flux, "vae": _vae, "clip": _clip, "open_clip": _open_clip}
    named |= {"t5": _same, "diffusers": _same}
    return named[kind](shapes, config)


def _same(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    """T5, and networks as diffusers saves them: the same names; T5's embedding is stored once."""
    return {name: Source("shared.weight" if name == "encoder.embed_tokens.weight" else name) for name in shapes}


def _unet(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    attentive = {int(name.split(".")[1]) for name in shapes if name.startswith("up_blocks.") and ".attentions." in name}
    split = {name: name.rpartition(".") for name in shapes}
    return {name: Source(f"{original_unet(path, config['layers_per_block'], attentive)}.{leaf}") for name, (path, _, leaf) in split.items()}


# ------------------------------------------------------------------------------------------------ transformers

SD3_NORMS = {"attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn.norm_added_q": "context_block.attn.ln_q",
             "attn.norm_added_k": "context_block.attn.ln_k", "attn2.norm_q": "x_block.attn2.ln_q",
             "attn2.norm_k": "x_block.attn2.ln_k"}  # fmt: skip
FLUX_NORMS = {"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
              "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"}  # fmt: skip


def _sd3(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    found = _fused("sd3", shapes, config)
    for name in shapes.keys() - found.keys():
        block, rest = re.fullmatch(r"(?:transformer_blocks\.(\d+)\.)?(.+)", name).groups()
        norm = SD3_NORMS.get(rest.removesuffix(".weight"))
        found[name] = Source(f"joint_blocks.{block}.{norm}.weight" if norm else {"pos_embed.pos_embed": "pos_embed"}.get(name, name))
    return found


def _flux(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    found = _fused("flux", shapes, config)
    for name in shapes.keys() - found.keys():
        single, block, rest = re.fullmatch(r"(?:(single_)?transformer_blocks\.(\d+)\.)?(.+)", name).groups()
        norm = FLUX_NORMS.get(rest.removesuffix(".weight"))
        place = f"single_blocks.{block}.{norm.partition('.')[2]}" if norm and single else f"double_blocks.{block}.{norm}"
        found[name] = Source(f"{place}.scale" if norm else name)
    return found


def _fused(family: str, shapes: Shapes, config: Mapping) -> dict[str, Source]:
    """Weights and biases of layers, many of which are rows of one original layer."""
    paths = {name.rpartition(".")[0] for name in shapes}
    found = {}
    for key, layer in original_layers(FAMILIES[family], paths, config).items():
        for leaf in ("weight", "bias"):
            at = 0
            for name in (f"{path}.{leaf}" for path in layer.paths):
                if name in shapes:
                    end = at + shapes[name][0]
                    found[name] = Source(f"{key}.{leaf}", (at, end) if len(layer.paths) > 1 else None, layer.swapped)
                    at = end
    return found


# ------------------------------------------------------------------------------------------------ the autoencoder

_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def _vae(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    return {name: Source(_original_vae(name, len(config["block_out_channels"]))) for name in shapes}


def _original_vae(name: str, blocks: int) -> str:
    path, _, leaf = name.rpartition(".")
    half, _, rest = path.partition(".")
    if half not in ("encoder", "decoder"):
        return name  # quant_conv, post_quant_conv
    if hit := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest):
        kind, number, layer = hit.groups()
        place = f"mid.block_{int(number) + 1}.{_shortcut(layer)}" if kind == "resnets" else f"mid.attn_1.{_ATTENTION.get(layer, layer)}"
    elif hit := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest):
        side, block, kind, number, layer = hit.groups()
        block = int(block) if side == "down" else blocks - 1 - int(block)
        place = f"{side}.{block}.block.{number}.{_shortcut(layer)}" if kind == "resnets" else f"{side}.{block}.{side}sample.{layer}"
    else:
        place = rest.replace("conv_norm_out", "norm_out")
    return f"{half}.{place}.{leaf}"


def _shortcut(layer: str) -> str:
    return "nin_shortcut" if layer == "conv_shortcut" else layer


# ------------------------------------------------------------------------------------------------ text encoders

def _clip(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    """The names of transformers: below text_model in files, with or without it in memory. SD3's CLIP-L comes without a projection."""
    found = {name: Source("text_model." + name.removeprefix("text_model.")) for name in shapes}
    return found | {name: Source(name, identity=True) for name in shapes if name == "text_projection.weight"}


_OPEN = {"embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
         "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def _open_clip(shapes: Shapes, config: Mapping) -> dict[str, Source]:
    width, found = config["hidden_size"], {}
    for name in shapes:
        path, _, leaf = name.removeprefix("text_model.").rpartition(".")
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", path)
        block, inner = (f"transformer.resblocks.{layer[1]}.", layer[2]) if layer else ("", path)
        if inner == "text_projection":
            found[name] = Source("text_projection", turned=True)
        elif inner == "embeddings.position_embedding":
            found[name] = Source("positional_embedding")
        elif hit := re.fullmatch(r"self_attn\.([qkv])_proj", inner):
            at = "qkv".index(hit[1]) * width
            found[name] = Source(f"{block}attn.in_proj_{leaf}", (at, at + width))
        else:
            found[name] = Source(f"{block}{_OPEN.get(inner, inner)}.{leaf}")
    return found


def unasked(held: Iterable[str], wanted: Mapping[str, Source], kind: str) -> list[str]:
    """Keys of a part that no weight comes from, apart from what text encoders carry without using it."""
    used = {source.key for source in wanted.values()}
    # position_ids are a constant, logit_scale and attn_mask serve training, SD 2 reads the last layer but one
    idle = re.compile(r"(.*\.)?(position_ids|logit_scale|attn_mask)$|encoder\.embed_tokens\.weight$|loss\..*")
    spare = re.compile(r"text_projection(\.weight)?$") if kind in ("clip", "open_clip") else None
    layers = {key.split(".")[2] for key in used if key.startswith("transformer.resblocks.")}
    last = f"transformer.resblocks.{len(layers)}." if kind == "open_clip" else "\0"
    return [key for key in held if key not in used and not idle.fullmatch(key) and not key.startswith(last)
            and not (spare and spare.fullmatch(key))]  # fmt: skip
