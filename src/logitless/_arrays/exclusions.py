"""Classes that do not count in a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import as_array, plain
from .sparse import checked_csr, is_canonical, is_sparse

_INT64 = np.dtype(np.int64)


@dataclass(slots=True)
class Exclusions:
    """The excluded classes of rows, in each row ascending and none twice.

    Attributes
    ----------
    start : ndarray of int64, shape (m + 1,) or (2,)
        Row i excludes ``index[start[i]:start[i + 1]]``; all rows ``index[start[0]:start[1]]``
        if they are `alike`.
    index : ndarray of int64
    n : int
        Classes there are.
    alike : bool
    """

    start: np.ndarray
    index: np.ndarray
    n: int
    alike: bool

    def __getitem__(self, rows: slice | np.ndarray) -> Exclusions:
        """Those of some rows: a range of them, or their numbers."""
        if self.alike:
            return self
        if isinstance(rows, slice):
            return Exclusions(self.start[rows.start : rows.stop + 1], self.index, self.n, False)
        first, count = self.start[rows], np.diff(self.start)[rows]
        start = np.append(0, np.cumsum(count))
        entry = np.arange(start[-1]) + np.repeat(first - start[:-1], count)
        return Exclusions(start, self.index[entry], self.n, False)

    @property
    def counts(self) -> np.ndarray:
        """How many classes each row excludes: (m,), or (1,) where rows are alike."""
        return np.diff(self.start)

    @property
    def usual(self) -> int:
        """How many a row excludes on the average."""
        return int(self.start[-1] - self.start[0]) // max(len(self.start) - 1, 1)

    def left(self, rows: slice) -> np.ndarray:
        """How many classes are left to each of some rows, or (1,) where rows are alike."""
        return self.n - (self.counts if self.alike else self.counts[rows])

    def mask(self, lo: int, hi: int) -> np.ndarray:
        """Whether classes [lo, hi) are excluded: (m, hi - lo), or (1, hi - lo)."""
        mask = np.zeros((len(self.start) - 1, hi - lo), bool)
        column = self.index[self.start[0] : self.start[-1]] - lo
        here = (column >= 0) & (column < hi - lo)
        mask[np.repeat(np.arange(len(mask)), self.counts)[here], column[here]] = True
        return mask

    def holds(self, classes: np.ndarray) -> np.ndarray:
        """Whether each row excludes its `classes` (m, j); none excludes -1."""
        known, wanted = self.index[self.start[0] : self.start[-1]], classes
        if not self.alike:  # a row has numbers of its own
            known = known + self.n * np.repeat(np.arange(len(classes)), self.counts)
            wanted = classes + self.n * np.arange(len(classes))[:, None]
        place = np.searchsorted(known, wanted)
        held = np.append(known, -1)[place] == wanted
        return held & (classes >= 0)

    def first_left(self) -> np.ndarray:
        """The lowest class left to each row, -1 where there is none; (m,) or (1,)."""
        column = self.index[self.start[0] : self.start[-1]]
        row = np.repeat(np.arange(len(self.start) - 1), self.counts)
        place = np.arange(len(column)) - np.repeat(self.start[:-1] - self.start[0], self.counts)
        leading = np.bincount(row[column == place], minlength=len(self.start) - 1)
        return np.where(leading < self.n, leading, -1)


def check_exclude(exclude: Any, lead: tuple[int, ...], n: int) -> Exclusions:
    """Check the classes that rows of shape `lead` exclude, of n.

    These are the entries of a sparse matrix (m, n), whatever their values, or where a mask (n,) is
    true.
    """
    if not is_sparse(exclude):
        mask = as_array(exclude, "exclude")
        if mask.dtype != bool:
            raise TypeError("`exclude` must be a sparse matrix of SciPy's or a bool array, "
                            f"got {mask.dtype}")
        if mask.shape != (n,):
            raise ValueError(f"`exclude` of all rows alike must have shape ({n},), "
                             f"got {mask.shape}; that of each row must be sparse")
        index = np.flatnonzero(mask).astype(_INT64, copy=False)
        return Exclusions(np.array([0, len(index)], _INT64), index, n, True)
    shape = math.prod(lead), n
    if tuple(exclude.shape) != shape:
        raise ValueError(f"`exclude` must have shape {shape}, got {tuple(exclude.shape)}")
    csr = checked_csr(exclude, "exclude")
    start = plain(csr.indptr, _INT64)
    index = plain(csr.indices[: start[-1]], _INT64)
    if not is_canonical(csr):
        start, index = _canonical(start, index, n)
    return Exclusions(start, index, n, False)


def _canonical(start: np.ndarray, index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of each row in order, none twice."""
    row = np.repeat(np.arange(len(start) - 1), np.diff(start))
    order = np.lexsort((index, row))
    row, index = row[order], index[order]
    new = np.ones(len(index), bool)
    new[1:] = (index[1:] != index[:-1]) | (row[1:] != row[:-1])
    count = np.bincount(row[new], minlength=len(start) - 1)
    return np.append(0, np.cumsum(count)).astype(_INT64), index[new]
