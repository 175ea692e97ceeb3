"""Room on the disk: what there is, what is needed, and a sentence with both, in the right unit, where it does not suffice."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space, or no more of one's share
SIGNS = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")  # as libraries in Rust and C tell it


class DiskFull(OSError):
    """Something could not be written for want of room; the message names what is needed, what there is, and the cure."""

    def __init__(self, sentence: str):
        super().__init__(errno.ENOSPC, sentence)

    def __str__(self) -> str:
        return self.strerror


def amount(size: float) -> str:
    """Bytes in the unit in which they have one to three digits before the point: `0 bytes`, `640 KB`, `3.4 GB` (of 1,000)."""
    units = (("bytes", 1), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
    unit, each = next((found for found in units if size < 999.5 * found[1]), units[-1])
    value = size / each
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 9.95 else f"{value:.1f} {unit}"


def free(place: str | Path) -> int:
    """Free bytes of the disk that holds `place`, which need not exist yet."""
    place = Path(place).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, or one's share of it, is full; whichever library wrote."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return any(sign in str(error) for sign in SIGNS)


def told(error: BaseException, place: str | Path = ".") -> str:
    """The sentence for a full disk. `place`: where it was written, if the error does not say."""
    if isinstance(error, DiskFull):
        return str(error)
    return _sentence(Path(getattr(error, "filename", None) or place), None)


def _sentence(place: Path, needed: int | None) -> str:
    there = amount(free(place))
    if needed is None:
        return f"the disk is full: {place} cannot be written, and there is room for {there}: make room, or choose another place"
    return f"the disk is full: {place} needs {amount(needed)}, and there is room for {there}: make room, or choose another place"


def full(place: str | Path, needed: int | None = None) -> DiskFull:
    """The error to raise where `place`, of so many bytes, was too much."""
    return DiskFull(_sentence(Path(place), needed))


def require(place: str | Path, needed: int) -> None:
    """Raise DiskFull, before any long work, where `place` needs more bytes than its disk has."""
    if needed > free(place):
        raise full(place, needed)


@contextmanager
def writing(path: str | Path, needed: int | None = None) -> Iterator[None]:
    """Around the writing of a file: a full disk becomes DiskFull, and the half that was written is taken away again."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_full(error):
            raise
        with suppress(OSError):
            if Path(path).is_file():
                Path(path).unlink()
        raise full(path, needed) from None
