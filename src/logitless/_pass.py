"""One pass of the engine over rows, whatever their layout, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ._request import Request, State
from ._results import gathered, reduce
from ._validate import Rows, Targets, check_out, check_reduction, check_target, row_blocks


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

    def run(self, request: Request, probs: Rows | None = None) -> State:
        """Find the state of all rows; `probs` are the target distributions of `request`."""
        rows = self.rows
        if rows.whole is not None and (probs is None or probs.whole is not None):
            request.probs = None if probs is None else probs.whole
            return self._score(rows.whole, request, self._n_threads)
        arrays = (rows,) if probs is None else (rows, probs)
        return gathered(
            rows.m,
            (
                (block, self._score(rows[block], _cut(request, block, probs), self._n_threads))
                for block in row_blocks(rows.m, *arrays)
            ),
        )

    def losses(self, targets: Targets) -> np.ndarray:
        """Find the loss of each row, (m,)."""
        return losses_of(self.run(Request(targets=targets.index), targets.probs), targets)

    def loss(
        self, target: object, reduction: str, ignore_index: int, out: np.ndarray | None
    ) -> np.ndarray | np.generic:
        """Find the losses against `target`, reduced and shaped."""
        return reduced_loss(
            self.losses, target, self.rows.lead, self.n, self.dtype, reduction, ignore_index, out
        )

    def columns(self, write: str) -> np.ndarray:
        """Make a matrix (m, n): "logits", "log_proba" or "proba"."""
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


def losses_of(state: State, targets: Targets) -> np.ndarray:
    """Read off the loss of each row, (m,): of one-hot rows by their class index."""
    if targets.probs is None:
        return state.target_loss[:, 0]
    if targets.index is None:
        return state.prob_loss
    return np.where(targets.index[:, 0] >= 0, state.target_loss[:, 0], state.prob_loss)


def reduced_loss(
    losses: Callable[[Targets], np.ndarray],
    target: object,
    lead: tuple[int, ...],
    n: int,
    dtype: np.dtype,
    reduction: str,
    ignore_index: int,
    out: np.ndarray | None,
) -> np.ndarray | np.generic:
    """Check everything, then have `losses` computed, then reduce; `out` is written last."""
    check_reduction(reduction)
    targets = check_target(target, lead, n, dtype, ignore_index)
    if out is not None:
        check_out(out, lead if reduction == "none" else (), dtype)
    values = losses(targets)
    if reduction == "none":
        result = shaped(values, lead)
    else:
        result = reduce(values, reduction, targets.counted)
    if out is None:
        return result
    out[...] = result
    return out


def shaped(values: np.ndarray, lead: tuple[int, ...]) -> np.ndarray | np.generic:
    if len(lead) == 1:
        return values
    values = values.reshape(lead + values.shape[1:])
    return values if values.ndim else values[()]


def _cut(request: Request, block: slice, probs: Rows | None) -> Request:
    return replace(
        request,
        targets=None if request.targets is None else request.targets[block],
        probs=None if probs is None else probs[block],
        out=None if request.out is None else request.out[block],
    )
