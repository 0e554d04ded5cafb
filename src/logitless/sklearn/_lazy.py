"""Rows of Dask: what an estimator says of each block, when it is asked for.

Nothing is imported for this: whoever has such rows has imported Dask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._parallel.pool import threads


def is_lazy(rows: object) -> bool:
    """Whether this is an array or a frame of Dask."""
    return hasattr(rows, "__dask_graph__") and hasattr(rows, "_meta")


def by_blocks(method: Callable[[Any, Any], np.ndarray]) -> Callable[[Any, Any], Any]:
    """Have a method, of rows alone, take rows of Dask too: its result is then as lazy.

    Of an array it is an array, of a frame a series or a frame with the same index.
    """

    @wraps(method)
    def of_rows(self: Any, X: Any) -> Any:
        if not is_lazy(X):
            return method(self, X)
        check_is_fitted(self, "coef_")
        of_block = partial(_of_block, method, self, self.classes_)
        if hasattr(X, "map_partitions"):
            result = of_block(X._meta_nonempty)  # an estimator refuses wrong columns here
            return X.map_partitions(of_block, meta=result.iloc[:0])
        if X.ndim != 2:
            raise ValueError(f"`X` must have shape (m, k), got an array of {X.ndim} dimensions")
        result = method(self, np.ones((1, X.shape[1]), X.dtype))
        columns = result.shape[1:]
        rows = X.rechunk({1: -1})
        return rows.map_blocks(
            of_block, dtype=result.dtype, meta=result[:0],
            chunks=(rows.chunks[0], *((size,) for size in columns)),
            drop_axis=None if columns else 1)

    return of_rows


def _of_block(method: Callable[[Any, Any], np.ndarray], model: Any, classes: np.ndarray,
              block: Any) -> Any:
    """One task of Dask: on one thread, unless the estimator says otherwise."""
    frame = hasattr(block, "iloc")
    rows = block
    if block.shape[0] == 0:  # which estimators refuse
        one = np.ones((1, model.n_features_in_))
        rows = type(block)(one, columns=block.columns) if frame else one
    with threads(1):
        found = method(model, rows)[: block.shape[0]]
    if not frame:
        return found
    if found.ndim == 1:
        return block.iloc[:, 0]._constructor(found, index=block.index)
    return type(block)(found, index=block.index, columns=classes)


def accuracy(predicted: Any, y: Any, sample_weight: Any) -> float:
    """Weighted share of lazy predictions that are right, computed now."""
    from dask.base import compute

    if sample_weight is None:
        found, labels = _of_one_length(predicted=predicted, y=y)
        return float((found == labels).mean().compute())
    found, labels, weight = _of_one_length(predicted=predicted, y=y, sample_weight=sample_weight)
    right, total = compute(((found == labels) * weight).sum(), weight.sum())
    return float(right / total)


def _of_one_length(**columns: Any) -> list[Any]:
    """Arrays of columns, checked; unknown rows are counted unless chunks of all are as many."""
    arrays = [_array(column) for column in columns.values()]
    unknown = [is_lazy(array) and math.isnan(array.size) for array in arrays]
    alike = all(unknown) and len({array.numblocks for array in arrays}) == 1
    for name, array, count in zip(columns, arrays, unknown, strict=True):
        if count and not alike:
            array.compute_chunk_sizes()
        if array.ndim != 1 or str(array.shape) != str(arrays[0].shape):  # nan is equal, too
            raise ValueError(f"`{name}` must have shape {arrays[0].shape}, got {array.shape}")
    return arrays


def _array(column: Any) -> Any:
    if hasattr(column, "map_partitions"):
        return column.map_partitions(np.asarray, meta=np.empty(0, object))
    return column if is_lazy(column) else np.asarray(column)
