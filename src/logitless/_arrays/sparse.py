"""Class probabilities held row by row, only where they are not zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import compute_dtype, plain

_INT64 = np.dtype(np.int64)
MOST = 2**31 - 1


@dataclass(slots=True)
class SparseRows:
    """Rows (m, n) in compressed sparse row form: classes of a row ascending, none twice.

    Attributes
    ----------
    start : ndarray of int64, shape (m + 1,)
        Row i holds entries ``start[i]`` to ``start[i + 1]``.
    index : ndarray of int64
        Class of each entry.
    value : ndarray of float32 or float64
    n : int
    """

    start: np.ndarray
    index: np.ndarray
    value: np.ndarray
    n: int

    @property
    def m(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    @property
    def row_bytes(self) -> int:
        """A slice of rows copies nothing."""
        return 0

    def __getitem__(self, rows: slice) -> SparseRows:
        return SparseRows(self.start[rows.start : rows.stop + 1], self.index, self.value, self.n)

    def dense(self, lo: int, hi: int, dtype: np.dtype) -> np.ndarray:
        """Columns [lo, hi) of all rows, (m, hi - lo)."""
        tile = np.zeros((self.m, hi - lo), dtype)
        row, column, value = self.entries(lo, hi)
        tile[row, column] = value
        return tile

    def entries(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns from `lo` on, and values of what there is of columns [lo, hi)."""
        entries = slice(self.start[0], self.start[-1])
        column = self.index[entries] - lo
        row = np.repeat(np.arange(self.m), np.diff(self.start))
        here = (column >= 0) & (column < hi - lo)
        return row[here], column[here], self.value[entries][here]


@dataclass(slots=True)
class Compressed:
    """Rows (m, n) in compressed sparse row form, with what SciPy's have that is read here."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """Of the entries."""
        return self.data.dtype

    def tocsr(self) -> Compressed:
        """Already so."""
        return self

    def __getitem__(self, rows: np.ndarray) -> Compressed:
        count = np.diff(self.indptr)[rows]
        entry, _ = self.entries(rows)
        return Compressed(np.concatenate([[0], np.cumsum(count)]), self.indices[entry],
                          self.data[entry], (len(rows), self.shape[1]))

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the entries of some rows are, and to which of these rows each belongs."""
        first, count = self.indptr[rows], np.diff(self.indptr)[rows]
        of = np.repeat(np.arange(len(rows)), count)
        before = np.cumsum(count) - count
        return np.arange(len(of)) + (first - before)[of], of


def is_sparse(value: object) -> bool:
    """Whether this is one of SciPy's sparse matrices or arrays, or looks like one."""
    return hasattr(value, "tocsr")


def read_sparse(target: Any, shape: tuple[int, int], dtype: np.dtype) -> SparseRows:
    """Check class probabilities and bring them into canonical form; `target` stays as it is."""
    if tuple(target.shape) != shape:
        raise ValueError(
            f"`target` of class probabilities must have shape {shape}, got {tuple(target.shape)}"
        )
    compute_dtype(target.dtype, "target")
    csr = canonical_csr(target, "target")
    entries = slice(0, int(csr.indptr[-1]))
    with np.errstate(over="ignore"):
        value = plain(csr.data[entries], dtype)
    bad = ~((value >= 0) & (value < math.inf))
    if bad.any():
        entry = int(bad.argmax())
        row = int(np.searchsorted(csr.indptr, entry, "right")) - 1
        raise ValueError(
            f"`target` entries must be finite (in {dtype}) and >= 0, "
            f"got {csr.data[entry]} in row {row}, class {csr.indices[entry]}"
        )
    return SparseRows(plain(csr.indptr, _INT64), plain(csr.indices[entries], _INT64), value,
                      shape[1])


