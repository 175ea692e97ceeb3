"""Handwritten digits from a folder of idx files, the format of MNIST and EMNIST (LeCun et al., http://yann.lecun.com/exdb/mnist).

Every pair `*images*idx3*` and `*labels*idx1*` of the same name is read, gzipped or not, so a folder may hold test and training split.
Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

HELP = (
    "give a folder with idx files, for example MNIST's t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
    "(the Hugging Face dataset page `ylecun/mnist` and torchvision's mirror offer them), or EMNIST's"
)


def read_idx(path: str | Path) -> np.ndarray:
    """One idx file of unsigned bytes, any number of axes, as uint8. ValueError where it is none or ends early."""
    path = Path(path)
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        try:
            raw = file.read()
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path.name} is damaged ({error}): fetch it again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != 8 or not 1 <= raw[3] <= 4 or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path.name} is not an idx file of bytes: {HELP}")
    shape = struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    values = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * raw[3])
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path.name} holds {values.size} bytes but states {'x'.join(map(str, shape))}: fetch it again")
    return values.reshape(shape)


def read_digits(folder: str | Path | None) -> tuple[np.ndarray, np.ndarray]:
    """`images` (N, 28, 28) uint8 and `labels` (N,) of all pairs of files in `folder`, in the order of their names. ValueError for none."""
    if folder is None:
        raise ValueError(f"this study needs handwritten digits: {HELP}")
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: {HELP}")
    images, labels = [], []
    for path in sorted(folder.glob("*images*idx3*")):
        partner = folder / path.name.replace("images", "labels").replace("idx3", "idx1")
        if not partner.is_file():
            raise ValueError(f"{path.name} has no {partner.name} beside it: both are needed")
        images.append(read_idx(path))
        labels.append(read_idx(partner))
        if images[-1].ndim != 3 or labels[-1].shape != images[-1].shape[:1]:
            raise ValueError(f"{path.name} and {partner.name} do not belong together: {images[-1].shape} and {labels[-1].shape}")
    if not images:
        raise ValueError(f"no idx files in {folder}: {HELP}")
    if len({one.shape[1:] for one in images}) > 1:
        raise ValueError(f"the images in {folder} are of different sizes: put them in folders of their own")
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)
