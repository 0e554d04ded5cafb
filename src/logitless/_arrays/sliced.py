"""Array-likes that are read by slicing: data sets in files, of which a block at a time is here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np

from .bfloat16 import BFLOAT16, is_bfloat16

# Whoever has one of these gives all of its memory at once.
_IN_MEMORY = ("__array_interface__", "__array_struct__", "__cuda_array_interface__", "__dlpack__",
              "tocsr")


def is_sliced(value: Any) -> bool:
    """Whether this is neither in memory nor a frame, but has dtype, shape and slices.

    So are data sets of h5py, arrays of zarr, variables of netCDF4 and xarray. Those of dask are a
    plan of work and read in another way.
    """
    shape = getattr(value, "shape", None)
    return (isinstance(getattr(value, "dtype", None), np.dtype)
            and isinstance(shape, tuple) and len(shape) >= 2
            and all(isinstance(size, int) for size in shape)
            and hasattr(type(value), "__getitem__")
            and type(value).__module__.partition(".")[0] != "dask"
            and not any(hasattr(value, name) for name in _IN_MEMORY))


class Sliced:
    """An array-like (..., k) whose rows are read when they are needed.

    It has what of an ndarray checks of rows ask for; `Rows` is made of it as of one.

    Attributes
    ----------
    shape : tuple of int
    ndim : int
    dtype : dtype
    chunk : int
        Rows that are best read together: those of a chunk, where it is stored in chunks.
    """

    __slots__ = ("_lock", "_source", "chunk", "dtype", "name", "ndim", "shape")

    def __init__(self, source: Any, name: str, shape: tuple[int, ...] | None = None):
        self._source, self.name = source, name
        self._lock = Lock()  # not all who read files expect threads
        self.shape = tuple(source.shape) if shape is None else shape
        self.ndim = len(self.shape)
        self.dtype = BFLOAT16 if is_bfloat16(source.dtype) else source.dtype
        chunks = getattr(source, "chunks", None)
        self.chunk = 1
        if isinstance(chunks, tuple) and chunks and isinstance(chunks[0], int):
            self.chunk = max(1, chunks[0] * math.prod(self.shape[1:-1]))

    def __getitem__(self, where: tuple[Any, ...]) -> Sliced:
        """``[..., :keep, :]``: the same of the first positions only."""
        _, positions, _ = where
        keep = len(range(self.shape[-2])[positions])
        return Sliced(self._source, self.name, (*self.shape[:-2], keep, self.shape[-1]))

    def rows(self, first: int, last: int) -> np.ndarray:
        """Read rows first to last of all."""
        parts = [self._read(box) for box in _boxes(self.shape[:-1], first, last)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read(self, box: tuple[int | slice, ...]) -> np.ndarray:
        k = self.shape[-1]
        where = (*box, slice(0, k))
        with self._lock:
            found = self._source[where]
        if np.ma.is_masked(found):
            raise TypeError(f"`{self.name}` must be a plain array, got a masked one; fill it first")
        block = np.asarray(found)
        if is_bfloat16(block.dtype):
            block = block.view(BFLOAT16)
        lead = tuple(side.stop - side.start for side in box if isinstance(side, slice))
        if block.shape != (*lead, k) or block.dtype != self.dtype:
            raise ValueError(
                f"`{self.name}` must stay as it is while it is read: expected {self.dtype} of "
                f"shape {(*lead, k)}, got {block.dtype} of shape {block.shape}")
        return block.reshape(math.prod(lead), k)


def _boxes(lead: tuple[int, ...], first: int, last: int) -> Iterator[tuple[int | slice, ...]]:
    """Rows first to last, counted through all leading axes, as slices of these axes, in order."""
    if len(lead) == 1:
        yield (slice(first, last),)
        return
    inner = math.prod(lead[1:])
    while True:
        outer, begin = divmod(first, max(inner, 1))
        whole = 0 if begin else (last - first) // max(inner, 1)
        if whole or first == last:
            yield (slice(outer, outer + whole), *(slice(0, size) for size in lead[1:]))
            first += whole * inner
        else:
            end = min(inner, begin + last - first)
            for box in _boxes(lead[1:], begin, end):
                yield (outer, *box)
            first += end - begin
        if first >= last:
            return
