"""Colours that a file states by numbers and not by an ICC profile: PNG's cICP, cHRM and gAMA, nclx of HEIC and AVIF, Exif's Adobe RGB.

What is stated becomes an ICC profile, so that one converter (`fusion.intake.colour`) serves all.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from fusion.intake.boxes import nclx

D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue: x and y of each
ADOBE = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
NUMBERED = {1: ("sRGB", SRGB), 9: ("BT.2020", (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
            12: ("Display P3", (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060))}  # fmt: skip  # of ITU-T H.273
NEARLY = {0: 1, 2: 1, 5: 1, 6: 1, 7: 1, 22: 1}  # unspecified, and television's of before: as screens show them
SRGB_CURVES, GAMMAS = {0, 1, 2, 6, 7, 11, 13, 14, 15}, {4: 2.2, 5: 2.8, 8: 1.0}  # transfer numbers; video's are shown with sRGB's
HDR = {16: "PQ", 18: "HLG"}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])
MAY_DIFFER = "colours may differ: they are stated in a way that is not converted"


def stated(image: Image.Image, path: Path) -> tuple[bytes | None, str]:
    """An ICC profile of the colours that an opened picture states without one, None for sRGB; and a note where they cannot be converted."""
    if image.mode in ("CMYK", "LAB", "HSV") or image.info.get("icc_profile"):
        return None, ""
    numbers = _cicp(path) if image.format == "PNG" else nclx(path) if image.format in ("AVIF", "HEIF") else None
    if numbers:
        return _by_numbers(*numbers)
    if image.format == "PNG":
        return _by_chromaticities(image.info)
    return (icc(ADOBE, 563 / 256, "Adobe RGB") if _is_adobe(image) else None), ""


def _is_adobe(image: Image.Image) -> bool:
    """Whether a camera says Adobe RGB in Exif, as cameras do. Exif that is broken says nothing: the picture may be whole."""
    with contextlib.suppress(Exception):
        exif = image.getexif()
        camera = exif.get_ifd(0x8769)
        return camera.get(0xA001) == 2 or 0xA005 in camera and str(exif.get_ifd(0xA005)[1]).startswith("R03")
    return False


def _by_numbers(primaries: int, transfer: int) -> tuple[bytes | None, str]:
    if transfer in HDR:
        return None, f"colours may differ: high dynamic range ({HDR[transfer]}) is not converted"
    primaries, gamma = NEARLY.get(primaries, primaries), GAMMAS.get(transfer)
    if primaries not in NUMBERED or gamma is None and transfer not in SRGB_CURVES:
        return None, MAY_DIFFER
    name, places = NUMBERED[primaries]
    return (None if primaries == 1 and gamma is None else icc(places, gamma, name)), ""


def _by_chromaticities(info: dict) -> tuple[bytes | None, str]:
    """PNG's cHRM and gAMA, which its sRGB chunk overrules."""
    places, gamma = info.get("chromaticity"), info.get("gamma")
    if "srgb" in info or places is None and gamma is None:
        return None, ""
    gamma = None if gamma is None or abs(gamma - 1 / 2.2) < 0.02 else 1 / gamma if 0.1 < gamma < 10 else 0
    try:
        return (None, MAY_DIFFER) if gamma == 0 else (icc(tuple(places or SRGB), gamma, "its own primaries"), "")
    except (ValueError, ZeroDivisionError, np.linalg.LinAlgError, struct.error):
        return None, MAY_DIFFER


def _cicp(path: Path) -> tuple[int, int] | None:
    """Numbers of the primaries and of the curve in a PNG, which lie before its pixels."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            if head[4:] == b"cICP" and len(numbers := file.read(2)) == 2:
                return numbers[0], numbers[1]
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return None


@functools.lru_cache(maxsize=16)
def icc(places: tuple[float, ...], gamma: float | None, name: str) -> bytes:
    """An ICC profile of screen colours: `places`, x and y of white, red, green and blue; `gamma`, None for sRGB's curve.

    Raises ValueError and LinAlgError for places that span no colours.
    """
    white, *corners = [np.array([x / y, 1.0, (1 - x - y) / y]) for x, y in np.reshape(places, (4, 2)).tolist()]
    columns = np.stack(corners, 1)
    columns = columns * np.linalg.solve(columns, white)
    adapt = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    columns = adapt @ columns
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        raise ValueError("these primaries span no colours")
    levels = np.arange(1024) / 1023
    curve = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4) if gamma is None else levels**gamma
    text = name.encode("ascii")
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(79), b"cprt": b"text" + bytes(4) + b"none\0",
            b"wtpt": _xyz(D50), b"rXYZ": _xyz(columns[:, 0]), b"gXYZ": _xyz(columns[:, 1]), b"bXYZ": _xyz(columns[:, 2])}  # fmt: skip
    bent = b"curv" + bytes(4) + struct.pack(">I1024H", 1024, *np.round(curve * 65535).astype(int).tolist())
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), bent)
    return _packed(tags)


def _xyz(value: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(one * 65536) for one in value.tolist()))


def _packed(tags: dict[bytes, bytes]) -> bytes:
    """Header, table and tags of an ICC profile, version 2."""
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for mark, content in tags.items():
        content += bytes(-len(content) % 4)
        table += mark + struct.pack(">II", at + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s12s4s", at + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp")
    return head + bytes(28) + struct.pack(">3i", *(round(one * 65536) for one in D50.tolist())) + bytes(48) + table + body
