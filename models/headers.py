"""Headers of safetensors files, read within bounds: names, shapes and types of tensors before a single weight is read or fetched.

The format: 8 bytes with the header's length (little endian), the header as JSON, then the tensors' bytes without gaps, in any order.
Nothing is allocated before its size has been checked, so a file of a stranger can at worst be refused. This module reads no tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import bounded
from .errors import ModelError
from .file_kinds import FIRST, kind

MAX_HEADER = 25_000_000  # bytes; what the hub's own client accepts, too. The largest public ones have about 1 MB
MAX_TENSORS = 100_000
MAX_RANK = 8
PREFIX = 8  # bytes that state the header's length
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6,
        "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
        "U64": 64}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}  # what weights are made of


@dataclass(frozen=True)
class Tensor:
    """Type, shape and size in bytes of one tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says about itself. `metadata`: free text of its maker, never to be trusted further than shown."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def numbers(self) -> int:
        """How many numbers the tensors hold together."""
        return sum(tensor.numbers for tensor in self.tensors.values())


def header_length(start: bytes, size: int, file: str) -> int:
    """Length of the header from the first bytes of a file of `size` bytes. Raises ModelError, saying what it is, when it cannot be one."""
    length = int.from_bytes(start[:PREFIX], "little")
    possible = len(start) >= PREFIX and 2 <= length <= size - PREFIX
    if not (possible and length <= MAX_HEADER) and (words := kind(start, size)):
        raise ModelError(f"{file} {words}")
    if not possible:
        short = ", so its download broke off" if start[PREFIX : PREFIX + 1] == b"{" and 2 <= length <= MAX_HEADER else ""
        raise ModelError(f"{file} is damaged (it has {size} bytes and states a header of {length}{short}): download the model again")
    if length > MAX_HEADER:
        much = f"{length / 1e6:.0f} MB, and no model needs more than {MAX_HEADER / 1e6:.0f} MB"
        raise ModelError(f"{file} has a header of {much}: do not use it")
    return length


def parse(text: bytes, size: int, file: str) -> Header:
    """The header `text` of a file of `size` bytes. Raises ModelError unless its tensors fill the rest of the file exactly."""
    try:
        entries = bounded.parse(text, MAX_HEADER)
    except bounded.Unreadable as error:
        raise ModelError(f"{file} is damaged (its header is no JSON): download the model again") from error
    if not isinstance(entries, dict):
        raise ModelError(f"{file} is damaged (its header is no JSON object): download the model again")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{file} is damaged (its metadata is not text): download the model again")
    if len(entries) > MAX_TENSORS:
        raise ModelError(f"{file} lists {len(entries)} tensors, and no model needs more than {MAX_TENSORS}: do not use it")
    read = {name: _tensor(name, entry, file) for name, entry in entries.items()}
    _refuse_gaps([place for _, place in read.values()], size - PREFIX - len(text), file)
    return Header({name: tensor for name, (tensor, _) in read.items()}, metadata)


def _tensor(name: str, entry: object, file: str) -> tuple[Tensor, tuple[int, int]]:
    """One entry of the header and where its bytes lie."""
    wrong = ModelError(f"{file} is damaged (tensor {name[:80]} is not described as it must be): download the model again")
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    whole = lambda values: isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)
    if dtype not in BITS or not whole(shape) or len(shape) > MAX_RANK or not whole(place) or len(place) != 2:
        raise wrong
    if math.prod(shape) * BITS[dtype] != (place[1] - place[0]) * 8:
        raise wrong
    return Tensor(dtype, tuple(shape), place[1] - place[0]), (place[0], place[1])


def _refuse_gaps(places: list[tuple[int, int]], size: int, file: str) -> None:
    """The tensors must lie one behind the other and end where the file ends."""
    at = 0
    for start, end in sorted(places):
        if start != at:
            raise ModelError(f"{file} is damaged (its tensors overlap or leave gaps at byte {min(start, at)}): download the model again")
        at = end
    if at > size:
        raise ModelError(f"{file} is damaged (its tensors need {at} bytes and it holds {size}, so its download broke off): "
                         "download the model again")  # fmt: skip
    if at != size:
        raise ModelError(f"{file} is damaged (its tensors need {at} bytes and it holds {size}): download the model again")


def read(path: Path) -> Header:
    """The header of a local file. Raises ModelError when it is damaged, truncated or out of bounds."""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = header_length(file.read(FIRST), size, path.name)
            file.seek(PREFIX)
            return parse(file.read(length), size, path.name)
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror}): check the path and its permissions") from error
