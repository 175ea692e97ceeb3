"""A zip of a folder, unpacked within bounds. Names in it never become paths: every file gets a numbered folder of its own.

Sizes are counted while unpacking, whatever the archive says of itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fusion.intake.names import last, safe_name
from fusion.intake.problems import Problem

MAX_ARCHIVE = 2**30  # bytes packed
MAX_UNPACKED = 2 * 2**30
MAX_ENTRIES = 4_000
MAX_ENTRY = 64 * 2**20
RATIO = 200  # times that a file of more than 1 MB may grow
PIECE = 2**20


def is_zip(path: Path) -> bool:
    """By its name: formats of offices are zips, too."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unpack(path: Path, into: Path) -> tuple[list[tuple[str, Path]], list[Problem]]:
    """`(name in the archive, path)` of its files, and what is wrong. Raises nothing for what an archive holds."""
    name, files = safe_name(path.name), []
    try:
        if path.stat().st_size > MAX_ARCHIVE:
            raise ValueError("it is too large")
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _hidden(entry.filename)]
            if len(entries) > MAX_ENTRIES:
                raise ValueError(f"it holds more than {MAX_ENTRIES} files")
            if any(entry.flag_bits & 1 for entry in entries):
                raise ValueError("it is locked with a password")
            left = MAX_UNPACKED
            for number, entry in enumerate(entries):
                inner = entry.filename.replace("\\", "/")
                if inner.startswith("/") or ".." in inner.split("/") or ":" in inner:
                    raise ValueError("a name in it points out of it")
                target = into / f"{number:05}" / (safe_name(last(inner)).lstrip(".") or "file")
                target.parent.mkdir()
                left -= _write(archive, entry, target, min(left, MAX_ENTRY))
                files.append((inner, target))
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        cause = str(error) if type(error) is ValueError else "it is damaged or packed in another way"
        return [], [Problem(name, f"The archive cannot be used ({cause}). Unpack it and give the pictures themselves.")]
    except Exception:  # decompressors raise errors of their own
        return [], [Problem(name, "The archive cannot be used (it is damaged). Unpack it and give the pictures themselves.")]
    tops = {inner.split("/")[0] if "/" in inner else "" for inner, _ in files}
    cut = len(next(iter(tops))) + 1 if len(tops) == 1 and "" not in tops and not next(iter(tops))[:1].isdigit() else 0
    return [(inner[cut:], target) for inner, target in files], []


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) and part not in (".", "..") for part in name.replace("\\", "/").split("/"))


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most: int) -> int:
    """Bytes unpacked. Raises ValueError for more than `most`, and for what grows as no picture does."""
    written = 0
    with archive.open(entry) as source, target.open("wb") as file:
        while piece := source.read(PIECE):
            written += len(piece)
            if written > most or written > PIECE and written > RATIO * max(entry.compress_size, 1):
                raise ValueError("it grows too large when unpacked")
            file.write(piece)
    return written
