"""Intake of untrusted pictures: files of any kind in, RGB pictures and one plain sentence per problem out.

Nothing in a file is believed: its name is cleaned before it is shown, its kind is read from its bytes, its size from its header before a
pixel is decoded, and only the pixels go on (no metadata, no colour profile). This module knows no model and no page.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from models import bounded

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"
MAX_PIXELS = 50_000_000  # more than any phone camera's default; 150 MB while decoding
MAX_BYTES = 64 * 1024 * 1024
MAX_PICTURES = 256
MIN_SIDE = 16
LONGEST_SIDE = 1536  # larger pictures are reduced to this: no shipped family looks at more
MAX_CAPTION = 400
MAX_CAPTIONS_FILE = 1_000_000
BOX_FORMATS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}


@dataclass(frozen=True)
class Intake:
    """One accepted picture: `image` RGB without metadata, `name` safe to show, `note` says what was changed on the way in."""

    image: Image.Image
    name: str
    caption: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Problem:
    """One sentence or two about one file: what is wrong with it, and what to do."""

    name: str
    cause_and_cure: str
    harmless: bool = False  # nothing needs to be done

    def __str__(self) -> str:
        return f"{self.name}: {self.cause_and_cure}"


class _Refused(ValueError):
    """The picture cannot be used; the message is the sentence to show."""


def read_images(paths: Iterable[str | Path], captions: Mapping[str, str] | None = None) -> tuple[list[Intake], list[Problem]]:
    """Every readable picture once, in order, and a `Problem` for each file that was refused, repeated or too many.

    `captions` maps file names to prompts. Never raises for what a file contains.
    """
    paths, captions = [Path(p) for p in paths], captions or {}
    intakes: list[Intake] = []
    problems: list[Problem] = []
    first_name: dict[str, str] = {}
    for path in paths[:MAX_PICTURES]:
        name = safe_name(path.name)
        try:
            image, note = _read(path)
        except _Refused as refusal:
            problems.append(Problem(name, str(refusal)))
            continue
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        if digest in first_name:
            problems.append(Problem(name, f"This is the same picture as {first_name[digest]}: it is used once. Nothing needs to be done.",
                                    harmless=True))  # fmt: skip
            continue
        first_name[digest] = name
        intakes.append(Intake(image, name, clean_caption(captions.get(path.name)), note))
    if len(paths) > MAX_PICTURES:
        left_out = len(paths) - MAX_PICTURES
        sentence = f"At most {MAX_PICTURES} pictures are read at once; the last {left_out} were left out."
        problems.append(Problem(f"{left_out} more files", sentence))
    if not paths:
        problems.append(Problem("no pictures", f"There is nothing to read yet. Add about a dozen pictures ({READABLE})."))
    return intakes, problems


def read_folder(folder: str | Path) -> tuple[list[Intake], list[Problem]]:
    """The pictures of one folder in the order of their names, with the captions of its `captions.json` if it has one.

    `captions.json` is a list of `{"file": ..., "prompt": ...}` or a mapping from file name to prompt. Subfolders are not entered.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [], [Problem(safe_name(folder.name), "This is not a folder. Give the folder that holds the pictures.")]
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.suffix.lower() not in {".json", ".md"})
    captions, problem = read_captions(folder / "captions.json")
    intakes, problems = read_images(files, captions)
    return intakes, ([problem] if problem else []) + problems


def advice(count: int) -> str:
    """One sentence on whether `count` target pictures are enough."""
    if count == 0:
        return "Add about a dozen pictures that show what you want to see."
    if count < 6:
        plural = "One picture says" if count == 1 else f"{count} pictures say"
        return f"{plural} very little about a population: the intervals will be wide. A dozen is a good start."
    if count < 24:
        return f"{count} pictures are a good start; about 24 halve the interval that 6 give."
    return f"{count} pictures are enough; more of them only make the fit slower." if count > 64 else f"{count} pictures are plenty."


def safe_name(name: str) -> str:
    """A file name reduced to letters, digits and `. _ - ( )` and spaces, at most 80 long: fit to be shown anywhere, never to be opened."""
    cleaned = re.sub(r"[^\w.\-() ]", "_", name, flags=re.UNICODE).strip()
    if len(cleaned) > 80:
        cleaned = cleaned[:60] + "..." + cleaned[-17:]
    return cleaned or "unnamed file"


def clean_caption(text: object) -> str | None:
    """A caption as one line of at most 400 printable characters; None for what is empty or no text."""
    if not isinstance(text, str):
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * MAX_CAPTION]).split())
    return line[:MAX_CAPTION] or None


# ------------------------------------------------------------------------------------------------ one file

