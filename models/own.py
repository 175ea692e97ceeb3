"""What a call changes belongs to the call: a pipeline of its own over shared weights, and turns where libraries change what threads share.

Pipelines keep state between and during calls: the scheduler its timesteps and history, the denoiser slot its module, the autoencoder its
precision and its slicing. Two calls that share these draw each other's pictures, so no call ever works on a pipeline that another holds.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading

import torch
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
    _one_noise(mine)
    return mine


def _one_noise(pipeline: object) -> None:
    """Have the pipeline draw its starting noise in single precision and round it: before PyTorch 2.13 half precision has other numbers of
    a generator, so that a seed would be one picture on a GPU and another on a processor."""
    of_class = getattr(type(pipeline), "prepare_latents", None)
    if of_class is None or "dtype" not in inspect.signature(of_class).parameters:
        return
    prepare = functools.partial(of_class, pipeline)

    @functools.wraps(of_class)
    def prepared(*args: object, **kwargs: object) -> object:
        given = inspect.signature(prepare).bind(*args, **kwargs)
        wanted = given.arguments.get("dtype")
        if wanted not in (torch.float16, torch.bfloat16):
            return prepare(*args, **kwargs)
        given.arguments["dtype"] = torch.float32
        found = prepare(*given.args, **given.kwargs)
        rounded = lambda x: x.to(wanted) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x  # noqa: E731
        return tuple(map(rounded, found)) if isinstance(found, tuple) else rounded(found)

    pipeline.prepare_latents = prepared




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
