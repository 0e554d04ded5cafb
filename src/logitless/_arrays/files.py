"""Files that hold arrays: opened, told apart, mapped into memory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, overload

import numpy as np

_START_BYTES = 16  # of a file tell what it is
LISTED = 12  # names that fit into a message


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], failure: str) -> Iterator[BinaryIO]:
    """Open a regular file; whatever its readers raise becomes an error that names it."""
    name = os.fspath(path)
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):  # to open a pipe that nobody writes to would never end
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{name}: expected a regular file, which can be mapped into memory, "
                         f"got {kinds.get(stat.S_IFMT(mode), 'a device')}")
    try:
        with open(path, "rb") as file:
            yield file
    except MemoryError as error:
        raise MemoryError(f"{name}: too large for the memory there is") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), name) from error
    except Exception as error:
        raise ValueError(f"{name}: {failure}: {str(error) or type(error).__name__}") from error


def kind_of(path: str | os.PathLike[str]) -> str:
    """Find out by its first bytes whether a file is "npy", "npz", "safetensors" or "index"."""
    with opened(path, "it cannot be read") as file:
        start = file.read(_START_BYTES)
    if start[:6] == b"\x93NUMPY":
        return "npy"
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "npz"
    if start[4:9] == b"\0\0\0\0{":  # behind the length of the header, which is no 4 GiB
        return "safetensors"
    if start.lstrip()[:1] == b"{":
        return "index"
    found = f"starts with {start[:6]!r}" if start else "is empty"
    raise ValueError(f"{os.fspath(path)}: expected a NumPy .npy or .npz file, as np.save and "
                     "np.savez write them, a .safetensors file, or the index .json of several, "
                     f"but it {found}")


class Place(NamedTuple):
    """Where an array lies in a file."""

    path: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    order: Literal["C", "F"] = "C"


class Stored(NamedTuple):
    """What a file says of an array in it; the dtype by the name it has there."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_integer(self) -> bool:
        """Whether its numbers are integers, as no trained weight is."""
        return self.dtype.lower().startswith(("i", "u", "bool"))


class Archive(Protocol):
    """A file that holds arrays by name, or an index of such files."""

    path: str
    names: list[str]

    def stored(self, name: str) -> Stored:
        """Find out what an array is, without reading it."""
        ...

    def load(self, name: str, windows: bool = False) -> np.ndarray | Windows:
        """Map or read an array; `windows`: as these, if it has to be."""
        ...


class Windows:
    """An array (n, k) in a file, of which rows are mapped while they are in use.

    For what is larger than the address space: its bytes count nowhere but in the system's cache.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    ndim = 2

    def __init__(self, place: Place):
        self._file = open(place.path, "rb")  # noqa: SIM115
        self._offset, self.dtype = place.offset, place.dtype
        self.shape: tuple[Any, ...] = place.shape

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            self._file.close()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows: a map of a range of them, a copy of those of an array of indices."""
        if isinstance(rows, np.ndarray):
            taken = np.empty((len(rows), self.shape[1]), self.dtype)
            for i, row in enumerate(rows.tolist()):
                taken[i] = self[row : row + 1][0]
            return taken
        first, last, _ = rows.indices(self.shape[0])
        row_bytes = self.shape[1] * self.dtype.itemsize
        return _mapped(self._file, self._offset + first * row_bytes, self.dtype,
                       (last - first, self.shape[1]))


@overload
def map_array(place: Place) -> np.ndarray: ...
@overload
def map_array(place: Place, windows: bool) -> np.ndarray | Windows: ...
def map_array(place: Place, windows: bool = False) -> np.ndarray | Windows:
    """Memory-map an array; as `Windows`, if these will do, where there is no room for all of it."""
    with opened(place.path, "it cannot be read as an array of numbers") as file:
        try:
            return _mapped(file, *place[1:])
        except OSError as error:
            wide = windows and len(place.shape) == 2 and place.order == "C"
            if error.errno != errno.ENOMEM or not wide:
                raise
        return Windows(place)


def _mapped(file: BinaryIO, offset: int, dtype: np.dtype, shape: tuple[int, ...],
            order: Literal["C", "F"] = "C") -> np.ndarray:
    """Map an array at any byte of a file, read-only."""
    if 0 in shape:
        return np.empty(shape, dtype, order)
    return np.asarray(np.memmap(file, dtype, "r", offset, shape, order))


def listed(names: list[str]) -> str:
    """Names for a message, not too many of them."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more
