"""Arrays in .npy and .npz files, of which nothing is believed before it is checked.

`np.load` evaluates headers, allocates what they ask for, warns, and raises whatever the parts
that it is made of raise.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import zipfile
from collections.abc import Iterator
from typing import IO, Literal, NamedTuple

import numpy as np

from .files import Place, Stored, opened
from .frames import remedy

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the length of the header, by version
_MAX_HEADER_BYTES = 10_000  # as in NumPy
_READ_BYTES = 1 << 20
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may ask for gigabytes

# {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } in any order; a list of fields in
# place of '<f4', and 3L, which Python 2 wrote.
_VALUE = r"('[^']*'|\[[^{}:]*\]|True|False|\([\dL,\s]*\))"
_HEADER = re.compile(
    r"\s*\{\s*" + rf"'(\w+)'\s*:\s*{_VALUE}\s*(?:,\s*|(?=\}}))" * 3 + r"\}\s*", re.ASCII)
_DTYPE = re.compile(r"'([<>|=]?[biufcmMOSUV]\d*(?:\[\w+\])?)'", re.ASCII)


def find_npy(path: str | os.PathLike[str]) -> Place:
    """Find where in a .npy file its array lies."""
    with opened(path, "it cannot be read as a .npy array of numbers") as file:
        layout = _read_layout(file)
        layout.check_size(os.fstat(file.fileno()).st_size - file.tell())
        return Place(os.fspath(path), file.tell(), *layout)


class Npz:
    """The arrays of a .npz file, by name."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        with (opened(path, "it cannot be read as a .npz archive") as file,
              zipfile.ZipFile(file) as archive):
            self._members = {info.filename.removesuffix(".npy"): info
                             for info in archive.infolist()}
        self.names = list(self._members)

    def stored(self, name: str) -> Stored:
        with self._opened(name) as member:
            layout = _read_layout(member)
        return Stored(str(layout.dtype), layout.shape)

    def find(self, name: str) -> np.ndarray:
        """Read an array: nothing of an archive lies there as it is."""
        with self._opened(name) as member:
            return _read_member(member, self._members[name])

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        with (opened(self.path, f"its {name!r} cannot be read as an array of numbers") as file,
              zipfile.ZipFile(file) as archive):
            info = self._members[name]
            if info.compress_type not in _COMPRESSION:
                raise ValueError(f"{info.filename!r} is compressed by method "
                                 f"{info.compress_type}, np.savez_compressed uses 8")
            with archive.open(info) as member:
                yield member


class _Layout(NamedTuple):
    """What the header of a .npy array says."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"]

    @property
    def n_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def check_size(self, found: int) -> None:
        if found != self.n_bytes:
            raise ValueError(f"{self.dtype} of shape {self.shape} takes {self.n_bytes} bytes, "
                             f"but there are {found}")


def _read_layout(file: IO[bytes]) -> _Layout:
    """Read the header; the file is at the data then."""
    start = file.read(len(_MAGIC) + 2)
    if start[:-2] != _MAGIC or start[-2] not in _LENGTH_BYTES:
        raise ValueError(f"an array starts with {_MAGIC!r} and its version, got {start!r}")
    length = int.from_bytes(file.read(_LENGTH_BYTES[start[-2]]), "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, more than {_MAX_HEADER_BYTES}")
    header = file.read(length)
    if len(header) < length:
        raise ValueError(f"it ends within the header, after {len(header)} of {length} bytes")
    text = header.decode("latin-1")
    found = _HEADER.fullmatch(text)
    entries = dict(zip(found.groups()[::2], found.groups()[1::2], strict=True)) if found else {}
    if entries.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"a header that cannot be read: {text.strip()[:200]!r}")
    orders: dict[str, Literal["C", "F"]] = {"True": "F", "False": "C"}
    axes = entries["shape"].strip("()").split(",")
    shape = tuple(int(axis.strip().removesuffix("L")) for axis in axes if axis.strip())
    return _Layout(_number_dtype(entries["descr"]), shape, orders[entries["fortran_order"]])


def _number_dtype(text: str) -> np.dtype:
    if text.startswith("["):
        raise ValueError(f"it holds records, {text[:200]!r}; save their fields one by one")
    found = _DTYPE.fullmatch(text)
    if found is None:
        raise ValueError(f"unknown dtype {text[:200]!r}")
    dtype = np.dtype(found[1])
    if dtype.kind not in "biuf":
        raise ValueError(f"its dtype is {dtype.str!r}{remedy(dtype)}")
    return dtype


def _read_member(member: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    layout = _read_layout(member)
    layout.check_size(info.file_size - member.tell())
    data = bytearray()  # grows with what is found, not with what a damaged header asks for
    while len(data) < layout.n_bytes:
        read = member.read(min(_READ_BYTES, layout.n_bytes - len(data)))
        if not read:
            raise EOFError(f"{info.filename!r} ends after {len(data)} of {layout.n_bytes} bytes")
        data += read
    return np.ndarray(layout.shape, layout.dtype, data, order=layout.order)
