"""Arguments to checked arrays: a clear error here, or never."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import numpy as np

# By type number, which byte order and metadata leave alone.
_COMPUTE = {
    np.dtype(code).num: np.dtype(wide)
    for codes, wide in (("?bBhHef", np.float32), ("iIlLqQd", np.float64))
    for code in codes
}
_INT64 = np.dtype(np.int64)
_REDUCTIONS = ("none", "sum", "mean", "batch_mean")
_HOST_MEMORY = (1, 3, 11)  # DLPack: CPU, CUDA's and ROCm's pinned host memory
_BLOCK_BYTES = 4 << 20  # what may be copied at a time
_BLOCK_VALUES = 1 << 18  # what is checked at a time


def as_array(value: object, name: str) -> np.ndarray:
    """`value` as an ndarray, without a copy where it already is an array of some library."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"`{name}` must be a plain array, got a masked one; fill it first")
        return np.asarray(value)
    kind = type(value).__name__
    if getattr(value, "requires_grad", False):
        raise TypeError(f"`{name}` requires grad; detach it first: `{name}.detach()`")
    if hasattr(value, "toarray") and hasattr(value, "nnz"):
        raise TypeError(f"`{name}` must be dense, got a sparse {kind}; see its `.toarray()`")
    try:
        if hasattr(value, "__dlpack_device__"):
            device = int(value.__dlpack_device__()[0])
            if device not in _HOST_MEMORY:
                raise TypeError(f"it must be in CPU memory, is on DLPack device type {device}")
            if not hasattr(value, "__array__"):
                return np.from_dlpack(value)
        return np.asarray(value)
    except MemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be read as an array: {error}") from error
    except Exception as error:  # whatever the other library raises
        raise TypeError(f"`{name}` ({kind}) cannot be read as an array: {error}") from error


def compute_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """float32 or float64: what an array of `dtype` is computed in."""
    wide = _COMPUTE.get(dtype.num)
    if wide is not None:
        return wide
    if dtype.name == "bfloat16":  # of ml_dtypes
        return np.dtype(np.float32)
    raise TypeError(
        f"`{name}` must be float16, bfloat16, float32, float64, bool or integer, got {dtype}"
    )


