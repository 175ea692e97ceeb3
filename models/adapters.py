"""LoRA adapters: loaded beside each other on one shared network and switched, or merged into copies of it (Hu et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from torch import nn

from .errors import ModelError
from .families import Family
from .integrity import header

TEXT_KEYS = ("text_encoder", "lora_te")


def free_memory(device: torch.device) -> int:
    """Bytes that may still be used on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def copies_fit(network: nn.Module, copies: int, device: torch.device) -> bool:
    """Whether `copies` more of the network take at most half of what is free."""
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    return copies * size <= free_memory(device) / 2


def add_adapter(pipeline_class: type, components: Mapping[str, object], network: nn.Module, family: Family, file: Path, title: str,
                name: str, *, merge: bool) -> tuple[nn.Module, dict[str, object]]:  # fmt: skip
    """`(network, components)` with the LoRA of `file` under `name`: on the shared network (inactive), or merged into a copy.

    Text encoders are copied when the LoRA changes them, too: they then belong to this member alone. Raises ModelError when it does not fit.
    """
    components = dict(components)
    if any(key.startswith(TEXT_KEYS) for key in header(file, title)):
        components.update({part: copy.deepcopy(components[part]) for part in family.text if isinstance(components[part], nn.Module)})
    if merge:
        network = copy.deepcopy(network)
    pipeline = pipeline_class(**{**components, family.slot: network})
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name, use_safetensors=True, local_files_only=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"'{title}': the adapter does not fit its base ({reason}): use the model it was trained on") from error
    if name not in getattr(network, "peft_config", {}):
        raise ModelError(f"'{title}': no layer of the base is changed by {file.name}: use the model it was trained on")
    if merge:
        pipeline.fuse_lora(components=[family.slot], adapter_names=[name])
        network.unload_lora()
    return network, components
