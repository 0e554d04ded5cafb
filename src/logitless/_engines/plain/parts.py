"""A pass over some of the classes in plain NumPy, and what such passes have found put together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..._arrays.sparse_x import SparseX
from ..interface import Part, Request, State
from .layer import Layer
from .order import before, best_columns
from .scoring import TILE, RowState, copy_limits, cut, spans, tiles
from .sparse import dense


def part(
    layer: Layer, x: np.ndarray | SparseX, request: Request, apart: bool, n_threads: int | None
) -> Part:
    """What `request` asks for, of the rows of x (m, k), as far as other classes can be merged.

    All classes are one span, in float64 as ever.
    """
    m, n = len(x), layer.n_classes
    found, tile_of = _nothing(request, m), tiles(layer, x, request)
    blocks, classes = cut(m, n, request, *copy_limits(layer, x, request.dtype), n_threads)
    with np.errstate(all="ignore"):
        for rows in blocks:
            own, tile = request.rows(rows), tile_of(rows)
            state = RowState(rows.stop - rows.start, own)
            for lo, hi in spans(n, classes):
                z = tile(lo, hi)
                state.add(z, lo, None)
                if found.rank is not None:
                    assert own.targets is not None  # whose ranks these are
                    assert own.known is not None
                    found.rank[rows] += before(z, lo, own.targets[:, 0], own.known, None)
            _put(found, rows, state)
    return found


def _nothing(request: Request, m: int) -> Part:
    """Room for m rows."""
    sums = np.empty((1, len(_sums(RowState(0, request.rows(slice(0, 0))))), m))
    part = Part(sums, np.empty(m, request.dtype), np.empty(m, np.int64))
    if request.rank:
        part.rank = np.zeros(m, np.int64)
    if request.targets is not None:
        part.target_logit = np.empty(m, request.dtype)
    if request.k:
        part.top_logit = np.full((m, request.k), math.nan, request.dtype)
        part.top_index = np.full((m, request.k), -1, np.int64)
    return part


def _sums(state: RowState) -> list[np.ndarray]:
    """What is summed of some rows, in the order of the kernels' fields, the largest logit first."""
    found = [state.max, state.rest]
    if state.request.entropy:
        found.append(state.slope)
    if state.probs is not None:
        found += [state.soft.mass, state.soft.gap]
    if state.smooth is not None:
        found += [state.smooth.mass, state.smooth.gap]
    return found


def _put(part: Part, rows: slice, state: RowState) -> None:
    """Put what some rows have found out where it belongs."""
    part.sums[0][:, rows] = _sums(state)
    part.max[rows], part.argmax[rows] = state.max, state.argmax
    if part.target_logit is not None:
        part.target_logit[rows] = state.target_logit[:, 0]
    if part.top_logit is not None:
        found = state.top_index.shape[1]
        part.top_logit[rows, :found] = state.top_logit
        part.top_index[rows, :found] = state.top_index


def target_logits(
    layer: Layer, x: np.ndarray | SparseX, request: Request, n_threads: int | None
) -> np.ndarray:
    """Logits of the first target of each row."""
    assert request.targets is not None  # whose logits these are
    found = np.empty(len(x), request.dtype)
    with np.errstate(all="ignore"):
        for lo, hi in spans(len(x), max(1, TILE // max(1, layer.n_features))):
            own = request.rows(slice(lo, hi))
            assert own.targets is not None
            found[lo:hi] = layer.logits_of(dense(x[lo:hi], request.dtype), own.targets[:, 0],
                                           own.temperature)[:, 0]
    return found


def fold(request: Request, sums: np.ndarray | None, later: np.ndarray) -> np.ndarray:
    """Merge spans with all there is before them."""
    with np.errstate(all="ignore"):
        for span in later:
            sums = span.copy() if sums is None else _merged(request, sums, span)
    assert sums is not None  # there is a span
    return sums


def _merged(request: Request, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums relative to the largest logit of both."""
    leads = (b[0] > a[0]) | (np.isnan(b[0]) & ~np.isnan(a[0]))
    high, low = np.where(leads, b, a), np.where(leads, a, b)
    distance = np.where(low[0] == -math.inf, -math.inf, low[0] - high[0])
    fade = np.exp(distance)
    behind = 1 + low[1]
    both = high.copy()
    both[1] += fade * behind
    row = 2
    if request.entropy:
        both[2] += np.where(fade == 0, 0, fade * (low[2] + distance * behind))
        row = 3
    for mass in range(row, len(both), 2):
        both[mass] = a[mass] + b[mass]
        moved = low[mass] * np.where(np.isfinite(distance), distance, 0)
        both[mass + 1] = a[mass + 1] + b[mass + 1] - moved
    return both


def merge_top(part: Part, other: Part) -> tuple[np.ndarray, np.ndarray]:
    """The best classes of both, best first."""
    k = part.top_logit.shape[1]
    logit = np.concatenate([part.top_logit, other.top_logit], axis=1)
    index = np.concatenate([part.top_index, other.top_index], axis=1)
    # By class, so that the first of equals is the lowest; empty places last, as the worst there is.
    order = np.argsort(np.where(index < 0, np.iinfo(np.int64).max, index), axis=1, kind="stable")
    logit, index = np.take_along_axis(logit, order, 1), np.take_along_axis(index, order, 1)
    rank = np.where(index < 0, -math.inf, logit)
    best = best_columns(rank, k)
    return np.take_along_axis(logit, best, 1), np.take_along_axis(index, best, 1)


def finish(request: Request, n: int, sums: np.ndarray, part: Part) -> State:
    """Make results of what n classes have been merged to."""
    m = sums.shape[1]
    state = RowState(m, replace(request, rank=False))
    state.max, state.argmax = part.max, part.argmax.astype(np.intp)
    state.rest = sums[1].copy()
    row = 2
    if request.entropy:
        state.slope, row = sums[2], 3
    for gap in (state.soft if request.probs is not None else None, state.smooth):
        if gap is not None:
            gap.mass, gap.gap = sums[row], sums[row + 1]
            row += 2
    if request.targets is not None:
        state.target_logit = part.target_logit[:, None]
    if request.k:
        state.top_index, state.top_logit = part.top_index, part.top_logit
    with np.errstate(all="ignore"):
        found = state.finish()
    if request.rank:
        assert request.targets is not None
        found.target_rank = np.where((request.targets[:, 0] < 0) | ~np.isfinite(state.max), -1,
                                     part.rank)
    return found
