"""Text files as editors of all systems save them, to one line of text each."""

from __future__ import annotations

import codecs
from pathlib import Path

MAX_CAPTION = 4000  # characters, as many as a recipe's prompt may have: T5 and language models read 500 to 1,000 words of them
MAX_TEXT = 100_000  # bytes of a file beside a picture
JOINERS = "\u200c\u200d"  # between letters of some scripts and parts of an emoji
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decoded(data: bytes) -> tuple[str, str]:
    """Bytes of a text file, and the name of a legacy encoding that had to be guessed ("" where nothing had to be).

    A byte order mark is believed; else UTF-8, UTF-16 where every other byte is zero, Japanese Shift JIS, and Windows' Western one.
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
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError:
        return _legacy(data)


def _legacy(data: bytes) -> tuple[str, str]:
    """Text that is neither UTF-8 nor UTF-16. Shift JIS only where it gives what Japanese text has: kana, or kanji throughout."""
    try:
        text = data.decode("cp932")
        foreign = [c for c in text if c > "\x7f"]
        kana = any("\u3041" <= c <= "\u30fe" for c in foreign)
        private = any("\ue000" <= c <= "\uf8ff" for c in foreign)
        if not private and (kana or 2 * len(foreign) > len(text.replace(" ", ""))):
            return text, "Shift JIS"
    except UnicodeDecodeError:
        pass
    return data.decode("cp1252", errors="replace"), "Windows-1252"


def read_text(path: Path, most: int) -> tuple[str, str]:
    """The text of a file of at most `most` bytes, and the encoding that was guessed. Raises OSError and ValueError."""
    if path.stat().st_size > most:
        raise ValueError(f"it is larger than {most // 1000} kB" if most < 1_000_000 else f"it is larger than {most // 1_000_000} MB")
    return decoded(path.read_bytes())


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
