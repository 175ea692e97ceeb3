"""Colour numbers of HEIC and AVIF files, in the boxes (ISO 14496-12) before the picture."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

MOST = 2_000  # boxes looked at


def nclx(path: Path) -> tuple[int, int] | None:
    """Numbers of the primaries and of the curve (ITU-T H.273) that the file states; None where it states none."""
    with path.open("rb") as file:
        span = 0, path.stat().st_size
        for kind, skip in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
            found = next((inner for name, inner in _boxes(file, *span) if name == kind), None)
            if found is None:
                return None
            span = found[0] + skip, found[1]
        for name, (start, _) in _boxes(file, *span):
            file.seek(start)
            content = file.read(8) if name == b"colr" else b""
            if content[:4] == b"nclx" and len(content) == 8:
                return int.from_bytes(content[4:6], "big"), int.from_bytes(content[6:8], "big")
    return None


def _boxes(file: BinaryIO, at: int, end: int):
    """`(name, (start, end))` of the boxes between two places; stops at what is none."""
    for _ in range(MOST):
        file.seek(at)
        head = file.read(16)
        size, start = int.from_bytes(head[:4], "big"), at + 8
        if size == 1:
            size, start = int.from_bytes(head[8:16], "big"), at + 16
        size = end - at if size == 0 else size
        if len(head) < 8 or size < start - at or at + size > end:
            return
        yield head[4:8], (start, at + size)
        at += size
