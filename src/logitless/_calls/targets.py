"""Targets: class indices, or class probabilities dense or sparse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays.bfloat16 import BFLOAT16, is_bfloat16, widened
from .._arrays.checks import as_array, check_integer, compute_dtype
from .._arrays.frames import remedy
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse import SparseRows, is_sparse, one_hot_index, read_sparse

_INT64 = np.dtype(np.int64)
_BLOCK_VALUES = 1 << 18  # what is checked at a time
_IGNORED = -100  # unless the caller says otherwise


@dataclass(slots=True)
class Targets:
    """Checked targets of m rows.

    Attributes
    ----------
    index : ndarray of int64, shape (m, 1), or None
        Class of each row, -1 where it is ignored or, beside `probs`, not
        one-hot. None where no row is one-hot.
    rows : int
        Number of rows, m.
    counted : int
        Rows that count.
    probs : Rows or SparseRows (m, n), or None
        Class probabilities, unless all rows are one-hot.
    soft : bool
        The targets were given as class probabilities.
    """

    index: np.ndarray | None
    rows: int
    counted: int
    probs: Rows | SparseRows | None = None
    soft: bool = False


def check_target(
    target: Any, lead: tuple[int, ...], n: int, dtype: np.dtype, ignore_index: int
) -> Targets:
    """Class indices of shape `lead`, or float class probabilities of shape `lead` + (n,)."""
    index, counted, rows = read_target(target, lead, n, dtype, ignore_index, n)
    if rows is not None:
        return _distributions(index, rows)
    return Targets(index, len(index), counted)


def read_target(
    target: Any, lead: tuple[int, ...], n: int, dtype: np.dtype, ignore_index: int, most: int
) -> tuple[np.ndarray, int, Rows | SparseRows | None]:
    """Class indices below `most`, (m, 1), and how many count; class probabilities of n classes.

    Beside probabilities the index is -1 for rows that are not one-hot.
    """
    if type(ignore_index) is not int:
        ignore_index = check_integer(ignore_index, "ignore_index")
    array: np.ndarray = target
    if type(target) is not np.ndarray:
        if is_sparse(target):
            _check_nothing_ignored(ignore_index)
            rows = read_sparse(target, (math.prod(lead), n), dtype)
            return one_hot_index(rows).reshape(-1, 1), rows.m, rows
        array = _target_array(target)
    kind = array.dtype.kind
    if kind not in "iu":
        index, of_array = _check_probabilities(array, lead, n, dtype)
        _check_nothing_ignored(ignore_index)
        return index, of_array.m, of_array
    if array.shape != lead:
        hint = ""
        if array.shape == (*lead, n):
            hint = ("; `.astype(np.float32)` makes class probabilities of it, `.argmax(axis=-1)` "
                    "class indices of one-hot rows")
        raise ValueError(
            f"`target` of class indices must have shape {lead}, got {array.shape}{hint}"
        )
    index = check_index(array, most, ignore_index)
    counted = index.size if index is array else _count(index)  # a copy may have ignored rows
    return index.reshape(-1, 1), counted, None


def _check_nothing_ignored(ignore_index: int) -> None:
    if ignore_index != _IGNORED:
        raise ValueError("`ignore_index` must be left alone with class probabilities, of which "
                         f"none is ignored, got {ignore_index}; see `sample_weight`")


def _count(index: np.ndarray) -> int:
    return int(np.count_nonzero(index >= 0))


def _target_array(target: object) -> np.ndarray:
    array = as_array(target, "target")
    if array.size == 0 and isinstance(target, (list, tuple)):
        return array.astype(np.int64)  # NumPy reads [] as float64
    return array


def check_candidates(target: object, lead: tuple[int, ...], n: int) -> np.ndarray | None:
    """Candidate classes `lead` + (j,) as int64 (m, j); None where it is for `check_target`."""
    if is_sparse(target):
        return None
    array = _target_array(target)
    if array.dtype.kind not in "iu" or array.ndim != len(lead) + 1:
        return None
    if array.shape[:-1] != lead:
        raise ValueError(f"`target` must have shape {lead} or {lead} + (j,), got {array.shape}")
    return check_index(array, n, None).reshape(math.prod(lead), array.shape[-1])


def check_taken(classes: object, n: int) -> np.ndarray:
    """Classes to make a head of."""
    array = as_array(classes, "classes")
    if array.ndim != 1 or array.size == 0:
        raise ValueError("`classes` must have shape (j,) with at least one class, "
                         f"got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"`classes` must be integers, got {array.dtype}")
    bad = (array < 0) | (array >= n)
    if bad.any():
        first = int(bad.argmax())
        raise IndexError(f"`classes` must be in [0, {n}), got {array[first]} at position {first}")
    return array.astype(np.intp)


def check_index(array: np.ndarray, n: int, ignore_index: int | None,
                name: str = "target") -> np.ndarray:
    """Classes as contiguous int64, -1 where ignored; IndexError for any other outside [0, n).

    `ignore_index` None: candidate classes, the last axis going over those of a row.
    """
    if (
        array.dtype is _INT64
        and (ignore_index is None or ignore_index < 0)
        and array.flags.c_contiguous
        and array.flags.aligned
        # A negative label is a large unsigned one: a single pass checks both ends.
        and (array.size == 0 or np.maximum.reduce(array.view(np.uint64), axis=None) < n)
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
        if name != "target":  # what is ignored is no option then
            also = f" or {ignore_index}"
        raise IndexError(
            f"`{name}` must hold classes in [0, {n}){also}, got {array[where]}{_in_row(row)}"
        )
    index = array.astype(np.int64, order="C")
    if ignored is not None:
        index[ignored] = -1
    return index


def _in_row(row: tuple[int, ...]) -> str:
    return f" in row {row[0] if len(row) == 1 else row}" if row else ""


def _check_probabilities(
    array: np.ndarray, lead: tuple[int, ...], n: int, dtype: np.dtype
) -> tuple[np.ndarray, Rows]:
    shape = (*lead, n)
    if array.dtype.kind != "f" and not is_bfloat16(array.dtype):
        hint = remedy(array.dtype)
        if array.dtype.kind == "b":
            hint = ("; `.astype(np.int64)` makes class indices of it" if array.shape == lead else
                    "; `.astype(np.float32)` makes class probabilities of it")
        raise TypeError(
            f"`target` must be integer class indices {lead} or float class probabilities {shape}, "
            f"got {array.dtype}{hint}"
        )
    compute_dtype(array.dtype, "target")
    if array.ndim == len(lead):
        raise TypeError(
            f"`target` of shape {array.shape} must be integer class indices, got {array.dtype}"
            f"{_not_whole(array)}; class probabilities must have shape {shape}"
        )
    if array.shape != shape:
        raise ValueError(
            f"`target` of class probabilities must have shape {shape}, got {array.shape}"
        )
    rows = Rows(array)
    index = np.full((rows.m, 1), -1, _INT64)
    for block in row_blocks(rows.m, rows):
        _check_distribution(rows[block], block.start, dtype, index[block, 0])
    return index, rows


def _not_whole(labels: np.ndarray) -> str:
    """Tell how float labels become class indices, or which of them are none."""
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(labels) | (labels != np.floor(labels))
    if not bad.any():
        return ": `.astype(np.int64)`"
    where = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))
    return f" with {labels[where]}{_in_row(where)}"


def _distributions(index: np.ndarray, rows: Rows | SparseRows) -> Targets:
    """Targets of class probabilities, of which `index` tells the one-hot rows."""
    m, one_hot = rows.m, _count(index)
    if one_hot == m:
        return Targets(index, m, m, soft=True)
    return Targets(index if one_hot else None, m, m, rows, soft=True)


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
            if piece.dtype == BFLOAT16:
                piece = widened(piece)
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
