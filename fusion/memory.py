"""What to do when memory runs out: ask for less at a time."""

from __future__ import annotations

import torch

SIGNS = ("out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had not enough memory. (PyTorch's CPU allocator raises a plain RuntimeError.)"""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in SIGNS)


def halving(predict):
    """`predict(x_t, level, index, **more) -> (K, B, ...)` that halves its batch where memory runs out, and remembers the size that fits.

    Raises what `predict` raises: MemoryError and its kin when one row alone is too much.
    """
    fits = None

    def careful(x_t, level, index, **more):
        nonlocal fits
        rows, at, answers = len(x_t), 0, []
        while at < rows:
            size = min(rows - at, fits or rows)
            part = slice(at, at + size)
            try:
                answers.append(predict(x_t[part], level[part], index[part], **more))
            except Exception as error:
                if not out_of_memory(error) or size == 1:
                    raise
                fits, full = -(-size // 2), True
            else:
                at, full = at + size, False
            if full:  # outside of `except`: the error's traceback holds the tensors that filled the memory
                free()
        return answers[0] if len(answers) == 1 else torch.cat(answers, 1)

    return careful


def free() -> None:
    """Give cached blocks back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
