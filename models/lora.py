"""Adapter files of every common kind, matched layer by layer to the model they change: what cannot be placed is refused by name.

Trainers differ in how they call layers and where they keep alpha; here every name that a layer of this very model may go by is known, so
nothing in a file can be passed over in silence. `models.adapter_files` says which kinds are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import adapter_files, bounded
from .adapter_files import Group, is_low_rank, is_nothing, kind_of
from .deltas import decomposed, fold, product, rank_of
from .errors import ModelError
from .families import Family
from .integrity import full_header
from .inversions import Inversion, taken_out
from .layer_names import Layer, denoiser_names, encoder_names


@dataclass(frozen=True)
class Change:
    """The change of one layer of the file that is reckoned on the weights themselves. scale: alpha / rank."""

    stem: str
    layer: Layer
    group: Group
    scale: float

    def added(self, modules: Mapping[str, nn.Module], title: str) -> list[tuple[str, Tensor]]:
        """`(parameter, what is added to it)`, float32, for every diffusers layer that it concerns. Raises ModelError where it does not fit.

        On layers without memory (meta) only shapes are checked.
        """
        targets = [modules[path] for path in self.layer.paths]
        device = targets[0].weight.device
        group = {role: tensor.to(device) for role, tensor in self.group.items()}
        found = []
        if kind_of(group) != "bias":
            weight = torch.cat([self._turned(target.weight.detach().float()) for target in targets])
            change = product(group) * self.scale
            if change.shape[0] != len(weight) or change.numel() != weight.numel() or getattr(targets[0], "groups", 1) != 1:
                raise _unfit(title, self.stem, tuple(change.shape), tuple(weight.shape))
            change = change.reshape(weight.shape)
            if {"dora_scale", "magnitude"} & {*group}:
                change = decomposed(weight, change, group)
                if change is None:
                    size = tuple((group.get("dora_scale", group.get("magnitude"))).shape)
                    raise _unfit(title, self.stem, size, tuple(weight.shape))
            found += self._split(change, targets, "weight")
        for role, scale in (("up_bias", self.scale), ("diff_b", 1.0)):
            if role in group:
                biases = [target.bias for target in targets]
                rows = [0 if bias is None else len(bias) for bias in biases]
                if None in [*map(type, biases), *biases] or group[role].numel() != sum(rows):
                    raise _unfit(title, f"{self.stem} (bias)", tuple(group[role].shape), (sum(rows),))
                found += self._split(group[role].float().reshape(-1) * scale, targets, "bias")
        return found

    def _turned(self, rows: Tensor) -> Tensor:
        """Rows from diffusers' order to the original code's, and back."""
        return torch.cat(rows.chunk(2)[::-1]) if self.layer.swapped else rows

    def _split(self, change: Tensor, targets: list[nn.Module], name: str) -> list[tuple[str, Tensor]]:
        parts = change.split([len(target.weight) for target in targets])
        return [(f"{path}.{name}", self._turned(part)) for path, part in zip(self.layer.paths, parts)]


@dataclass(frozen=True)
class Lora:
    """An adapter's file for one model.

    states: component -> `{layer.lora_A.weight, layer.lora_B.weight}`, scale folded into B. changes: component -> what is no such product.
    inversions: the words it brings along. nothing: whether every change in it is zero.
    """

    states: Mapping[str, Mapping[str, Tensor]]
    changes: Mapping[str, tuple[Change, ...]]
    inversions: tuple[Inversion, ...]
    warnings: tuple[str, ...]
    nothing: bool = False


def changeable(module: nn.Module) -> dict[str, nn.Module]:
    """The layers an adapter can change, by path. Under an adapter the layer itself, not what peft wraps it in."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found = {}
    for path, layer in module.named_modules():
        layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        if isinstance(getattr(layer, "weight", None), nn.Parameter) and ".base_layer" not in path and ".lora_" not in path:
            found[path] = layer
    return found


