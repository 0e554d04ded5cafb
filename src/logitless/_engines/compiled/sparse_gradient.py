"""Gradients of the weights by sparse rows over the compiled kernels.

A block of rows is scored and its logits kept, as for dense rows; they become derivatives where they
are. Then features are shared out: the entries of each go through the derivatives of their rows, in
ascending order. So what threads do is as much as there are entries, and the bits are those of dense
rows.
"""

from __future__ import annotations

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ...results import Gradients
from ..interface import Backward, Request, Teacher
from . import scratch
from ._core import Columns, Gradient, SomeColumns
from .divergence import Pair, score_again
from .gradient_plan import BLOCK_BYTES
from .kept import Kept
from .kernels import KERNELS
from .layer import Layer
from .plan import FLOPS_PER_THREAD, VECTOR, round_up
from .scoring import Block, LinearScoring
from .sharing import score_block

TASKS = 4  # of a thread: rows have more entries here, less there


def sparse_gradients(layer: Layer, x: SparseX, request: Request, backward: Backward,
                     grads: Gradients, accumulate: bool, workspace_bytes: int,
                     n_threads: int | None, teacher: Teacher[Layer] | None) -> None:
    """Take the rows of x in by `backward` and write gradients of weights and bias into `grads`."""
    call = _Call(layer, x.of(request.dtype), request, backward, grads, workspace_bytes, n_threads,
                 teacher)
    for lo in range(0, x.m, call.step):
        call.block(lo, min(lo + call.step, x.m), accumulate or lo > 0)
    call.give_back()


