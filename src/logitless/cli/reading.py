"""HEAD, X and TARGET from the files people have, a block of rows at a time."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

import logitless as ll

from .._arrays.checkpoint import open_archive
from .._arrays.checks import compute_dtype
from .._arrays.files import Place, Windows, check_mapped, map_array
from .._arrays.npy import Npz
from .._arrays.rows import Rows
from .._arrays.sparse import checked_csr
from ..io import find_array, read_head
from . import tables
from .errors import missing, told_of
from .files import Source

# Heads up to this size are held in memory, and then read once; of larger ones a piece at a time
# is read, again for each block of rows.
HELD_BYTES = 512 << 20
_SPARSE = {"format", "shape", "data"}  # what scipy.sparse.save_npz writes of each format


class Matrix(Protocol):
    """An array in a file, of which rows are read when they are needed.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    row_bytes : int
        What a row takes in memory, about.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    row_bytes: int

    def rows(self, axes: int, begin: int, end: int) -> Any:
        """Some rows, if the first `axes` make them; to be used before others are asked for."""
        ...


class _ArrayFile:
    """An array in a .npy, .npz or .safetensors file."""

    def __init__(self, source: Source, prefer: str):
        found = find_array(source.path, key=source.key, prefer=prefer)
        self._array: np.ndarray | None = None
        self._place: Place | None = None
        self._columns: Windows | None = None  # one behind the other
        if isinstance(found, np.ndarray):
            self._array = found
        elif found.order == "F" and len(found.shape) > 1:
            self._array = map_array(found)
            if len(found.shape) == 2:
                self._columns = Windows(found._replace(shape=(math.prod(found.shape),)))
        else:
            self._place = found
        self.shape, self.dtype = found.shape, found.dtype
        self.row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._name = str(source.path)
        self._windows: Windows | None = None
        self._room = np.empty(0, np.uint8)

    def rows(self, axes: int, begin: int, end: int) -> np.ndarray:
        if self._columns is not None and axes == 1:
            m, k = self.shape
            columns = self._block((k, end - begin))
            for j in range(k):
                self._columns.read(j * m + begin, columns[j])
            return columns.T
        if self._array is not None:
            check_mapped(self._array, self._name)
            return Rows(self._array, self._array.ndim - axes)[begin:end].reshape(
                end - begin, *self.shape[axes:])
        lead = math.prod(self.shape[:axes])
        if self._windows is None or self._windows.shape[0] != lead:
            assert self._place is not None  # as there is no array
            self._windows = Windows(self._place._replace(shape=(lead, *self.shape[axes:])))
        block = self._block((end - begin, *self.shape[axes:]))
        self._windows.read(begin, block)
        return block

    def _block(self, shape: tuple[int, ...]) -> np.ndarray:
        """Make an array of the same memory each time, which the system gives page by page."""
        size = math.prod(shape) * self.dtype.itemsize
        if self._room.size < size:
            self._room = np.empty(size, np.uint8)
        return self._room[:size].view(self.dtype).reshape(shape)


class _SparseFile:
    """A matrix that `scipy.sparse.save_npz` has written, as a whole in memory."""

    def __init__(self, source: Source):
        path = str(source.path)
        if source.key is not None:
            raise ValueError(f"{path}: expected no key, as it holds one sparse matrix, "
                             f"got {source.key!r}")
        try:
            import scipy.sparse
        except ImportError as error:
            raise missing(f"{path}: a sparse matrix", "SciPy", "sklearn") from error
        with told_of(path, "it cannot be read as a sparse matrix"):
            self.matrix = checked_csr(scipy.sparse.load_npz(path), "it")
        self.shape, self.dtype = self.matrix.shape, self.matrix.dtype
        entries = self.matrix.nnz // max(self.shape[0], 1) + 1
        self.row_bytes = entries * (self.dtype.itemsize + self.matrix.indices.itemsize)

    def rows(self, axes: int, begin: int, end: int) -> Any:
        return self.matrix[begin:end]


def open_matrix(source: Source, prefer: str, precision: np.dtype, width: int,
                beside: Source | None = None) -> Matrix:
    """Open X or TARGET.

    `prefer` is its name where there are several; numbers of a text are read in `precision`; lists
    of which there are none have this `width`. The column of a `beside` in the same file is left
    out.
    """
    if source.table:
        return tables.open_rows(source, prefer, precision, width, beside)
    if _is_sparse(source):
        return _SparseFile(source)
    return _ArrayFile(source, prefer)


def open_head(source: Source, screen: bool, **given: Any) -> ll.LinearHead:
    """Make a head, held in memory where it is not too large."""
    if screen:
        given["screen"] = "int8"
    if source.table:
        return ll.LinearHead(*tables.read_head(source), **given)
    if _is_sparse(source):
        raise ValueError(f"{source.path}: expected HEAD to be dense, got a sparse matrix; its "
                         "`.toarray()` is")
    found = read_head(source.path, key=source.key, mapped=False)
    for name in "softcap", "temperature":
        if getattr(found, name) is not None:
            given.setdefault(name, getattr(found, name))
    size = math.prod(found.weight.shape) * compute_dtype(found.weight.dtype, "weight").itemsize
    held = screen or size <= HELD_BYTES
    return ll.LinearHead(found.weight, found.bias, pack=held, **given)


def _is_sparse(source: Source) -> bool:
    archive = open_archive(source.path)
    return isinstance(archive, Npz) and set(archive.names) >= _SPARSE