def _read(path: Path) -> tuple[Image.Image, str]:
    """The first frame as RGB and a note on what was changed. Raises `_Refused` with the sentence to show."""
    try:
        size = path.stat().st_size if path.is_file() else -1
        head = path.open("rb").read(512) if size > 0 else b""
    except OSError as error:
        raise _Refused(f"The file cannot be opened ({error.strerror}). Check that it is still there and may be read.") from None
    if size < 0:
        raise _Refused("This is not a file. Choose picture files.")
    if size == 0:
        raise _Refused("The file is empty: copy or download it again.")
    if size > MAX_BYTES:
        raise _Refused(f"The file has {size / 2**20:.0f} MB, more than the {MAX_BYTES // 2**20} MB that are read. Save a smaller copy.")
    try:
        with Image.open(path, formats=FORMATS) as opened:
            return _decode(opened)
    except _Refused:
        raise
    except Image.UnidentifiedImageError:
        raise _Refused(_what_it_is(head)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _Refused(_too_large("more than 150 million pixels")) from None
    except MemoryError:
        raise _Refused("The picture needs more memory than there is. Save a smaller copy.") from None
    except Exception:  # decoders meet bytes from anywhere, and raise nearly every built-in error for broken ones
        raise _Refused("The picture is damaged or incomplete and cannot be read to its end. Copy or export it again.") from None


def _decode(opened: Image.Image) -> tuple[Image.Image, str]:
    width, height = opened.size  # from the header: nothing is decoded yet
    if width * height > MAX_PIXELS:
        raise _Refused(_too_large(f"{width:,} x {height:,} pixels"))
    if min(width, height) < MIN_SIDE:
        raise _Refused(f"The picture has only {width} x {height} pixels. Use one with at least {MIN_SIDE} pixels on its shorter side.")
    notes = []
    if getattr(opened, "is_animated", False):  # n_frames would walk through them all
        notes.append("first frame of several used")
    opened.seek(0)
    opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # JPEG can decode to a smaller size at once
    opened.load()
    turned = ImageOps.exif_transpose(opened)
    if opened.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned upright")
    image, note = _to_rgb(turned)
    if note:
        notes.append(note)
    if max(image.size) > LONGEST_SIDE:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        notes.append(f"reduced from {width} x {height}")
    return Image.frombytes("RGB", image.size, image.tobytes()), ", ".join(notes)  # pixels only: metadata stays behind


def _to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Any Pillow mode as RGB, transparency on white, 16 bits scaled and not clipped."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image) / 257.0 if image.mode.startswith("I;16") else _to_range(np.asarray(image))
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8)).convert("RGB"), "reduced to 8 bits per channel"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        opaque = rgba.getextrema()[3][0] == 255
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, mask=rgba.getchannel("A"))
        return canvas, "" if opaque else "transparency placed on white"
    return image.convert("RGB"), "converted from CMYK" if image.mode == "CMYK" else ""


def _to_range(values: np.ndarray) -> np.ndarray:
    """`(H, W)` 32-bit integers or floats as 0..255: floats within 0..1 are fractions, values above 255 are 16-bit."""
    values = np.nan_to_num(values.astype(np.float64))
    if values.max(initial=0.0) <= 1.0 and not np.array_equal(values, np.round(values)):
        return values * 255.0
    return values / 257.0 if values.max(initial=0.0) > 255.0 else values


def _too_large(size: str) -> str:
    return f"The picture has {size}; at most {MAX_PIXELS // 10**6} million pixels are read. Save a smaller copy."


def _what_it_is(head: bytes) -> str:
    """A sentence for a file that no picture decoder knows, from its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"svg" in start):
        return "This is an SVG drawing, which holds instructions and no pixels. Export it as PNG."
    if head[4:8] == b"ftyp":
        kind = BOX_FORMATS.get(head[8:12])
        if kind:
            return f"This is a {kind} picture, which cannot be read here. Export it as JPEG or PNG (phones call this \"most compatible\")."
        return "This is a video or an unknown picture format. Use " + READABLE + "."
    if start.startswith(b"%pdf"):
        return "This is a PDF document. Save the picture in it as PNG or JPEG."
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")):
        return "The picture is damaged: it begins like one but its header cannot be read. Copy or export it again."
    try:
        text = head.decode("utf-8", errors="strict") if len(head) < 512 else head[:-4].decode("utf-8", errors="ignore")
    except UnicodeDecodeError:
        text = "\0"
    if text and sum(c.isprintable() or c in "\r\n\t" for c in text) > 0.95 * len(text) and "\0" not in text:
        return "This is a text file, whatever its name says. Use " + READABLE + "."
    return "This is not a picture that can be read here. Use " + READABLE + "."


def read_captions(path: Path) -> tuple[dict[str, str], Problem | None]:
    """File name -> prompt from a `captions.json`; a missing file is no problem, a broken one is said and passed over."""
    if not path.is_file():
        return {}, None
    try:
        if path.stat().st_size > MAX_CAPTIONS_FILE:
            raise ValueError("it is larger than 1 MB")
        content = bounded.read(path, MAX_CAPTIONS_FILE)
        if isinstance(content, list):
            content = {entry["file"]: entry["prompt"] for entry in content}
        if not isinstance(content, dict) or not all(isinstance(v, str) for v in content.values()):
            raise ValueError("it maps no file names to prompts")
        if not content:
            raise ValueError("it names no pictures")
        return content, None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = "an entry lacks `file` or `prompt`" if isinstance(error, KeyError | TypeError) else str(error)[:200]
        cure = 'Write a list of {"file": ..., "prompt": ...}, or remove it.'
        return {}, Problem(safe_name(path.name), f"The captions cannot be used ({cause}). {cure}")
