"""Trust in files: hashes, pickles, damaged safetensors, weights that are not numbers. Reads bytes and headers, never unpickles."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from . import bounded, headers
from .errors import ModelError
from .file_kinds import FIRST, PICKLES, POINTER, kind_of
from .headers import Header
from .relatives import folder_words

HASHED = (".safetensors", ".json", ".txt", ".model")  # everything that decides what a model does
MOST_WORDS = 64_000_000  # bytes of a tokenizer's file; the largest public ones have about 35 MB
SHOWN = (".safetensors", ".json", ".onnx", ".gguf", ".engine", ".plan", ".msgpack", ".mlmodel", ".xml")  # what tells what a folder is
Readers = Mapping[str, Callable[[], torch.Tensor]]
ADAPTER = "adapter:"  # prefix of an adapter's files in a card's hashes


ADAPTER_FILE = re.compile(r"adapter\d*:")


def adapter_prefix(number: int) -> str:
    """The prefix of the files of a card's adapter, counted from 0: `adapter:`, `adapter2:` ..."""
    return ADAPTER if number == 0 else f"adapter{number + 1}:"


def weight_files(folder: Path, *suffixes: str) -> list[Path]:
    """Files below `folder` (or the file itself) with one of the suffixes, sorted; hidden folders (.git, .cache) left out."""
    if folder.is_file():
        return [folder] if folder.suffix.lower() in suffixes else []
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):  # shipped members link to what they share
        folders[:] = [name for name in folders if not name.startswith(".") and (real := os.path.realpath(Path(place, name))) not in seen
                      and not seen.add(real)]  # fmt: skip
        found += [Path(place, name) for name in files if Path(name).suffix.lower() in suffixes]
    return sorted(found)