class Rows:
    """An array seen as rows (m, n) over its last axes, never copied as a whole.

    Attributes
    ----------
    whole : ndarray, shape (m, n), or None
        A view of all rows (a single row may be a copy); None where the
        strides do not allow one.
    lead : tuple of int
        The shape of the leading axes, which make the rows.
    """

    __slots__ = ("_array", "dtype", "lead", "m", "n", "whole")

    def __init__(self, array: np.ndarray, trailing: int = 1):
        self._array = array
        self.dtype = array.dtype
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

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows start to stop: a view, or a copy where there is no view of all."""
        if self.whole is not None:
            return self.whole[rows]
        where = np.unravel_index(np.arange(rows.start, rows.stop), self.lead)
        return self._array[where].reshape(-1, self.n)

    @property
    def row_bytes(self) -> int:
        return self.n * self.dtype.itemsize


def _merges(array: np.ndarray, first: int, last: int) -> bool:
    """Whether axes first..last-1 can be seen as one axis without a copy."""
    if array.size == 0:
        return True
    sizes = zip(array.shape[first:last], array.strides[first:last], strict=True)
    axes = [(size, stride) for size, stride in sizes if size != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(axes))


def row_blocks(m: int, *arrays: Rows) -> Iterator[slice]:
    """Ranges of rows of which a copy from each of the arrays stays small."""
    step = max(1, _BLOCK_BYTES // max(1, *(a.row_bytes for a in arrays)))
    return (slice(first, min(first + step, m)) for first in range(0, m, step))


def check_x(x: object, n_features: int) -> np.ndarray:
    x = as_array(x, "x")
    if x.ndim == 0:
        raise ValueError(f"`x` must have shape (..., {n_features}), got a scalar")
    if x.shape[-1] != n_features:
        raise ValueError(
            f"`weight.shape[1]` must equal `x.shape[-1]` ({x.shape[-1]}), got {n_features}"
        )
    return x


def check_weight(weight: object, bias: object) -> tuple[np.ndarray, np.ndarray | None]:
    weight = as_array(weight, "weight")
    compute_dtype(weight.dtype, "weight")
    if weight.ndim != 2:
        raise ValueError(
            f"`weight` must have shape (n_classes, n_features), got shape {weight.shape}"
        )
    if weight.shape[0] == 0:
        raise ValueError(f"`weight` must have at least one class, got shape {weight.shape}")
    if bias is None:
        return weight, None
    bias = as_array(bias, "bias")
    compute_dtype(bias.dtype, "bias")
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"`bias` must have shape (weight.shape[0],) = {weight.shape[:1]}, got {bias.shape}"
        )
    return weight, bias


def check_classes(array: np.ndarray, name: str) -> np.ndarray:
    """Logits or probabilities (..., n), at least one class."""
    compute_dtype(array.dtype, name)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"`{name}` must have shape (..., n) with at least one class, got shape {array.shape}"
        )
    return array


def check_positive(value: object, name: str) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value}")
    return float(value)


def check_integer(value: object, name: str, least: int | None = None, most: int | None = None):
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be {limits}, got {number}")
    return number


def check_axis(axis: object, ndim: int) -> tuple[int, ...]:
    """`axis` (int, tuple of int or None) as distinct axes, none negative."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(check_integer(a, "axis") for a in axes)
    if not all(-ndim <= a < ndim for a in axes):
        raise ValueError(f"`axis` must be within [-{ndim}, {ndim}), got {axis}")
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"`axis` must not name an axis twice, got {axis}")
    return axes


def check_reduction(reduction: object) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {_REDUCTIONS}, got {reduction!r}")


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"`out` must be an ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"`out` must be {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"`out` must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("`out` must be writeable, got a read-only array")


@dataclass(slots=True)
class Targets:
    """Checked targets of m rows.

    Attributes
    ----------
    index : ndarray of int64, shape (m, 1), or None
        Class of each row, -1 where it is ignored or, beside `probs`, not
        one-hot. None where no row is one-hot.
    counted : int
        Rows that count.
    probs : Rows (m, n) or None
        Class probabilities, unless all rows are one-hot.
    """

    index: np.ndarray | None
    counted: int
    probs: Rows | None = None


def check_target(
    target: object, lead: tuple[int, ...], n: int, dtype: np.dtype, ignore_index: int
) -> Targets:
    """Class indices of shape `lead`, or float class probabilities of shape `lead` + (n,)."""
    ignore_index = check_integer(ignore_index, "ignore_index")
    array = _target_array(target)
    kind = array.dtype.kind
    if kind not in "iu":
        return _check_probabilities(array, lead, n, dtype)
    if array.shape != lead:
        hint = "; class probabilities must be of a float dtype" if array.ndim > len(lead) else ""
        raise ValueError(
            f"`target` of class indices must have shape {lead}, got {array.shape}{hint}"
        )
    index = check_index(array, n, ignore_index)
    counted = index.size if index is array else _count(index)  # a copy may have ignored rows
    return Targets(index.reshape(-1, 1), counted)


def _count(index: np.ndarray) -> int:
    return int(np.count_nonzero(index >= 0))


def _target_array(target: object) -> np.ndarray:
    array = as_array(target, "target")
    if array.size == 0 and isinstance(target, (list, tuple)):
        return array.astype(np.int64)  # NumPy reads [] as float64
    return array


def check_candidates(target: object, lead: tuple[int, ...], n: int) -> np.ndarray | None:
    """Candidate classes `lead` + (j,) as int64 (m, j); None where it is for `check_target`."""
    array = _target_array(target)
    if array.dtype.kind not in "iu" or array.ndim != len(lead) + 1:
        return None
    if array.shape[:-1] != lead:
        raise ValueError(f"`target` must have shape {lead} or {lead} + (j,), got {array.shape}")
    return check_index(array, n, None).reshape(math.prod(lead), array.shape[-1])


def check_index(array: np.ndarray, n: int, ignore_index: int | None) -> np.ndarray:
    """Classes as contiguous int64, -1 where ignored; IndexError for any other outside [0, n).

    `ignore_index` None: candidate classes, the last axis going over those of a row.
    """
    if (
        array.dtype is _INT64
        and (ignore_index is None or ignore_index < 0)
        and array.flags.c_contiguous
        and array.flags.aligned
        # A negative label is a large unsigned one: a single pass checks both ends.
        and (array.size == 0 or array.view(np.uint64).max() < n)
    ):
        return array
    bad = (array < 0) | (array >= n)
    ignored = None
    if ignore_index is not None:
        ignored = array == ignore_index
        bad &= ~ignored
    if bad.any():
        where = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))
        row = where[:-1] if ignore_index is None else where  # candidates have a column too
        also = "" if ignore_index is None else f" or ignore_index ({ignore_index})"
        raise IndexError(
            f"`target` must hold classes in [0, {n}){also}, got {array[where]}{_in_row(row)}"
        )
    index = array.astype(np.int64, order="C")
    if ignored is not None:
        index[ignored] = -1
    return index


