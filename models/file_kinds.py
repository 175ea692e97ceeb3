"""What a file is that was given as weights and is none: told by its first bytes, else by its name, with the cure.

Downloads fail in silence: a server's page, error or pointer lies there under the model's name. Nothing is unpacked.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import ModelError

FIRST = 1024  # bytes that tell
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_AGAIN = "log in on its site or give an access key, and download the file again"
_SAFETENSORS = "choose the safetensors version of the same model"
_PICKLE = (
    "holds pickled weights of PyTorch, which can run any program when read: convert it to safetensors, "
    "or choose a safetensors version of it"
)
_GGUF = (
    "is a GGUF file, quantised for other programs, which cannot be read here: "
    f"{_SAFETENSORS}, in bf16, fp16 or plain fp8"
)
_ENGINE = f"is an engine of TensorRT, built for one kind of GPU: {_SAFETENSORS}"
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_PICTURES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF"}
_SIGNS = (
    (b"GGUF", _GGUF),
    (b"GGML", _GGUF),
    (b"ggjt", _GGUF),
    (b"%PDF", "is a PDF document, not a model: download the model's own file"),
    (b"ftrt", _ENGINE),
    (b"ptrt", _ENGINE),
    (b"\x89HDF", f"is an HDF5 file of Keras, which cannot be read here: {_SAFETENSORS}"),
    (b"\x93NUMPY", f"is an array of NumPy, not a model: {_SAFETENSORS}"),
)
_NAMES = {
    ".onnx": f"is an ONNX export, whose weights cannot be averaged: {_SAFETENSORS}",
    ".gguf": _GGUF,
    **dict.fromkeys((".engine", ".plan", ".trt"), _ENGINE),
    **dict.fromkeys((".mlmodel", ".mlpackage"), f"is a Core ML export, which cannot be read here: {_SAFETENSORS}"),
    ".tflite": f"is a TensorFlow Lite export, which cannot be read here: {_SAFETENSORS}",
    ".msgpack": f"is a file of Flax, which cannot be read here: {_SAFETENSORS}",
    **dict.fromkeys(
        (".part", ".crdownload", ".download", ".aria2", ".incomplete", ".partial", ".opdownload"),
        "is a download that has not ended: let it end, or start it again",
    ),
}
POINTER = b"version https://git-lfs.github.com/spec/"


def kind(start: bytes, size: int) -> str | None:
    """What a file of `size` bytes that begins with `start` (`FIRST` bytes) is, in words after its name, with the cure.

    None for what begins like safetensors, and for what is not known.
    """
    if start[4:9] == b"\0\0\0\0{" and int.from_bytes(start[:4], "little") >= 2:
        return None  # safetensors, whatever the first bytes of its length would mean elsewhere
    if size == 0:
        return "is damaged (it is empty: 0 bytes): its download broke off before it began, so download the model again"
    if len(start) >= 64 and not any(start):
        return "is damaged (it begins with zeros only): its download has not ended, so download the model again"
    if start[8:9] == b"{" and not any(start[5:8]):  # the length of a header, whose bytes may spell any sign below
        return None
    known = next((words for sign, words in _SIGNS if start.startswith(sign)), None)
    if known:
        return known
    if start.startswith(b"PK\x03\x04"):
        torch = any(name in start for name in (b"/data.pkl", b"/.format_version", b"/byteorder", b".pkl"))
        return (
            _PICKLE
            if torch
            else "is a zip archive: unpack it, and name the safetensors file or the folder that was in it"
        )
    if re.match(rb"\x80[\x02-\x05]", start):
        return _PICKLE
    packed = next(
        (name for sign, name in _PACKED.items() if start.startswith(sign)),
        "tar" if start[257:262] == b"ustar" else None,
    )
    if packed:
        return f"is packed ({packed}): unpack it, and name the safetensors file or the folder that was in it"
    picture = "WebP" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None
    picture = picture or next((name for sign, name in _PICTURES.items() if start.startswith(sign)), None)
    if picture:
        return f"is a picture ({picture}), not a model: download the model's file, not its preview"
    if re.match(rb"\x08[\x01-\x14]\x12[\x01-\x40][ -~]{3}", start):  # protobuf: ir_version, then producer_name
        return _NAMES[".onnx"]
    if start[4:8] == b"TFL3":
        return _NAMES[".tflite"]
    return _text(start, size)


def _text(start: bytes, size: int) -> str | None:
    """The same for texts: pages, errors of servers, pointers. None for what is no text."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start or not all(byte >= 32 or byte in b"\t\n\r\f" for byte in start[:256]):
        return None
    if start.startswith(POINTER):
        stated = re.search(rb"^size (\d{1,15})$", start, re.MULTILINE)
        much = f" of {int(stated[1]):,} bytes" if stated else ""
        cure = "run `git lfs pull` in its folder, or download the file itself"
        return f"is a Git LFS pointer, {size} bytes in place of the file{much}: {cure}"
    if start.startswith(b"/annex/objects/"):
        return "is a git-annex pointer in place of the file: run `git annex get` in its folder, or download the file"
    lower, shown = start[:FIRST].lower(), _shown(start)
    if re.match(rb"(<!--.*?-->\s*)?<(!doctype html|html|head|body|script|meta|title)", lower, re.DOTALL):
        return f"is a web page, saved in place of the file, often one that asks to log in: {_AGAIN}"
    if lower.startswith(b"<") and b"<net " in lower:
        return f"is the description of an OpenVINO export, which cannot be read here: {_SAFETENSORS}"
    if lower.startswith((b"<?xml", b"<error")):
        code = re.search(rb"<code>([\w .-]{1,60})</code>", lower)
        told = f" ({re.search(rb'<[cC]ode>([^<]*)<', start)[1].decode('utf-8', 'replace')})" if code else ""
        return f"is a server's message in XML{told}, saved in place of the file: its link has run out, so take a new one"
    if lower.startswith(b"{") and b'"weight_map"' in lower:
        return "is the index of a model in several files: name the folder that holds them"
    json = lower.startswith((b"{", b"["))
    if json and not re.search(rb'"(error|errors|message|detail|statuscode|status)"\s*:', lower):
        return "is a text in JSON, not weights: name the safetensors file or the folder that it belongs to"
    if json or re.match(rb"(access|invalid|unauthori[sz]ed|forbidden|entry not found|not found|repository|error|\d{3}:? )", lower):
        return f"is a server's error ({shown}), saved in place of the file: {_AGAIN}"
    if size < 16:
        return None
    return f"is a text ({shown}), not weights: download the file itself"


