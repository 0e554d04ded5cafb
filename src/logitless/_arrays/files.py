"""Files that hold arrays: opened, told apart, mapped into memory."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from io import FileIO
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np

_START_BYTES = 16  # of a file tell what it is
_READ_BYTES = 1 << 30  # at a time: more than 2 GiB some systems do not read
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

    def find(self, name: str) -> Place | np.ndarray:
        """Find where in a file an array lies, or read it where it does not lie there as it is."""
        ...


class Windows:
    """An array (m, k) in a file, of which rows are read when they are needed.

    For what is larger than the address space, and for files that others may make smaller: to read
    beyond the end of a file is an error, to touch a map there ends the process.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    """

    ndim = 2

    def __init__(self, place: Place):
        self._file = open(place.path, "rb", buffering=0)  # noqa: SIM115
        self._path, self._offset, self.dtype = place.path, place.offset, place.dtype
        self.shape: tuple[Any, ...] = place.shape
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not be opened
            self._file.close()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self[:], dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows, a range of them or those of an array of indices."""
        if isinstance(rows, np.ndarray):
            taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
            for i, row in enumerate(rows.tolist()):
                self.read(row, taken[i : i + 1])
            return taken
        first, last, _ = rows.indices(self.shape[0])
        taken = np.empty((last - first, *self.shape[1:]), self.dtype)
        self.read(first, taken)
        return taken

    def read(self, first: int, out: np.ndarray) -> None:
        """Read as many rows as `out`, which is contiguous, has; from `first` on."""
        left = memoryview(out.reshape(-1).view(np.uint8).data)
        offset = self._offset + first * self._row_bytes
        while left:
            count = _read_at(self._file, left[:_READ_BYTES], offset)
            if not count:
                raise OSError(f"{self._path}: it has become smaller while it was in use: it ends "
                              f"at byte {offset}")
            left, offset = left[count:], offset + count


_SEEKING = threading.Lock()


def _read_at(file: FileIO, into: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [into], offset)
    with _SEEKING:
        file.seek(offset)
        return file.readinto(into) or 0


def map_array(place: Place) -> np.ndarray:
    """Memory-map an array."""
    with opened(place.path, "it cannot be read as an array of numbers") as file:
        return _mapped(file, *place[1:])


def map_or_read(place: Place, always_read: bool = False) -> np.ndarray | Windows:
    """Memory-map a matrix; as `Windows` where there is no room for all of it, or if asked to."""
    rows = len(place.shape) == 2 and place.order == "C"
    if always_read and rows:
        with opened(place.path, "it cannot be read as an array of numbers"):
            return Windows(place)
    try:
        return map_array(place)
    except OSError as error:
        if error.errno != errno.ENOMEM or not rows:
            raise
        return Windows(place)


def _mapped(file: BinaryIO, offset: int, dtype: np.dtype, shape: tuple[int, ...],
            order: Literal["C", "F"] = "C") -> np.ndarray:
    """Map an array at any byte of a file, read-only."""
    if 0 in shape:
        return np.empty(shape, dtype, order)
    return np.asarray(np.memmap(file, dtype, "r", offset, shape, order))


def check_mapped(array: np.ndarray, name: str) -> None:
    """Check that the file that an array is a map of, if it is one, still has all of it.

    To touch what is not there any more ends the process.
    """
    owner: Any = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner, np.memmap) or not isinstance(owner.base, mmap.mmap):
        return
    needed, there = owner.offset + owner.nbytes, owner.base.size()
    if there < needed:
        raise OSError(f"`{name}` is mapped from a file that has become smaller: expected "
                      f"{needed} bytes, got {there} ({owner.filename})")


def listed(names: list[str]) -> str:
    """Names for a message, not too many of them."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more
