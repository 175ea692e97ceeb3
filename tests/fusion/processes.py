"""Several processes in one test: forked from the test's own, joined as a launcher would join them, killed when asked."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable

import numpy as np


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(size: int, work: Callable, folder, **named) -> list[dict | None]:
    """`work(team, **named) -> {name: array}` in `size` processes; what each returned, None for one that died.

    Forked: what the test has loaded is there, and nothing is imported again. Arrays come back through files in `folder`.
    """
    port, context = free_port(), multiprocessing.get_context("fork")
    files = [folder / f"result-{os.urandom(4).hex()}-{rank}.npz" for rank in range(size)]
    children = [context.Process(target=_child, args=(rank, size, port, work, files[rank], named)) for rank in range(size)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
        if child.is_alive():
            child.kill()
    return [dict(np.load(file)) if file.exists() else None for file in files]


def _child(rank: int, size: int, port: int, work: Callable, file, named: dict) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from fusion.parallel import together

    try:
        with together("cpu") as team:
            np.savez(file, **work(team, **named))
    finally:
        os._exit(0)  # without the test runner's own farewells