class _Call:
    """What the blocks of rows of one call have in common.

    Attributes
    ----------
    step : int
        Rows of a block, whole groups.
    """

    def __init__(self, layer: Layer, x: SparseX, request: Request, backward: Backward,
                 grads: Gradients, workspace_bytes: int, n_threads: int | None,
                 teacher: Teacher[Layer] | None):
        n, kernels, item = layer.n_classes, KERNELS[request.dtype], request.dtype.itemsize
        heads = 1 if teacher is None else 2
        row_bytes = heads * item * kernels.keep_size(1, n)
        group = kernels.group(n)
        self.step = max(1, workspace_bytes // row_bytes // group) * group
        flops = 2 * n * (x.entries + VECTOR * x.m)
        self._threads = max(1, min(pool.resolve(n_threads), flops // FLOPS_PER_THREAD))
        rows, self._window = min(self.step, x.m), n
        if rows * row_bytes > workspace_bytes:
            of_block = heads * item * rows * kernels.keep_size(1, min(n, kernels.block))
            self._window = max(1, workspace_bytes // of_block) * kernels.block
        whole = self._window >= n
        self._scoring = LinearScoring(layer, x, request, self._threads, rows, whole)
        if self._scoring.copied_probs is not None:
            self.step = min(self.step, max(1, BLOCK_BYTES // (item * n) // group) * group)
            rows = min(self.step, x.m)
        self._pair = None if teacher is None else Pair(self._scoring, teacher, self._threads, rows,
                                                       whole)
        size = rows * kernels.keep_size(1, n if whole else kernels.block)
        size *= 1 if whole else self._window // kernels.block
        self._memory = scratch.take(heads * (item * size + 64))
        self._logits, self._teachers = scratch.reals(self._memory, request.dtype, size,
                                                     size * (heads - 1))
        self._own: list[np.ndarray | None] = [None, None]
        self._backward, self._grads = backward, grads
        self._columns = None if grads.weight is None else columns_of(x)
        # Where the entries of the next rows begin, of each feature; and of those after them.
        self._begin = self._end = np.empty(0, np.int64)
        if self._columns is not None:
            self._begin = self._columns.start[:-1].copy()
            self._end = np.empty_like(self._begin)

    def give_back(self) -> None:
        """Memory is not in use any more."""
        for memory in (self._memory, *self._own):
            scratch.give(memory)

    def block(self, lo: int, hi: int, add: bool) -> None:
        """Rows [lo, hi): forward, then their part of the gradients."""
        scoring, n, probs = self._scoring, self._scoring.n, None
        if scoring.copied_probs is not None:
            probs = plain(scoring.copied_probs[lo:hi], scoring.dtype)
        whole = self._window >= n
        block = Block(scoring, lo, hi - lo, self._logits if whole else None, probs)
        self._own[0] = score_block(scoring, block, self._own[0])
        other, means = None, None
        if self._pair is None:
            state = block.state(scoring)
        else:
            other, self._own[1] = self._pair.score(lo, hi, self._teachers if whole else None,
                                                   self._own[1])
            state, means = self._pair.state(block, other, self._logits, self._teachers,
                                            self._window, self._threads)
        coefficients = self._backward.take(state, slice(lo, hi))
        for first in range(0, n, self._window):
            last = min(first + self._window, n)
            heads = [Kept(scoring, block, self._logits, first, last)]
            if self._pair is not None and other is not None:
                heads.append(Kept(self._pair.teacher, other, self._teachers, first, last))
            score_again(tuple(heads), self._threads)
            self._derive(heads, coefficients, means)
            self._add(heads[0], coefficients, add)
        self._begin, self._end = self._end, self._begin

    def _derive(self, heads: list[Kept], coefficients: np.ndarray,
                means: np.ndarray | None) -> None:
        """Threads share out rows."""
        kept, start = heads[0], heads[0].block.first
        m, tasks = kept.block.m, TASKS * self._threads if self._threads > 1 else 1
        step = round_up(-(-m // tasks), VECTOR)

        def work(tasks: pool.Tasks) -> None:
            for task in tasks:
                lo, hi = task * step, min((task + 1) * step, m)
                job = kept.rows(start + lo, start + hi)
                gradient = Gradient(coefficients[:, lo:hi], self._backward.filters)
                if self._pair is not None and means is not None:
                    gradient.away_from(heads[1].rows(start + lo, start + hi), self._pair.beta,
                                       means[lo:hi])
                memory = scratch.take(job.gradient_bytes())
                job.scratch(memory)
                job.derive_rows(gradient, kept.first, kept.last)
                scratch.give(memory)

        pool.run(work, -(-m // step), self._threads)

    def _add(self, kept: Kept, coefficients: np.ndarray, add: bool) -> None:
        """Threads share out features of as many entries, and the classes of the bias."""
        grads, columns = self._grads, self._columns
        gradient = Gradient(coefficients, self._backward.filters)
        gradient.into_weight(grads.weight, grads.bias, add, False)
        step = kept.class_step(self._threads)
        of_bias = 0 if grads.bias is None else -(-(kept.last - kept.first) // step)
        bounds, some = [0], None
        if columns is not None:
            live = np.logical_or.reduce(coefficients[:-1])
            some = SomeColumns(columns, kept.block.first, self._begin, self._end,
                               None if live.all() else live.view(np.uint8))
            bounds = self._features(columns.start)

        def work(tasks: pool.Tasks) -> None:
            job = kept.job()
            for task in tasks:
                if some is not None and task < len(bounds) - 1:
                    job.derived_weight(gradient, some, kept.first, kept.last, bounds[task],
                                      bounds[task + 1])
                else:
                    lo = kept.first + (task - len(bounds) + 1) * step
                    job.derived_bias(gradient, lo, min(lo + step, kept.last))

        pool.run(work, len(bounds) - 1 + of_bias, self._threads)

    def _features(self, start: np.ndarray) -> list[int]:
        """Where the features of each task begin, whole vectors, and their number."""
        k, lanes = len(start) - 1, self._scoring.kernels.lanes
        if self._threads == 1:
            return [0, k] if k else [0]
        cost = start[::lanes] + np.arange(0, k + 1, lanes)  # a feature without entries costs, too
        shares = np.arange(1, TASKS * self._threads) / (TASKS * self._threads)
        inner = np.searchsorted(cost, shares * float(cost[-1])) * lanes
        return sorted({0, k, *np.minimum(inner, k).tolist()})


def columns_of(x: SparseX) -> Columns:
    """Entries feature by feature; rows that are used again keep them."""
    if x.columns is None:
        x.columns = Columns(x.start, x.index, x.value, x.n)
    found: Columns = x.columns
    return found
