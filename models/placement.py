"""A memory plan chosen from the memory there is: LoRAs merged or switched, what waits on the CPU, precision, sliced decoding.

Weights are counted exactly, from the headers of their files. What sampling and decoding need besides is estimated (`WORK`, `DECODE`), so
`ROOM` of the free memory is left alone, and a plan that does not fit is warned of, not refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from . import adapters
from .errors import ModelError
from .inspection import Description
from .sizes import Sizes

ROOM = 0.1  # of the free memory is left alone
WORK = 0.3  # activations of one guided image, against the weights of the network that makes it
DECODE = 6  # tensors of the autoencoder's widest full-size layer that exist at once
BATCH = 16  # images that are decoded together where nothing is sliced: SamplingPlan's batch_size
ACTIVATIONS = "sampling and decoding"
WORDS = {"merge": {"adapters": "merge"}, "switch": {"adapters": "switch"},
         "waiting": {"waiting": "cpu", "encoders": "cpu"}, "resident": {"waiting": "device", "encoders": "device"},
         "whole": {"decoding": "whole"}, "sliced": {"decoding": "sliced"},
         **{name: {"dtype": name} for name in ("float32", "float16", "bfloat16")}}  # fmt: skip


@dataclass(frozen=True)
class MemoryPlan:
    """How members are held in memory.

    adapters: `switch` (all on one network, one active at a time) or `merge` (a copy of the network each). waiting, encoders: where networks
    and text encoders are while others work, `device` or `cpu` (moved in for their call). dtype: of all weights. decoding: `whole`, or
    `sliced` (image by image, and tile by tile above the autoencoder's own size). needed: bytes by part at the busiest moment; free: bytes
    there were; why: the plan in one sentence. What is left out of a plan made by hand is not known.
    """

    adapters: str = "switch"
    waiting: str = "device"
    encoders: str = "device"
    decoding: str = "whole"
    dtype: str = "auto"
    needed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    free: int | None = None
    why: str = ""

    def __post_init__(self) -> None:
        allowed = {"adapters": ("switch", "merge"), "waiting": ("device", "cpu"), "encoders": ("device", "cpu"),
                   "decoding": ("whole", "sliced")}  # fmt: skip
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ModelError(f"{name}='{getattr(self, name)}' is not in a memory plan: use {' or '.join(values)}")

    @property
    def total(self) -> int:
        """Bytes needed on the device at the busiest moment."""
        return sum(self.needed.values())

    @property
    def weights(self) -> int:
        """Those of them that are weights."""
        return self.total - self.needed.get(ACTIVATIONS, 0)

    @property
    def fits(self) -> bool:
        return self.free is None or self.total <= (1 - ROOM) * self.free


# ------------------------------------------------------------------------------------------------ the plan

def plan_memory(models: Sequence[Description] | Sizes, device: torch.device | str, dtype: torch.dtype | str = "auto", *, lora: str = "auto",
                free: int | None = None, size: tuple[int, int] | None = None, words: Iterable[str] = ()) -> MemoryPlan:  # fmt: skip
    """The plan that gives up least of what fits. Nothing is loaded.

    In this order: LoRAs are merged where the copies take at most half of the free memory (on GPUs: and everything fits), else switched;
    images are decoded one by one; text encoders wait on the CPU; networks wait on the CPU; on a CPU, where nothing is won by waiting,
    bfloat16 takes the place of float32 when the weights alone do not fit. dtype: `auto` or a torch one. free: bytes, None: what the device
    has. size: as `Sizes.of`.
    lora, words (of `WORDS`): what is fixed. Raises ModelError for a word that is none, and for two that contradict each other.
    """
    device = torch.device(device)
    sizes = models if isinstance(models, Sizes) else Sizes.of(models, size)
    free = adapters.free_memory(device) if free is None else free
    fixed = fixed_by([*words, *([lora] if lora != "auto" else [])])
    said = fixed.pop("dtype", None)
    if dtype == "auto" and said:
        dtype = said
    plan = _best(sizes, device, choose_dtype(dtype, device, sizes.family), free, fixed)
    if dtype == "auto" and device.type == "cpu" and plan.weights > (1 - ROOM) * free:
        plan = _best(sizes, device, torch.bfloat16, free, fixed)
    return replace(plan, why=_told(plan, sizes, device))


def _best(sizes: Sizes, device: torch.device, dtype: torch.dtype, free: int, fixed: Mapping[str, str]) -> MemoryPlan:
    """The first way that fits, else the last."""
    kind = str(dtype).removeprefix("torch.")
    plans = [_counted(sizes, MemoryPlan(**{**way, **fixed}, dtype=kind, free=free)) for way in _ways(sizes, device, dtype, free)]
    return next((plan for plan in plans if plan.fits), plans[-1])


def fixed_by(words: Iterable[str]) -> dict[str, str]:
    """Fields of a plan that words of `WORDS` fix. Raises ModelError."""
    fixed: dict[str, str] = {}
    for word in words:
        if word not in WORDS:
            raise ModelError(f"'{word}' is not a choice of memory: use {', '.join(WORDS)}")
        for name, value in WORDS[word].items():
            if fixed.setdefault(name, value) != value:
                raise ModelError(f"memory cannot be both {fixed[name]} and {value}: leave one of them out")
    return fixed


def _ways(sizes: Sizes, device: torch.device, dtype: torch.dtype, free: int) -> list[dict[str, str]]:
    """What may be tried, the best first."""
    copies = sum(count * network for count, network in zip(sizes.copies, sizes.networks)) * dtype.itemsize
    halves = [{"decoding": "whole"}, {"decoding": "sliced"}]
    ways = [{"adapters": "merge", **way} for way in halves] if copies and copies <= free / 2 else []
    if device.type == "cpu" and ways:  # copies that take half of what is free have always been made there
        return ways
    ways += [{"adapters": "switch", **way} for way in halves]
    if device.type not in ("cpu", "mps"):  # those have one memory: nothing is won by waiting in it
        ways += [{"decoding": "sliced", "encoders": "cpu"}, {"decoding": "sliced", "encoders": "cpu", "waiting": "cpu"}]
    return ways


def _counted(sizes: Sizes, plan: MemoryPlan) -> MemoryPlan:
    """The plan with the bytes that each part takes at the busiest moment."""
    byte = getattr(torch, plan.dtype).itemsize
    merged = plan.adapters == "merge"
    none = (0,) * len(sizes.networks)
    networks = [network for network, count, alone in zip(sizes.networks, sizes.copies or none, sizes.alone or none)
                for _ in range(1 + (count if merged else alone))]  # fmt: skip
    largest = max(networks)
    wide = 4 if plan.dtype == "float16" and sizes.family == "sdxl" else byte  # its autoencoder is held in float32 while it is used
    images = BATCH if plan.decoding == "whole" else 1
    decoding = images * DECODE * sizes.widest * sizes.pixels * wide
    needed = {
        "networks": (largest if plan.waiting == "cpu" else sum(networks)) * byte,
        "adapters": 0 if merged else sizes.adapters * byte,
        "text encoders": sum(sizes.text) * byte,
        "autoencoder": sizes.autoencoder * wide,
        ACTIVATIONS: max(int(WORK * largest * byte), decoding),
    }
    if plan.encoders == "cpu":  # one at a time; in the place of a network where these wait, too
        one = max(sizes.text, default=0) * byte
        rest = needed[ACTIVATIONS] + (needed["networks"] if plan.waiting == "cpu" else 0)
        needed["text encoders"] = max(0, one - rest)
    return replace(plan, needed=MappingProxyType({part: count for part, count in needed.items() if count}))


def _told(plan: MemoryPlan, sizes: Sizes, device: torch.device) -> str:
    """One sentence."""
    count, copies = len(sizes.networks), sum(sizes.copies)
    said = [f"{count} network{'s' if count > 1 else ''}"]
    if copies:
        alone = 0 if plan.adapters == "merge" else sum(sizes.alone)
        switched = copies - alone
        if switched:
            said.append(f"{switched} LoRA{'s' if switched > 1 else ''} {'merged into copies' if plan.adapters == 'merge' else 'switched'}")
        if alone:
            said.append(f"{alone} adapter{'s' if alone > 1 else ''} of other kinds merged into copies")
    if plan.waiting == "cpu":
        said.append("networks waiting on the CPU for their turn (slower)")
    if plan.encoders == "cpu":
        said.append("text encoders waiting on the CPU")
    said.append("images decoded one by one" if plan.decoding == "sliced" else "images decoded together")
    amount = f"about {_size(plan.total)} of the {_size(plan.free)} free on {device}"
    text = f"Memory: {', '.join(said)}, {plan.dtype}: {amount}"
    return text if plan.fits else f"{text}, which is likely too little: use fewer or smaller models, or smaller images"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def choose_device(device: str | torch.device) -> torch.device:
    if str(device) != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError:
            raise ModelError(f"'{device}' is not a device: use auto, cpu, cuda, cuda:1 or mps") from None
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(chosen.type, lambda: True)
        if not there():
            raise ModelError(f"this machine has no {chosen.type} device that PyTorch can use: leave the device at auto, or choose cpu")
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(dtype: str | torch.dtype, device: torch.device, family: str) -> torch.dtype:
    """float32 on CPUs; elsewhere bfloat16 for the transformers trained in it, float16 for the older U-Nets, float32 for DDPM."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not (isinstance(found, torch.dtype) and found.is_floating_point):
            raise ModelError(f"dtype '{dtype}' is not a floating-point type: use auto, float32, float16 or bfloat16")
        return found
    if device.type == "cpu" or family == "ddpm":
        return torch.float32
    return torch.bfloat16 if family in ("sd3", "flux") else torch.float16


def refuse_compile(plan: MemoryPlan | None) -> None:
    """Raises ModelError where networks cannot be compiled: on Spaces, and (plan given) where they change while they work."""
    if os.environ.get("SPACES_ZERO_GPU") or os.environ.get("SPACE_ID"):
        raise ModelError("networks cannot be compiled on Spaces, where every loan of a GPU starts a fresh process that would compile them "
                         "anew: leave compile out")  # fmt: skip
    if plan is not None and "cpu" in (plan.waiting, plan.encoders):
        raise ModelError("networks that wait on the CPU cannot be compiled: leave compile out, or load with memory=resident")