def _shown(start: bytes) -> str:
    """The first words of a text, of a server's error what it says."""
    said = re.search(rb'"(?:error|message|detail)"\s*:\s*"([^"]{1,80})', start[:FIRST], re.IGNORECASE)
    words = (said[1] if said else start[:80]).decode("utf-8", "replace").split()
    return re.sub(r"[^\w .,'-]", "", " ".join(words[:8]))


def kind_of(path: Path) -> str | None:
    """The same for a local file, by its bytes, else by its name; None also for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            found = kind(file.read(FIRST), path.stat().st_size)
    except OSError:
        return None
    by_name = _NAMES.get(path.suffix.lower())
    if found is None and by_name is None and path.suffix.lower() == ".bin" and path.with_suffix(".xml").is_file():
        return f"holds the weights of an OpenVINO export, which cannot be read here: {_SAFETENSORS}"
    return found or by_name


def refuse_other(path: Path) -> None:
    """Raise ModelError, naming what it is, for a local file that was given as weights and is none, or has another name."""
    words, pickled = kind_of(path), path.suffix.lower() in PICKLES
    if words and not (pickled and words.startswith((_PICKLE, "is a text (", "is damaged"))):  # `refuse_pickles` says it
        raise ModelError(f"{path.name} {words}")
    if path.is_file() and path.suffix != ".safetensors":
        with open(path, "rb") as file:
            start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if 2 <= length <= path.stat().st_size - 8 and start[8:9] == b"{":
            raise ModelError(
                f"{path.name} is a safetensors file by its content: rename it, so that it ends in .safetensors"
            )
