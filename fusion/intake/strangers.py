"""What a file is that no picture decoder knows, said in one sentence with what to do about it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

READABLE = "PNG, JPEG, WebP, GIF, BMP, TIFF, HEIC or AVIF"
BOX_FORMATS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
RAW = {".dng", ".cr2", ".nef", ".arw", ".orf", ".rw2", ".pef", ".srw", ".nrw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr"}
DNG_VERSION = 50706  # a tag of TIFF that only camera raw files have
PACKED = {b"Rar!": "RAR archive", b"7z\xbc\xaf": "7z archive", b"\x1f\x8b": "gzip archive", b"PK\x03\x04": "zip archive"}


def is_raw(image: Image.Image, path: Path) -> bool:
    """Whether an opened TIFF is a camera's raw file, whose first page is a small preview."""
    return path.suffix.lower() in RAW or DNG_VERSION in getattr(image, "tag_v2", {})


def what_it_is(head: bytes) -> str:
    """A sentence for a file that no picture decoder knows, from its first bytes."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"svg" in start):
        return "This is an SVG drawing, which holds instructions and no pixels. Export it as PNG."
    if head[4:8] == b"ftyp":
        kind = BOX_FORMATS.get(head[8:12])
        if kind:
            return f"This is a {kind} picture that is damaged or of a kind that cannot be read here. Export it as JPEG or PNG."
        return "This is a video or an unknown picture format. Use " + READABLE + "."
    if start.startswith(b"%pdf"):
        return "This is a PDF document. Save the picture in it as PNG or JPEG."
    if head.startswith(b"8BPS"):
        return "This is a Photoshop document. Export it as PNG or JPEG."
    for mark, kind in PACKED.items():
        if head.startswith(mark):
            return f"This is a {kind}, which is not entered here. Unpack it and give the pictures, or pack them as one plain zip."
    if start.startswith((b"<!doctype html", b"<html")):
        return "This is a web page and not the picture on it. Save the picture itself."
    if head.startswith(b"version https://git-lfs"):
        return "This is a pointer of Git LFS and not the picture. Fetch the files with: git lfs pull."
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")):
        return "The picture is damaged: it begins like one but its header cannot be read. Copy or export it again."
    try:
        text = head.decode("utf-8", errors="strict") if len(head) < 512 else head[:-4].decode("utf-8", errors="ignore")
    except UnicodeDecodeError:
        text = "\0"
    if text and sum(c.isprintable() or c in "\r\n\t" for c in text) > 0.95 * len(text) and "\0" not in text:
        return "This is a text file, whatever its name says. Use " + READABLE + "."
    return "This is not a picture that can be read here. Use " + READABLE + "."