def read_lora(file: Path, title: str, family: Family, network: nn.Module, components: Mapping[str, object]) -> Lora:
    """Every layer of the file placed. Raises ModelError, naming layers, for what is no LoRA, does not fit, or changes what is not there."""
    layers, names = _named(family, network, components)
    header = full_header(file, title)
    tensors, inversions = taken_out(adapter_files.read(file, header, title), file)
    if inversions and not tensors:
        return Lora({}, {}, inversions, ())
    groups, warnings = adapter_files.groups(tensors, title, file.name)
    scales, states, changes, unknown, silent = _Scales(header.metadata, file, family, title), {}, {}, [], []
    if scales.dora and not any({"dora_scale", "magnitude"} & {*group} for group in groups.values()):
        raise ModelError(f"'{title}' is a DoRA by its configuration, and {file.name} lacks the magnitudes of one: download it again")
    for stem, group in groups.items():
        if stem not in names:
            if is_nothing(group):
                warnings.append(f"{file.name} names the layer {stem}, which this model lacks; its change is zero, so nothing is lost")
            else:
                unknown.append(stem)
            continue
        part, layer = names[stem]
        broken = adapter_files.broken(group)
        if broken:
            raise ModelError(f"'{title}': weight {stem} ({broken}) of its adapter is not a number: choose another copy of the file")
        scale = scales.of(part, layer, group)
        taken = {key.removesuffix(".lora_A.weight") for key in states.get(part, ())} | {
            path for change in changes.get(part, ()) for path in change.layer.paths}  # fmt: skip
        if twice := taken & {*layer.paths}:
            raise ModelError(f"'{title}': {file.name} changes the layer {min(twice)} twice: choose another copy of it")
        if not is_low_rank(group):
            if is_nothing(group):
                silent.append(stem)
                continue
            change = Change(stem, layer, group, scale)
            change.added({path: _Shape(layers[part][path]) for path in layer.paths}, title)  # its shapes, before anything long
            changes.setdefault(part, []).append(change)
            continue
        group["up"] = _scaled(group, scale)
        for path, down, up in _split(layer, fold(group), layers[part], stem, title):
            states.setdefault(part, {}).update({f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up})
    if unknown:
        shown = ", ".join(unknown[:4]) + (" ..." if len(unknown) > 4 else "")
        raise ModelError(f"'{title}': the adapter does not fit its base ({len(unknown)} of its {len(groups)} layers are not in this model: "
                         f"{shown}): use the model it was trained on")  # fmt: skip
    if not any(states.values()) and not any(changes.values()) and not silent:
        raise ModelError(f"'{title}': no layer of the base is changed by {file.name}: use the model it was trained on")
    nothing = all(is_nothing(group) for group in groups.values())
    if nothing:
        warnings.append(f"{file.name} changes nothing, since every change in it is zero: this member is its base")
    elif silent:
        warnings.append(f"{file.name} holds {len(silent)} changes that are zero ({silent[0]} ...) and change nothing")
    if not nothing and family.slot not in states and family.slot not in changes:
        warnings.append(f"{file.name} changes text encoders only, so this member's network is its base's")
    return Lora(states, {part: tuple(found) for part, found in changes.items()}, inversions, tuple(warnings), nothing)


def _named(family: Family, network: nn.Module, components: Mapping[str, object]) -> tuple[dict, dict]:
    """`({part: {path: layer}}, {name in files: (part, Layer)})`."""
    from transformers import T5EncoderModel

    layers = {family.slot: changeable(network)}
    names = {name: (family.slot, layer) for name, layer in denoiser_names(family, layers[family.slot], network.config).items()}
    for part in family.text:
        if isinstance(components.get(part), nn.Module):
            layers[part] = changeable(components[part])
            found = encoder_names(part, layers[part], isinstance(components[part], T5EncoderModel))
            names |= {name: (part, layer) for name, layer in found.items()}
    return layers, names


class _Shape:
    """The shapes of a layer, without memory."""

    def __init__(self, layer: nn.Module):
        self.weight = layer.weight.detach().to("meta")
        bias = getattr(layer, "bias", None)
        self.bias = None if bias is None else bias.detach().to("meta")
        self.groups = getattr(layer, "groups", 1)


def _unfit(title: str, stem: str, change: tuple[int, ...], weight: tuple[int, ...]) -> ModelError:
    told = lambda shape: " x ".join(map(str, shape)) or "1"  # noqa: E731
    return ModelError(f"'{title}': the adapter does not fit its base (layer {stem} changes {told(change)} numbers, "
                      f"this model has {told(weight)}): use the model it was trained on")  # fmt: skip


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
        self.dora = any(key.endswith("use_dora") and value for key, value in self.given.items())

    def of(self, part: str, layer: Layer, group: Group) -> float:
        rank, scalar = rank_of(group), float(group["scalar"].float().reshape(-1)[0]) if "scalar" in group else 1.0
        told = {name: value for name in ("alpha", "lora_alpha") if (value := self.given.get(f"{part}.{name}")) is not None}
        if rank is None:  # whole factors: LyCORIS sets alpha to the rank there, peft keeps both in its configuration
            own = self.given.get(f"{part}.r")
            return scalar * (float(told["alpha"]) / own if "alpha" in told and own else 1.0)
        if "alpha" in group:
            return scalar * float(group["alpha"].float().reshape(-1)[0]) / rank
        alpha = next(iter(told.values()), rank)
        for pattern, value in (self.given.get(f"{part}.alpha_pattern") or {}).items():  # as peft reads them
            if re.match(rf"(.*\.)?({pattern.removeprefix('^')})$", layer.paths[0]):
                alpha = value
        return scalar * float(alpha) / (math.sqrt(rank) if self.given.get(f"{part}.use_rslora") else rank)


def _scaled(group: Mapping[str, Tensor], scale: float) -> Tensor:
    """`up` times the scale, untouched where that is 1."""
    return group["up"] if scale == 1 else group["up"].float() * scale


def _split(layer: Layer, group: Mapping[str, Tensor], modules: Mapping[str, nn.Module], stem: str,
           title: str) -> list[tuple[str, Tensor, Tensor]]:  # fmt: skip
    """`(path, down, up)` for every diffusers layer that the change of one layer concerns, in the shapes these layers have."""
    targets = [modules[path] for path in layer.paths]
    rows = [target.weight.shape[0] for target in targets]
    down, up = group["down"], group["up"]
    if not all(isinstance(target, nn.Linear | nn.Conv2d) for target in targets):
        raise _unfit(title, stem, (up.shape[0], down.shape[1]), tuple(targets[0].weight.shape))
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