def _in_row(row: tuple[int, ...]) -> str:
    return f" in row {row[0] if len(row) == 1 else row}" if row else ""


def _check_probabilities(
    array: np.ndarray, lead: tuple[int, ...], n: int, dtype: np.dtype
) -> Targets:
    shape = (*lead, n)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"`target` must be integer class indices {lead} or float class probabilities {shape}, "
            f"got {array.dtype}"
        )
    compute_dtype(array.dtype, "target")
    if array.ndim == len(lead):
        raise TypeError(
            f"`target` of shape {array.shape} must be integer class indices, got {array.dtype}; "
            f"class probabilities must have shape {shape}"
        )
    if array.shape != shape:
        raise ValueError(
            f"`target` of class probabilities must have shape {shape}, got {array.shape}"
        )
    rows = Rows(array)
    index = np.full((rows.m, 1), -1, _INT64)
    for block in row_blocks(rows.m, rows):
        _check_distribution(rows[block], block.start, dtype, index[block, 0])
    one_hot = _count(index)
    if one_hot == rows.m:
        return Targets(index, rows.m)
    return Targets(index if one_hot else None, rows.m, rows)


def _check_distribution(p: np.ndarray, row: int, dtype: np.dtype, index: np.ndarray) -> None:
    """Check p (r, n), whose first row is row `row`; `index` becomes the class of one-hot rows.

    What counts is the value in the precision of the computation: one that
    overflows there is not finite, one that rounds to 1 is 1.
    """
    n = p.shape[1]
    rows = max(1, _BLOCK_VALUES // n)
    for first in range(0, len(p), rows):
        part = p[first : first + rows]
        nonzero = np.zeros(len(part), _INT64)
        found = index[first : first + rows]
        for lo in range(0, n, _BLOCK_VALUES):
            piece = part[:, lo : lo + _BLOCK_VALUES]
            with np.errstate(all="ignore"):
                t = np.asarray(piece, dtype)
                good = t.min() >= 0 and t.max() < math.inf
                if not good:
                    i, c = np.argwhere(~((t >= 0) & (t < math.inf)))[0]
                    raise ValueError(
                        f"`target` entries must be finite (in {dtype}) and >= 0, "
                        f"got {piece[i, c]} in row {row + first + i}, class {lo + c}"
                    )
            nonzero += np.count_nonzero(t, axis=1)
            if nonzero.min() > 1:
                continue
            best = t.argmax(axis=1)
            is_one = t[np.arange(len(t)), best] == 1
            found[is_one] = best[is_one] + lo
        found[nonzero != 1] = -1
