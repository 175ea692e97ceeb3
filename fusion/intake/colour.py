"""Any mode and colour profile to sRGB: what a picture looks like on a colour-managed screen is what the models see.

Profiles are converted with LittleCMS (Pillow's ImageCms), perceptually; a profile that cannot be used is ignored, and a note says so.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from fusion.intake.names import safe_name

MAX_PROFILE = 4 * 2**20  # bytes; profiles of printing presses have about 2 MB
SAME = 2  # of 255 levels: a profile that moves no colour further is sRGB by another name
SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}  # colour space of a profile -> Pillow's mode


def to_srgb(image: Image.Image, profile: bytes | None = None) -> tuple[Image.Image, list[str]]:
    """A loaded picture of any Pillow mode as RGB in sRGB: transparency on white, 16 bits scaled and not clipped; notes on what changed.

    `profile`: the bytes of the ICC profile that the file carried.
    """
    notes = []
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bits(image)
        notes.append("reduced to 8 bits per channel")
    clear = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    alpha = None
    if clear:
        whole = image.convert("RGBA")
        alpha = whole.getchannel("A")
        image = whole.convert("L" if image.mode in ("L", "LA", "La") else "RGB")
    if image.mode not in SPACES.values():
        image = image.convert("L" if image.mode == "1" else "RGB")
    image, said = _converted(image, profile)
    notes += said
    if alpha is not None and alpha.getextrema()[0] < 255:
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(image, mask=alpha)
        image = canvas
        notes.append("transparency placed on white")
    return image, notes


def _converted(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """An L, RGB, CMYK or LAB picture as RGB in sRGB, by its profile where that fits."""
    ignored = []
    if profile:
        if len(profile) > MAX_PROFILE:
            ignored = ["colour profile too large and ignored"]
        else:
            try:
                return _by_profile(image, profile)
            except (ImageCms.PyCMSError, OSError, ValueError, TypeError, KeyError):
                ignored = ["colour profile damaged or of another kind of picture and ignored"]
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB")
        return image, [*ignored, "converted from Lab"]
    return image.convert("RGB"), ignored + (["converted from CMYK"] if image.mode == "CMYK" else [])


def _by_profile(image: Image.Image, data: bytes) -> tuple[Image.Image, list[str]]:
    """Raises what ImageCms raises for a profile that is broken, KeyError and ValueError for one that does not fit the picture."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = SPACES[profile.profile.xcolor_space]
    if space == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if space == "L" and image.mode == "RGB" and _is_grey(image):
        image = image.convert("L")
    if image.mode != space:
        raise ValueError("the profile is of another kind of picture")
    convert = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), space, "RGB", ImageCms.Intent.PERCEPTUAL)
    if space in ("RGB", "L"):
        probe = _probe(space)
        moved = np.abs(np.asarray(ImageCms.applyTransform(probe, convert), int) - np.asarray(probe.convert("RGB"), int))
        if moved.max() <= SAME:
            return image.convert("RGB"), []
    name = safe_name(ImageCms.getProfileDescription(profile).strip())[:40]
    return ImageCms.applyTransform(image, convert), [f"colours converted from {name} to sRGB"]


@functools.cache
def _probe(space: str) -> Image.Image:
    """Colours from all over the cube, or all greys, in one row."""
    if space == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3))


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(image.getchannel(c)) for c in "RGB")
    return bool((red == green).all() and (green == blue).all())


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image) / 257.0 if image.mode.startswith("I;16") else _to_range(np.asarray(image))
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


def _to_range(values: np.ndarray) -> np.ndarray:
    """`(H, W)` 32-bit integers or floats as 0..255: floats within 0..1 are fractions, values above 255 are 16-bit."""
    values = np.nan_to_num(values.astype(np.float64))
    if values.max(initial=0.0) <= 1.0 and not np.array_equal(values, np.round(values)):
        return values * 255.0
    return values / 257.0 if values.max(initial=0.0) > 255.0 else values
