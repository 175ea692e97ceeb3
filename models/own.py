"""What a call changes belongs to the call: a pipeline of its own over shared weights, and turns where libraries change what threads share.

Pipelines keep state between and during calls: the scheduler its timesteps and history, the denoiser slot its module, the autoencoder its
precision and its slicing. Two calls that share these draw each other's pictures, so no call ever works on a pipeline that another holds.
"""

from __future__ import annotations

import copy
import functools
import threading

from torch import nn

making = threading.RLock()
"""Held while modules are loaded or made: libraries patch torch for every thread meanwhile (no initialisation, no memory behind new
weights), and new layers draw from the process's one generator."""

_reading = threading.RLock()


def own_pipeline(pipeline: object, *, draws: bool = True) -> object:
    """A pipeline for one call: it shares every weight with `pipeline`, but neither scheduler nor slot nor settings.

    `draws=False`: for a call that never decodes; it then shares the autoencoder's module, too.
    """
    mine = copy.copy(pipeline)
    mine.scheduler = copy.deepcopy(pipeline.scheduler)  # not from its configuration: what somebody set on it counts
    if draws and isinstance(getattr(pipeline, "vae", None), nn.Module):
        mine.vae = own_module(pipeline.vae)  # SDXL's is made float32 and half again within a call; slicing and tiling are set on it
    return mine


def own_module(module: nn.Module) -> nn.Module:
    """A copy of the module that shares the memory of every weight: precision, gradients, modes, hooks and adapters of its own."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=p.requires_grad) for p in module.parameters()}
    shared |= {id(buffer): buffer.detach() for buffer in module.buffers()}
    return copy.deepcopy(module, shared)


# ------------------------------------------------------------------------------------------------ tokenizers

READS = ("__call__", "encode", "encode_plus", "batch_encode_plus", "tokenize", "add_tokens", "get_vocab")


def take_turns_reading(tokenizer: object) -> None:
    """From now on one thread at a time reads with it: how a call truncates and pads is set on the tokenizer itself."""
    if not hasattr(type(tokenizer), "_reads_in_turn"):
        tokenizer.__class__ = _in_turn(type(tokenizer))


@functools.cache
def _in_turn(cls: type) -> type:
    """The class with a lock around what reads. It keeps its name, by which pipelines are saved."""

    def locked(method):
        @functools.wraps(method)
        def read(*args, **kwargs):
            with _reading:
                return method(*args, **kwargs)

        return read

    mine = {name: locked(getattr(cls, name)) for name in READS if hasattr(cls, name)}
    about = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "_reads_in_turn": True}
    return type(cls.__name__, (cls,), mine | about)
