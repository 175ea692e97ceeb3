"""LoRA files of every common kind, matched layer by layer to the model they change: what cannot be placed is refused by name.

A LoRA (Hu et al. 2021) adds `alpha / rank * up @ down` to a layer's weight. Trainers differ in how they call layers and where they keep
alpha; here every name that a layer of this very model may go by is known, so nothing in a file can be passed over in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from . import bounded
from .errors import ModelError
from .families import Family
from .integrity import full_header
from .layer_names import Layer, denoiser_names, encoder_names, modern

_ENDS = r"\.lora_{0}\.weight$|\.lora\.{0}\.weight$|\.lora_{1}(?:\.\w+)?\.weight$|(?<=_lora|layer)\.{0}\.weight$"
ROLES = [(re.compile(_ENDS.format("down", "A")), "down"), (re.compile(_ENDS.format("up", "B")), "up"), (re.compile(r"\.alpha$"), "alpha")]
REFUSED = {"dora_scale": "DoRA", "lora_magnitude_vector": "DoRA", "hada_": "LoHa", "lokr_": "LoKr", "lora_mid": "LoCon with a Tucker core",
           "oft_": "OFT", ".diff": "full weight differences", ".on_input": "IA3", ".w_norm": "changes of normalisations",
           ".b_norm": "changes of normalisations", ".a1.": "GLoRA", ".bias": "biases"}  # fmt: skip


@dataclass(frozen=True)
class Lora:
    """A LoRA file for one model. `states`: component -> `{layer.lora_A.weight, layer.lora_B.weight}`, scale folded into B."""

    states: Mapping[str, Mapping[str, Tensor]]
    warnings: tuple[str, ...]


def changeable(module: nn.Module) -> dict[str, nn.Module]:
    """The layers a LoRA can change, by path. Under an adapter the layer itself, not what peft wraps it in."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    for path, layer in module.named_modules():
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        if isinstance(layer, nn.Linear | nn.Conv2d) and ".base_layer" not in path and ".lora_" not in path:
            found[path] = layer
    return found


def read_lora(file: Path, title: str, family: Family, network: nn.Module, components: Mapping[str, object]) -> Lora:
    """Every layer of the file placed. Raises ModelError, naming layers, for what is no LoRA, does not fit, or changes what is not there."""
    from transformers import T5EncoderModel

    layers = {family.slot: changeable(network)}
    names = {name: (family.slot, layer) for name, layer in denoiser_names(family, layers[family.slot], network.config).items()}
    for part in family.text:
        if isinstance(components.get(part), nn.Module):
            layers[part] = changeable(components[part])
            found = encoder_names(part, layers[part], isinstance(components[part], T5EncoderModel))
            names |= {name: (part, layer) for name, layer in found.items()}
    metadata = full_header(file, title).metadata
    groups, warnings = _groups(load_file(file), title, file.name)
    scales, states, unknown = _Scales(metadata, file, family, title), {}, []
    for stem, group in groups.items():
        if modern(stem) not in names:
            if bool(group["up"].any()) and bool(group["down"].any()):
                unknown.append(stem)
            else:
                warnings.append(f"{file.name} names the layer {stem}, which this model lacks; its change is zero, so nothing is lost")
            continue
        part, layer = names[modern(stem)]
        broken = next((role for role, tensor in group.items() if not bool(torch.isfinite(tensor).all())), None)
        if broken:
            raise ModelError(f"'{title}': weight {stem} ({broken}) of its adapter is not a number: choose another copy of the file")
        group["up"] = _scaled(group, scales.of(part, layer, group))
        for path, down, up in _split(layer, group, layers[part], stem, title):
            if f"{path}.lora_A.weight" in states.setdefault(part, {}):
                raise ModelError(f"'{title}': {file.name} changes the layer {path} twice: choose another copy of it")
            states[part] |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    if unknown:
        shown = ", ".join(unknown[:4]) + (" ..." if len(unknown) > 4 else "")
        raise ModelError(f"'{title}': the adapter does not fit its base ({len(unknown)} of its {len(groups)} layers are not in this model: "
                         f"{shown}): use the model it was trained on")  # fmt: skip
    if not any(states.values()):
        raise ModelError(f"'{title}': no layer of the base is changed by {file.name}: use the model it was trained on")
    if family.slot not in states:
        warnings.append(f"{file.name} changes text encoders only, so this member's network is its base's")
    return Lora(states, tuple(warnings))


