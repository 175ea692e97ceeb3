"""Several processes on this machine, forked from this one and joined as a launcher would join them: for measurements and tests on CPUs."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np


def free_port() -> int:
    """A TCP port that nobody listened at a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(size: int, work: Callable, folder: Path, *, patience: float = 3600, **named) -> list[dict | None]:
    """`work(team, **named) -> {name: array}` in `size` processes; what each returned, None for one that died or took `patience` seconds.

    Forked: what this process has loaded is there, and nothing is imported again. So no thread pool and no GPU may have been used here
    before (`torch.set_num_threads(1)`). Arrays come back through files in `folder`.
    """
    port, context = free_port(), multiprocessing.get_context("fork")
    files = [Path(folder) / f"result-{os.urandom(4).hex()}-{rank}.npz" for rank in range(size)]
    children = [context.Process(target=_child, args=(rank, size, port, work, files[rank], named)) for rank in range(size)]
    for child in children:
        child.start()
    for child in children:
        child.join(patience)
        if child.is_alive():
            child.kill()
    found = [dict(np.load(file)) if file.exists() else None for file in files]
    for file in files:
        file.unlink(missing_ok=True)
    return found


def _child(rank: int, size: int, port: int, work: Callable, file: Path, named: dict) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from fusion.parallel import together

    try:
        with together("cpu") as team:
            np.savez(file, **work(team, **named))
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(0)  # without the parent's own farewells, which are not the child's to say
