"""Rows of features of which only what is not zero is held."""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import check_x, compute_dtype, plain
from .rows import Rows
from .sparse import MOST, Compressed, canonical_csr, is_sparse

_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)


class SparseX:
    """Rows (m, k) in compressed sparse row form: features of a row ascending, none twice.

    It has what `Rows` has, and takes the place of one.

    Attributes
    ----------
    start : ndarray of int64, shape (m + 1,)
        Row i holds entries ``start[i]`` to ``start[i + 1]``.
    index : ndarray of int32
        Feature of each entry.
    value : ndarray
    n : int
        Features.
    columns : object or None
        The entries feature by feature, where an engine has made that of them.
    """

    __slots__ = ("_wide", "columns", "index", "n", "start", "value")
    row_bytes = 0  # a slice of rows copies nothing
    ndim = 2

    def __init__(self, start: np.ndarray, index: np.ndarray, value: np.ndarray, n: int):
        self.start, self.index, self.value, self.n = start, index, value, n
        self._wide: SparseX | None = None
        self.columns: Any = None

    @property
    def m(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """(m, k)."""
        return self.m, self.n

    @property
    def lead(self) -> tuple[int, ...]:
        """(m,): sparse rows have no other leading shape."""
        return (self.m,)

    @property
    def dtype(self) -> np.dtype:
        """Of the entries."""
        return self.value.dtype

    @property
    def whole(self) -> SparseX:
        """All rows."""
        return self

    @property
    def arrays(self) -> list[np.ndarray]:
        """What it is held in."""
        return [self.start, self.index, self.value]

    @property
    def entries(self) -> int:
        """Number of entries."""
        return int(self.start[-1] - self.start[0])

    def __getitem__(self, rows: slice | np.ndarray) -> SparseX:
        if isinstance(rows, np.ndarray):
            index, value = self.index, self.value
            some = Compressed(self.start, index, value, self.shape)[rows]
            return SparseX(some.indptr, some.indices, some.data, self.n)
        lo, hi, _ = rows.indices(self.m)
        return SparseX(self.start[lo : max(lo, hi) + 1], self.index, self.value, self.n)

    def of(self, dtype: np.dtype) -> SparseX:
        """The same with entries in this dtype: itself, or a copy of them that is made once."""
        if self.value.dtype == dtype:
            return self
        if self._wide is None or self._wide.dtype != dtype:
            own = slice(int(self.start[0]), int(self.start[-1]))
            self._wide = SparseX(self.start - own.start, self.index[own],
                                 plain(self.value[own], dtype), self.n)
        return self._wide


def check_rows(x: Any, n_features: int, name: str = "x") -> np.ndarray | SparseX:
    """Rows (..., k), or sparse ones (m, k)."""
    if type(x) is np.ndarray or not (isinstance(x, SparseX) or is_sparse(x)):
        return check_x(x, n_features, name)
    if len(x.shape) != 2:
        raise ValueError(f"sparse `{name}` must have shape (m, {n_features}), got {x.shape}")
    if x.shape[1] != n_features:
        weight = name[:-1] + "weight"
        raise ValueError(f"`{weight}.shape[1]` must equal `{name}.shape[-1]` ({x.shape[1]}), "
                         f"got {n_features}")
    return x if isinstance(x, SparseX) else read_x(x, name)


def read_x(x: Any, name: str = "x") -> SparseX:
    """Check a SciPy sparse matrix or array and bring it into canonical form; it stays as it is."""
    compute_dtype(x.dtype, name)
    if max(x.shape) > MOST:
        raise ValueError(f"sparse `{name}` must have at most {MOST} rows and features, "
                         f"got shape {x.shape}")
    csr = canonical_csr(x, name)
    entries = slice(0, int(csr.indptr[-1]))
    value = csr.data[entries]
    if value.dtype.kind != "f" or value.dtype.itemsize < _INT32.itemsize:
        value = value.astype(compute_dtype(value.dtype, name))
    return SparseX(plain(csr.indptr, _INT64), plain(csr.indices[entries], _INT32),
                   plain(value, value.dtype.newbyteorder("=")), x.shape[1])


def as_rows(x: np.ndarray | SparseX) -> Rows | SparseX:
    """Checked rows, sparse ones as they are."""
    return x if isinstance(x, SparseX) else Rows(x)
