"""Modules that wait on the CPU and take turns on a device: moved in for their call, the one before moved out. `placement` decides which."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .ensemble import Member
    from .families import Family
    from .placement import MemoryPlan


def move(module: nn.Module, device: torch.device | str) -> None:
    module.to(device)


class Stage:
    """The place on a device that waiting modules take in turn. One call at a time: the lock is held for its length."""

    def __init__(self, device: torch.device):
        self.device, self.lock, self.here = device, threading.RLock(), None

    def enter(self, module: nn.Module) -> None:
        """Move the module in, and the one before it out."""
        if self.here is not module:
            self.leave()
            self.here = module  # before it moves: where memory runs out half-way, `leave` takes back what had moved
            move(module, self.device)

    def leave(self) -> None:
        if self.here is not None:
            move(self.here, "cpu")
            self.here = None

    def take_turns(self, module: nn.Module) -> None:
        """From now on the module is moved in when it is called."""

        def before(called: nn.Module, *_: object) -> None:
            self.lock.acquire()
            self.enter(called)

        def after(*_: object) -> None:
            self.lock.release()

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, always_call=True)  # also after an exception, and after one in `before`
        module._takes_turns = True

    def clear_for(self, module: nn.Module) -> None:
        """From now on whoever is on the stage leaves before the module, which stays on the device, is called."""

        def before(*_: object) -> None:
            with self.lock:
                self.leave()

        module.register_forward_pre_hook(before)


def takes_turns(module: nn.Module) -> bool:
    """Whether the module is moved between devices while the ensemble works."""
    return getattr(module, "_takes_turns", False)


def waiting_parts(family: Family, plan: MemoryPlan, device: torch.device) -> set[str]:
    """Names of the pipeline's parts that are loaded on the CPU and stay there. None for a CPU: there is nothing to wait for."""
    if device.type == "cpu":
        return set()
    return ({family.slot} if plan.waiting == "cpu" else set()) | (set(family.text) if plan.encoders == "cpu" else set())


def arrange(members: Sequence[Member], text: Iterable[str], plan: MemoryPlan, device: torch.device) -> Stage | None:
    """Have the members' parts wait as the plan says; None, and nothing done, where nothing waits (on a CPU nothing ever does)."""
    vaes = {id(vae): vae for member in members if (vae := member.components.get("vae")) is not None}
    for vae in vaes.values():
        if plan.decoding == "sliced" and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
            vae.enable_tiling()
    if device.type == "cpu" or plan.waiting == plan.encoders == "device":
        return None
    stage = Stage(device)
    networks = {id(member.network): member.network for member in members}
    encoders = {id(part): part for member in members for name in text
                if isinstance(part := member.components.get(name), nn.Module)}  # fmt: skip
    for module in (*(networks.values() if plan.waiting == "cpu" else ()), *(encoders.values() if plan.encoders == "cpu" else ())):
        move(module, "cpu")
        stage.take_turns(module)
    if plan.waiting == "device":
        for network in networks.values():
            stage.clear_for(network)
    return stage
