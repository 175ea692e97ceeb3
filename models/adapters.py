"""LoRA adapters: loaded beside each other on one shared network and switched, or merged into copies of it (Hu et al. 2021)."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from .errors import ModelError
from .families import Family
from .lora import read_lora


def free_memory(device: torch.device) -> int:
    """Bytes that may still be used on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def add_adapter(components: Mapping[str, object], network: nn.Module, family: Family, file: Path, title: str, name: str,
                *, merge: bool) -> tuple[nn.Module, dict[str, object], tuple[str, ...]]:  # fmt: skip
    """`(network, components, warnings)` with the LoRA of `file` under `name`: on the shared network (inactive), or merged into a copy.

    Text encoders are copied when the LoRA changes them, too: they then belong to this member alone. Raises ModelError, naming layers, when
    anything in the file does not fit.
    """
    lora, components = read_lora(file, title, family, network, components), dict(components)
    for part in lora.states.keys() - {family.slot}:
        components[part] = copy.deepcopy(components[part])
    merge = merge and family.slot in lora.states  # a LoRA of text encoders alone leaves the network as it is
    if merge:
        network = copy.deepcopy(network)
    try:
        for part, state in lora.states.items():
            module = network if part == family.slot else components[part]
            if merge and part == family.slot and not hasattr(network, "fuse_lora"):  # PixArt's has no adapters in diffusers
                _add(network, state)
                continue
            _put(module, {key: value.to(module.device, module.dtype) for key, value in state.items()}, name)
            _refuse_lost(module, state, name, title)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"'{title}': the adapter does not fit its base ({reason}): use the model it was trained on") from error
    if merge and hasattr(network, "fuse_lora"):
        network.fuse_lora(adapter_names=[name])
        network.unload_lora()
    return network, components, lora.warnings


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
