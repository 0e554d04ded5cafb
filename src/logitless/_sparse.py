"""Class probabilities held row by row, only where they are not zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ._validate import compute_dtype


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
    def whole(self) -> SparseRows:
        """All rows."""
        return self

    @property
    def row_bytes(self) -> int:
        """A slice of rows copies nothing."""
        return 0

    def __getitem__(self, rows: slice) -> SparseRows:
        return SparseRows(self.start[rows.start : rows.stop + 1], self.index, self.value, self.n)

    def dense(self, lo: int, hi: int, dtype: np.dtype) -> np.ndarray:
        """Columns [lo, hi) of all rows, (m, hi - lo)."""
        tile = np.zeros((self.m, hi - lo), dtype)
        entries = slice(self.start[0], self.start[-1])
        column = self.index[entries] - lo
        row = np.repeat(np.arange(self.m), np.diff(self.start))
        here = (column >= 0) & (column < hi - lo)
        tile[row[here], column[here]] = self.value[entries][here]
        return tile


def is_sparse(value: object) -> bool:
    """Whether this is one of SciPy's sparse matrices or arrays, or looks like one."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def read_sparse(target, shape: tuple[int, int], dtype: np.dtype) -> SparseRows:
    """Check class probabilities and bring them into canonical form; `target` stays as it is."""
    if tuple(target.shape) != shape:
        raise ValueError(
            f"`target` of class probabilities must have shape {shape}, got {tuple(target.shape)}"
        )
    compute_dtype(target.dtype, "target")
    csr = target.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(csr.data, dtype)
    bad = ~((value >= 0) & (value < math.inf))
    if bad.any():
        entry = int(bad.argmax())
        row = int(np.searchsorted(csr.indptr, entry, "right")) - 1
        raise ValueError(
            f"`target` entries must be finite (in {dtype}) and >= 0, "
            f"got {csr.data[entry]} in row {row}, class {csr.indices[entry]}"
        )
    start = np.ascontiguousarray(csr.indptr, np.int64)
    return SparseRows(start, np.ascontiguousarray(csr.indices, np.int64), value, shape[1])


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
