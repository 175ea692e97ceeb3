"""What kind of trouble an exception is, and whether its words are sentences of ours or a library's own. Knows no page and no command."""

from __future__ import annotations

import dis
from types import TracebackType

from models.room import is_full

OURS = ("fusion", "models")  # the packages whose refusals are written for people
WIRES = ("httpx", "httpx2", "httpcore", "requests", "urllib3", "huggingface_hub", "aiohttp")  # libraries that speak with other machines
BROKEN = ("RemoteProtocolError", "ReadError", "ChunkedEncodingError", "IncompleteRead", "ContentDecodingError", "FileMetadataError",
          "ConsistencyError")  # fmt: skip  # what they call an answer that broke off
RAISES = dis.opmap["RAISE_VARARGS"]
KINDS = ("ours", "full", "memory", "download", "connection", "permission", "missing", "gpu", "unknown")


SIGNS = ("out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had not enough memory. (PyTorch's CPU allocator raises a plain RuntimeError.)"""
    import torch  # here, so that naming a cause stays cheap

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in SIGNS)


def ours(error: BaseException) -> bool:
    """Whether the words are a sentence of ours: of a class of ours, or a ValueError or FileNotFoundError that a `raise` of ours raised.

    `int("x")` or a shape that NumPy refuses is a ValueError, too, but nobody wrote its words for a visitor.
    """
    if not isinstance(error, (ValueError, FileNotFoundError)):
        return False
    if type(error).__module__.split(".")[0] in OURS:
        return True
    last = _last(error.__traceback__)
    if last is None or error.__class__ not in (ValueError, FileNotFoundError) or len(error.args) != 1:
        return False  # with a number and a file name it is the operating system's
    return last.tb_frame.f_globals.get("__name__", "").split(".")[0] in OURS and last.tb_frame.f_code.co_code[last.tb_lasti] == RAISES


def _last(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def kind(error: BaseException) -> str:
    """One of KINDS. What crossed from another process (`fusion.hosting.Elsewhere`) says it itself, as `kind`."""
    said = getattr(error, "kind", None)
    if said in KINDS and type(error).__module__.split(".")[0] in OURS:
        return said
    library = type(error).__module__.split(".")[0]
    if is_full(error):
        return "full"
    if ours(error):
        return "ours"
    if out_of_memory(error):
        return "memory"
    if isinstance(error, PermissionError):
        return "permission"
    if isinstance(error, FileNotFoundError) and library == "builtins":
        return "missing"
    if isinstance(error, (ConnectionError, TimeoutError)) or library in WIRES:
        return "download" if type(error).__name__ in BROKEN else "connection"
    return "gpu" if library in ("gradio", "spaces") else "unknown"  # a GPU that is not lent is told as an error of Gradio


def reason(error: BaseException, otherwise: str) -> str:
    """The first line of what we said ourselves; `otherwise` in place of a library's words, which the log has."""
    return str(error).splitlines()[0] if ours(error) and str(error) else otherwise
