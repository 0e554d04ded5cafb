"""Which classes come before which: the largest logit first, the lowest index among equals."""

from __future__ import annotations

import numpy as np


def before(z: np.ndarray, lo: int, target: np.ndarray, logit: np.ndarray,
           excluded: np.ndarray | None) -> np.ndarray:
    """How many of the classes from `lo` on come before the target of each row."""
    index = np.arange(lo, lo + z.shape[1])
    target, logit = target[:, None], logit[:, None]
    nan = np.isnan(z)
    larger = (z > logit) | nan
    larger &= ~np.isnan(logit)
    equal = (z == logit) | (nan & np.isnan(logit))
    equal &= index < target
    larger &= index != target
    larger |= equal
    if excluded is not None:
        larger &= ~excluded
    return np.count_nonzero(larger, axis=1)


def best_columns(z: np.ndarray, k: int, excluded: np.ndarray | None = None) -> np.ndarray:
    """Columns (r, k) of the k largest: best first, NaN before all, the first of equals.

    What is excluded comes last, whatever it is.
    """
    rank = _descending(z)
    if excluded is not None:
        rank[np.broadcast_to(excluded, rank.shape)] = np.iinfo(rank.dtype).max
    if k < z.shape[1]:
        last = np.partition(rank, k - 1, axis=1)[:, k - 1, None]
        chosen = rank < last
        equal = rank == last
        room = k - np.count_nonzero(chosen, axis=1)[:, None]
        equal &= np.cumsum(equal, axis=1, dtype=np.int32) <= room
        chosen |= equal
        column = np.nonzero(chosen)[1].reshape(-1, k)
        rank = rank[chosen].reshape(-1, k)
    else:
        column = np.broadcast_to(np.arange(k), z.shape)
    order = np.argsort(rank, axis=1, kind="stable")
    return np.take_along_axis(column, order, 1)


def _descending(z: np.ndarray) -> np.ndarray:
    """Integers that are smaller the larger z is, and smallest where it is NaN."""
    whole = np.dtype(f"i{z.dtype.itemsize}")
    bits = (z + 0).view(whole)  # + 0: -0 equals 0
    # Negative floats, as integers, grow with their magnitude: turn them round.
    bits ^= (bits >> (8 * whole.itemsize - 1)) & np.iinfo(whole).max
    np.invert(bits, out=bits)
    bits[np.isnan(z)] = np.iinfo(whole).min
    return bits
