"""What comes in, as arrays of Dask whose chunks agree with each other."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np

from .._arrays.checks import as_array, compute_dtype
from .._arrays.sliced import is_sliced
from .._arrays.sparse import checked_csr, is_sparse
from ._graph import Key

SPARSE_ROWS = 8192  # in a chunk, as Dask's size tells nothing of the entries


class Inputs:
    """Rows, weights, and what goes with either, chunked alike.

    Attributes
    ----------
    x : Array, shape (m, k)
        Chunked over rows alone.
    weight : Array, shape (n, k)
        Chunked over classes alone.
    n, dtype
        Classes; the precision of the computation.
    bias : Array, shape (n,), or None
        In the chunks of the classes.
    of_rows, of_classes : dict of Array
        By name, in the chunks of the rows or of the classes: what was given of `target`, where it
        is class indices, `sample_weight`, `temperature`; and `class_weight`.
    probs : Array, shape (m, n), or None
        A `target` of class probabilities, in the chunks of both.
    """

    def __init__(self, x: Any, weight: Any, bias: Any, target: Any, options: dict[str, Any],
                 one_shard: bool = False):
        self.x, self.weight = _matrix(x, "x"), _matrix(weight, "weight")
        self.n, k = self.weight.shape
        if math.isnan(self.n) or self.n == 0:
            raise ValueError("`weight` must have a known number of classes, at least one, got "
                             f"shape {self.weight.shape}: see its `compute_chunk_sizes()`")
        if self.x.shape[1] != k:
            raise ValueError(f"`weight.shape[1]` must equal `x.shape[1]` ({self.x.shape[1]}), "
                             f"got {k}")
        self.dtype = max((compute_dtype(a.dtype, name) for name, a in
                          (("x", self.x), ("weight", self.weight))), key=lambda t: t.itemsize)
        held = tuple(size for size in self.weight.chunks[0] if size)  # no chunk is empty
        self.weight = self.weight.rechunk(-1 if one_shard else {0: held})
        self.of_rows: dict[str, da.Array] = {}
        self.of_classes: dict[str, da.Array] = {}
        self.probs: da.Array | None = None
        self.bias = None if bias is None else self._of_classes(bias, "bias")
        class_weight = options.pop("class_weight", None)
        if class_weight is not None:
            self.of_classes["class_weight"] = self._of_classes(class_weight, "class_weight")
        for name in "sample_weight", "temperature":
            if np.ndim(options.get(name, 0.0)):
                self.of_rows[name] = self._of_rows(_lazy(options.pop(name), name), name)
        if target is not None:
            self._take_target(_lazy(target, "target"))

    @property
    def sparse(self) -> bool:
        """Whether the chunks of rows are sparse."""
        return is_sparse(self.x._meta)

    @property
    def dependencies(self) -> list[da.Array]:
        """All the arrays."""
        maybe = [array for array in (self.bias, self.probs) if array is not None]
        return [self.x, self.weight, *self.of_rows.values(), *self.of_classes.values(), *maybe]

    @property
    def names(self) -> tuple[str, ...]:
        """What was given beside x, weights and bias."""
        probs = () if self.probs is None else ("target",)
        return (*probs, *self.of_rows, *self.of_classes)

    def classes(self, shard: int) -> tuple[Key, Key | None]:
        """Weight and bias of a chunk of classes."""
        return (self.weight.name, shard, 0), None if self.bias is None else (self.bias.name, shard)

    def keys(self, row: int, shard: int) -> list[Key]:
        """Chunks of these that belong to a chunk of rows and one of classes."""
        probs = [] if self.probs is None else [(self.probs.name, row, shard)]
        return [*probs, *((array.name, row) for array in self.of_rows.values()),
                *((array.name, shard) for array in self.of_classes.values())]

    @property
    def row_chunks(self) -> tuple[Any, ...]:
        """Rows of each chunk, which Dask may not know."""
        return self.x.chunks[0]

    @property
    def class_chunks(self) -> tuple[int, ...]:
        """Classes of each chunk."""
        return self.weight.chunks[0]

    @property
    def example(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """A row, a weight of one class, and a target or None, to try options with."""
        zeros = np.zeros((1, self.weight.shape[1]), self.dtype)
        target = [[1.0]] if self.probs is not None else [0] if "target" in self.of_rows else None
        return zeros, zeros, target

    def _take_target(self, target: da.Array) -> None:
        if target.ndim == 1 and target.dtype.kind in "iu":
            self.of_rows["target"] = self._of_rows(target, "target")
        elif target.ndim == 2 and target.shape[1] == self.n and target.dtype.kind not in "iu":
            self.probs = self._of_rows(target.rechunk({1: self.class_chunks}), "target")
        else:
            raise ValueError(f"`target` must be integers (m,) or class probabilities "
                             f"(m, {self.n}), got {target.dtype} of shape {target.shape}")

    def _of_classes(self, value: Any, name: str) -> da.Array:
        array = _lazy(value, name)
        if array.shape != (self.n,):
            raise ValueError(f"`{name}` must have shape ({self.n},), got {array.shape}")
        return array.rechunk({0: self.class_chunks})

    def _of_rows(self, array: da.Array, name: str) -> da.Array:
        """Whose number may be unknown to Dask: then by as many chunks, which tasks compare."""
        m, found = self.x.shape[0], array.shape[0] if array.ndim else math.nan
        if math.isnan(m) or math.isnan(found):
            if array.ndim and array.numblocks[0] == self.x.numblocks[0]:
                return array
            raise ValueError(f"`{name}` must have the {self.x.numblocks[0]} chunks of rows that "
                             f"`x` has where not all lengths are known, got {array.chunks}: "
                             "`compute_chunk_sizes()` finds them")
        if found != m or (array.ndim != 1 and name != "target"):
            raise ValueError(f"`{name}` must have shape ({m},), got {array.shape}")
        return array.rechunk({0: self.row_chunks})


def _matrix(value: Any, name: str) -> da.Array:
    array = _lazy(value, name)
    if array.ndim != 2:
        raise ValueError(f"`{name}` must have two dimensions, got shape {array.shape}")
    return array.rechunk({1: -1})


def _lazy(value: Any, name: str) -> da.Array:
    """An array of Dask: rows that are at hand come in chunks, all else in one."""
    if isinstance(value, da.Array):
        return value
    if hasattr(value, "to_dask_array"):  # a frame, a column
        return value.to_dask_array()
    if name != "x":
        return da.from_array(as_array(value, name), chunks=-1)
    if is_sparse(value):
        compute_dtype(value.dtype, name)
        return da.from_array(checked_csr(value, name), chunks=(SPARSE_ROWS, -1), asarray=False)
    return da.from_array(value if is_sliced(value) else as_array(value, name),
                         chunks={0: "auto", 1: -1})
