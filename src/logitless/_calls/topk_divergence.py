"""Divergences from a teacher of whom the probabilities of a few classes are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays.checks import as_array, compute_dtype, plain
from .._arrays.exclusions import Exclusions
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse import SparseRows
from .._arrays.sparse_x import SparseX
from .._engines.gaps import by_prob, slopes, terms, times
from .._engines.interface import COEFFICIENTS, Request, State
from .divergence import Rowwise, check_beta
from .objective import F64
from .targets import check_index

_CELLS = 1 << 15  # that are worked on at a time
_ROWS = 1 << 10  # that are copied at a time to be scored once more
SOFTMAX, GIVEN = map(COEFFICIENTS.index, ("softmax", "given"))


class TopKDivergence(Rowwise):
    """A divergence from probabilities q of some classes of each row, all others being one class.

    The derivative by a logit is ``p (l - sum p l)`` with l the derivative by a probability: of the
    classes of a row numbers, which are known once it has been scored, of all others their p times
    the same number. Rows of `x` whose other classes have almost nothing are scored once more, by
    `score`.
    """

    teacher = None

    def __init__(self, index: object, prob: object, x: Rows | SparseX,
                 score: Callable[[Any, Request], State], n: int, dtype: np.dtype, beta: object,
                 reduction: str, sample_weight: object):
        super().__init__(x.lead, dtype, reduction, sample_weight)
        self._beta, self._n, self._x, self._score = check_beta(beta), n, x, score
        self._index, self._prob, self._off = check_top(index, prob, x.lead, n)
        start, classes = _named(self._index)
        self._targets = SparseRows(start, classes, np.zeros(start[-1], dtype), n)
        self.request = Request(dtype, targets=self._index, probs=self._targets)

    def arrays(self) -> list[np.ndarray | None]:
        """All that is read while gradients are written."""
        return [self._index, self._prob, self.sample_weight]

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the divergences of some rows and give the coefficients of their gradients.

        The derivatives of their classes go where they have them.
        """
        c = np.zeros((len(COEFFICIENTS), rows.stop - rows.start), self.dtype)
        for some in row_blocks(c.shape[1], most=max(1, _CELLS // self._index.shape[1])):
            with np.errstate(over="ignore"):  # of factors that the precision has no room for
                c[SOFTMAX, some], c[GIVEN, some] = self._take(
                    state, some, slice(rows.start + some.start, rows.start + some.stop))
        return c

    def _take(self, state: State, at: slice, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Do that for a few of them, which the state has at another place."""
        b, log_p, q = self._beta, *self._cells(state, at, rows)
        p = np.exp(log_p)
        with np.errstate(all="ignore"):
            d = log_p - np.log(q)
            from_teacher, from_student = (part.sum(axis=1) for part in terms(b, p, q, d))
            factor = self.note(b * from_teacher + (1 - b) * from_student if 0 < b < 1
                               else from_teacher + from_student, rows)
            g, other = self._derivatives(p, q, d)
            first, last = self._targets.start[[rows.start, rows.stop]]
            self._targets.value[first:last] = g[:, :-1][self._index[rows] >= 0]
            limit = np.finfo(self.dtype).max
            return np.where(factor == 0, 0, np.clip(other * factor, -limit, limit)), factor

    def _derivatives(
        self, p: np.ndarray, q: np.ndarray, d: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives (r, j + 1) by the logits, and what those of others are of their p, (r,)."""
        if self._beta == 0:  # where all classes are there, probabilities need not sum up to 1
            g = slopes(0, p, q, d, q) + times(p, q.sum(axis=1, keepdims=True) - 1)
            other = g[:, -1] / p[:, -1]
        else:
            by = by_prob(self._beta, d)
            mean = times(p, by).sum(axis=1, keepdims=True)
            g = slopes(self._beta, p, q, d, mean)
            other = (by - mean)[:, -1]
        return g, np.where(p[:, -1] == 0, 0, other)

    def _cells(self, state: State, at: slice, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Log of the student's probabilities (r, j + 1), and the teacher's: others' are last."""
        index, q = self._index[rows], self._prob[rows]
        used = index >= 0
        rest = np.where(np.isnan(state.log_norm[at]), np.nan, state.rest[at].astype(F64))[:, None]
        with np.errstate(all="ignore"):
            e = np.where(used, np.exp(state.target_logit[at].astype(F64) - state.max[at, None]), 0)
            log_p = np.where(used, -state.target_loss[at].astype(F64), -math.inf)
            best = index == state.argmax[at, None]
            # The largest logit is left out of `rest`: what it is worth is not subtracted again.
            others = np.where(best, 0, e).sum(axis=1, keepdims=True)
            has_best = best.any(axis=1, keepdims=True)
            left = np.where(has_best, rest, 1 + rest) - others
            # No less than what rounding of `rest` leaves, but where every class is there.
            eps = np.finfo(self.dtype).eps
            few = left <= math.sqrt(eps) * np.where(has_best, rest, 1 + rest)
            left = np.maximum(left, eps / 4 * rest)
            left[np.count_nonzero(used, axis=1) == self._n] = 0
            gone = np.maximum(1 - q.sum(axis=1, keepdims=True), 0)
            gone[(left == 0) & (gone < self._off)] = 0
            log_left = np.log(left)
            if self._beta == 0:  # else what is so small hardly counts
                at_all = np.count_nonzero(used, axis=1)[:, None] < self._n
                again = np.flatnonzero(few & at_all & (gone > 0))
                log_left[again, 0] = self._log_left(rows.start + again, state.max[at][again])
            return np.hstack([log_p, log_left - np.log1p(rest)]), np.hstack([q, gone])

    def _log_left(self, numbers: np.ndarray, largest: np.ndarray) -> np.ndarray:
        """Log of what other classes of some rows add to sums relative to their `largest` logits.

        By a pass over the classes without the ones that are named: no digit cancels.
        """
        log_left = np.empty(len(numbers))
        for some in row_blocks(len(numbers), self._x, most=_ROWS):
            which = numbers[some]
            exclude = Exclusions(*_named(self._index[which]), self._n, False)
            state = self._score(self._x[which], Request(self.dtype, exclude=exclude))
            gap = state.max.astype(F64) - largest[some]
            log_left[some] = np.where(gap == -math.inf, gap, gap + np.log1p(state.rest.astype(F64)))
        return log_left


def _named(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the classes of each row begin, (m + 1,), and the classes of all rows."""
    used = index >= 0
    return (np.append(0, np.cumsum(np.count_nonzero(used, axis=1))).astype(np.int64), index[used])


def check_top(index: object, prob: object, lead: tuple[int, ...],
              n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Classes (m, j) of each row, ascending with -1 first, and their probabilities in float64.

    And by what rounding may have put the sums of these off.
    """
    index, prob = as_array(index, "index"), as_array(prob, "prob")
    compute_dtype(prob.dtype, "prob")
    if index.ndim != len(lead) + 1 or index.shape[:-1] != lead:
        raise ValueError(f"`index` must have shape {lead} + (j,), got {index.shape}")
    if prob.shape != index.shape:
        raise ValueError(f"`prob` must have the shape of `index`, {index.shape}, got {prob.shape}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"`index` must be integers, got {index.dtype}")
    classes = check_index(index, n, -1, "index").reshape(math.prod(lead), index.shape[-1])
    q = np.where(classes < 0, 0, plain(prob, F64).reshape(classes.shape))
    off = max(1e-3, 4 * float(np.finfo(prob.dtype).eps if prob.dtype.kind == "f" else 2**-8))
    if index.shape[-1] == 0:  # as one column of no class
        return np.full((len(q), 1), -1, np.int64), np.zeros((len(q), 1)), off
    bad = ~((q >= 0) & (q <= 1))
    if bad.any():
        row, j = np.argwhere(bad)[0]
        raise ValueError(f"`prob` must be between 0 and 1, got {q[row, j]} in row {row}")
    total = q.sum(axis=1)
    if (total > 1 + off).any():
        row = int((total > 1 + off).argmax())
        raise ValueError(f"`prob` must sum up to at most 1 in each row, got {total[row]} "
                         f"in row {row}")
    order = np.argsort(classes, axis=1, kind="stable")
    classes, q = np.take_along_axis(classes, order, 1), np.take_along_axis(q, order, 1)
    twice = (classes[:, 1:] == classes[:, :-1]) & (classes[:, 1:] >= 0)
    if twice.any():
        row, j = np.argwhere(twice)[0]
        raise ValueError(f"`index` must name a class once, got {classes[row, j]} twice "
                         f"in row {row}")
    return np.ascontiguousarray(classes), q, off
