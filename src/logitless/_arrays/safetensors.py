"""Arrays in .safetensors files and checkpoints of several, of which nothing is believed unchecked.

Such a file has the length of its header in 8 bytes, a header in JSON that tells of each array its
dtype, its shape and where its bytes begin and end, and the bytes of one array after the other.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from pathlib import PurePath
from typing import IO, Any, NamedTuple

import numpy as np

from .bfloat16 import BFLOAT16
from .files import Place, Stored, listed, opened

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # as in the package safetensors
_MAX_AXES = 32  # as in every NumPy
_DTYPES = {"BF16": BFLOAT16.newbyteorder("<")} | {
    name: np.dtype(code) for name, code in (
        ("F16", "<f2"), ("F32", "<f4"), ("F64", "<f8"), ("BOOL", "?"),
        ("I8", "i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8"),
        ("U8", "u1"), ("U16", "<u2"), ("U32", "<u4"), ("U64", "<u8"))}
_NAME = re.compile(r"[A-Z]+\d*[A-Z\d_]*", re.ASCII)


class Tensor(NamedTuple):
    """What the header says of an array: `begin` and `end` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Safetensors:
    """The arrays of a .safetensors file, by name."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        with opened(path, "it cannot be read as a .safetensors file") as file:
            self._tensors = _read_header(file)
        self.names = list(self._tensors)

    def stored(self, name: str) -> Stored:
        tensor = self._tensors[name]
        return Stored(tensor.dtype, tensor.shape)

    def find(self, name: str) -> Place:
        tensor = self._tensors[name]
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None:
            raise ValueError(f"{self.path}: expected {name!r} to be one of {', '.join(_DTYPES)}, "
                             f"got {tensor.dtype}")
        return Place(self.path, tensor.begin, dtype, tensor.shape)


class Sharded:
    """The arrays of a checkpoint in several files, by the index of their names."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        with opened(path, "it cannot be read as the index of a checkpoint") as file:
            self._files = _read_index(file)
        self.names = list(self._files)
        self._shards: dict[str, Safetensors] = {}

    @property
    def paths(self) -> list[str]:
        """The files that hold the arrays."""
        folder = os.path.dirname(self.path)
        return [os.path.join(folder, name) for name in dict.fromkeys(self._files.values())]

    def stored(self, name: str) -> Stored:
        return self._shard(name).stored(name)

    def find(self, name: str) -> Place:
        return self._shard(name).find(name)

    def _shard(self, name: str) -> Safetensors:
        """Read the header of the file that an array is in."""
        path = os.path.join(os.path.dirname(self.path), self._files[name])
        if path not in self._shards:
            self._shards[path] = Safetensors(path)
        shard = self._shards[path]
        if name not in shard.names:
            raise ValueError(f"{path}: expected an array named {name!r}, as {self.path} says, "
                             f"found {listed([repr(other) for other in shard.names])}")
        return shard


def _read_header(file: IO[bytes]) -> dict[str, Tensor]:
    size = os.fstat(file.fileno()).st_size - _LENGTH_BYTES
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, more than {_MAX_HEADER_BYTES}")
    if length > size:
        raise ValueError(f"it ends within the header, after {max(size, 0)} of {length} bytes")
    start = _LENGTH_BYTES + length
    tensors = {name: _read_tensor(name, entry, start)
               for name, entry in _parsed(file.read(length)).items() if name != "__metadata__"}
    end = start
    # One behind the other, so that none overlaps another and no byte belongs to none.
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.begin != end:
            raise ValueError(f"{_cut(name)} begins at byte {tensor.begin - start} of the data, "
                             f"where that before it ends at {end - start}")
        end = tensor.end
    if end != _LENGTH_BYTES + size:
        raise ValueError(f"arrays of {end - start} bytes, but there are {size - length}")
    return tensors


def _read_tensor(name: str, entry: Any, start: int) -> Tensor:
    """Check an entry of the header; the data begin at byte `start` of the file."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"expected dtype, shape and data_offsets of {_cut(name)}, "
                         f"got {_cut(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not _NAME.fullmatch(dtype) or len(dtype) > 20:
        raise ValueError(f"the dtype of {_cut(name)} is {_cut(dtype)}")
    if not _are_sizes(shape) or len(shape) > _MAX_AXES:
        raise ValueError(f"the shape of {_cut(name)} is {_cut(shape)}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the data_offsets of {_cut(name)} are {_cut(offsets)}")
    begin, end = offsets
    if dtype in _DTYPES:
        n_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
        if n_bytes != end - begin:
            raise ValueError(f"{_cut(name)}, {dtype} of shape {tuple(shape)}, takes {n_bytes} "
                             f"bytes, but has {end - begin}")
    return Tensor(dtype, tuple(shape), start + begin, start + end)


def _read_index(file: IO[bytes]) -> dict[str, str]:
    """Files, relative to the folder of the index, by the names of the arrays in them."""
    size = os.fstat(file.fileno()).st_size
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"more than {_MAX_HEADER_BYTES} bytes")
    files = _parsed(file.read(size)).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError("expected a weight_map of names to files, as the index of a checkpoint "
                         f"has it, got {_cut(files)}")
    for name, shard in files.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            raise ValueError(f"expected {_cut(name)} in a .safetensors file, got {_cut(shard)}")
        path = PurePath(shard)
        if path.is_absolute() or path.drive or ".." in path.parts or "\0" in shard:
            raise ValueError(f"expected {_cut(name)} in a file beside the index, "
                             f"got {_cut(shard)}")
    return files


def _parsed(data: bytes) -> dict[str, Any]:
    """Parse an object in JSON."""
    found = json.loads(data.decode("utf-8"), object_pairs_hook=_object)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object in JSON, got {_cut(found)}")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{_cut(twice)} is there more than once")
    return found


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 63 for value in values)


def _cut(value: object) -> str:
    """What was found, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
