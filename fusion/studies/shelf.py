"""Where a study keeps what it has computed, so that the same command goes on where it was stopped: one safetensors file a part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file


@contextmanager
def undamaged(file: Path) -> Iterator[None]:
    """ValueError that names the file and what to do, where what is read inside is not whole."""
    try:
        yield
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it and start again, which makes this part anew") from None


def keep(file: Path, content: object) -> None:
    """Plain JSON values, written beside the file and moved there: a run that is killed leaves the last whole one."""
    beside = file.with_suffix(".partial")
    beside.write_text(json.dumps(content))
    beside.replace(file)


def kept(file: Path):
    """What `keep` wrote. Raises ValueError for a damaged file."""
    with undamaged(file):
        return json.loads(file.read_text())


class Shelf:
    """Parts of a study below `work`, named by what they are; `progress(done, total, message)` counts the `total` parts that are expected.

    Raises ValueError where the folder holds parts of other settings: figures of two kinds must not be mixed.
    """

    def __init__(self, work: Path, settings: Mapping, total: int, progress=None, stop=None):
        self.work, self.total, self.progress, self.stop, self.done = Path(work), total, progress, stop, 0
        self.work.mkdir(parents=True, exist_ok=True)
        file, text = self.work / "settings.json", json.dumps(dict(settings), indent=1)
        if file.is_file() and file.read_text() != text:
            raise ValueError(f"{work} holds partial results of other settings or data: give another --work, or delete it")
        if not file.is_file():
            file.write_text(text)

    def file(self, name: str) -> Path:
        return self.work / f"{name}.safetensors"

    def tell(self, message: str) -> None:
        """What is being done now."""
        if self.progress is not None:
            self.progress(self.done, self.total, message)

    def part(self, name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays called `name`: from the shelf, or from `make()`, which may raise RuntimeError when stopped. Counts one part."""
        self.tell(name)
        file = self.file(name)
        if not file.is_file():
            if self.stop is not None and self.stop():
                raise RuntimeError(f"stopped before {name}")
            arrays = {key: np.array(value, order="C") for key, value in make().items()}
            save_file(arrays, file.with_suffix(".partial"))
            file.with_suffix(".partial").replace(file)
        self.done += 1
        self.tell(name)
        with undamaged(file):
            return load_file(file)
