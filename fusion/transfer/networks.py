"""A member's network made trainable: its modules copied, its tensors shared, a LoRA inside, its condition led through a representation.

The copy costs the memory of the LoRA alone, and no other user of the network sees any of it: nothing is switched.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from fusion.transfer.task import Condition, Task
from models.conditioning import PLACE, named_arguments, record
from models.ensemble import Ensemble, Member
from models.families import Family
from models.own import making
from models.turns import takes_turns

ADAPTER = "trained"
RANK = 8
# attention, feed-forward and residual layers, as diffusers names them in U-Nets and in the transformers of SD3, Flux and PixArt
LAYERS = (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj", "ff.net.2",
    "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "conv1", "conv2", "time_emb_proj",
)  # fmt: skip


class TransferError(ValueError):
    """Something cannot be trained or transferred; the message names the cause and the cure."""


def trainable_copy(member: Member, rank: int = RANK, seed: int = 0) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """`(network, parameters)`: a copy that shares every tensor, with a LoRA that changes nothing yet (Hu et al. 2021), and its parameters.

    rank 0: without LoRA. The member's own adapter, where it has one, stays active in the copy. Raises TransferError for networks that
    accelerate moves between devices.
    """
    from peft import LoraConfig, inject_adapter_in_model

    network = _copy(member)
    network.requires_grad_(False)
    if rank:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_layers(network), bias="none")
        with making, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # the member's own adapter: it stays, on purpose
            torch.manual_seed(seed)
            inject_adapter_in_model(config, network, ADAPTER)
    _activate(network, [name for name in (member.adapter, rank and ADAPTER) if name])
    network.requires_grad_(False)
    mine = {name: p for name, p in network.named_parameters() if f".{ADAPTER}." in name}
    for p in mine.values():
        p.data = p.data.float()
        p.requires_grad_(True)
    return network.eval(), mine


def _activate(network: nn.Module, adapters: list[str]) -> None:
    """These adapters and no other work in the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(bool(adapters))
            if adapters:
                module.set_adapter(adapters)


def _copy(member: Member) -> nn.Module:
    network = member.network
    if takes_turns(network) or any(hasattr(module, "_hf_hook") for module in network.modules()):
        raise TransferError(f"{member.name} is moved between devices while it runs and cannot be trained so: load it whole on one device "
                            "(--memory resident), or use a method without training")  # fmt: skip
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    if member.switch is None:
        return copy.deepcopy(network, shared)
    with member.switch.lock:  # which adapter works is state of the modules that are copied
        return copy.deepcopy(network, shared)


def _layers(network: nn.Module) -> list[str]:
    """Full names of the layers that get a LoRA. Raises TransferError when there is none."""
    found = {name.removesuffix(".base_layer") for name, module in network.named_modules()
             if "lora_" not in name and isinstance(getattr(module, "base_layer", module), nn.Linear | nn.Conv2d)}  # fmt: skip
    found = [name for name in found if any(name == layer or name.endswith("." + layer) for layer in LAYERS)]
    if not found:
        raise TransferError(f"no layer of this {type(network).__name__} can take a LoRA: use a method without training")
    return sorted(found)


