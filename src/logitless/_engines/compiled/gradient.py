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

import math

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._parallel import pool
from ...results import Gradients
from ..interface import Backward, Request, Teacher
from . import scratch
from ._core import GROUP_STEP, Gradient, Job
from .divergence import Pair, score_again
from .kept import Kept
from .kernels import KERNELS
from .layer import Layer
from .plan import FLOPS_PER_THREAD, THREAD_BYTES, round_up
from .scoring import Block, LinearScoring, score_block

BLOCK_BYTES = 3 << 20  # of rows and logits, where these are few: they stay in the caches


def gradients(layer: Layer, x: Rows, request: Request, backward: Backward, grads: Gradients,
              accumulate: bool, workspace_bytes: int, n_threads: int | None,
              teacher: Teacher[Layer] | None = None) -> None:
    """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`."""
    if x.m == 0:
        for grad in (grads.weight, grads.bias):
            if grad is not None and not accumulate:
                grad[...] = 0
        return
    call = _Call(layer, x, request, backward, grads, accumulate, workspace_bytes, n_threads,
                 teacher)
    if call.by_block:
        _blocks_side_by_side(call)
        return
    memory = _Memory(call)
    for lo in range(0, x.m, call.step):
        _block(call, lo, memory, call.n_threads, None)
    memory.give_back()


