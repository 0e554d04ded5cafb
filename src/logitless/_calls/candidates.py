"""The best of some classes of each row."""

from __future__ import annotations

import math

import numpy as np

from .._arrays.checks import as_array, plain
from .._arrays.exclusions import Exclusions
from .._engines.choice import engine
from .._engines.interface import Request
from ..results import TopK
from .batch import Batch

_INT64 = np.dtype(np.int64)


def check_ranked(candidates: object, lead: tuple[int, ...], n: int) -> np.ndarray:
    """Check candidates `lead` + (j,) of n classes: int64 (m, j), ascending, -1 for none.

    A class that a row names more than once is there once.
    """
    array = as_array(candidates, "candidates")
    if array.size == 0 and isinstance(candidates, (list, tuple)):
        array = array.astype(_INT64)  # NumPy reads [] as float64
    if array.dtype.kind not in "iu":
        raise TypeError(f"`candidates` must be integers, got {array.dtype}")
    if array.ndim == 0 or array.shape[:-1] != lead:
        raise ValueError(f"`candidates` must have shape {(*lead, 'j')}, got {array.shape}"
                         .replace("'", ""))
    bad = (array < -1) | (array >= n)
    if bad.any():
        where = tuple(map(int, np.unravel_index(int(bad.argmax()), bad.shape)))
        row = f" in row {where[0] if len(lead) == 1 else where[:-1]}" if lead else ""
        raise IndexError(f"`candidates` must hold classes in [0, {n}) or -1, "
                         f"got {array[where]}{row}")
    rows = array.reshape(math.prod(lead), array.shape[-1]).astype(_INT64, order="C")
    index = np.sort(rows, axis=1)  # which keeps the order in memory, that engines read by
    index[:, 1:][index[:, 1:] == index[:, :-1]] = -1
    return index


def best_of(rows: Batch, candidates: np.ndarray, k: int, normalize: bool,
            n_threads: int | None) -> TopK:
    """Rank candidates (m, j) that `check_ranked` has made: the k best, (m, k)."""
    m, j = candidates.shape
    best = TopK(np.full((m, k), -1, np.intp), np.full((m, k), -math.inf, rows.dtype),
                np.full((m, k), -math.inf, rows.dtype) if normalize else None)
    if rows.exclude is not None:
        candidates = np.where(rows.exclude.holds(candidates), -1, candidates)
    if not candidates.size:
        return best
    state = rows.run(Request(rows.dtype, sums=normalize, targets=candidates))
    # They ascend, so that places among them are in the order of classes.
    none = candidates < 0
    start = np.append(0, np.cumsum(np.count_nonzero(none, axis=1))).astype(_INT64)
    left_out = Exclusions(start, plain(np.nonzero(none)[1], _INT64), j, False)
    request = Request(rows.dtype, sums=False, k=min(k, j), exclude=left_out)
    ranked = engine.score_logits(state.target_logit, request, n_threads)
    place, found = ranked.top_index, ranked.top_index >= 0
    index = np.take_along_axis(candidates, place, 1)  # of place -1 the last, which does not count
    best.index[:, : min(k, j)] = np.where(found, index, -1)
    best.logit[:, : min(k, j)] = ranked.top_logit
    if best.log_prob is not None:
        log_prob = 0 - np.take_along_axis(state.target_loss, place, 1)
        best.log_prob[:, : min(k, j)] = np.where(found, log_prob, -math.inf)
    return best
