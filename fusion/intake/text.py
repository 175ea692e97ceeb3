"""Text files as editors of all systems save them, to one line of text each."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

import chardet

MAX_CAPTION = 4000  # characters, as many as a recipe's prompt may have: T5 and language models read 500 to 1,000 words of them
MAX_TEXT = 100_000  # bytes of a file beside a picture
JOINERS = "\u200c\u200d"  # between letters of some scripts and parts of an emoji
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))

MAX_GUESS = 100_000  # bytes to guess from
LATIN = ("cp1252", "cp1250", "cp1254")
OTHERS = ("gb18030", "big5hkscs", "cp949", "cp932", "euc-jp", "cp1251", "koi8-r", "cp1253", "cp1255", "cp1256", "cp874")
ONE_SCRIPT = ("windows-1251", "koi8-r", "windows-1253", "windows-1255", "windows-1256", "cp874")  # beside ASCII, in words of its own
MIXED = re.compile(r"[A-Za-z][^\W\d_A-Za-z]|[^\W\d_A-Za-z][A-Za-z]")
NAMES = {"CP932": "Shift JIS", "CP949": "Korean (949)", "GB18030": "GBK"}


def decoded(data: bytes, usual: str = "") -> tuple[str, str]:
    """Bytes of a text file, and the name of a legacy encoding that had to be guessed ("" where nothing had to be).

    A byte order mark is believed; else UTF-8, UTF-16 where every other byte is zero, `usual` where it fits, or a guess by the letters.
    Raises ValueError for what is no text.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding), ""  # UnicodeDecodeError is a ValueError
    if b"\0" in data:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if data[start::2].count(0) > 0.8 * len(data[start::2]) and not len(data) % 2:
                return data.decode(encoding), ""
        raise ValueError("it holds no text")
    for encoding in ("utf-8", usual) if usual else ("utf-8",):
        try:
            return data.decode(encoding), "" if encoding == "utf-8" else NAMES.get(encoding, encoding)
        except UnicodeDecodeError:
            continue
    encoding = guess(data)
    return data.decode(encoding, errors="replace"), NAMES.get(encoding, encoding)


def guess(data: bytes) -> str:
    """The encoding of text that is neither UTF-8 nor UTF-16, by its letters: the more of them the surer."""
    found = chardet.detect(data, include_encodings=[*LATIN, *OTHERS])["encoding"] or "Windows-1252"
    if found.lower() in ONE_SCRIPT and MIXED.search(data.decode(found, errors="replace")):  # `café` is no Cyrillic
        found = chardet.detect(data, include_encodings=LATIN)["encoding"] or "Windows-1252"
    return found


def usual_encoding(paths: Iterable[Path]) -> str:
    """The encoding of captions that were written together, told from all of them: one has too few letters. "" where none is needed."""
    rest = []
    for path in paths:
        with contextlib.suppress(OSError):
            data = path.read_bytes() if path.stat().st_size <= MAX_TEXT else b""
            if b"\0" not in data and not any(data.startswith(mark) for mark, _ in MARKS) and not _is_utf8(data):
                rest.append(data)
    return guess(b"\n".join(rest)[:MAX_GUESS]) if len(rest) > 1 else ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_text(path: Path, most: int, usual: str = "") -> tuple[str, str]:
    """The text of a file of at most `most` bytes, and the encoding that was guessed. Raises OSError and ValueError."""
    if path.stat().st_size > most:
        raise ValueError(f"it is larger than {most // 1000} kB" if most < 1_000_000 else f"it is larger than {most // 1_000_000} MB")
    return decoded(path.read_bytes(), usual)


def one_line(text: object) -> str:
    """Text as one line of printable characters, not cut; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    return " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())


def clean_caption(text: object) -> str | None:
    """A caption as one line of at most `MAX_CAPTION` printable characters; None for what is empty or no text."""
    if isinstance(text, str):
        text = text[: 4 * MAX_CAPTION]
    return one_line(text)[:MAX_CAPTION].rstrip() or None
