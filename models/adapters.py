"""Adapters: loaded beside each other on one shared network and switched, or merged into copies of it (Hu et al. 2021)."""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from .causes import reason
from .errors import ModelError
from .families import Family
from .inversions import Inversion, teach
from .lora import Change, Lora, changeable, read_lora

log = logging.getLogger(__name__)

Worn = Sequence[tuple[Path, float]]  # adapters' files and strengths


def free_memory(device: torch.device) -> int:
    """Bytes that may still be used on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


@dataclass(frozen=True)
class Stack:
    """Several adapters as one. states, changes: as of `Lora`, each change with its strength; what has strength 0 is left out."""

    states: Mapping[str, Mapping[str, Tensor]]
    changes: Mapping[str, tuple[tuple[Change, float], ...]]
    inversions: tuple[Inversion, ...]
    warnings: tuple[str, ...]


def stacked(files: Worn, title: str, family: Family, network: nn.Module, components: Mapping[str, object]) -> Stack:
    """All adapters read and checked. A product of small matrices beside another is a wider one: their ranks lie side by side.

    Raises ModelError, naming layers, when anything in a file does not fit, and for a strength that a file cannot have.
    """
    states, changes, inversions, warnings = {}, {}, [], []
    for file, strength in sorted(files, key=lambda one: (one[0].name, one[1])):  # sums are rounded alike in whatever order they are typed
        lora = read_lora(file, title, family, network, components)
        warnings += lora.warnings
        if lora.inversions and not lora.states and not lora.changes and strength not in (0, 1):
            raise ModelError(f"'{title}': {file.name} is a textual inversion, which has no strength: leave {strength:g} out")
        if strength == 0:
            warnings.append(f"{file.name} has strength 0 and changes nothing")
            continue
        inversions += lora.inversions
        _add_to(states, changes, lora, strength)
    joined = {part: {key: tensors[0] if len(tensors) == 1 else torch.cat([tensor.float() for tensor in tensors], int(".lora_B." in key))
                     for key, tensors in state.items()} for part, state in states.items()}  # fmt: skip
    return Stack(joined, {part: tuple(found) for part, found in changes.items()}, tuple(inversions), tuple(dict.fromkeys(warnings)))


def _add_to(states: dict, changes: dict, lora: Lora, strength: float) -> None:
    for part, state in lora.states.items():
        for key, tensor in state.items():
            scaled = tensor if strength == 1 or ".lora_A." in key else tensor.float() * strength
            states.setdefault(part, {}).setdefault(key, []).append(scaled)
    for part, found in lora.changes.items():
        changes.setdefault(part, []).extend((change, strength) for change in found)


def add_adapters(components: Mapping[str, object], network: nn.Module, family: Family, files: Worn, title: str, name: str,
                 *, merge: bool) -> tuple[nn.Module, dict[str, object], tuple[str, ...]]:  # fmt: skip
    """`(network, components, warnings)` with the adapters together under `name`: on the shared network (inactive), or merged into a copy.

    What is no product of two small matrices is always merged into a copy. Tokenizers and text encoders are copied when an adapter changes
    them, too: they then belong to this member alone. Raises ModelError, naming layers, when anything in a file does not fit.
    """
    stack, slot = stacked(files, title, family, network, components), family.slot
    components, taught = teach(stack.inversions, components, family, title)
    for part in {*stack.states, *stack.changes} - {slot}:
        components[part] = copy.deepcopy(components[part])
    dense = bool(stack.changes.get(slot))
    merge = dense or merge and slot in stack.states  # adapters of text encoders alone leave the network as it is
    if merge:
        network = _bare_copy(network)
    warnings = [*stack.warnings, *taught]
    for part, found in stack.changes.items():
        if not _merge(network if part == slot else components[part], found, title):
            warnings.append(f"what the adapter changes of the {part} is nothing: its weights are those of its base")
    try:
        for part, state in stack.states.items():
            module = network if part == slot else components[part]
            if part == slot and merge and (dense or not hasattr(network, "fuse_lora")):  # PixArt's has no adapters in diffusers
                _add(network, state)
                continue
            _put(module, {key: value.to(module.device, module.dtype) for key, value in state.items()}, name)
            _refuse_lost(module, state, name, title)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        why = reason(error, "its weights have other shapes or names")
        log.info("%s: the adapter does not fit its base", title, exc_info=True)
        raise ModelError(f"'{title}': the adapter does not fit its base ({why}): use the model it was trained on") from error
    if merge and not dense and hasattr(network, "fuse_lora"):
        network.fuse_lora(adapter_names=[name])
        network.unload_lora()
    return network, components, tuple(dict.fromkeys(warnings))


def _bare_copy(network: nn.Module) -> nn.Module:
    """A copy without the adapters that other members have on the shared network."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    mine = copy.deepcopy(network)
    if getattr(mine, "peft_config", None):
        recurse_remove_peft_layers(mine)
        del mine.peft_config
        mine._hf_peft_config_loaded = False
    return mine


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's has no other