def plain_attention(network: nn.Module) -> None:
    """On a CPU, for a copy that trains: the fused attention's backward pass is several times slower there."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    processors = getattr(network, "attn_processors", {}).values()
    if network.device.type == "cpu" and processors and all(type(one) is AttnProcessor2_0 for one in processors):
        network.set_attn_processor(AttnProcessor())


def recomputing(network: nn.Module) -> bool:
    """Have a copy that trains compute activations again in its backward pass in place of keeping them (Chen et al. 2016): a third more
    time, a fraction of the memory. False where the network cannot, or does so already."""
    if not getattr(network, "_supports_gradient_checkpointing", False) or network.is_gradient_checkpointing:
        return False
    network.enable_gradient_checkpointing()
    return True


def lora_bytes(member: Member, rank: int = RANK) -> int:
    """Size of the LoRA that `trainable_copy` makes, without making it."""
    network, size = member.network, 0
    for name in _layers(network):
        layer = network.get_submodule(name)
        weight = getattr(layer, "base_layer", layer).weight
        size += 4 * rank * (weight.shape[0] + weight[0].numel())
    return size


@contextmanager
def precision(network: nn.Module) -> Iterator[None]:
    """bfloat16 where it is fast and safe: on GPUs, and on CPUs that compute in it."""
    device = network.device.type
    fast = device == "cuda" or (device == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    with torch.autocast(device, torch.bfloat16, enabled=fast):
        yield


# ------------------------------------------------------------------------------------------------ conditions

def flat(arguments: Mapping, shared: frozenset[str], outer: str = "") -> Condition:
    """The tensors with a row for each prompt among a denoiser's arguments, by dotted name."""
    found = {}
    for name, leaf in arguments.items():
        if isinstance(leaf, Mapping):
            found |= flat(leaf, shared, f"{outer}{name}.")
        elif isinstance(leaf, Tensor) and name not in shared:
            found[outer + name] = leaf
    return found


def put(arguments: Mapping, condition: Condition, outer: str = "") -> dict:
    """`arguments` with the tensors of `condition` in their places."""
    return {name: put(leaf, condition, f"{outer}{name}.") if isinstance(leaf, Mapping) else condition.get(outer + name, leaf)
            for name, leaf in arguments.items()}  # fmt: skip


def embeddings(family: Family, condition: Condition) -> Condition:
    """What the prompts' text became: the tensors that a representation stands for (no masks, nothing shared)."""
    return {name: condition[name] for name in family.embeddings
            if name in condition and condition[name].is_floating_point() and not name.endswith("mask")}  # fmt: skip


def conditions(ensemble: Ensemble, k: int, prompts: list[str]) -> tuple[Mapping, Condition]:
    """`(arguments, condition)` of member k: what its pipeline passes for these prompts, and the part with a row for each of them."""
    member = ensemble.members[k]
    said = [member.card.prompt_template.replace(PLACE, prompt) for prompt in prompts]
    recorded = record(member.new_pipeline(ensemble.family.slot), ensemble.family, said, ensemble.size)
    return recorded.arguments, flat(recorded.arguments, ensemble.family.shared)


def task_of(ensemble: Ensemble, k: int, network: nn.Module, images: list, prompts: list[str], *, name: str = "",
            parameters: Mapping[str, nn.Parameter] | None = None) -> Task:  # fmt: skip
    """The score-matching task of member k's `network` on images with prompts: latents, recorded conditions, predictions on its own path."""
    distinct = list(dict.fromkeys(prompts))
    arguments, condition = conditions(ensemble, k, distinct)
    family, path = ensemble.family, ensemble.members[k].noise

    def predict(x_t: Tensor, level: Tensor, rows: Condition) -> Tensor:
        given = {family.sample: x_t.to(network.dtype), "timestep": path.timestep(level), **put(arguments, rows)}
        with precision(network):
            return family.mean(network(**given, return_dict=False)[0], x_t).float()

    latents = ensemble.encode(list(images)).to(network.device)
    index = torch.tensor([distinct.index(prompt) if condition else 0 for prompt in prompts])  # without a condition all are one group
    return Task(name or ensemble.names[k], latents, condition, index, predict, path, dict(parameters or {}))


def adapted(ensemble: Ensemble, k: int, network: nn.Module, represent: Callable[[Condition], Condition] | None = None) -> Ensemble:
    """The ensemble of member k alone with `network` in its place, hearing its prompts through `represent`."""
    member, family = ensemble.members[k], ensemble.family
    if represent is not None:

        def lead(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            given = named_arguments(module, args, kwargs)
            return (), put(given, represent(flat(given, family.shared)))

        network.register_forward_pre_hook(lead, with_kwargs=True)
    return replace(ensemble, members=(replace(member, network=network, adapter=None, switch=None),))
