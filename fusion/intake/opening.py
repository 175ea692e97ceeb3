"""One untrusted picture file: opened within bounds, decoded to RGB, its pixels only. Its kind is read from its bytes, its size from its
header before a pixel is decoded."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from fusion.intake.colour import to_srgb
from fusion.intake.primaries import stated
from fusion.intake.strangers import READABLE, is_raw, what_it_is

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
MAX_PIXELS = 50_000_000  # more than any phone camera's default; 150 MB while decoding
MAX_BYTES = 64 * 1024 * 1024
MIN_SIDE = 16
LONGEST_SIDE = 1536  # larger pictures are reduced to this: no shipped family looks at more
HEAVY = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")  # parts of a PNG that are not its pixels, and may be too large to be read


class Refused(ValueError):
    """The picture cannot be used; the message is the sentence to show."""


@contextlib.contextmanager
def opened(path: str | Path, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The picture in a file, its header read and within bounds (bytes, pixels), no pixel decoded yet; decode it inside the `with`.

    Raises Refused, with the sentence to show, for what cannot be opened and for whatever decoding inside the `with` raises.
    """
    path = Path(path)
    head = _head(path)
    try:
        with _image(path, formats) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Refused(too_large(f"{width:,} x {height:,} pixels"))
            yield image
    except Refused:
        raise
    except Image.UnidentifiedImageError:
        raise Refused(what_it_is(head)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(too_large("more than 150 million pixels")) from None
    except MemoryError:
        raise Refused("The picture needs more memory than there is. Save a smaller copy.") from None
    except Exception:  # decoders meet bytes from anywhere, and raise nearly every built-in error for broken ones
        raise Refused("The picture is damaged or incomplete and cannot be read to its end. Copy or export it again.") from None


def read(path: str | Path) -> tuple[Image.Image, str]:
    """The first frame as RGB without metadata, at most `LONGEST_SIDE` long, and a note on what was changed. Raises Refused."""
    with opened(path) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise Refused(f"The picture has only {width} x {height} pixels. Use one with at least {MIN_SIDE} pixels on its shorter side.")
        if image.format == "TIFF" and is_raw(image, Path(path)):
            raise Refused("This is a camera's raw file, of which only a small preview could be read. Export it as JPEG or PNG.")
        return _decode(image, *stated(image, Path(path)))


def too_large(size: str) -> str:
    return f"The picture has {size}; at most {MAX_PIXELS // 10**6} million pixels are read. Save a smaller copy."


def _head(path: Path) -> bytes:
    """The first bytes of a file that is there, is not empty and not too large."""
    try:
        size = path.stat().st_size if path.is_file() else -1
        head = path.open("rb").read(512) if size > 0 else b""
    except OSError as error:
        raise Refused(f"The file cannot be opened ({error.strerror}). Check that it is still there and may be read.") from None
    if size < 0:
        raise Refused("This is not a file. Choose picture files.")
    if size == 0:
        raise Refused("The file is empty: copy or download it again.")
    if size > MAX_BYTES:
        raise Refused(f"The file has {size / 2**20:.0f} MB, more than the {MAX_BYTES // 2**20} MB that are read. Save a smaller copy.")
    return head


@functools.cache
def _with_heif() -> None:
    """Tell Pillow of HEIC, once; what phones keep besides the picture (depth, thumbnails) is left alone."""
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def _image(path: Path, formats: Sequence[str]) -> Image.Image:
    """Pillow's lazy picture. A PNG whose profile or texts are too large for Pillow is opened without them."""
    if "HEIF" in formats:
        _with_heif()
    try:
        return Image.open(path, formats=tuple(formats))
    except ValueError as error:
        if "MAX_TEXT" not in str(error) or "PNG" not in formats:
            raise
        image = Image.open(io.BytesIO(_lightened(path.read_bytes())), formats=("PNG",))
        image.info["too heavy"] = True
        return image


def _lightened(data: bytes) -> bytes:
    """A PNG without its profile and texts."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in HEAVY:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _decode(image: Image.Image, own: bytes | None, said: str) -> tuple[Image.Image, str]:
    """`own`: a profile of colours that the file states in another way; `said`: a note on them."""
    width, height = image.size
    notes = [said] if said else []
    if getattr(image, "is_animated", False):  # n_frames would walk through them all
        notes.append("main picture of several used" if image.format in ("MPO", "HEIF") else "first frame of several used")
    image.seek(0)
    profile, heavy = image.info.get("icc_profile"), image.info.get("too heavy", False)
    image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))  # JPEG can decode to a smaller size at once
    image.load()
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned upright")
    notes += ["colour profile too large and ignored"] if heavy else []
    rgb, changed = to_srgb(upright, profile or own)
    notes += changed
    if max(rgb.size) > LONGEST_SIDE:
        rgb.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
        notes.append(f"reduced from {width} x {height}")
    return Image.frombytes("RGB", rgb.size, rgb.tobytes()), ", ".join(notes)  # pixels only: metadata stays behind


__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "READABLE", "Refused", "opened", "read", "too_large"]
