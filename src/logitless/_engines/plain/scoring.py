"""Scoring in plain NumPy.

Logits are made a tile (rows x classes) at a time and folded, in class order, into
what each row remembers: the online softmax of M. Milakov and N. Gimelshein, "Online
normalizer calculation for softmax", 2018. Tiles are small, so no shape needs more
than about 16 MB beyond its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._arrays.sparse import SparseRows
from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ..interface import Request, State, gathered
from .layer import Layer, as_column, is_plain
from .order import before, best_columns
from .sparse import most_entries, some_rows

TILE = 1 << 18  # logits in a tile, and values converted at a time
NARROW = 512  # classes in a tile of many rows

# The logits of classes lo to hi, for some rows: Tile(lo, hi) -> (r, hi - lo).
Tile = Callable[[int, int], np.ndarray]


def _score(
    m: int,
    n: int,
    tile_of: Callable[[slice], Tile],
    request: Request,
    row_limit: int,
    class_limit: int,
    n_threads: int | None,
) -> State:
    blocks, classes = cut(m, n, request, row_limit, class_limit, n_threads)
    with np.errstate(all="ignore"):  # special values are dealt with, not warned of
        return gathered(m, (
            (b, _score_rows(b.stop - b.start, n, classes, tile_of(b), request.rows(b)))
            for b in blocks
        ))


def cut(m: int, n: int, request: Request, row_limit: int, class_limit: int,
        n_threads: int | None) -> tuple[list[slice], int]:
    """Blocks of rows, and how many classes of them there are to a tile."""
    pool.resolve(n_threads)  # BLAS has threads of its own, but a bad setting is an error
    wanted = max(request.k, 0 if request.targets is None else request.targets.shape[1], 1)
    rows = max(1, min(TILE // min(n, NARROW), TILE // wanted, row_limit))
    classes = max(1, min(TILE // min(rows, max(m, 1)), class_limit))
    # m = 0 still gives a state, of no rows.
    return [slice(first, min(first + rows, m)) for first in range(0, max(m, 1), rows)], classes


def _score_rows(m: int, n: int, classes: int, tile: Tile, request: Request) -> State:
    """Find the state of a block of m rows, which `request` is about."""
    rows = RowState(m, request)
    out, excluded = request.out, None
    for lo, hi in spans(n, classes):
        z, excluded = _left(request, tile, lo, hi)
        rows.add(z, lo, excluded)
        if out is not None:
            out[:, lo:hi] = z
    state = rows.finish()
    if request.rank:
        assert rows.targets is not None  # whose ranks these are
        state.target_rank = np.zeros(len(rows.max), np.int64)
        for lo, hi in spans(n, classes):
            # The ranks need the target's logit, so a second look at the tiles.
            if classes < n:
                z, excluded = _left(request, tile, lo, hi)
            state.target_rank += before(z, lo, rows.targets[:, 0], rows.target_logit[:, 0],
                                        excluded)
        if request.exclude is not None:
            last = request.exclude.holds(rows.targets[:, :1])[:, 0]
            state.target_rank[last] = (n - request.exclude.counts + 0 * rows.argmax)[last]
        state.target_rank[(rows.targets[:, 0] < 0) | ~np.isfinite(rows.max)] = -1
    if request.write in ("log_proba", "proba"):
        out -= rows.max[:, None]
        if request.write == "log_proba":
            out -= state.log_norm[:, None]
        else:
            np.exp(out, out=out)
            out /= 1 + rows.rest[:, None]
    return state


def _left(
    request: Request, tile: Tile, lo: int, hi: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits of classes lo to hi, -inf for those that are excluded, and which these are."""
    z = tile(lo, hi)
    if request.exclude is None:
        return z, None
    excluded = request.exclude.mask(lo, hi)
    return np.where(excluded, z.dtype.type(-math.inf), z), excluded


def spans(n: int, classes: int) -> Iterator[tuple[int, int]]:
    """First and last class of successive tiles."""
    return ((lo, min(lo + classes, n)) for lo in range(0, n, classes))


