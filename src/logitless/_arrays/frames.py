"""Frames and columns of pandas, polars and pyarrow as the arrays they are.

Their own conversions make Python objects of missing values, of mixed columns and of lists. Nothing
is imported for this: whoever has such a value has imported its library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from numbers import Number
from typing import Any

import numpy as np

_LISTS = (list, tuple, np.ndarray)


def read_frame(value: object, name: str) -> np.ndarray | None:
    """`value` as an array if it is a frame or a column of these libraries, otherwise None.

    Columns of numbers are a matrix (m, columns), one column of lists of k numbers is one (m, k);
    both are copied at most once. A missing number is NaN, a missing class an error.
    """
    for kind in type(value).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in _READERS:
            return _READERS[library](value, name == "target")
    return None


def refuse_objects(array: np.ndarray) -> None:
    """Say what is no number in an array that NumPy made of lists or of a foreign object."""
    if array.dtype != object:
        return
    if array.ndim == 0:
        raise TypeError("it is no sequence of numbers")
    for where, entry in np.ndenumerate(array):
        if not isinstance(entry, Number):
            raise TypeError(f"it must hold numbers, got {_short(entry)} at {list(where)}")
    raise TypeError(f"it must hold numbers of one dtype, got objects such as "
                    f"{_short(array.flat[0])}; `np.asarray(..., dtype=np.float32)` reads them")


def remedy(dtype: np.dtype) -> str:
    """What makes numbers of an array of this dtype, as the end of a message; "" if unknown."""
    if dtype.kind == "O":
        return "; `.astype(np.float32)` makes numbers of it, `np.stack` a matrix of its rows"
    if dtype.names:
        return f"; take one of its fields ({', '.join(map(repr, dtype.names))})"
    if dtype.kind == "V" and dtype.itemsize == 2:
        return ("; if that was bfloat16, `.view(ml_dtypes.bfloat16)` makes it that again, and "
                "`.astype(np.float32)` what a file can hold")
    if dtype.kind in "SU":
        return ("; `.astype(np.float32)` reads numbers written as text, "
                "`np.unique(..., return_inverse=True)` numbers classes")
    return ""


def _short(entry: object) -> str:
    text = repr(entry)
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(entry).__name__})"


# pandas


def _pandas(value: Any, labels: bool) -> np.ndarray | None:
    if hasattr(value, "dtypes") and getattr(value, "ndim", None) == 2:
        kinds = set(value.dtypes)
        if len(kinds) == 1 and isinstance(kind := kinds.pop(), np.dtype) and kind.kind in "biuf":
            return np.asarray(value)  # a view, or put together by pandas
        return _matrix(value.items(), len(value), _pandas_column, labels)
    if hasattr(value, "dtype") and hasattr(value, "isna") and getattr(value, "ndim", None) == 1:
        return _pandas_column(value, labels)
    return None


def _pandas_column(column: Any, labels: bool) -> np.ndarray:
    dtype = column.dtype
    if hasattr(dtype, "pyarrow_dtype"):
        return _arrow_column(getattr(column, "array", column).__arrow_array__(), labels)
    masked = getattr(dtype, "numpy_dtype", None)  # of Float32, Int64, boolean and the like
    if masked is not None:
        if not column.isna().any():
            return column.to_numpy(masked)
        if masked.kind != "f":
            _refuse_missing_classes(labels, column.isna(), "fillna")
            masked = np.dtype(np.float32 if masked.kind == "b" else np.float64)
        return column.to_numpy(masked, na_value=np.nan)
    if dtype.name == "category":
        _refuse_missing_classes(labels, column.isna(), "cat.add_categories(-100).fillna")
        if dtype.categories.dtype.kind not in "biuf":
            raise TypeError(f"it must hold numbers, got categories of {dtype.categories.dtype}; "
                            "`.cat.codes` numbers them")
    array = np.asarray(column)
    if array.dtype == object and any(isinstance(entry, _LISTS) for entry in array):
        return _stacked(array)
    return _numbers(array, dtype, ".astype(np.float32)")


def _stacked(column: np.ndarray) -> np.ndarray:
    """Stack the lists of a column (m,) of objects."""
    for i, row in enumerate(column):
        if not isinstance(row, _LISTS):
            raise ValueError(f"its lists must be all there, got {_short(row)} in row {i}")
    lengths = [len(row) for row in column]
    _refuse_ragged(min(lengths), max(lengths))
    matrix = np.stack([np.asarray(row) for row in column])
    refuse_objects(matrix)
    return matrix


# polars


def _polars(value: Any, labels: bool) -> np.ndarray | None:
    if hasattr(value, "collect_schema") and hasattr(value, "collect"):
        raise TypeError("it is lazy; `.collect()` makes a DataFrame of it")
    if hasattr(value, "get_columns"):
        kinds = set(value.dtypes)
        if len(kinds) == 1 and kinds.pop().is_float():
            return value.to_numpy()  # a view, or put together by polars
        columns = ((column.name, column) for column in value.get_columns())
        return _matrix(columns, value.height, _polars_column, labels)
    if hasattr(value, "null_count") and hasattr(value, "to_numpy"):
        return _polars_column(value, labels)
    return None


def _polars_column(column: Any, labels: bool) -> np.ndarray:
    polars = sys.modules["polars"]
    dtype = column.dtype
    if isinstance(dtype, (polars.List, polars.Array)):
        return _polars_lists(column, labels)
    if isinstance(dtype, (polars.Categorical, polars.Enum)):
        raise TypeError(f"it must hold numbers, got {dtype}; `.to_physical()` gives their codes")
    if column.null_count() and not dtype.is_float():
        _refuse_missing_classes(labels, column.is_null(), "fill_null")
        if dtype == polars.Boolean:
            column = column.cast(polars.Float32)
    return _numbers(column.to_numpy(), dtype, ".cast(polars.Float32)")


def _polars_lists(column: Any, labels: bool) -> np.ndarray:
    _refuse_missing_lists(column.null_count())
    width = getattr(column.dtype, "size", None)
    if width is None:
        lengths = column.list.len()
        width = _refuse_ragged(lengths.min() or 0, lengths.max() or 0)
    if width == 0 or len(column) == 0:
        return np.empty((len(column), width))
    flat = _polars_column(column.explode(), labels)
    return flat.reshape(len(column), width, *flat.shape[1:])


# pyarrow


def _pyarrow(value: Any, labels: bool) -> np.ndarray | None:
    if hasattr(value, "columns") and hasattr(value, "schema"):
        columns = zip(value.schema.names, value.columns, strict=True)
        return _matrix(columns, value.num_rows, _arrow_column, labels)
    if hasattr(value, "null_count"):
        return _arrow_column(value, labels)
    return None


def _arrow_column(column: Any, labels: bool) -> np.ndarray:
    arrow = sys.modules["pyarrow"]
    if isinstance(column, arrow.ChunkedArray):
        return _arrow_chunks(column, labels)
    if isinstance(column, arrow.FixedShapeTensorArray):
        _refuse_missing_lists(column.null_count)
        return column.to_numpy_ndarray()
    if isinstance(column, arrow.ExtensionArray):
        return _arrow_column(column.storage, labels)
    if isinstance(column, arrow.DictionaryArray):
        return _arrow_column(column.dictionary_decode(), labels)
    if hasattr(column.type, "value_type"):  # lists of any kind
        return _arrow_lists(column, labels)
    kind = column.type
    if column.null_count and not arrow.types.is_floating(kind):
        _refuse_missing_classes(labels, column.is_null(), "fill_null")
        if arrow.types.is_boolean(kind):
            column = column.cast(arrow.float32())
    return _numbers(column.to_numpy(zero_copy_only=False), kind, ".cast(pyarrow.float32())")


def _arrow_chunks(column: Any, labels: bool) -> np.ndarray:
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not chunks:
        return _arrow_column(sys.modules["pyarrow"].array([], column.type), labels)
    parts = [_arrow_column(chunk, labels) for chunk in chunks]
    if parts[0].ndim > 1:
        widths = [part.shape[1] for part in parts]
        _refuse_ragged(min(widths), max(widths))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _arrow_lists(column: Any, labels: bool) -> np.ndarray:
    import pyarrow.compute

    _refuse_missing_lists(column.null_count)
    width = getattr(column.type, "list_size", None)
    if width is None:
        lengths = pyarrow.compute.min_max(pyarrow.compute.list_value_length(column)).as_py()
        width = _refuse_ragged(lengths["min"] or 0, lengths["max"] or 0)
    flat = _arrow_column(column.flatten(), labels)
    return flat.reshape(len(column), width, *flat.shape[1:])


_READERS = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}


def _matrix(columns: Iterable[tuple[Hashable, object]], m: int,
            read: Callable[[object, bool], np.ndarray], labels: bool) -> np.ndarray:
    """Columns side by side in the dtype that holds them all; a single one of lists as it is."""
    arrays = []
    for label, column in columns:
        try:
            arrays.append(read(column, labels))
        except (TypeError, ValueError) as error:
            raise type(error)(f"column {label!r}: {error}") from error
    if len(arrays) == 1 and arrays[0].ndim > 1:
        return arrays[0]
    if any(array.ndim > 1 for array in arrays):
        raise ValueError(f"it must have columns of numbers, or a single one of lists, got lists "
                         f"among {len(arrays)} columns")
    dtype = np.result_type(*{array.dtype for array in arrays} or [np.float64])
    whole = np.empty((m, len(arrays)), dtype, order="F")  # a column is written in one piece
    for j, array in enumerate(arrays):
        whole[:, j] = array
    return whole


def _numbers(array: np.ndarray, dtype: object, cast: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"it must hold numbers, got {dtype}; `{cast}` makes numbers of what "
                        "can be read as such")
    return array


def _refuse_missing_classes(labels: bool, missing: Any, fill: str) -> None:
    missing = np.asarray(missing)
    if labels and missing.any():
        raise ValueError(f"classes must be all there, none in row {missing.argmax()}; "
                         f"`.{fill}(-100)` gives such rows the default `ignore_index`")


def _refuse_missing_lists(count: int) -> None:
    if count:
        raise ValueError(f"its lists must be all there, {count} are missing")


def _refuse_ragged(shortest: int, longest: int) -> int:
    if shortest != longest:
        raise ValueError(f"its lists must be equally long, got {shortest} to {longest} entries")
    return longest
