"""Headers of safetensors files: as the library writes them, and every way in which a stranger's file may be wrong."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from models import headers
from models.errors import ModelError

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I64": torch.int64, "U8": torch.uint8,
         "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip


def write(path, entries, data=b"", text=None):
    text = json.dumps(entries).encode() if text is None else text
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape=(2,), dtype="F32", start=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", TYPES)
def test_headers_are_what_the_library_wrote(tmp_path, dtype):
    tensors = {name: torch.zeros(shape).to(TYPES[dtype]) for name, shape in (("a.weight", (3, 5)), ("b", ()), ("none", (0, 4)))}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "title": "x"})
    found = headers.read(tmp_path / "x.safetensors")
    assert found.metadata == {"format": "pt", "title": "x"} and found.numbers == 16
    for name, tensor in tensors.items():
        assert found.tensors[name] == headers.Tensor(dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_words(tmp_path_factory, data):
    """What we accept, the library accepts; what we refuse, we refuse with a ModelError."""
    path = tmp_path_factory.mktemp("h") / "x.safetensors"
    path.write_bytes(data)
    try:
        headers.read(path)
    except ModelError:
        return
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(headers.read(path).tensors)


@given(st.integers(0, 120), st.binary(min_size=1, max_size=4))
def test_damaged_copies_of_a_good_file(tmp_path_factory, place, garbage):
    good = save({"a": torch.arange(6.0), "b": torch.zeros(2, 2)}, metadata={"k": "v"})
    path = tmp_path_factory.mktemp("h") / "x.safetensors"
    path.write_bytes(good[:place] + garbage + good[place + len(garbage) :])
    try:
        ours = headers.read(path).shapes
    except ModelError:
        return
    try:
        with safe_open(path, framework="pt") as file:
            assert ours == {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except SafetensorError as error:
        raise AssertionError(f"we accept what the library refuses: {error}") from None


@pytest.mark.parametrize(("entries", "data", "message"), [
    ({"a": entry()}, b"\0" * 7, "needs? 8 bytes and it holds 7"), ({"a": entry()}, b"\0" * 9, "need 8 bytes and it holds 9"),
    ({"a": entry(), "b": entry(start=4, end=12)}, b"\0" * 12, "overlap or leave gaps at byte 4"),
    ({"a": entry(), "b": entry(start=12, end=20)}, b"\0" * 20, "overlap or leave gaps at byte 8"),
    ({"a": entry(shape=(3,))}, b"\0" * 8, "tensor a is not described"), ({"a": entry(dtype="F33")}, b"\0" * 8, "tensor a"),
    ({"a": entry(shape=(-2,), end=-8)}, b"", "tensor a"), ({"a": entry(shape=(1,) * 9, end=4)}, b"\0" * 4, "tensor a"),
    ({"a": {"dtype": "F32"}}, b"", "tensor a"), ({"a": 1}, b"", "tensor a"), ([1], b"", "no JSON object"),
    ({"a": entry(shape=(True, 2), end=8)}, b"\0" * 8, "tensor a"), ({"a": entry(shape=(2.0,))}, b"\0" * 8, "tensor a"),
    ({"a": entry(shape=(2**60, 0), end=0)}, b"", "tensor a"), ({"__metadata__": {"a": 1}}, b"", "metadata is not text"),
    ({"__metadata__": [1]}, b"", "metadata is not text"),
])  # fmt: skip
def test_headers_that_contradict_themselves_or_the_file(tmp_path, entries, data, message):
    with pytest.raises(ModelError, match=message):
        headers.read(write(tmp_path / "x.safetensors", entries, data))


def test_lengths_are_checked_before_anything_is_read(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    for stated, message in ((2**63, "states a header of"), (0, "states a header of 0"), (100, "states a header of 100")):
        path.write_bytes(struct.pack("<Q", stated) + b"{}")
        with pytest.raises(ModelError, match=message):
            headers.read(path)
    path.write_bytes(b"123")
    with pytest.raises(ModelError, match="it has 3 bytes"):
        headers.read(path)
    with open(path, "wb") as file:  # a sparse file whose header would fill the memory
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**40 + 8)
    with pytest.raises(ModelError, match="no model needs more than 25 MB"):
        headers.read(path)
    with pytest.raises(ModelError, match="no JSON"):
        headers.read(write(path, None, text=b"[" * 100_000))
    monkeypatch.setattr(headers, "MAX_TENSORS", 3)
    with pytest.raises(ModelError, match="lists 4 tensors"):
        headers.read(write(path, {str(k): entry(start=8 * k, end=8 * k + 8) for k in range(4)}, b"\0" * 32))


def test_missing_files(tmp_path):
    with pytest.raises(ModelError, match="nowhere.safetensors cannot be read"):
        headers.read(tmp_path / "nowhere.safetensors")