class RowState:
    """What the rows of a block remember between tiles.

    `rest` is the sum of exp(z - max) over all classes so far but the one at
    `max`; `slope` that of exp(z - max) * (z - max), `square` that of
    exp(z - max) * (z - max)**2. Sums over many tiles lose
    digits in float32, so they are held in float64.
    """

    def __init__(self, m: int, request: Request):
        self.request = request
        dtype = request.dtype
        self.max = np.full(m, -math.inf, dtype)
        self.argmax: np.ndarray = np.zeros(m, np.intp)
        self.dtype = dtype
        self.rest = np.zeros(m)
        self.slope = np.zeros(m)
        self.square = np.zeros(m)
        self.smooth = _Gap(m, dtype) if request.smooth else None
        self.targets, self.probs = request.targets, request.probs
        if self.targets is not None:
            self.target_logit = np.full(self.targets.shape, math.nan, dtype)
        if self.probs is not None:
            self.soft = _Gap(m, dtype)
        self.top_index: np.ndarray = np.empty((m, 0), np.int64)
        self.top_logit: np.ndarray = np.empty((m, 0), dtype)

    def add(self, z: np.ndarray, lo: int, excluded: np.ndarray | None) -> None:
        """Take in the logits z of the classes from `lo` on."""
        peak_at = z.argmax(axis=1)  # the first NaN where there is one
        peak = _at(z, peak_at)
        leads = (peak > self.max) | (np.isnan(peak) & ~np.isnan(self.max))
        top = np.where(leads, peak, self.max)
        if self.request.sums:
            self._add_sums(z, peak_at, peak, leads)
        if self.probs is not None:
            t = probs_tile(self.probs, lo, lo + z.shape[1], z.dtype)
            if self.request.class_weight is not None:
                t = t * self.request.class_weight[lo : lo + z.shape[1]]
            self.soft.add(t, z, peak, self.max, top)
        if self.smooth is not None:
            assert self.request.class_weight is not None  # of which the sum is
            weight = self.request.class_weight[None, lo : lo + z.shape[1]]
            if excluded is not None:
                weight = np.where(excluded, weight.dtype.type(0), weight)
            self.smooth.add(weight, z, peak, self.max, top)
        if self.targets is not None:
            row, j = np.nonzero((self.targets >= lo) & (self.targets < lo + z.shape[1]))
            self.target_logit[row, j] = z[row, self.targets[row, j] - lo]
        if self.request.k:
            best = best_columns(z, min(self.request.k, z.shape[1]), excluded)
            logit = np.concatenate([self.top_logit, np.take_along_axis(z, best, 1)], axis=1)
            added = best + lo
            if excluded is not None:
                added[np.take_along_axis(np.broadcast_to(excluded, z.shape), best, 1)] = -1
            index = np.concatenate([self.top_index, added], axis=1)
            best = best_columns(logit, min(self.request.k, logit.shape[1]), index < 0)
            self.top_index = np.take_along_axis(index, best, 1)
            self.top_logit = np.take_along_axis(logit, best, 1)
        self.max = top
        self.argmax = np.where(leads, peak_at + lo, self.argmax)

    def _add_sums(
        self, z: np.ndarray, peak_at: np.ndarray, peak: np.ndarray, leads: np.ndarray
    ) -> None:
        # A tile of nothing but -inf is measured against 0: its terms are 0 either way.
        gap = z - _finite(peak)[:, None]
        e = np.exp(gap)
        np.put_along_axis(e, peak_at[:, None], 0, axis=1)  # the largest is left out
        rest = e.sum(axis=1)
        high = np.where(leads, peak, self.max).astype(np.float64)
        low = np.where(leads, self.max, peak).astype(np.float64)
        distance = np.where(low == -math.inf, -math.inf, low - high)
        fade = np.exp(distance)
        behind = 1 + np.where(leads, self.rest, rest)
        if self.request.entropy:
            term = gap * e if self.request.square else np.multiply(gap, e, out=gap)
            term[e == 0] = 0  # -inf * 0
            slope = term.sum(axis=1)
            moment = np.where(leads, self.slope, slope)
            added = moment + distance * behind
            if self.request.square:
                term *= gap
                term[e == 0] = 0
                square = term.sum(axis=1)
                moved = np.where(leads, self.square, square) + distance * (moment + added)
                self.square = np.where(leads, square, self.square) + np.where(fade == 0, 0,
                                                                              fade * moved)
            self.slope = np.where(leads, slope, self.slope) + np.where(fade == 0, 0, fade * added)
        self.rest = np.where(leads, rest, self.rest) + fade * behind

    def finish(self) -> State:
        state = State(max=self.max, argmax=self.argmax)
        if self.request.exclude is not None:
            nothing = self.max == -math.inf  # whose class has not been looked for
            state.argmax = np.where(nothing, self.request.exclude.first_left(), self.argmax)
        if self.request.sums:
            self.rest[~np.isfinite(self.max)] = math.nan
            state.rest = self.rest.astype(self.dtype)
            state.log_norm = np.log1p(self.rest).astype(self.dtype)
            if self.request.entropy:
                entropy = np.log1p(self.rest) - self.slope / (1 + self.rest)
                state.entropy = entropy.astype(self.dtype)
            if self.request.square:
                state.square = self.square.astype(self.dtype)
        if self.targets is not None:
            state.target_logit = self.target_logit
            if self.request.sums:
                loss = (self.max[:, None] - self.target_logit) + state.log_norm[:, None]
                state.target_loss = np.where(self.targets < 0, self.max.dtype.type(0), loss)
        if self.probs is not None:
            state.prob_sum = self.soft.mass.astype(self.dtype)
            state.prob_loss = self.soft.loss(state.log_norm)
        if self.smooth is not None:
            state.smooth_loss = self.smooth.loss(state.log_norm)
        if self.request.k:
            state.top_index, state.top_logit = self.top_index, self.top_logit
            if self.request.sums:
                with np.errstate(invalid="ignore"):  # inf - inf in rows that are NaN anyway
                    shifted = self.top_logit - self.max[:, None]
                state.top_log_prob = shifted - state.log_norm[:, None]
                state.top_log_prob[self.top_index < 0] = -math.inf
        return state