def checked_csr(matrix: Any, name: str) -> Any:
    """Convert a sparse matrix of any format to CSR, its index structure checked before and after.

    SciPy's own conversions trust what a matrix says about itself: they read and write wherever a
    damaged one sends them.
    """
    if len(matrix.shape) != 2:
        raise ValueError(f"sparse `{name}` must have shape (rows, columns), got {matrix.shape}")
    check = _STRUCTURE.get(getattr(matrix, "format", ""))
    if check is not None:
        check(matrix, name)
    try:
        csr = matrix.tocsr()
    except MemoryError:
        raise
    except Exception as error:  # whatever SciPy makes of what it cannot convert
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"`{name}` cannot be read as CSR: {error}") from error
    if csr is not matrix or check is None:
        _check_compressed(csr, name)
    return csr


def _check_compressed(matrix: Any, name: str) -> None:
    """CSR, CSC, BSR: where the entries of each row (or column) begin, and where they lie in it."""
    form = getattr(matrix, "format", "csr")
    by_row = form != "csc"
    rows, columns = matrix.shape if by_row else matrix.shape[::-1]
    if form == "bsr":
        rows, columns = _blocks(matrix, name)
    start, index = matrix.indptr, matrix.indices
    _check_integers(start, f"{name}.indptr")
    _check_integers(index, f"{name}.indices")
    if len(start) != rows + 1:
        raise ValueError(f"`{name}.indptr` must have {rows + 1} entries, one more than it has "
                         f"{'rows' if by_row else 'columns'}, got {len(start)}")
    if start[0] != 0:
        raise ValueError(f"`{name}.indptr` must begin with 0, got {start[0]}")
    falls = start[1:] < start[:-1]
    if falls.any():
        i = int(falls.argmax())
        raise ValueError(f"`{name}.indptr` must not fall, got {start[i]} before {start[i + 1]} "
                         f"at {i}")
    entries, values = int(start[-1]), matrix.data
    if form != "bsr" and np.ndim(values) != 1:
        raise ValueError(f"`{name}.data` must be one-dimensional, got shape {np.shape(values)}")
    for part, array in ("indices", index), ("data", values):
        if len(array) < entries:
            raise ValueError(f"`{name}.{part}` must have the {entries} entries that "
                             f"`{name}.indptr` ends with, got {len(array)}")

    def where(entry: int) -> str:
        major = int(np.searchsorted(start, entry, "right")) - 1
        return f"in {'row' if by_row else 'column'} {major}"

    _check_range(index[:entries], columns, name, "columns" if by_row else "rows", where)


def _blocks(matrix: Any, name: str) -> tuple[int, int]:
    """How many blocks of a BSR matrix lie below and beside each other."""
    tail = matrix.data.shape[1:]
    if len(tail) != 2 or not all(tail) or any(size % step for size, step in
                                              zip(matrix.shape, tail, strict=True)):
        raise ValueError(f"`{name}.data` must hold blocks that fill the shape {matrix.shape}, "
                         f"got shape {matrix.data.shape}")
    return matrix.shape[0] // tail[0], matrix.shape[1] // tail[1]


def _check_coordinates(matrix: Any, name: str) -> None:
    """COO: the row and the column of each entry."""
    row, column = matrix.row, matrix.col
    for part, index in ("row", row), ("col", column):
        _check_integers(index, f"{name}.{part}")
        if len(index) != len(matrix.data):
            raise ValueError(f"`{name}.{part}` must have as many entries as `{name}.data` "
                             f"({len(matrix.data)}), got {len(index)}")
    _check_range(row, matrix.shape[0], name, "rows", lambda e: f"in column {column[e]}")
    _check_range(column, matrix.shape[1], name, "columns", lambda e: f"in row {row[e]}")


def _check_keys(matrix: Any, name: str) -> None:
    """DOK: a dictionary by row and column."""
    for axis, (what, in_what) in enumerate((("rows", "column"), ("columns", "row"))):
        index = np.array([key[axis] for key in matrix.keys()], np.int64)  # noqa: SIM118 (no dict)
        other = [key[1 - axis] for key in matrix.keys()]  # noqa: SIM118
        _check_range(index, matrix.shape[axis], name, what,
                     lambda e: f"in {in_what} {other[e]}")  # noqa: B023 (called in this round)


