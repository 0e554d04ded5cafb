"""One pass of the engine over rows, whatever their layout, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from .._arrays.checks import check_out
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse import SparseRows
from .._engines.interface import Request, State, gathered
from ..results import ScreenStats, TopK
from .objective import ALL, Objective

ROWS_AT_ONCE = 1 << 17  # whose states are held beside what is made of them


class Pass:
    """Checked rows to be scored against n classes.

    Attributes
    ----------
    rows : Rows
        x (m, k), or logits (m, n).
    n : int
        Classes.
    dtype : dtype
        Of the computation and of what comes back.
    """

    __slots__ = ("_n_threads", "_score", "dtype", "n", "rows")

    def __init__(
        self,
        rows: Rows,
        n: int,
        dtype: np.dtype,
        score: Callable[[np.ndarray, Request, int | None], State],
        n_threads: int | None,
    ):
        self.rows = rows
        self.n = n
        self.dtype = dtype
        self._score = score
        self._n_threads = n_threads

    def run(self, request: Request, probs: Rows | SparseRows | None = None) -> State:
        """Find the state of all rows; `probs` are the target distributions of `request`."""
        if self._is_matrix(probs):
            request.probs = None if probs is None else probs.whole
            return self._score(self.rows.whole, request, self._n_threads)
        return gathered(self.rows.m, self._parts(request, probs))

    def each(self, request: Request, probs: Rows | SparseRows | None,
             of: Callable[[State, slice], np.ndarray]) -> np.ndarray:
        """Join what ``of(state, rows)`` makes of the states of some rows after the other."""
        m = self.rows.m
        if m <= ROWS_AT_ONCE and self._is_matrix(probs):
            return of(self.run(request, probs), ALL)
        joined = None
        for rows, state in self._parts(request, probs):
            part = of(state, rows)
            if joined is None:
                joined = np.empty((m, *part.shape[1:]), part.dtype)
            joined[rows] = part
        return joined

    def _is_matrix(self, probs: Rows | SparseRows | None) -> bool:
        """Whether all rows can be seen at once without a copy."""
        return self.rows.whole is not None and (probs is None or probs.whole is not None)

    def _parts(self, request: Request, probs: Rows | SparseRows | None):
        """Ranges of rows and their states, one after the other."""
        rows, most = self.rows, ROWS_AT_ONCE
        blocks = (slice(first, min(first + most, rows.m)) for first in range(0, rows.m, most))
        if not self._is_matrix(probs):
            blocks = row_blocks(rows.m, *((rows,) if probs is None else (rows, probs)))
        for block in blocks:
            yield block, self._score(rows[block], _cut(request, block, probs), self._n_threads)

    def loss(self, target: object, out: np.ndarray | None, options: dict):
        """Find the losses against `target`, reduced and shaped."""
        objective = Objective(target, self.rows.lead, self.n, self.dtype, **options)
        check_loss_out(out, objective, self.rows.lead)
        losses = self.each(objective.request(), objective.targets.probs, objective.losses)
        return given_loss(losses, objective, self.rows.lead, out)

    def columns(self, write: str, out: np.ndarray | None = None) -> np.ndarray:
        """Make a matrix (m, n), in `out` or new: "logits", "log_proba" or "proba"."""
        if out is None:
            out = np.empty((self.rows.m, self.n), self.dtype)
        self.run(Request(sums=write != "logits", write=write, out=out))
        return out

    def logit_blocks(self, most: int) -> Iterator[tuple[int, np.ndarray]]:
        """First row and logits of successive blocks of up to `most` rows."""
        for first in range(0, self.rows.m, most):
            x = self.rows[first : min(first + most, self.rows.m)]
            out = np.empty((len(x), self.n), self.dtype)
            self._score(x, Request(sums=False, write="logits", out=out), self._n_threads)
            yield first, out

    def shaped(self, values: np.ndarray) -> np.ndarray | np.generic:
        """Rows (m, ...) in the leading shape of the input; a scalar where nothing is left."""
        return shaped(values, self.rows.lead)


def check_loss_out(out: object, objective: Objective, lead: tuple[int, ...]) -> None:
    """Check that the reduced losses fit into `out`."""
    if out is not None:
        check_out(out, lead if objective.reduction == "none" else (), objective.dtype)


def given_loss(losses: np.ndarray, objective: Objective, lead: tuple[int, ...], out):
    """Losses (m,) as the caller gets them: reduced, shaped, in `out`."""
    result = objective.reduce(losses)
    if objective.reduction == "none":
        result = shaped(result, lead)
    if out is None:
        return result
    out[...] = result
    return out


def shaped(values: np.ndarray, lead: tuple[int, ...]) -> np.ndarray | np.generic:
    """Rows (m, ...) with this leading shape; a scalar where nothing is left."""
    if len(lead) == 1:
        return values
    values = values.reshape(lead + values.shape[1:])
    return values if values.ndim else values[()]


def _cut(request: Request, block: slice, probs: Rows | SparseRows | None) -> Request:
    return replace(
        request,
        targets=None if request.targets is None else request.targets[block],
        probs=None if probs is None else probs[block],
        out=None if request.out is None else request.out[block],
    )


def screen_stats(state: State) -> ScreenStats:
    """Sum up the `rescored` of a state."""
    if state.rescored is None:
        return ScreenStats(0, 0, math.nan)
    settled = state.rescored[state.rescored >= 0]
    rows, left = len(state.rescored), len(settled)
    return ScreenStats(rows, rows - left, float(settled.mean()) if left else math.nan)


def top_of(state: State, normalize: bool) -> TopK:
    """TopK of rows (m,)."""
    log_prob = None
    if normalize:
        with np.errstate(invalid="ignore"):  # inf - inf in rows that are NaN anyway
            log_prob = state.top_logit - state.max[:, None]
            log_prob -= state.log_norm[:, None]
    return TopK(state.top_index.astype(np.intp, copy=False), state.top_logit, log_prob)
