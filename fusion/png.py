"""Pictures as PNG in memory: what travels between processes, and what is kept while a run lasts. No bit of a picture is lost."""

from __future__ import annotations

import io

from PIL import Image
from PIL.PngImagePlugin import PngInfo


def as_png(image: Image.Image, info: PngInfo | None = None) -> bytes:
    """The file's bytes, with `info` inside."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def from_png(data: bytes) -> Image.Image:
    """The picture of bytes that `as_png` made, loaded."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    image.load()
    return image