class _Gap:
    """Sum over the classes of weights t, the `mass`, and of t * (max - z), the `gap`."""

    def __init__(self, m: int, dtype: np.dtype):
        self.dtype = dtype
        self.mass, self.gap = np.zeros(m), np.zeros(m)

    def add(self, t: np.ndarray, z: np.ndarray, peak: np.ndarray, before: np.ndarray,
            top: np.ndarray) -> None:
        """Take in a tile with maxima `peak`, the row maximum going from `before` to `top`."""
        base = _finite(peak)
        gap = base[:, None] - z
        gap *= t
        gap[np.broadcast_to(t == 0, gap.shape)] = 0  # 0 * inf
        before, top, base = (a.astype(np.float64) for a in (before, top, base))
        mass = t.sum(axis=1)
        # Both parts are measured from the common maximum; from -inf there is no way,
        # but then `gap` is inf already or there is no mass.
        self.gap += self.mass * _finite(top - before)
        self.gap += gap.sum(axis=1) + mass * np.where(np.isfinite(peak), _finite(top - base), 0)
        self.mass += mass

    def loss(self, log_norm: np.ndarray) -> np.ndarray:
        """Sum of t * (lse - z)."""
        return (self.gap + self.mass * log_norm).astype(self.dtype)


def probs_tile(
    probs: np.ndarray | SparseRows | Rows, lo: int, hi: int, dtype: np.dtype
) -> np.ndarray:
    """Target distributions of classes lo to hi."""
    if isinstance(probs, SparseRows):
        return probs.dense(lo, hi, dtype)
    assert isinstance(probs, np.ndarray)  # a block of Rows is one
    return plain(probs[:, lo:hi], dtype)


def _at(z: np.ndarray, column: np.ndarray) -> np.ndarray:
    return z[np.arange(len(z)), column]


def _finite(values: np.ndarray) -> np.ndarray:
    """`values`, with 0 for what is not finite."""
    return np.where(np.isfinite(values), values, values.dtype.type(0))


def score(layer: Layer, x: np.ndarray | SparseX, request: Request, n_threads: int | None) -> State:
    """Find out what `request` asks for about the rows of x (m, k)."""
    tile_of = tiles(layer, x, request)
    limits = copy_limits(layer, x, request.dtype)
    return _score(len(x), layer.n_classes, tile_of, request, *limits, n_threads)


def tiles(layer: Layer, x: np.ndarray | SparseX, request: Request) -> Callable[[slice], Tile]:
    """Make what makes logits of some rows of x."""

    def tile_of(rows: slice) -> Tile:
        block = some_rows(x, rows, request.dtype)
        t = None if request.temperature is None else request.temperature[rows]
        return lambda lo, hi: layer.logits(block, lo, hi, t)

    return tile_of


def copy_limits(layer: Layer, x: np.ndarray | SparseX, dtype: np.dtype) -> tuple[int, int]:
    """How many rows and classes may be converted at a time, where they must be."""
    k = max(1, layer.n_features)
    if isinstance(x, SparseX):
        most = most_entries(x)
        rows = max(1, TILE // (most * min(NARROW, layer.n_classes)))
        return rows, max(1, min(TILE // (most * rows), TILE // k))
    return (len(x) if is_plain(x, dtype) else max(1, TILE // k),
            layer.n_classes if layer.is_plain(dtype) else max(1, TILE // k))


def score_logits(logits: np.ndarray, request: Request, n_threads: int | None) -> State:
    """Find out what `request` asks for about the rows of logits (m, n)."""
    m, n = logits.shape

    def tile_of(rows: slice) -> Tile:
        if request.temperature is None:
            return lambda lo, hi: plain(logits[rows, lo:hi], request.dtype)
        t = as_column(request.temperature[rows], request.dtype)
        return lambda lo, hi: plain(logits[rows, lo:hi], request.dtype) / t

    return _score(m, n, tile_of, request, m, n, n_threads)
