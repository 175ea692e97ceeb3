"""Names of files, which nothing is believed of."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath


def safe_name(name: str) -> str:
    """A file name reduced to letters, digits and `. _ - ( )` and spaces, at most 80 long: fit to be shown anywhere, never to be opened."""
    cleaned = re.sub(r"[^\w.\-() ]", "_", name, flags=re.UNICODE).strip()
    if len(cleaned) > 80:
        cleaned = cleaned[:60] + "..." + cleaned[-17:]
    return cleaned or "unnamed file"


def plain(name: str) -> str:
    """A name as it is compared: `/` between folders, no `./`, case and composed letters (Macs take them apart) alike."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts)).casefold()


def last(name: str) -> str:
    """The file's own name, without its folders."""
    return PurePosixPath(name.replace("\\", "/")).name


def stem(name: str) -> str:
    """A name without its last ending, folders kept."""
    folder, _, file = name.rpartition("/")
    file = file.rpartition(".")[0] or file
    return f"{folder}/{file}" if folder else file
