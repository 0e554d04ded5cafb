"""The gradients over the compiled kernels: blocks of rows, memory and threads.

Rows are taken in blocks of whole groups. The logits of a block are kept, turned into derivatives
where they are, and multiplied with the weights and with the rows: nothing is computed twice. Where
not even a group's logits fit into the workspace, its classes are taken a window at a time and
scored again.

Threads share out the classes of a block, then its features and rows; where the weights are small,
whole blocks, with the gradients of each group held apart until they are added in order. The bits
are the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import _parallel
from ._core import GROUP_STEP, Gradient
from ._plan import FLOPS_PER_THREAD, WORKSPACE, round_up
from ._request import Request, State
from ._results import Gradients, gathered
from .compiled import LinearScoring, score_all


class Kept(LinearScoring):
    """Rows of x against a layer, their logits kept.

    Attributes
    ----------
    memory : ndarray
        Where the logits of all classes are kept, or of a window of them.
    window : int
        First class in `memory`.
    """

    def __init__(self, layer, x, request, n_threads, memory):
        super().__init__(layer, x, request, n_threads)
        self.memory, self.window = memory, 0
        self.keeps = len(memory) >= self.kernels.keep_size(self.m, self.n)

    def job(self, lo, hi):
        """As for any scoring, and the logits stay."""
        job = super().job(lo, hi)
        if self.keeps:
            self.keep(job, lo)
        return job

    def keep(self, job, lo):
        """Keep the logits of rows from `lo` on."""
        job.keep(self.memory, lo * self.kernels.keep_size(1, min(self.n, self.kernels.block)),
                 self.m, self.window)

    def logit_job(self) -> object:
        """Make a job that finds nothing but logits, once more."""
        request, self.request = self.request, Request(sums=False)
        weights, self.class_weight = self.class_weight, None
        targets, self.targets = self.targets, None
        job = super().job(0, self.m)
        self.request, self.class_weight, self.targets = request, weights, targets
        job.remember(np.empty_like(self.values), np.empty_like(self.ints), None, None, None)
        job.init()
        self.open(job, 0, self.m)
        self.keep(job, 0)
        return job


class _Call:
    """What all blocks of one call have in common."""

    def __init__(self, layer, x, request, backward, grads, accumulate, workspace_bytes, n_threads):
        self.layer, self.x, self.request, self.backward = layer, x, request, backward
        self.grads, self.accumulate = grads, accumulate
        m, n, k = len(x), layer.n_classes, layer.n_features
        scoring = LinearScoring(layer, x[:0], replace(request, targets=None, probs=None), 1)
        self.kernels, self.dtype = scoring.kernels, scoring.dtype
        item = self.dtype.itemsize
        self.group = self.kernels.group(n)
        self.row_reals = self.kernels.keep_size(1, n)
        flops = 6 * m * n * max(k, 16)
        self.n_threads = max(1, min(_parallel.resolve(n_threads), flops // FLOPS_PER_THREAD))
        fitting = workspace_bytes // (item * self.row_reals) // self.group
        row_bytes = item * (2 * k + self.row_reals)
        wanted = WORKSPACE * self.n_threads // (row_bytes * self.group)
        self.step = self.group * max(1, min(fitting, wanted))
        rows = min(self.step, max(m, 1))
        if fitting or rows * self.row_reals * item <= workspace_bytes:
            self.memory_reals = rows * self.row_reals
        else:
            block = rows * self.kernels.keep_size(1, min(n, self.kernels.block))
            self.memory_reals = block * max(1, workspace_bytes // (item * block))
        # Gradients of the weights that may wait for their turn, a group each.
        self.waiting = WORKSPACE // (item * n * (k + 1))

    def blocks(self):
        """Ranges of rows, each of whole groups; one of no rows if there are none."""
        m = len(self.x)
        return [slice(lo, min(lo + self.step, m)) for lo in range(0, max(m, 1), self.step)]

    def memory(self) -> np.ndarray:
        """Memory for the logits of a block."""
        return np.empty(self.memory_reals, self.dtype)

    def forward(self, rows: slice, memory: np.ndarray, n_threads: int):
        """Score a block of rows: the scoring, its state and the coefficients."""
        q = self.request
        request = replace(q, targets=None if q.targets is None else q.targets[rows],
                          probs=None if q.probs is None else q.probs[rows])
        scoring = Kept(self.layer, self.x[rows], request, n_threads, memory)
        state = score_all(scoring)
        return scoring, state, self.backward.coefficients(state, rows)

    def gradient(self, rows: slice, coefficients: np.ndarray, d_weight, d_bias, add, apart):
        """Say where the gradients of a block go."""
        gradient = Gradient(coefficients, self.backward.filters)
        if self.grads.x is not None:
            gradient.into_x(self.grads.x[rows], self.accumulate)
        gradient.into_weight(d_weight, d_bias, add, apart)
        return gradient


def gradients(layer, x, request, backward, grads: Gradients, accumulate, workspace_bytes,
              n_threads) -> State:
    """What `request` asks for about the rows of x (m, k), and gradients written into `grads`."""
    call = _Call(layer, x, request, backward, grads, accumulate, workspace_bytes, n_threads)
    blocks = call.blocks()
    groups = -(-call.step // call.group)
    at_once = min(call.waiting // groups, len(blocks))
    if call.n_threads > 1 and at_once >= 2 * call.n_threads:
        states = _blocks_side_by_side(call, blocks, at_once)
    else:
        memory = call.memory()
        states = [_block(call, rows, memory, call.n_threads) for rows in blocks]
    return gathered(len(x), zip(blocks, states, strict=True))


def _blocks_side_by_side(call: _Call, blocks: list[slice], at_once: int) -> list[State]:
    """Threads share out blocks; their gradients of the weights wait to be added in order."""
    states = [None] * len(blocks)
    n, k, add = call.layer.n_classes, call.layer.n_features, call.accumulate
    groups = -(-call.step // call.group)
    for first in range(0, len(blocks), at_once):
        some = range(first, min(first + at_once, len(blocks)))
        d_weight = _room(call.grads.weight, (len(some) * groups, n, k))
        d_bias = _room(call.grads.bias, (len(some) * groups, n))

        def work(tasks, first=first, d_weight=d_weight, d_bias=d_bias):
            memory = call.memory()
            for task in tasks:
                own = slice(task * groups, (task + 1) * groups)
                apart = [None if d is None else d[own] for d in (d_weight, d_bias)]
                states[first + task] = _block(call, blocks[first + task], memory, 1, apart)

        _parallel.run(work, len(some), call.n_threads)
        last = -(-(blocks[some[-1]].stop - blocks[first].start) // call.group)
        for into, parts in ((call.grads.weight, d_weight), (call.grads.bias, d_bias)):
            if into is not None:
                _add_in_order(into, parts[:last], add)
        add = True
    return states


def _room(like, shape) -> np.ndarray | None:
    return None if like is None else np.empty(shape, like.dtype)


def _add_in_order(into: np.ndarray, parts: np.ndarray, add: bool) -> None:
    for i, part in enumerate(parts):
        if add or i:
            with np.errstate(all="ignore"):
                into += part
        else:
            into[...] = part


def _block(call: _Call, rows: slice, memory: np.ndarray, n_threads: int, apart=None) -> State:
    """One block of rows: forward, then its part of the gradients."""
    scoring, state, coefficients = call.forward(rows, memory, n_threads)
    if apart is not None:
        gradient = call.gradient(rows, coefficients, *apart, False, True)
    else:
        add = call.accumulate or rows.start > 0
        gradient = call.gradient(rows, coefficients, call.grads.weight, call.grads.bias, add, False)
    if call.grads.weight is not None:
        width = round_up(scoring.k, scoring.kernels.lanes)
        packed = np.empty(scoring.m * width, scoring.dtype)
        scoring.job(0, scoring.m).pack_columns(gradient, scoring.rows(0, scoring.m), packed)
    window = scoring.n
    if not scoring.keeps:
        block = scoring.kernels.block
        window = max(1, len(memory) // scoring.kernels.keep_size(scoring.m, block)) * block
    for first in range(0, scoring.n, window):
        scoring.window = first
        _window(scoring, gradient, first, min(first + window, scoring.n),
                call.grads.x is not None, n_threads)
    return state


def _window(scoring: Kept, gradient, first: int, last: int, to_x: bool, n_threads: int) -> None:
    """Gradients of a block of rows by the logits of classes [first, last), and what follows."""
    if n_threads == 1:
        job = _Worker(scoring)
        for c in range(first, last, scoring.kernels.block):
            job.logits(gradient, c, min(c + scoring.kernels.block, last))
            if to_x:
                job.x(gradient, c, min(c + scoring.kernels.block, last), 0, scoring.k,
                      0, scoring.m)
        return
    step = scoring.kernels.block
    step *= max(1, -(-(last - first) // step) // (8 * n_threads))

    def by_class(tasks):
        job = _Worker(scoring)
        for task in tasks:
            c = first + task * step
            job.logits(gradient, c, min(c + step, last))

    _parallel.run(by_class, -(-(last - first) // step), n_threads)
    if to_x:
        _x_side_by_side(scoring, gradient, first, last, n_threads)


def _x_side_by_side(scoring: Kept, gradient, first, last, n_threads) -> None:
    """Threads share out features, and rows where the features are few."""
    m, k, lanes = scoring.m, scoring.k, scoring.kernels.lanes
    f_step = max(2 * lanes, round_up(-(-k // (4 * n_threads)), 2 * lanes))
    across = -(-k // f_step)
    r_step = max(GROUP_STEP, round_up(-(-m * across // (2 * n_threads)), GROUP_STEP))
    down = -(-m // r_step)

    def by_feature(tasks):
        job = _Worker(scoring)
        for task in tasks:
            f, r = task % across * f_step, task // across * r_step
            job.x(gradient, first, last, f, min(f + f_step, k), r, min(r + r_step, m))

    _parallel.run(by_feature, across * down, n_threads)


class _Worker:
    """One thread's jobs for the gradients of a block."""

    def __init__(self, scoring: Kept):
        self._scoring = scoring
        self._job = scoring.job(0, scoring.m)
        scoring.keep(self._job, 0)
        self._job.scratch(np.empty(self._job.gradient_bytes(), np.uint8))
        self._again = None

    def logits(self, gradient, first: int, last: int) -> None:
        """Logits to derivatives; scored again where they were not kept."""
        scoring = self._scoring
        if not scoring.keeps:
            if self._again is None:
                self._again = scoring.logit_job()
            scoring.give_weights(self._again, first, last)
            self._again.scratch(np.empty(self._again.scratch_bytes(), np.uint8))
            self._again.score(first, last)
        self._job.gradient_logits(gradient, first, last)

    def x(self, gradient, first, last, f_first, f_last, r_first, r_last) -> None:
        """Derivatives into some features of some rows of x."""
        step = self._scoring.kernels.span if self._scoring.weight is None else last - first
        for c in range(first, last, step):
            end = min(c + step, last)
            self._scoring.give_weights(self._job, c, end)
            self._job.gradient_x(gradient, c, end, f_first, f_last, r_first, r_last)