def file_hash(path: Path) -> str:
    """sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """`{path below folder: sha256}` of every file that decides what the model does."""
    root = folder.parent if folder.is_file() else folder
    return {path.relative_to(root).as_posix(): file_hash(path) for path in weight_files(folder, *HASHED)}


def refuse_pickles(place: Path, name: str, parts: Iterable[str] = ("",)) -> None:
    """Raise ModelError when `place`, a file or a folder, has nothing but pickled weights in one of its `parts` (`""`: all of it).

    Reading one can run any program hidden in it. Pickles beside safetensors are left alone, and never read (`ignored_pickles`).
    """
    for part in parts:
        pickles = weight_files(place / part, *PICKLES) if (place / part).exists() else []
        if pickles and not weight_files(place / part, ".safetensors"):
            shown = pickles[0].name if place.is_file() else pickles[0].relative_to(place).as_posix()
            raise ModelError(f"'{name}' holds pickled weights only ({shown}), which can run any program when read: "
                             "convert it to safetensors, or choose a safetensors version of it")  # fmt: skip


def ignored_pickles(folder: Path) -> tuple[str, ...]:
    """What to know of pickles that lie in a folder beside what is read, one sentence; none where there are none."""
    found = [path.relative_to(folder).as_posix() for path in weight_files(folder, *PICKLES)] if folder.is_dir() else []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (f"pickled files lie beside its safetensors weights and are never read ({found[0]}{more})",) if found else ()


def refuse_pointers(folder: Path | None, name: str) -> None:
    """Raise ModelError where a file of a part is a Git LFS pointer, as in clones made without LFS: tokenizers have no header that tells."""
    for path in weight_files(folder, *HASHED) if folder is not None and folder.exists() else []:
        if path.stat().st_size < FIRST and path.read_bytes().startswith(POINTER):
            raise ModelError(f"'{name}': {path.parent.name}/{path.name} {kind_of(path)}")


def verify_hashes(folder: Path, hashes: Mapping[str, str], name: str) -> None:
    """Check every file below `folder` against `{path: sha256}`: all must match and none may be missing or unlisted. Empty: no check."""
    if not hashes:
        return
    found = {path.relative_to(folder.parent if folder.is_file() else folder).as_posix(): path for path in weight_files(folder, *HASHED)}
    for relative in sorted({*found, *hashes}):
        if relative not in found:
            raise ModelError(f"'{name}' lacks {relative}, which its card lists: download the model again")
        if relative not in hashes:
            raise ModelError(f"'{name}' holds {relative}, which its card does not list: remove it or use the original folder")
        if file_hash(found[relative]) != hashes[relative]:
            raise ModelError(f"'{name}': {relative} is not the file its card describes (sha256 differs): download the model again")


def read_json(path: Path, name: str) -> dict:
    """A JSON object, with a clear error when it is missing or damaged."""
    try:
        data = bounded.read(path)
    except FileNotFoundError:
        raise ModelError(f"'{name}' lacks {path.parent.name}/{path.name}: it is not a complete diffusers folder") from None
    except (OSError, bounded.Unreadable) as error:
        raise _unreadable(path, name, error) from error
    if not isinstance(data, dict):
        raise ModelError(f"'{name}': {path.name} is not a JSON object: download the model again")
    return data


def _unreadable(path: Path, name: str, error: OSError | bounded.Unreadable) -> ModelError:
    """A text in JSON that is none: what lies there in its place, where that can be told."""
    words = kind_of(path)
    if not words or "JSON" in words or words.startswith("is a text ("):
        words = f"cannot be read ({bounded.why(error)}): download the model again"
    return ModelError(f"'{name}': {path.name} {words}")


def refuse_wild_json(folder: Path, parts: Iterable[str], name: str) -> None:
    """Raise ModelError where a configuration or word list of `parts`, which libraries read themselves, is out of bounds."""
    for part in parts:
        for path in sorted((folder / part).glob("*.json")) if (folder / part).is_dir() else ():
            try:
                bounded.read(path, MOST_WORDS)
            except (OSError, bounded.Unreadable) as error:
                raise _unreadable(path, name, error) from error


def index_of(folder: Path, name: str) -> dict:
    """The model_index.json of a diffusers folder. Raises ModelError, saying what the folder is, where there is none."""
    if (folder / "model_index.json").is_file() or not folder.is_dir():
        return read_json(folder / "model_index.json", name)
    config = read_json(folder / "config.json", name) if (folder / "config.json").is_file() else {}
    near = (path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix.lower() in SHOWN)
    names = [path.relative_to(folder).as_posix() for path in near]
    if not names:
        return read_json(folder / "model_index.json", name)
    raise ModelError(f"'{name}' {folder_words(name, names, config)}")


def header(path: Path, name: str) -> dict[str, tuple[int, ...]]:
    """`{tensor: shape}` of a safetensors file from its header alone. Raises ModelError when the file is damaged or truncated."""
    return full_header(path, name).shapes


def full_header(path: Path, name: str) -> Header:
    """The header of a safetensors file of the model called `name`, read within bounds. Raises ModelError when the file is damaged."""
    try:
        return headers.read(path)
    except ModelError as error:
        raise ModelError(f"'{name}': {error}") from error


def readers(files: Sequence[Path], keep: tuple[str, ...], name: str) -> Readers:
    """`{tensor: how to read it}` of the weights in files whose names start with one of `keep`."""
    places = {key: path for path in files for key in header(path, name) if key.startswith(keep)}

    def reader(key: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            with safe_open(places[key], framework="pt") as file:
                return file.get_tensor(key)

        return read

    return {key: reader(key) for key in places}


def same_tensors(first: Readers, second: Readers, tolerance: float = 2e-3) -> bool:
    """Whether two sets of weights are the same, up to half precision's rounding. Reads one tensor at a time."""
    if first.keys() != second.keys():
        return False
    for key in sorted(first):
        values = [part[key]().float() for part in (first, second)]
        margin = tolerance * float(values[0].abs().mean())
        if values[0].shape != values[1].shape or not torch.allclose(*values, rtol=tolerance, atol=margin):
            return False
    return True


def refuse_strange_numbers(weights: Readers, name: str, part: str) -> None:
    """`refuse_not_finite` for weights that are not loaded yet, one at a time."""
    for key in sorted(weights):
        _refuse_value(weights[key](), name, part, key)


def refuse_not_finite(module: torch.nn.Module, name: str, part: str) -> None:
    """Raise ModelError when a weight is NaN or infinite: every image would be black."""
    for key, value in module.state_dict().items():
        _refuse_value(value, name, part, key)


def _refuse_value(value: torch.Tensor, name: str, part: str, key: str) -> None:
    if not value.is_floating_point():
        return
    if not bool(torch.isfinite(value.float() if value.element_size() == 1 else value).all()):
        raise ModelError(f"'{name}': weight {key} of its {part} is not a number: the file was saved broken, choose another copy")
