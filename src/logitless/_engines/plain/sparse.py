"""Products with sparse rows in plain NumPy: their price is that of the entries."""

from __future__ import annotations

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._arrays.sparse_x import SparseX


def some_rows(x: np.ndarray | Rows | SparseX, rows: slice, dtype: np.dtype) -> np.ndarray | SparseX:
    """Some rows as they are computed with."""
    return x[rows].of(dtype) if isinstance(x, SparseX) else plain(x[rows], dtype)


def dense(x: np.ndarray | SparseX, dtype: np.dtype) -> np.ndarray:
    """All rows, zeros and all."""
    if not isinstance(x, SparseX):
        return plain(x, dtype)
    rows, entries = np.zeros(x.shape, dtype), slice(int(x.start[0]), int(x.start[-1]))
    rows[np.repeat(np.arange(x.m), np.diff(x.start)), x.index[entries]] = x.value[entries]
    return rows


def most_entries(x: SparseX) -> int:
    """Entries of the fullest row, at least 1."""
    return max(1, int(np.diff(x.start).max(initial=0)))


def product(x: SparseX, weight: np.ndarray) -> np.ndarray:
    """``x @ weight.T`` (r, c): what has no entry takes no part."""
    entries = slice(int(x.start[0]), int(x.start[-1]))
    z = np.zeros((x.m, len(weight)), weight.dtype)
    full = np.diff(x.start) > 0
    if full.any():
        terms = x.value[entries, None] * weight[:, x.index[entries]].T
        z[full] = np.add.reduceat(terms, x.start[:-1][full] - entries.start, axis=0)
    return z


def add_product(g: np.ndarray, x: SparseX, live: np.ndarray, into: np.ndarray) -> None:
    """Add ``g.T @ x`` to (c, k), of derivatives (r, c) and the rows that are live."""
    entries = slice(int(x.start[0]), int(x.start[-1]))
    row = np.repeat(np.arange(x.m), np.diff(x.start))
    order = np.argsort(x.index[entries], kind="stable")
    order = order[live[row[order]]]
    if not len(order):
        return
    index = x.index[entries][order]
    first = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    terms = x.value[entries][order, None] * g[row[order]]
    into[:, index[first]] += np.add.reduceat(terms, first, axis=0).T