class _Call:
    """What all blocks of one call have in common; nothing of it changes.

    Attributes
    ----------
    group : int
        Rows that a gradient of the weights sums before it adds them.
    step : int
        Rows of a block, whole groups.
    by_block : bool
        Threads share out blocks, up to `at_once` of which wait to be added.
    window : int
        Classes whose logits are kept at a time.
    kept_reals : int
        Size of these logits.
    pair : Pair or None
        The teacher, and the student.
    """

    def __init__(self, layer: Layer, x: Rows, request: Request, backward: Backward,
                 grads: Gradients, accumulate: bool, workspace_bytes: int, n_threads: int | None,
                 teacher: Teacher[Layer] | None):
        self.backward, self.grads, self.accumulate = backward, grads, accumulate
        kernels = KERNELS[request.dtype]
        m, n, k, item = x.m, layer.n_classes, layer.n_features, request.dtype.itemsize
        self.group = kernels.group(n)
        heads = 1 if teacher is None else 2
        row_bytes = heads * item * kernels.keep_size(1, n)
        flops = 6 * m * n * max(k, 16)
        n_threads = pool.resolve(n_threads)
        self.n_threads = max(1, min(n_threads, flops // FLOPS_PER_THREAD))
        # Groups of rows whose logits the workspace holds, and that stay in a thread's cache.
        fitting = workspace_bytes // row_bytes // self.group
        cached = BLOCK_BYTES // ((item * 2 * k + row_bytes) * self.group)
        # Small gradients of the weights may wait for their turn, a group each.
        step = max(1, min(fitting, cached))
        of_step = item * n * (k + 1) * step
        self.at_once = min(THREAD_BYTES // of_step, -(-m // (step * self.group)))
        self.by_block = self.n_threads > 1 and self.at_once >= 2 * self.n_threads
        if not self.by_block:
            step = max(1, min(fitting, cached * self.n_threads))
        self.step = step * self.group
        rows = min(self.step, m)
        self.window, self.kept_reals = n, rows * kernels.keep_size(1, n)
        if rows * row_bytes > workspace_bytes:
            of_block = rows * kernels.keep_size(1, min(n, kernels.block))
            blocks = max(1, workspace_bytes // (heads * item * of_block))
            self.kept_reals = of_block * blocks
            self.window = blocks * kernels.block
        threads = 1 if self.by_block else n_threads
        self.scoring = LinearScoring(layer, x if x.whole is None else x.whole, request, threads,
                                     rows)
        self.pair = None if teacher is None else Pair(self.scoring, teacher, threads, rows)

    def gradient(self, coefficients: np.ndarray, d_x: np.ndarray | None, lo: int,
                 apart: tuple[np.ndarray | None, np.ndarray | None] | None) -> Gradient:
        """Say where the gradients of a block go, whose rows begin at `lo`."""
        gradient = Gradient(coefficients, self.backward.filters)
        if d_x is not None:
            gradient.into_x(d_x, self.accumulate)
        if apart is None:
            add = self.accumulate or lo > 0
            gradient.into_weight(self.grads.weight, self.grads.bias, add, False)
        else:
            gradient.into_weight(*apart, False, True)
        return gradient


class _Memory:
    """What one thread needs for a block of rows: kept logits, columns of features, scratch."""

    def __init__(self, call: _Call):
        scoring = call.scoring
        item, rows = scoring.dtype.itemsize, min(call.step, scoring.m)
        columns = 0
        if call.grads.weight is not None:
            columns = (rows + -(-rows // call.group)) * round_up(scoring.k, scoring.kernels.lanes)
        teachers = 0 if call.pair is None else call.kept_reals
        sizes = call.kept_reals, teachers, columns
        self._all = scratch.take(item * sum(sizes) + 64 * len(sizes))
        self.logits, self.teachers, self.columns = scratch.reals(self._all, scoring.dtype, *sizes)
        self.scratch: np.ndarray | None = None
        self.teachers_scratch: np.ndarray | None = None

    def give_back(self) -> None:
        """Nothing of it is in use any more."""
        for memory in (self._all, self.scratch, self.teachers_scratch):
            scratch.give(memory)


def _blocks_side_by_side(call: _Call) -> None:
    """Threads share out blocks; their gradients of the weights wait to be added in order."""
    scoring, step, add = call.scoring, call.step, call.accumulate
    m, n, k, groups = scoring.m, scoring.n, scoring.k, step // call.group
    for first in range(0, m, call.at_once * step):
        last = min(first + call.at_once * step, m)
        blocks = -(-(last - first) // step)
        d_weight = _room(call.grads.weight, (blocks * groups, n, k))
        d_bias = _room(call.grads.bias, (blocks * groups, n))

        def work(tasks: pool.Tasks, first: int = first, d_weight: np.ndarray | None = d_weight,
                 d_bias: np.ndarray | None = d_bias) -> None:
            memory = _Memory(call)
            for task in tasks:
                own = slice(task * groups, (task + 1) * groups)
                apart = (None if d_weight is None else d_weight[own],
                         None if d_bias is None else d_bias[own])
                _block(call, first + task * step, memory, 1, apart)
            memory.give_back()

        pool.run(work, blocks, call.n_threads)
        parts = -(-(last - first) // call.group)
        for into, of_groups in ((call.grads.weight, d_weight), (call.grads.bias, d_bias)):
            if into is not None and of_groups is not None:
                _add_in_order(into, of_groups[:parts], add)
        add = True


def _room(like: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    return None if like is None else np.empty(shape, like.dtype)


def _add_in_order(into: np.ndarray, parts: np.ndarray, add: bool) -> None:
    with np.errstate(all="ignore"):
        for i, part in enumerate(parts):
            if add or i:
                into += part
            else:
                into[...] = part


def _block(call: _Call, lo: int, memory: _Memory, n_threads: int,
           apart: tuple[np.ndarray | None, np.ndarray | None] | None) -> None:
    """The rows of one block from `lo` on: forward, then their part of the gradients."""
    scoring = call.scoring
    hi = min(lo + call.step, scoring.m)
    probs = None
    if scoring.copied_probs is not None:
        probs = plain(scoring.copied_probs[lo:hi], scoring.dtype)  # once for all jobs of the block
    whole = call.window >= scoring.n
    block = Block(scoring, lo, hi - lo, memory.logits if whole else None, probs)
    memory.scratch = score_block(scoring, block, memory.scratch)
    other: Block | None = None
    means: np.ndarray | None = None
    if call.pair is None:
        state = block.state(scoring)
    else:
        other, memory.teachers_scratch = call.pair.score(
            lo, hi, memory.teachers if whole else None, memory.teachers_scratch)
        state, means = call.pair.state(block, other, memory.logits, memory.teachers, call.window,
                                       n_threads)
    d_x = None if call.grads.x is None else call.grads.x[lo:hi]
    gradient = call.gradient(call.backward.take(state, slice(lo, hi)), d_x, lo, apart)
    if call.grads.weight is not None:
        scoring.job(block, lo, hi).pack_columns(gradient, scoring.real_rows(lo, hi), 0, hi - lo,
                                                memory.columns)
    to_x = d_x is not None and scoring.k > 0
    for first in range(0, scoring.n, call.window):
        last = min(first + call.window, scoring.n)
        kept = Kept(scoring, block, memory.logits, first, last)
        if call.pair is not None and other is not None and means is not None:
            teacher = Kept(call.pair.teacher, other, memory.teachers, first, last)
            score_again((teacher,), n_threads)
            gradient.away_from(teacher.job(), call.pair.beta, means)
        window = _Window(kept, gradient)
        if n_threads == 1:
            window.alone(kept.job(), to_x)
        else:
            window.side_by_side(n_threads, to_x)
    if d_x is not None and isinstance(call.grads.x, Rows):
        call.grads.x[lo:hi] = d_x


class _Window:
    """Gradients of a block of rows by some of its logits, which are kept."""

    def __init__(self, kept: Kept, gradient: Gradient):
        self._kept, self._gradient = kept, gradient

    def alone(self, job: Job, to_x: bool) -> None:
        """A block of classes after the other, while their derivatives are in the caches."""
        kept, gradient = self._kept, self._gradient
        scoring, m = kept.scoring, kept.block.m
        self._open(job)
        again = kept.scorer()
        for lo in range(kept.first, kept.last, scoring.kernels.block):
            hi = min(lo + scoring.kernels.block, kept.last)
            if again is not None:
                again(lo, hi)
            job.gradient_logits(gradient, lo, hi)
            if to_x and scoring.weight is not None:
                job.gradient_x(gradient, lo, hi, 0, scoring.k, 0, m)
            elif to_x:
                self._into_x(job, lo, hi, 0, scoring.k, 0, m)

    def side_by_side(self, n_threads: int, to_x: bool) -> None:
        """Threads share out classes, then features and rows of x."""
        kept, step = self._kept, self._kept.class_step(n_threads)

        def by_class(tasks: pool.Tasks) -> None:
            job = kept.job()
            self._open(job)
            again = kept.scorer()
            for task in tasks:
                lo = kept.first + task * step
                hi = min(lo + step, kept.last)
                if again is not None:
                    again(lo, hi)
                job.gradient_logits(self._gradient, lo, hi)

        pool.run(by_class, -(-(kept.last - kept.first) // step), n_threads)
        if to_x:
            self._x_side_by_side(n_threads)

    def _x_side_by_side(self, n_threads: int) -> None:
        """Threads share out a grid of features and rows, one part each."""
        kept = self._kept
        m, k = kept.block.m, kept.scoring.k
        f_step, r_step = _part(m, k, 2 * kept.scoring.kernels.lanes, n_threads)
        across, down = -(-k // f_step), -(-m // r_step)

        def by_part(tasks: pool.Tasks) -> None:
            job = kept.job()
            self._open(job)
            for task in tasks:
                f, r = task % across * f_step, task // across * r_step
                self._into_x(job, kept.first, kept.last, f, min(f + f_step, k), r,
                             min(r + r_step, m))

        pool.run(by_part, across * down, n_threads)

    def _open(self, job: Job) -> None:
        """Give a job scratch memory and weights it can read."""
        scoring = self._kept.scoring
        job.scratch(np.empty(job.gradient_bytes(), np.uint8))
        if scoring.weight is not None:
            scoring.give_weights(job, 0, scoring.n)

    def _into_x(self, job: Job, first: int, last: int, *part: int) -> None:
        """Derivatives of classes [first, last) into some features of some rows of x."""
        for lo, hi in self._kept.pieces(first, last):
            self._kept.scoring.give_weights(job, lo, hi)
            job.gradient_x(self._gradient, lo, hi, *part)


def _part(m: int, k: int, columns: int, n_threads: int) -> tuple[int, int]:
    """Features and rows of one thread.

    Each reads the derivatives of its rows and the weights of its features: the cut that makes the
    least of that, of those that give every thread something.
    """
    least: tuple[bool, float] = (True, math.inf)
    best = k, m
    for across in range(1, n_threads + 1):
        f_step = round_up(-(-k // across), columns)
        r_step = round_up(-(-m // max(1, n_threads // across)), GROUP_STEP)
        parts = -(-k // f_step), -(-m // r_step)
        cost = parts[0] * parts[1] < n_threads, parts[0] * m + parts[1] * k
        if cost < least:
            least, best = cost, (f_step, r_step)
    return best
