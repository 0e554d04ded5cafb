"""A batch of rows on its way through the engine, whatever its layout, and what is made of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._arrays.checks import check_out
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse_x import SparseX
from .._engines.interface import Request, State, gathered
from ..results import ScreenStats, TopK
from .objective import ALL, Objective
from .options import LossOptions

if TYPE_CHECKING:
    from .._arrays.checks import Values
    from .._arrays.exclusions import Exclusions

ROWS_AT_ONCE = 1 << 17  # whose states are held beside what is made of them


class Batch:
    """Checked rows to be scored against n classes.

    Attributes
    ----------
    rows : Rows or SparseX
        x (m, k), or logits (m, n).
    n : int
        Classes.
    dtype : dtype
        Of the computation and of what comes back.
    exclude : Exclusions or None
        Classes that do not count, whatever is asked about the rows.
    """

    __slots__ = ("_n_threads", "_score", "_softcap", "dtype", "exclude", "n", "rows")

    def __init__(
        self,
        rows: Rows | SparseX,
        n: int,
        dtype: np.dtype,
        score: Callable[[Any, Request, int | None], State],
        n_threads: int | None,
        softcap: float = 0.0,
        exclude: Exclusions | None = None,
    ):
        self.rows = rows
        self.n = n
        self.dtype = dtype
        self._score = score
        self._n_threads = n_threads
        self._softcap = softcap
        self.exclude = exclude

    def run(self, request: Request) -> State:
        """Find the state of all rows."""
        rows, request = self.rows.whole, self._left(request)
        if rows is None or type(request.probs) is Rows:
            return gathered(self.rows.m, self.parts(request))
        return self._score(rows, request, self._n_threads)

    def each(self, request: Request, of: Callable[[State, slice], np.ndarray]) -> np.ndarray:
        """Join what ``of(state, rows)`` makes of the states of some rows after the other."""
        m = self.rows.m
        if m <= ROWS_AT_ONCE:
            return of(self.run(request), ALL)
        parts = self.parts(request)
        rows, state = next(parts)
        part = of(state, rows)
        joined = np.empty((m, *part.shape[1:]), part.dtype)
        joined[rows] = part
        for rows, state in parts:
            joined[rows] = of(state, rows)
        return joined

    def parts(self, request: Request) -> Iterator[tuple[slice, State]]:
        """Ranges of rows and their states, one after the other."""
        rows, probs, request = self.rows, request.probs, self._left(request)
        copied = [a for a in (rows, probs) if type(a) is Rows and a.whole is None]
        for block in row_blocks(rows.m, *copied, most=ROWS_AT_ONCE):
            yield block, self._score(rows[block], request.rows(block), self._n_threads)

    def _left(self, request: Request) -> Request:
        """Make the same request about the classes that are left."""
        return request if self.exclude is None else replace(request, exclude=self.exclude)

    def loss(self, target: object, out: np.ndarray | None, reduction: str,
             options: LossOptions) -> Values:
        """Find the losses against `target`, reduced and shaped."""
        objective = Objective(target, self.rows.lead, self.n, self.dtype, reduction, options,
                              self._softcap, self.exclude)
        if out is not None:
            check_loss_out(out, objective, self.rows.lead)
        losses = self.each(objective.request(), objective.losses)
        return given_loss(losses, objective, self.rows.lead, out)

    def columns(self, write: str, out: np.ndarray | None = None) -> np.ndarray:
        """Make a matrix (m, n), in `out` or new: "logits", "log_proba" or "proba"."""
        if out is None:
            out = np.empty((self.rows.m, self.n), self.dtype)
        self.run(Request(self.dtype, sums=write != "logits", write=write, out=out))
        return out

    def logit_blocks(self, most: int) -> Iterator[tuple[int, np.ndarray]]:
        """First row and logits of successive blocks of up to `most` rows."""
        copied = () if self.rows.whole is not None else (self.rows,)
        for block in row_blocks(self.rows.m, *copied, most=most):
            x = self.rows[block]
            out = np.empty((len(x), self.n), self.dtype)
            request = Request(self.dtype, sums=False, write="logits", out=out)
            if self.exclude is not None:
                request = replace(request, exclude=self.exclude[block])
            self._score(x, request, self._n_threads)
            yield block.start, out

    def shaped(self, values: np.ndarray) -> Values:
        """Rows (m, ...) in the leading shape of the input; a scalar where nothing is left."""
        return shaped(values, self.rows.lead)


class Reduces(Protocol):
    """What makes one number of the losses of rows."""

    @property
    def reduction(self) -> str: ...
    @property
    def dtype(self) -> np.dtype: ...
    def reduce(self, losses: np.ndarray) -> np.generic: ...


def check_loss_out(out: object, objective: Reduces, lead: tuple[int, ...]) -> None:
    """Check that the reduced losses fit into `out`."""
    check_out(out, lead if objective.reduction == "none" else (), objective.dtype)


def given_loss(losses: np.ndarray, objective: Reduces, lead: tuple[int, ...],
               out: np.ndarray | None) -> Values:
    """Losses (m,) as the caller gets them: reduced, shaped, in `out`."""
    result: Values = losses
    if objective.reduction != "none":
        result = objective.reduce(losses)
    elif len(lead) != 1:
        result = shaped(losses, lead)
    if out is None:
        return result
    out[...] = result
    return out


def shaped(values: np.ndarray, lead: tuple[int, ...]) -> Values:
    """Rows (m, ...) with this leading shape; a scalar where nothing is left."""
    if len(lead) == 1:
        return values
    values = values.reshape(lead + values.shape[1:])
    return values if values.ndim else values[()]


def screen_stats(state: State) -> ScreenStats:
    """Sum up the `rescored` of a state."""
    if state.rescored is None:
        return ScreenStats(0, 0, math.nan)
    settled = state.rescored[state.rescored >= 0]
    rows, left = len(state.rescored), len(settled)
    return ScreenStats(rows, rows - left, float(settled.mean()) if left else math.nan)


def top_of(state: State) -> TopK:
    """TopK of rows (m,)."""
    return TopK(state.top_index.astype(np.intp, copy=False), state.top_logit, state.top_log_prob)
