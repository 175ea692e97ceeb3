"""What to do when memory runs out: ask for less at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from models.causes import out_of_memory

__all__ = ["Parts", "free", "halving", "out_of_memory"]

T = TypeVar("T")



class Parts:
    """Rows worked on in parts that are halved where memory runs out; the size that fits is remembered for the next rows.

    `relief() -> bool`: what is tried first, once, when memory runs out: True when it made the same work need less (and longer).
    """

    def __init__(self, relief: Callable[[], bool] | None = None):
        self.fits, self._relief = None, relief

    def __call__(self, rows: int, work: Callable[[slice], T], most: int | None = None) -> list[T]:
        """`work(part)` of every part of so many rows, in order, each of at most `most`. `work` leaves nothing behind where it fails.

        Raises what `work` raises: MemoryError and its kin when one row alone is too much.
        """
        at, answers = 0, []
        while at < rows:
            size = min(rows - at, self.fits or rows, most or rows)
            try:
                answers.append(work(slice(at, at + size)))
            except Exception as error:
                if not out_of_memory(error) or not self._asks_less(size):
                    raise
                full = True
            else:
                at, full = at + size, False
            if full:  # outside of `except`: the error's traceback holds the tensors that filled the memory
                free()
        return answers

    def _asks_less(self, size: int) -> bool:
        """Whether something is left to try after a part of this size was too much."""
        relief, self._relief = self._relief, None
        if relief is not None and relief():
            return True
        self.fits = -(-size // 2)
        return size > 1


def halving(predict):
    """`predict(x_t, level, index, **more) -> (K, B, ...)` that halves its batch where memory runs out, and remembers the size that fits."""
    parts = Parts()

    def careful(x_t, level, index, **more):
        answers = parts(len(x_t), lambda part: predict(x_t[part], level[part], index[part], **more))
        return answers[0] if len(answers) == 1 else torch.cat(answers, 1)

    return careful


def free() -> None:
    """Give cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
