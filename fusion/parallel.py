"""Several processes that work on one statistic or one set of images: who takes what, and how the parts come together.

Started by `accelerate launch -m fusion ...` (or torchrun), every process reads its place from the environment. Everything that crosses
between them is small and lies on the CPU, so one gloo group serves GPUs, nodes and CPUs alike; arrays and bytes travel, never pickles.
Functions that take a `Team` must be called by all of its processes in the same order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # a process waits for the slowest this long; the launcher ends the others when one dies
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


def _number(names: Sequence[str], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), otherwise)


@dataclass(frozen=True)
class Team:
    """`size` processes, of which this is number `rank`, from 0. The default works alone and talks to nobody."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True in the process that shows progress and writes results."""
        return self.rank == 0

    def mine(self, things: Sequence[T], after: int = 0) -> list[T]:
        """Every `size`-th thing. `after`: how many things came before this list, so that several short lists are shared out evenly."""
        return list(things[(self.rank - after) % self.size :: self.size])

    def total(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """The sum over all processes of each array (equal shapes everywhere), float64."""
        import numpy as np

        sums = [np.array(array, dtype=np.float64) for array in arrays]
        if self.size > 1:
            import torch
            from torch import distributed

            for array in sums:
                distributed.all_reduce(torch.from_numpy(array))  # in place, on the array's own memory
        return sums

    def most(self, number: int) -> int:
        """The largest of the processes' numbers."""
        return max(int.from_bytes(part, "big") for part in self.gather(int(number).to_bytes(8, "big")))

    def gather(self, part: bytes) -> list[bytes]:
        """Every process's bytes, in order of rank, on all processes."""
        if self.size == 1:
            return [part]
        import torch
        from torch import distributed

        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(part)
        distributed.all_reduce(lengths)
        if not int(lengths.max()):
            return [b""] * self.size
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8)
        padded[: len(part)] = torch.frombuffer(bytearray(part), dtype=torch.uint8) if part else padded[:0]
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(everyone, padded)
        return [one[:length].numpy().tobytes() for one, length in zip(everyone, lengths.tolist())]

    def in_turn(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        """The processes' non-empty parts, one of each a round in order of rank, until all have run out: on all processes."""
        if self.size == 1:
            yield from parts
            return
        while True:
            round_ = self.gather(next(parts, b""))
            if not any(round_):
                return
            yield from (part for part in round_ if part)


ALONE = Team()


def pack(parts: Sequence[bytes]) -> bytes:
    """Several pieces of bytes as one; empty for none."""
    return struct.pack(f">{len(parts) + 1}Q", len(parts), *map(len, parts)) + b"".join(parts) if parts else b""


def unpack(packed: bytes) -> list[bytes]:
    """What `pack` was given."""
    if not packed:
        return []
    count = struct.unpack_from(">Q", packed)[0]
    parts, at = [], 8 * (count + 1)
    for length in struct.unpack_from(f">{count}Q", packed, 8):
        parts.append(packed[at : at + length])
        at += length
    return parts


def join(device: str = "auto") -> Team:
    """The team this process was started in, its GPU chosen; `ALONE` outside a launcher. Raises ValueError for devices that cannot be."""
    rank, size, local = _number(_RANK, 0), _number(_SIZE, 1), _number(_LOCAL, 0)
    if size < 2:
        return ALONE
    import torch
    from torch import distributed

    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"{size} processes cannot share --device {device}: leave it out, each process then takes a GPU of its own")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise ValueError(f"process {local + 1} of this machine finds {torch.cuda.device_count()} GPUs: start as many processes as GPUs")
        torch.cuda.set_device(local)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", rank=rank, world_size=size, timeout=PATIENCE)
    return Team(rank, size)


@contextmanager
def together(device: str = "auto") -> Iterator[Team]:
    """`join`, and the connections closed afterwards."""
    team = join(device)
    try:
        yield team
    finally:
        if team.size > 1:
            from torch import distributed

            distributed.destroy_process_group()


def started() -> tuple[int, int]:
    """`(rank, size)` that the environment names, before anything is joined: cheap."""
    return _number(_RANK, 0), _number(_SIZE, 1)


def wants_cpu() -> bool:
    """Whether `accelerate launch --cpu` started this process."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def lonely() -> bool:
    """Whether accelerate was asked for several processes on CPUs and, lacking an MPI, started one (`--multi_gpu` starts them all)."""
    return wants_cpu() and "MASTER_PORT" in os.environ and started()[1] < 2
