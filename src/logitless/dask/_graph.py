"""Graphs of Dask: trees of merges, arrays of what tasks give; what each task makes sure of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from math import isnan
from operator import attrgetter
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

Key = tuple[Any, ...]
Layer = dict[Key, Any]

MERGED_AT_ONCE = 8  # parts, by a task of a tree


def tree(layer: Layer, key: Key, parts: list[Key], merge: Callable[[list[Any]], Any]) -> list[Key]:
    """Add tasks that merge neighbours until few are left: how many there are sets the order.

    Their keys begin as `key`.
    """
    name, *place = key
    level = 0
    while len(parts) > MERGED_AT_ONCE:
        groups = [parts[i : i + MERGED_AT_ONCE] for i in range(0, len(parts), MERGED_AT_ONCE)]
        parts = [(f"{name}-merged", *place, level, i) for i in range(len(groups))]
        layer.update((part, (merge, group)) for part, group in zip(parts, groups, strict=True))
        level += 1
    return parts


def collected(name: str, layer: Layer, chunks: tuple[Any, ...], needs: Iterable[da.Array]
              ) -> da.Array:
    """One result of tasks for each chunk, as an array whose chunks are no arrays yet."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=list(needs))
    return da.Array(graph, name, chunks=chunks, meta=np.empty((0,) * len(chunks), object))


def column(results: da.Array, name: str, dtype: np.dtype, *more: int) -> da.Array:
    """Lazy attribute of results over chunks of rows: an array (m, *more)."""
    return _attribute(results, name, dtype, (results.chunks[0], *((size,) for size in more)),
                      new_axis=[1] if more else None)


def whole(result: da.Array, name: str, dtype: np.dtype, *shape: int) -> da.Array:
    """Lazy attribute of one result: an array of this shape."""
    return _attribute(result, name, dtype, tuple((size,) for size in shape),
                      new_axis=list(range(len(shape))) or None)


def _attribute(results: da.Array, name: str, dtype: np.dtype, chunks: tuple[Any, ...],
               new_axis: list[int] | None) -> da.Array:
    return results.map_blocks(
        attrgetter(name), name=f"{name}-{tokenize(results.name, name)}", dtype=dtype,
        meta=np.empty((0,) * len(chunks), dtype), chunks=chunks, new_axis=new_axis)


def first_rows(chunks: tuple[Any, ...]) -> list[int | None]:
    """Row that each chunk begins with; None where Dask does not know."""
    return [None if isnan(first) else first for first in accumulate(chunks[:-1], initial=0)]