def _groups(tensors: Mapping[str, Tensor], title: str, file: str) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """`{layer's name: {down, up[, alpha]}}` and warnings. Refuses tensors that are none of these, naming what they are."""
    groups, others, warnings = {}, [], []
    for key, tensor in tensors.items():
        for pattern, role in ROLES:
            if hit := pattern.search(key):
                if role in groups.setdefault(key[: hit.start()], {}):
                    raise ModelError(f"'{title}': {file} holds {key[: hit.start()]} twice: choose another copy of it")
                groups[key[: hit.start()]][role] = tensor
                break
        else:
            others.append(key)
    bundled = [key for key in others if key.startswith("bundle_emb.")]
    if bundled:
        words = ", ".join(sorted({key.split(".")[1] for key in bundled}))
        warnings.append(f"{file} brings textual inversions along ({words}), which are not used: to the model these are ordinary words")
    silent = [key for key in others if key not in bundled and not bool(tensors[key].any())]
    if silent:
        warnings.append(f"{file} holds {len(silent)} tensors that are zero ({silent[0]} ...) and change nothing")
    wrong = [key for key in others if key not in bundled and key not in silent]
    if wrong:
        kinds = sorted({kind for part, kind in REFUSED.items() for key in wrong if part in key}) or ["no LoRA weights"]
        raise ModelError(f"'{title}': {file} holds {', '.join(kinds)} ({wrong[0]}), which cannot be used here: "
                         "choose a plain LoRA, or merge it into its base first")  # fmt: skip
    halves = [stem for stem, group in groups.items() if not {"down", "up"} <= {*group}]
    if halves:
        raise ModelError(f"'{title}': {file} lacks a half of {halves[0]}: download it again")
    if not groups:
        raise ModelError(f"'{title}': {file} holds no LoRA weights: choose a LoRA file in safetensors form")
    return groups, warnings


class _Scales:
    """alpha / rank of a layer: from its own alpha, from the adapter's configuration beside or inside the file, else 1."""

    def __init__(self, metadata: Mapping[str, str], file: Path, family: Family, title: str):
        beside = file.with_name("adapter_config.json")
        try:
            inside = bounded.parse(metadata.get("lora_adapter_metadata", "{}"))
            outside = bounded.read(beside) if beside.is_file() else {}
            if not isinstance(inside, dict) or not isinstance(outside, dict):
                raise bounded.Unreadable("it is not a JSON object")
        except (bounded.Unreadable, OSError) as error:
            raise ModelError(f"'{title}': the adapter's configuration cannot be read ({bounded.why(error)}): download it again") from error
        self.given = dict(inside) | {f"{family.slot}.{key}": value for key, value in outside.items()}
        if any(key.endswith("use_dora") and value for key, value in self.given.items()):
            raise ModelError(f"'{title}' is a DoRA, which cannot be used here: choose a plain LoRA, or merge it into its base first")

    def of(self, part: str, layer: Layer, group: Mapping[str, Tensor]) -> float:
        rank = group["down"].shape[0]
        if "alpha" in group:
            return float(group["alpha"].float().reshape(-1)[0]) / rank
        alpha = self.given.get(f"{part}.lora_alpha", rank)
        for pattern, value in (self.given.get(f"{part}.alpha_pattern") or {}).items():  # as peft reads them
            if re.match(rf"(.*\.)?({pattern.removeprefix('^')})$", layer.paths[0]):
                alpha = value
        return float(alpha) / (math.sqrt(rank) if self.given.get(f"{part}.use_rslora") else rank)


def _scaled(group: Mapping[str, Tensor], scale: float) -> Tensor:
    """`up` times the scale, untouched where that is 1."""
    return group["up"] if scale == 1 else group["up"].float() * scale


def _split(layer: Layer, group: Mapping[str, Tensor], modules: Mapping[str, nn.Module], stem: str,
           title: str) -> list[tuple[str, Tensor, Tensor]]:  # fmt: skip
    """`(path, down, up)` for every diffusers layer that the change of one layer concerns, in the shapes these layers have."""
    targets = [modules[path] for path in layer.paths]
    rows = [target.weight.shape[0] for target in targets]
    down, up = group["down"], group["up"]
    fits = up.shape[0] == sum(rows) and up.shape[1] == down.shape[0] and (up.ndim == 2 or set(up.shape[2:]) == {1})
    parts = []
    for path, target, part in zip(layer.paths, targets, up.split(rows) if fits else [up] * len(rows)):
        part = torch.cat(part.chunk(2)[::-1]) if layer.swapped else part
        flat = isinstance(target, nn.Linear)
        kernel = () if flat else tuple(target.weight.shape[2:])
        shape = (down.shape[0], target.weight.shape[1], *kernel)
        if not fits or down.numel() != math.prod(shape) or down.shape[1] != shape[1] or getattr(target, "groups", 1) != 1:
            raise ModelError(f"'{title}': the adapter does not fit its base (layer {stem} changes {up.shape[0]} x {down.shape[1]} numbers, "
                             f"this model has {sum(rows)} x {target.weight.shape[1]}): use the model it was trained on")  # fmt: skip
        parts.append((path, down.reshape(shape), part.reshape(part.shape[0], -1, *(() if flat else (1, 1))).contiguous()))
    return parts
