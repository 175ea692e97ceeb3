"""Averages of networks' parameters: full networks and switched LoRA adapters alike, by the weights that a forward pass really uses."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fusion.methods.plan import MethodError

ADVICE = "use another method, which averages what the models predict and not what they are made of"


@dataclass(frozen=True)
class Source:
    """A module as one member uses it. `adapters`: names of the LoRA adapters that are active then."""

    title: str
    module: nn.Module
    adapters: tuple[str, ...] = ()

    def parts(self) -> dict[str, tuple[Tensor, BaseTunerLayer | None]]:
        """Plain parameter name -> what it is without adapters, and the layer whose adapters change it. Nothing is computed.

        Raises MethodError for an adapter that is more than a product of two matrices.
        """
        layers = {name: part for name, part in self.module.named_modules() if isinstance(part, BaseTunerLayer)}
        found: dict[str, tuple[Tensor, BaseTunerLayer | None]] = {}
        for name, tensor in self.module.state_dict().items():
            layer, base, rest = name.rpartition(".base_layer.")
            if base:
                found[f"{layer}.{rest}"] = tensor, layers[layer] if rest == "weight" else None
            elif not any(name.startswith(f"{layer}.") for layer in layers):  # else it is an adapter's own
                found[name] = tensor, None
        if any(name in layer.lora_variant or layer.lora_bias.get(name) for layer in layers.values() for name in self.adapters):
            raise MethodError(f"the adapter of {self.title} is more than a product of two matrices, so it cannot be averaged while it is "
                              "switched: load the models with lora='merge'")  # fmt: skip
        return found

    def effective(self, tensor: Tensor, layer: BaseTunerLayer | None) -> Tensor:
        """The parameter with this source's adapters in it."""
        for name in self.adapters if layer is not None else ():
            if name in layer.lora_A or name in layer.lora_embedding_A:
                tensor = tensor.float() + layer.get_delta_weight(name).to(tensor.device).float()
        return tensor


@torch.no_grad()
def average(sources: Sequence[Source], weights: Sequence[float]) -> nn.Module:
    """A plain module of the first source's kind, on its device, whose parameters are `sum_k weights_k theta_k`, summed in float32.

    Holds one copy of the module and one parameter more at a time. Raises MethodError, before copying, when parameters do not correspond.
    """
    every = [source.parts() for source in sources]
    for other, theirs in zip(sources[1:], every[1:]):
        _refuse_unlike(sources[0], every[0], other, theirs)
    merged = recurse_remove_peft_layers(copy.deepcopy(sources[0].module)).eval().requires_grad_(False)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        vars(merged).pop(attribute, None)
    for name, into in merged.state_dict().items():
        values = [source.effective(*parts[name]).to(into.device) for source, parts in zip(sources, every)]
        if into.is_floating_point():
            wide = torch.promote_types(into.dtype, torch.float32)
            into.copy_(sum(weight * value.to(wide) for weight, value in zip(weights, values)))
        elif not all(torch.equal(value, values[0]) for value in values):
            raise MethodError(f"{name} counts and does not weigh, and differs between {sources[0].title} and the others: {ADVICE}")
    return merged


def _refuse_unlike(first: Source, mine: Mapping, other: Source, theirs: Mapping) -> None:
    """MethodError with the first difference between two sources' parameters."""
    pair = f"{first.title} and {other.title} cannot be merged"
    kinds = [type(source.module).__name__ for source in (first, other)]
    if kinds[0] != kinds[1]:
        raise MethodError(f"{pair}, since one is a {kinds[0]} and one a {kinds[1]}: {ADVICE}")
    for name in [*mine, *theirs]:
        shapes = ["x".join(map(str, parts[name][0].shape)) if name in parts else "missing" for parts in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise MethodError(f"{pair}, since their architectures differ at {name} ({shapes[0]} and {shapes[1]}): {ADVICE}")
