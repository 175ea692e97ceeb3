"""An ensemble: one stock diffusers pipeline and K members that share its latent space. Made by `models.loading.load_ensemble`."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import Tensor, nn

from .catalog import ModelCard
from .conditioning import Relay, Voice, record
from .encoding import length, special
from .errors import ModelError
from .families import Family, decode, encode, latent_shape
from .noise import NoisePath, predict_pair
from .own import own_module, own_pipeline
from .prompts import understood
from .reading import Reader
from .samplers import few_steps_of

if TYPE_CHECKING:
    from .placement import MemoryPlan


class Switch:
    """Which LoRA adapter is active on a shared network. One forward pass at a time: the choice is state of the network itself."""

    def __init__(self, network: nn.Module):
        self.network, self.lock = network, threading.RLock()
        self._active: str | None = "unknown"
        self._known: set[str | None] = set()
        self._layers: list[BaseTunerLayer] = []

    def activate(self, adapter: str | None) -> None:
        """Make `adapter` (None: the bare network) the only active one."""
        if adapter == self._active:
            return
        if adapter not in self._known:
            self._known.add(adapter)
            self._layers = [module for module in self.network.modules() if isinstance(module, BaseTunerLayer)]
            for layer in self._layers:
                layer.enable_adapters(adapter is not None)
                if adapter is not None:
                    layer.set_adapter(adapter)
        else:  # peft walks every parameter of a layer: too slow for every member at every step
            for layer in self._layers:
                layer._disable_adapters = adapter is None
                if adapter is not None:
                    layer._active_adapter = [adapter]
        self._active = adapter


@dataclass(frozen=True, eq=False)
class Member:
    """One model of an ensemble.

    components: arguments of its pipeline but the denoiser; parts equal on disk are one object in memory. warnings: what a person should
    know about how it was loaded, one sentence each. place: the device it works on, where its network waits elsewhere for its calls.
    """

    name: str
    card: ModelCard
    noise: NoisePath
    network: nn.Module
    components: Mapping[str, object] = field(repr=False)
    pipeline_class: type = field(repr=False)
    adapter: str | None = None
    switch: Switch | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    place: torch.device | None = None

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        """The network's forward with this member's adapter active: the raw prediction, without gradients."""
        with torch.no_grad():
            if self.switch is None:
                return self.network(*args, **{**kwargs, "return_dict": False})[0]
            with self.switch.lock:
                self.switch.activate(self.adapter)
                return self.network(*args, **{**kwargs, "return_dict": False})[0]

    def alone(self) -> Member:
        """This member with a network of its own that shares every weight: what is hooked onto it hears no other call."""
        with self.switch.lock if self.switch is not None else nullcontext():
            if self.switch is not None:
                self.switch.activate(self.adapter)
            return replace(self, network=own_module(self.network), adapter=None, switch=None)

    def new_pipeline(self, slot: str) -> object:
        """A stock pipeline of this member alone; it shares every part in memory but its scheduler, which a call changes."""
        return self.pipeline_class(**{**self.components, slot: self.network, "scheduler": copy.deepcopy(self.components["scheduler"])})


@dataclass(frozen=True, eq=False)
class Ensemble:
    """K members in one latent space. Any number of threads may work with it at once: what a call changes is that call's own."""

    members: tuple[Member, ...]
    family: Family
    size: tuple[int, int]  # (height, width) in pixels of the images that are encoded and fitted
    plan: MemoryPlan | None = None  # how it is held in memory

    @cached_property
    def _pipeline(self) -> object:
        return self.members[0].new_pipeline(self.family.slot)

    @property
    def pipeline(self) -> object:
        """The stock pipeline of member 0, with its adapter active."""
        first = self.members[0]
        if first.switch is not None:
            with first.switch.lock:
                first.switch.activate(first.adapter)
        return self._pipeline

    def own_pipeline(self) -> object:
        """`pipeline` for one call: it shares memory, but nothing that the call changes."""
        return own_pipeline(self._pipeline)

    @property
    def noise(self) -> NoisePath:
        """Member 0's path: latents and levels of the whole ensemble are on it."""
        return self.members[0].noise

    @property
    def device(self) -> torch.device:
        return self.members[0].place or self.members[0].network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.members[0].network.dtype

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return tuple(member.card for member in self.members)

    @property
    def guidance(self) -> float:
        """The guidance to draw with where nobody says otherwise, 1 for none: what member 0's card says, else usual for its family."""
        first = self.members[0]
        deaf = self.family.guidance == "embedded" and not first.network.config.get("guidance_embeds")  # Flux schnell
        few = few_steps_of(first)  # distilled models have the guidance in their weights
        usual = 1.0 if deaf else first.card.usual_guidance if few is None else few.guidance
        return usual if first.card.guidance is None else first.card.usual_guidance

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latent of one image, as the denoiser is given it."""
        return latent_shape(self._pipeline, self.family, self.size)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know about how the members were loaded, each sentence once, with the member's name."""
        return tuple(dict.fromkeys(f"{member.name}: {warning}" for member in self.members for warning in member.warnings))

    def __len__(self) -> int:
        return len(self.members)

    def subset(self, indices: range | list[int]) -> Ensemble:
        """The ensemble of some members, in that order, with a pipeline object of its own."""
        indices = list(indices)
        if not indices or not all(-len(self) <= i < len(self) for i in indices):
            raise ModelError(f"cannot take members {indices} of an ensemble of {len(self)}: choose at least one, numbered from 0")
        return Ensemble(tuple(self.members[i] for i in indices), self.family, self.size, self.plan)

    def encode(self, images: list[Image.Image]) -> Tensor:
        """Latents `(N, *shape)` float32 on the CPU; the same images always give the same latents (the posterior's mode)."""
        return encode(self._pipeline, self.family, list(images), self.size) if images else torch.zeros(0, *self.shape)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        return decode(self._pipeline, self.family, latents, self.size) if len(latents) else []

    @cached_property
    def _voices(self) -> tuple[tuple[Voice, ...], tuple[int, ...]]:
        """The distinct ways of reading a prompt, member 0's first, and each member's."""
        voices, of_member, seen = [], [], {}
        for member in self.members:
            key = (member.card.prompt_template, *(id(member.components.get(name)) for name in self.family.text))
            if key not in seen:
                seen[key] = len(voices)
                voices.append(Voice(member.card.prompt_template, member.new_pipeline(self.family.slot)))
            of_member.append(seen[key])
        return tuple(voices), tuple(of_member)

    def relay(self, reading: str = "cut") -> Relay:
        """What gives each member its own prompt while a stock pipeline samples; `reading`: how prompts are read (`models.prompts`)."""
        return Relay(self.family, *self._voices, reading)

    def plainly(self, prompt: str) -> bool:
        """Whether a prompt is read whole and alike in every way of reading it; true where encoders cannot weigh."""
        if not self.family.weighs:
            return True
        said = understood(prompt)
        readers = [(Reader(voice.pipeline, self.family), said.within(voice.template)) for voice in self._voices[0]]
        return said.words == prompt and not any(special(*each) for each in readers)

    def lengths(self, prompts: Sequence[str], reading: str) -> list[tuple[int, ...]]:
        """Of every prompt, how long each way of reading it makes it: rows of unlike length do not fit into one batch unchanged."""
        if reading == "cut" or not self.family.weighs:
            return [()] * len(prompts)
        readers = [(Reader(voice.pipeline, self.family), voice.template) for voice in self._voices[0]]
        found = {one: tuple(length(reader, understood(one, reading).within(template)) for reader, template in readers)
                 for one in set(prompts)}  # fmt: skip
        return [found[prompt] for prompt in prompts]

    def predictor(self, prompts: list[str], *, guidance: float | None = None) -> Callable[..., Tensor]:
        """`predict(x_t, level, index=None) -> (K, B, ...)`: the members' predicted noise, float32, on the device of `x_t`.

        x_t `(B, *shape)` lies on `noise`'s path at `level` `(B,)`; row b is conditioned on `prompts[index[b]]`, without `index` on
        `prompts[b]`, every member through its own prompt template. `guidance=None`: the plain conditional prediction. `predict` also takes
        `members=`, the indices of those to ask (None: all).
        """
        prompts = list(prompts)
        distinct = list(dict.fromkeys(prompts))
        which = torch.tensor([distinct.index(prompt) for prompt in prompts], dtype=torch.long)
        voices, of_member = self._voices
        recorded = [record(voice.pipeline, self.family, voice.say(distinct), self.size, guidance=guidance) for voice in voices]

        def predict(x_t: Tensor, level: Tensor, index: Tensor | None = None, members: Sequence[int] | None = None) -> Tensor:
            rows = torch.arange(len(x_t)) if index is None else torch.as_tensor(index, dtype=torch.long).cpu()
            if len(rows) != len(x_t) or (len(rows) and int(rows.max()) >= len(which)):
                raise ModelError(f"{len(x_t)} latents need one of the {len(which)} prompts each")
            x, at = x_t.to(self.device, torch.float32), level.to(self.device, torch.float32).expand(len(x_t))
            noises = []
            for k in range(len(self)) if members is None else members:
                member, voice = self.members[k], of_member[k]

                def network(x_k: Tensor, level_k: Tensor, member: Member = member, voice: int = voice) -> Tensor:
                    t = member.noise.timestep(level_k)
                    return recorded[voice].predict(member, x_k.to(self.dtype), t, which[rows])

                noises.append(predict_pair(network, x, at, self.noise, member.noise)[1])
            return torch.stack(noises).to(x_t.device)

        return predict
