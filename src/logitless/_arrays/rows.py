"""Arrays seen as rows, of which a block at a time may be copied."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol, cast

import numpy as np

from .sliced import Sliced

_BLOCK_BYTES = 4 << 20  # what may be copied at a time
_CHUNK_BYTES = 16 << 20  # or, rather than half a chunk of a file


class Bounded(Protocol):
    """Rows of which a block at a time may be copied."""

    @property
    def row_bytes(self) -> int: ...


class Rows:
    """An array seen as rows (m, n) over its last axes, never copied as a whole.

    Attributes
    ----------
    array : ndarray
        What it was made of, which may be Sliced.
    whole : ndarray, shape (m, n), or None
        A view of all rows (a single row may be a copy); None where the
        strides do not allow one, or rows have yet to be read.
    lead : tuple of int
        The shape of the leading axes, which make the rows.
    """

    __slots__ = ("array", "dtype", "lead", "m", "n", "sliced", "whole")

    def __init__(self, array: np.ndarray | Sliced, trailing: int = 1):
        self.array = cast(np.ndarray, array)
        self.sliced = array if isinstance(array, Sliced) else None
        self.dtype = array.dtype
        self.whole: np.ndarray | None = None
        if isinstance(array, Sliced):
            self.lead, self.n = array.shape[:-1], array.shape[-1]
            self.m = math.prod(self.lead)
            if self.m == 0:
                self.whole = np.empty((0, self.n), self.dtype)
            return
        if array.ndim == 2 and trailing == 1:
            self.whole = array
            self.lead = array.shape[:1]
            self.m, self.n = array.shape
            return
        split = array.ndim - trailing
        self.lead = array.shape[:split]
        self.m, self.n = math.prod(self.lead), math.prod(array.shape[split:])
        whole = _merges(array, 0, split) and _merges(array, split, array.ndim)
        # A single row is the least that can be copied.
        self.whole = array.reshape(self.m, self.n) if whole or self.m == 1 else None

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows start to stop, a view or a copy where there is no view of all; or those numbers."""
        if self.whole is not None:
            return self.whole[rows]
        if self.sliced is not None:
            if isinstance(rows, slice):
                return self.sliced.rows(rows.start, rows.stop)
            return np.concatenate([self.sliced.rows(row, row + 1) for row in rows.tolist()])
        return self.array[self._where(rows)].reshape(-1, self.n)

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        """Write rows start to stop, of which there is no view of all."""
        self.array[self._where(rows)] = values.reshape(-1, *self.array.shape[len(self.lead) :])

    def _where(self, rows: slice | np.ndarray) -> tuple[np.ndarray, ...]:
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(numbers, self.lead)

    @property
    def arrays(self) -> list[np.ndarray]:
        """What it was made of."""
        return [self.array]

    @property
    def row_bytes(self) -> int:
        """What a row may take once it has been widened."""
        return self.n * max(self.dtype.itemsize, 8)

    @property
    def chunk(self) -> int:
        """Rows that are best read together."""
        return 1 if self.sliced is None else self.sliced.chunk


def _merges(array: np.ndarray, first: int, last: int) -> bool:
    """Whether axes first..last-1 can be seen as one axis without a copy."""
    if array.size == 0:
        return True
    sizes = zip(array.shape[first:last], array.strides[first:last], strict=True)
    axes = [(size, stride) for size, stride in sizes if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(axes))


def row_blocks(m: int, *arrays: Bounded, most: int = 1 << 62) -> Iterator[slice]:
    """Ranges of up to `most` rows, of which a copy from each of the arrays stays small."""
    row_bytes = max(1, 1, *(a.row_bytes for a in arrays))
    step = max(1, min(most, _BLOCK_BYTES // row_bytes))
    for chunk in (a.chunk for a in arrays if isinstance(a, Rows)):
        if chunk <= most and chunk * row_bytes <= _CHUNK_BYTES:
            step = max(step // chunk, 1) * chunk
    return (slice(first, min(first + step, m)) for first in range(0, m, step))