@torch.no_grad()
def _merge(module: nn.Module, found: Sequence[tuple[Change, float]], title: str) -> bool:
    """All changes, each reckoned on the base's weights, added to them: their order changes nothing. Whether any weight is another now."""
    layers, sums, moved = changeable(module), {}, False
    for change, strength in found:
        for name, added in change.added(layers, title):
            sums[name] = added.to(_exact(added.device)) * strength + sums.get(name, 0)
    for name, added in sums.items():
        path, _, leaf = name.rpartition(".")
        weight = getattr(layers[path], leaf)
        changed = (weight.to(added.dtype) + added.reshape(weight.shape)).to(weight)
        moved = moved or bool((changed - weight).abs().max() > 1e-6 * weight.abs().max())  # no mere rounding, as of a DoRA's norms
        weight.copy_(changed)
    return moved


@torch.no_grad()
def _add(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """B A added to the weights of linear layers and 1 x 1 convolutions."""
    for key, down in state.items():
        if key.endswith(".lora_A.weight"):
            path = key.removesuffix(".lora_A.weight")
            weight, up = network.get_submodule(path).weight, state[f"{path}.lora_B.weight"]
            change = up.flatten(1).double() @ down.flatten(1).double()  # a convolution's kernel is its down half's
            weight += change.view(weight.shape).to(weight)


def _put(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Adapter layers under `name` with these weights: B A, without a further scale."""
    if hasattr(module, "load_lora_adapter"):  # a network of diffusers
        module.load_lora_adapter(dict(state), prefix=None, adapter_name=name, low_cpu_mem_usage=True)
        return
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    ranks = {key.removesuffix(".lora_A.weight"): value.shape[0] for key, value in state.items() if key.endswith(".lora_A.weight")}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    other = {re.escape(path): rank for path, rank in ranks.items() if rank != usual}
    config = LoraConfig(r=usual, lora_alpha=usual, rank_pattern=other, alpha_pattern=other, target_modules=list(ranks))
    if hasattr(module, "load_adapter"):  # a text encoder of transformers
        module.load_adapter(adapter_name=name, adapter_state_dict=dict(state), peft_config=config)
    else:
        inject_adapter_in_model(config, module, adapter_name=name)
        set_peft_model_state_dict(module, dict(state), name)
    module.to(device=module.device, dtype=module.dtype)


def _refuse_lost(module: nn.Module, state: Mapping[str, Tensor], name: str, title: str) -> None:
    """Every weight of the adapter must be where it belongs, and act at scale 1: the libraries below pass over what they do not know."""
    for key, value in state.items():
        path, half = re.fullmatch(r"(.+)\.(lora_[AB])\.weight", key).groups()
        layer = module.get_submodule(path)
        held = getattr(layer, half, {})
        placed = name in held and torch.equal(held[name].weight, value.to(held[name].weight)) and layer.scaling[name] == 1
        if not placed:
            raise ModelError(f"'{title}': the adapter's layer {path} could not be put into the model: report this file")
