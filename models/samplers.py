"""How a member's own pipeline samples: its scheduler, its rule for empty prompts, and whether it was distilled to few steps.

What is said of members that differ in it, and of one model that is given twice, is found here as well. Draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .ensemble import Member

FEW = 8  # steps that every few-step model can be drawn in, its usual ones or not
STEPS, GUIDANCE, MOST_GUIDANCE = 4, 1.0, 2.0  # usual for distilled models: guidance is in their weights; more than 2 burns them
CARD_FEW = 16  # a card that asks for at most so many steps is that of a few-step model
DISTILLED = {  # what names say -> the scheduler of diffusers that such models are distilled for
    "turbo": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}), "lcm": ("LCMScheduler", {}),
    "dmd": ("LCMScheduler", {}), "tcd": ("TCDScheduler", {}), "hyper": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "lightning": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
PATH = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "num_train_timesteps", "rescale_betas_zero_snr",
        "set_alpha_to_one", "steps_offset", "clip_sample", "shift", "use_dynamic_shifting")
OPTIONS = ("force_zeros_for_empty_prompt", "is_distilled")  # of pipelines, beside their parts
_SOURCE = re.compile(r"(?<![a-z])(lightning|turbo|lcm|tcd|hyper-?(sd|flux)\w*|dmd2?|schnell|sdxs)(?![a-z])")
_ADAPTER = re.compile(r"(?<![a-z])(lcm|tcd|hyper-?(sd|flux)\w*|turbo)(?![a-z])|(?<![0-9])\d\d?[-_ ]?steps?(?![a-z])")
_COUNT = re.compile(r"(?<![0-9])(\d\d?)[-_ ]?steps?(?![a-z])")


@dataclass(frozen=True)
class FewSteps:
    """A model distilled to draw in few steps. steps, guidance: what it is drawn with where more is asked for; sign: how that is known;
    word: what its name says it is, where only that tells."""

    steps: int
    guidance: float
    sign: str
    word: str = ""


def few_steps(scheduler: str, config: Mapping, network: Mapping, source: str, adapter: str | None = None) -> FewSteps | None:
    """Whether a model is a few-step one, by its scheduler's class and configuration, its network's, or the names of its files."""
    source, adapter = source.lower().rpartition("/")[2], (adapter or "").lower().rpartition("/")[2]
    count = _COUNT.search(adapter) or _COUNT.search(source)
    steps = int(count[1]) if count and 1 <= int(count[1]) <= CARD_FEW else STEPS
    if network.get("time_cond_proj_dim") is not None:
        return FewSteps(steps, 8.0, "its network is told the guidance, as that of a latent consistency model")
    if "LCM" in scheduler or "TCD" in scheduler:
        return FewSteps(steps, GUIDANCE, f"its scheduler is {scheduler}")
    noise = config.get("prediction_type", "epsilon") == "epsilon" and not config.get("rescale_betas_zero_snr")
    quick = scheduler in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler")
    if quick and noise and config.get("timestep_spacing") == "trailing":
        return FewSteps(steps, GUIDANCE, f"its scheduler is {scheduler} with trailing steps, as Turbo and Lightning models have it")
    plain = "FlowMatch" in scheduler and config.get("shift", 1.0) == 1.0 and not config.get("use_dynamic_shifting")
    if plain and "guidance_embeds" in network and not network["guidance_embeds"]:
        return FewSteps(steps, GUIDANCE, "it is given no guidance, as FLUX.1 schnell")
    if (found := _SOURCE.search(source)) or (adapter and (found := _ADAPTER.search(adapter))):
        return FewSteps(steps, GUIDANCE, f"its name says {found[0]}", found[0])
    return None


def few_steps_of(member: Member) -> FewSteps | None:
    """The same for a loaded member: what its card says comes first, then its parts."""
    card, scheduler = member.card, member.components["scheduler"]
    if card.steps is not None:
        guidance = GUIDANCE if card.guidance is None else float(card.guidance)
        return FewSteps(card.steps, guidance, "its card says so") if card.steps <= CARD_FEW else None
    found = few_steps(type(scheduler).__name__, scheduler.config, member.network.config, card.source,
                      " + ".join(one.source for one in card.adapters if one.strength))
    return found if found is None or card.guidance is None else replace(found, guidance=float(card.guidance))


def own_scheduler(member: Member) -> object:
    """The scheduler that a member alone is drawn with: its pipeline's; for a single file or an adapter, which bring none, and whose names
    say that they take few steps, the one that such models are distilled for."""
    scheduler, few = member.components["scheduler"], few_steps_of(member)
    named = few is not None and few.word and getattr(scheduler, "alphas_cumprod", None) is not None
    if not named or not (member.card.is_file or member.card.adapter):
        return scheduler
    import diffusers

    kind, changes = next((made for word, made in DISTILLED.items() if word in few.word), DISTILLED["lightning"])
    if type(scheduler).__name__ == kind and all(scheduler.config.get(key) == value for key, value in changes.items()):
        return scheduler
    return getattr(diffusers, kind).from_config(scheduler.config, **changes)


def in_its_own_way(member: Member) -> Member:
    """The member with the scheduler that it is drawn with alone."""
    scheduler = own_scheduler(member)
    own = scheduler is member.components["scheduler"]
    return member if own else replace(member, components={**member.components, "scheduler": scheduler})


def sampler_of(member: Member, alone: bool = True, path: bool = True) -> tuple:
    """Equal for members that are sampled alike: scheduler with its configuration, and the rule for empty prompts.

    alone: as the member alone is drawn; else as its pipeline is, which draws averages where it is the first. path: with the noise
    schedule and what is predicted, which are converted where members are averaged.
    """
    scheduler = own_scheduler(member) if alone else member.components["scheduler"]
    told = {key: value for key, value in scheduler.config.items() if not key.startswith("_") and (path or key not in PATH)}
    config = sorted((key, repr(value)) for key, value in told.items())
    return type(scheduler).__name__, tuple(config), tuple(member.components.get(name) for name in OPTIONS)


def sampler_name(member: Member, alone: bool = True) -> str:
    """The scheduler in words, with what tells it from another of its class. alone: as in `sampler_of`."""
    scheduler = own_scheduler(member) if alone else member.components["scheduler"]
    config = scheduler.config
    told = [f"{config['timestep_spacing']} steps"] if config.get("timestep_spacing") else []
    told += ["Karras noise"] if config.get("use_karras_sigmas") else []
    told += [str(config["algorithm_type"])] if "sde" in str(config.get("algorithm_type")) else []
    return type(scheduler).__name__ + (f" ({', '.join(told)})" if told else "")


# ------------------------------------------------------------------------------------------------ what is said of members together

def remarked(members: Sequence[Member]) -> list[Member]:
    """The members, each with what a person should know of how it stands to the others."""
    few = [few_steps_of(member) for member in members]
    found = []
    for k, member in enumerate(members):
        more = []
        twin = next((other for other in members[:k] if same_model(other, member)), None)
        if twin is not None:
            more.append(f"it is the same model as {twin.name}, so that their shares cannot be told apart: leave one of them out")
        if few[k] is not None and None in few:
            more.append(f"it is a few-step model ({few[k].sign}) beside ordinary ones: alone it draws in {few[k].steps} steps at guidance "
                        f"{few[k].guidance:g}, but its answers are no plain noise predictions, so averages with it may be worse than "
                        "each model alone")  # fmt: skip
        if sampler_of(member, path=False) != sampler_of(members[0], alone=False, path=False):
            more.append(f"its own sampler is {sampler_name(member)}, with which it draws alone; what is averaged is drawn with that of "
                        f"{members[0].name}, {sampler_name(members[0], alone=False)}")  # fmt: skip
        found.append(replace(member, warnings=(*member.warnings, *more)) if more else member)
    return found


def same_model(first: Member, second: Member) -> bool:
    """Whether two members draw the same: equal words around the prompt, text encoders and adapter, and networks that are equal once
    rounded to one precision, as copies re-saved in another are."""
    if first.card.prompt_template != second.card.prompt_template or first.noise != second.noise:
        return False
    if first.network is second.network:
        alike = first.adapter == second.adapter or _adapter_of(first) == _adapter_of(second)
        return alike and _same_text(first, second)
    if first.adapter is not None or second.adapter is not None:  # adapters of networks that are not one object: not compared
        return False
    return _same_text(first, second) and equal_networks(first.network, second.network)


def _adapter_of(member: Member) -> dict:
    """What a member's adapter on a shared network holds, by layer: bytes of its weights, and its scale."""
    if member.adapter is None:
        return {}
    own, found = f".{member.adapter}.", {}
    for key, value in member.network.state_dict().items():
        if own in key:
            found[key.replace(own, ".*.")] = value.detach().float().cpu().numpy().tobytes()
    for path, module in member.network.named_modules():
        if member.adapter in (getattr(module, "scaling", None) or {}):
            found[path] = module.scaling[member.adapter]
    return found


def _same_text(first: Member, second: Member) -> bool:
    parts = [name for name in first.components if name.startswith("text_encoder")]
    return all(_same_part(first.components[name], second.components.get(name)) for name in parts)


def _same_part(first: object, second: object) -> bool:
    return first is second or (isinstance(first, nn.Module) and isinstance(second, nn.Module) and equal_networks(first, second))


@torch.no_grad()
def equal_networks(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks have equal weights as they are, or once both are rounded to half precision."""
    ours, theirs = first.state_dict(), second.state_dict()
    if ours.keys() != theirs.keys():
        return False
    return any(all(_equal(value, theirs[key], dtype) for key, value in ours.items()) for dtype in (None, torch.float16, torch.bfloat16))


def _equal(first: torch.Tensor, second: torch.Tensor, dtype: torch.dtype | None) -> bool:
    if first.shape != second.shape or first.is_meta or second.is_meta:
        return False
    second = second.to(first.device)
    if dtype is None or not first.is_floating_point():
        return first.dtype == second.dtype and torch.equal(first, second)
    return torch.equal(first.to(dtype), second.to(dtype))
