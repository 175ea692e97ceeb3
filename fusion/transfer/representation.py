"""The representation: `h` presses what the prompts' text became into a few numbers, a decoder turns them back into what networks read.

`h` is a network of the paper's kind (a multilayer perceptron on the whole embedding, arXiv 2502.04491, section 5) on tokens that are first
narrowed one by one, so that its size does not explode with theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fusion.transfer.task import Condition
from models import bounded, room
from models.own import making

FINGERPRINT = ("a portrait of a scientist", "")  # prompts whose embeddings tell text encoders apart
KEY = "representation"  # of the metadata in the file


@dataclass(frozen=True)
class About:
    """What a representation was made for. `shapes`: of one row of every tensor it stands for; `fingerprint`: see `fingerprint`.

    `members`: the sources it was learned on; `settings`, `diagnosis`: plain JSON, how it was learned and what that is worth.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dimensions: int
    family: str = ""
    width: int = 256
    channels: int = 32
    members: tuple[str, ...] = ()
    fingerprint: tuple[float, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    diagnosis: Mapping[str, object] = field(default_factory=dict)


class Representation(nn.Module):
    """`condition -> condition` through `about.dimensions` numbers: `decode(encode(condition))`. Other tensors pass untouched."""

    def __init__(self, about: About):
        super().__init__()
        self.about = about
        names, width, channels = list(about.shapes), about.width, about.channels
        token = {name: shape[-1] for name, shape in about.shapes.items()}
        self.narrow = nn.ModuleList(nn.Linear(token[name], channels) for name in names)
        read = sum(_tokens(shape) * channels for shape in about.shapes.values())
        self.h = nn.Sequential(nn.GELU(), nn.Linear(read, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
                               nn.Linear(width, about.dimensions))  # fmt: skip
        self.unfold = nn.Sequential(nn.Linear(about.dimensions, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
                                    nn.Linear(width, read), nn.GELU())  # fmt: skip
        self.widen = nn.ModuleList(nn.Linear(channels, token[name]) for name in names)
        for i, name in enumerate(names):
            self.register_buffer(f"mean_{i}", torch.zeros(about.shapes[name]))
            self.register_buffer(f"scale_{i}", torch.ones(about.shapes[name]))

    @classmethod
    def for_conditions(cls, condition: Condition, dimensions: int, *, seed: int = 0, **about: object) -> Representation:
        """A random one whose input and output have the mean and spread of these conditions `(P, ...)`."""
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in condition.items()}
        with making, torch.random.fork_rng(devices=[]):  # one generator for all threads
            torch.manual_seed(seed)
            made = cls(About(shapes=shapes, dimensions=dimensions, **about))
        for i, tensor in enumerate(condition.values()):
            wide = tensor.detach().float().cpu()
            getattr(made, f"mean_{i}").copy_(wide.mean(0))
            getattr(made, f"scale_{i}").copy_(wide.std(0, correction=0))
            # of two prompts' tokens that never differ nothing is known: they keep their mean
        return made.to(next(iter(condition.values())).device)

    def _standardised(self, condition: Condition) -> list[Tensor]:
        """Per tensor `(B, tokens, channels of a token)`, about unit variance; a channel has one scale at all tokens."""
        out = []
        for i, (name, shape) in enumerate(self.about.shapes.items()):
            if tuple(condition[name].shape[1:]) != tuple(shape):
                raise ValueError(f"this representation reads {name} of shape {tuple(shape)}, not {tuple(condition[name].shape[1:])}: "
                                 "learn one for this model")  # fmt: skip
            spread = getattr(self, f"scale_{i}").square().flatten(0, -2).mean(0).sqrt() if len(shape) > 1 else getattr(self, f"scale_{i}")
            x = (condition[name].float() - getattr(self, f"mean_{i}")) / (spread + 1e-3 * spread.mean() + 1e-8)
            out.append(x.view(len(x), _tokens(shape), shape[-1]))
        return out

    def encode(self, condition: Condition) -> Tensor:
        """`h`: `(B, dimensions)`."""
        read = [narrow(x).flatten(1) for narrow, x in zip(self.narrow, self._standardised(condition))]
        return self.h(torch.cat(read, 1))

    def decode(self, numbers: Tensor) -> Condition:
        """What the networks read, float32, from `(B, dimensions)`."""
        hidden, shapes = self.unfold(numbers), self.about.shapes
        parts = hidden.split([_tokens(shape) * self.about.channels for shape in shapes.values()], 1)
        out = {}
        for i, (part, (name, shape)) in enumerate(zip(parts, shapes.items())):
            y = self.widen[i](part.view(len(part), _tokens(shape), -1)).view(len(part), *shape)
            out[name] = getattr(self, f"mean_{i}") + getattr(self, f"scale_{i}") * y
        return out

    def forward(self, condition: Condition) -> Condition:
        decoded = self.decode(self.encode(condition))
        return {**condition, **{name: decoded[name].to(condition[name].dtype) for name in decoded}}

    # ---------------------------------------------------------------- files

    def to_bytes(self) -> bytes:
        """The safetensors file's content; equal representations give equal bytes."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        return save(state, metadata={KEY: json.dumps(asdict(self.about))})

    def save(self, path: str | Path) -> None:
        content = self.to_bytes()
        with room.writing(path, len(content)):
            Path(path).write_bytes(content)

    @classmethod
    def load(cls, path: str | Path) -> Representation:
        """Raises ValueError for a file that is none."""
        path = Path(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                about = about_of((file.metadata() or {}).get(KEY), path.name)
                return cls.of_tensors(about, {name: file.get_tensor(name) for name in file.keys()})
        except (SafetensorError, RuntimeError, OSError) as error:
            raise ValueError(f"{path.name} cannot be read as a representation ({error}): make it again with `represent`") from None

    @classmethod
    def of_tensors(cls, about: About, tensors: Mapping[str, Tensor]) -> Representation:
        """RuntimeError where they do not belong together; nothing is allocated on the word of a file."""
        with torch.device("meta"):
            made = cls(about)
        # clones: rounding depends on how tensors lie in memory, and images are to repeat to the last bit
        made.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
        return made.eval().requires_grad_(False)


def about_of(text: str | None, name: str) -> About:
    """`About` from the JSON in a file's metadata. Raises ValueError."""
    try:
        told = bounded.parse(text)
        shapes = {key: tuple(shape) for key, shape in told.pop("shapes").items()}
        lists = {key: tuple(told.pop(key)) for key in ("members", "fingerprint")}
        return About(shapes=shapes, **lists, **told)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ValueError(f"{name} is not a saved representation: make one with `python -m fusion represent`") from None


def _tokens(shape: Sequence[int]) -> int:
    return int(torch.Size(shape[:-1]).numel())


def fingerprint(condition: Condition) -> tuple[float, ...]:
    """Eight numbers for every tensor `(P, ...)` of the `FINGERPRINT` prompts: fixed projections, which tell text encoders apart."""
    out = []
    for tensor in condition.values():
        wide = tensor.detach().float().cpu().flatten(0, -2)
        directions = torch.randn(wide.shape[1], 8, generator=torch.Generator().manual_seed(wide.shape[1]))
        out += ((wide @ directions).square().mean(0).sqrt() / wide.shape[1] ** 0.5).tolist()
    return tuple(round(value, 6) for value in out)


def same_fingerprint(one: Sequence[float], other: Sequence[float]) -> bool:
    """Equal but for the rounding of half precision."""
    return len(one) == len(other) and all(abs(a - b) <= 0.02 * max(abs(a), abs(b)) for a, b in zip(one, other))