def _check_lists(matrix: Any, name: str) -> None:
    """LIL: for each row its columns and its values."""
    rows = matrix.shape[0]
    if not len(matrix.rows) == len(matrix.data) == rows:
        raise ValueError(f"`{name}.rows` and `{name}.data` must have {rows} lists, "
                         f"got {len(matrix.rows)} and {len(matrix.data)}")
    for i, (columns, values) in enumerate(zip(matrix.rows, matrix.data, strict=True)):
        if not isinstance(columns, list) or not isinstance(values, list):
            raise ValueError(f"`{name}` must have a list of columns and one of values in each row, "
                             f"got {type(columns).__name__} and {type(values).__name__} in row {i}")
        if len(columns) != len(values):
            raise ValueError(f"`{name}` must have as many values as columns in each row, "
                             f"got {len(values)} and {len(columns)} in row {i}")


def _check_diagonals(matrix: Any, name: str) -> None:
    """DIA: which diagonals its rows of data are."""
    _check_integers(matrix.offsets, f"{name}.offsets")
    if matrix.data.ndim != 2 or len(matrix.offsets) != len(matrix.data):
        raise ValueError(f"`{name}.data` must have a row for each of `{name}.offsets` "
                         f"({len(matrix.offsets)}), got shape {matrix.data.shape}")
    for offset in matrix.offsets.tolist():  # SciPy cuts them to 32 bits once it has counted entries
        if not -MOST <= offset <= MOST:
            raise ValueError(f"`{name}.offsets` must be between -{MOST} and {MOST}, "
                             f"got {offset}")


_STRUCTURE = {"csr": _check_compressed, "csc": _check_compressed, "bsr": _check_compressed,
              "coo": _check_coordinates, "dok": _check_keys, "lil": _check_lists,
              "dia": _check_diagonals}


def _check_integers(index: Any, name: str) -> None:
    if not isinstance(index, np.ndarray) or index.ndim != 1 or index.dtype.kind not in "iu":
        got = f"{index.dtype} of shape {index.shape}" if isinstance(index, np.ndarray) else index
        raise ValueError(f"`{name}` must be a one-dimensional array of integers, got {got}")


def _check_range(index: np.ndarray, size: int, name: str, what: str,
                 where: Callable[[int], str]) -> None:
    """Check that an index names only rows or columns that there are."""
    if index.size == 0 or (index.min() >= 0 and index.max() < size):
        return
    entry = int(((index < 0) | (index >= size)).argmax())
    raise IndexError(f"`{name}` must have entries in {what} [0, {size}), got {index[entry]} "
                     f"{where(entry)}")


def canonical_csr(matrix: Any, name: str) -> Any:
    """Convert to CSR as `checked_csr`, the columns of each row ascending, none twice."""
    csr = checked_csr(matrix, name)
    if not is_canonical(csr):
        csr = csr.copy()
        csr.has_sorted_indices = csr.has_canonical_format = False  # which anybody may set
        csr.sum_duplicates()
    return csr


def is_canonical(csr: Any) -> bool:
    """Whether the columns of each row ascend and none comes twice."""
    start, entries = csr.indptr, int(csr.indptr[-1])
    rises = np.ones(entries, bool)
    rises[1:] = csr.indices[1:entries] > csr.indices[: max(entries - 1, 0)]
    rises[start[:-1][start[:-1] < entries]] = True  # the first of a row may be anything
    return bool(rises.all())


def one_hot_index(rows: SparseRows) -> np.ndarray:
    """Class of each row that has one entry that is not zero, and that is 1; -1 for others."""
    full = rows.value != 0
    before = np.concatenate([[0], np.cumsum(full)])
    count = before[rows.start[1:]] - before[rows.start[:-1]]
    index = np.full(rows.m, -1, np.int64)
    single = np.nonzero(count == 1)[0]
    entry = np.nonzero(full)[0][before[rows.start[single]]]
    ones = rows.value[entry] == 1
    index[single[ones]] = rows.index[entry[ones]]
    return index
