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
from collections.abc import Iterator

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._parallel import pool
from ...results import Gradients
from ..interface import Backward, Request
from . import scratch
from ._core import GROUP_STEP, Gradient, Job, address
from .kernels import KERNELS
from .layer import Layer
from .plan import FLOPS_PER_THREAD, THREAD_BYTES, round_up
from .scoring import Block, LinearScoring, score_block

BLOCK_BYTES = 3 << 20  # of rows and logits, where these are few: they stay in the caches


def gradients(layer: Layer, x: Rows, request: Request, backward: Backward, grads: Gradients,
              accumulate: bool, workspace_bytes: int, n_threads: int | None) -> None:
    """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`."""
    if x.m == 0:
        for grad in (grads.weight, grads.bias):
            if grad is not None and not accumulate:
                grad[...] = 0
        return
    call = _Call(layer, x, request, backward, grads, accumulate, workspace_bytes, n_threads)
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
    """

    def __init__(self, layer: Layer, x: Rows, request: Request, backward: Backward,
                 grads: Gradients, accumulate: bool, workspace_bytes: int,
                 n_threads: int | None):
        self.backward, self.grads, self.accumulate = backward, grads, accumulate
        kernels = KERNELS[request.dtype]
        m, n, k, item = x.m, layer.n_classes, layer.n_features, request.dtype.itemsize
        self.group = kernels.group(n)
        row_bytes = item * kernels.keep_size(1, n)
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
        self.window, self.kept_reals = n, rows * row_bytes // item
        if self.kept_reals * item > workspace_bytes:
            of_block = rows * kernels.keep_size(1, min(n, kernels.block))
            blocks = max(1, workspace_bytes // (item * of_block))
            self.kept_reals = of_block * blocks
            self.window = blocks * kernels.block
        self.scoring = LinearScoring(layer, x if x.whole is None else x.whole, request,
                                     1 if self.by_block else n_threads, rows)

    def gradient(self, coefficients: np.ndarray, lo: int, hi: int,
                 apart: tuple[np.ndarray | None, np.ndarray | None] | None) -> Gradient:
        """Say where the gradients of rows [lo, hi) go."""
        gradient = Gradient(coefficients, self.backward.filters)
        if self.grads.x is not None:
            gradient.into_x(self.grads.x[lo:hi], self.accumulate)
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
        self._all = scratch.take(item * (call.kept_reals + columns) + 64)
        start = -address(self._all) % 64
        reals = self._all[start : start + item * (call.kept_reals + columns)].view(scoring.dtype)
        self.logits, self.columns = reals[: call.kept_reals], reals[call.kept_reals :]
        self.scratch: np.ndarray | None = None

    def give_back(self) -> None:
        """Nothing of it is in use any more."""
        scratch.give(self._all)
        scratch.give(self.scratch)


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
    coefficients = call.backward.take(block.state(scoring), slice(lo, hi))
    gradient = call.gradient(coefficients, lo, hi, apart)
    job = scoring.job(block, lo, hi)
    if call.grads.weight is not None:
        job.pack_columns(gradient, scoring.real_rows(lo, hi), memory.columns)
    to_x = call.grads.x is not None and scoring.k > 0
    for first in range(0, scoring.n, call.window):
        last = min(first + call.window, scoring.n)
        window = _Window(scoring, block, memory.logits, gradient, first, last)
        if n_threads == 1:
            window.alone(job, to_x)
        else:
            window.side_by_side(n_threads, to_x)


class _Window:
    """Gradients of a block of rows by the logits of classes [first, last), which are kept."""

    def __init__(self, scoring: LinearScoring, block: Block, logits: np.ndarray,
                 gradient: Gradient, first: int, last: int):
        self._scoring, self._block, self._logits = scoring, block, logits
        self._gradient, self._first, self._last = gradient, first, last

    def alone(self, job: Job, to_x: bool) -> None:
        """A block of classes after the other, while their derivatives are in the caches."""
        scoring, gradient, m = self._scoring, self._gradient, self._block.m
        self._open(job)
        again = None if self._block.kept is not None else self._logit_job()
        for lo in range(self._first, self._last, scoring.kernels.block):
            hi = min(lo + scoring.kernels.block, self._last)
            if again is not None:
                self._score_again(again, lo, hi)
            job.gradient_logits(gradient, lo, hi)
            if to_x and scoring.weight is not None:
                job.gradient_x(gradient, lo, hi, 0, scoring.k, 0, m)
            elif to_x:
                self._into_x(job, lo, hi, 0, scoring.k, 0, m)

    def side_by_side(self, n_threads: int, to_x: bool) -> None:
        """Threads share out classes, then features and rows of x."""
        step = self._scoring.kernels.block
        step *= max(1, -(-(self._last - self._first) // step) // (8 * n_threads))

        def by_class(tasks: pool.Tasks) -> None:
            job = self._job()
            self._open(job)
            again = None if self._block.kept is not None else self._logit_job()
            for task in tasks:
                lo = self._first + task * step
                hi = min(lo + step, self._last)
                if again is not None:
                    self._score_again(again, lo, hi)
                job.gradient_logits(self._gradient, lo, hi)

        pool.run(by_class, -(-(self._last - self._first) // step), n_threads)
        if to_x:
            self._x_side_by_side(n_threads)

    def _x_side_by_side(self, n_threads: int) -> None:
        """Threads share out a grid of features and rows, one part each."""
        m, k = self._block.m, self._scoring.k
        f_step, r_step = _part(m, k, 2 * self._scoring.kernels.lanes, n_threads)
        across, down = -(-k // f_step), -(-m // r_step)

        def by_part(tasks: pool.Tasks) -> None:
            job = self._job()
            self._open(job)
            for task in tasks:
                f, r = task % across * f_step, task // across * r_step
                self._into_x(job, self._first, self._last, f, min(f + f_step, k), r,
                             min(r + r_step, m))

        pool.run(by_part, across * down, n_threads)

    def _job(self) -> Job:
        """Make a job of the rows of the block."""
        return self._scoring.job(self._block, self._block.first, self._block.first + self._block.m)

    def _open(self, job: Job) -> None:
        """Let a job see the kept logits, and give it scratch memory and weights it can read."""
        scoring = self._scoring
        job.keep(self._logits, 0, self._block.m, self._first)
        job.scratch(np.empty(job.gradient_bytes(), np.uint8))
        if scoring.weight is not None:
            scoring.give_weights(job, 0, scoring.n)

    def _logit_job(self) -> Job:
        """Make a job that finds nothing but logits, once more."""
        scoring, block = self._scoring, self._block
        job = Job(scoring.kernels, block.m, scoring.n, scoring.k, scoring.softcap,
                  scoring.temperature)
        values, ints = block.values[:1], block.ints[:1]
        job.remember(np.empty_like(values), None, np.empty_like(ints), None, None, None)
        job.init()
        job.keep(self._logits, 0, block.m, self._first)
        scoring.open(job, block.first, block.first + block.m)
        scoring.give_weights(job, self._first, self._first + 1)  # its scratch depends on their kind
        job.scratch(np.empty(job.scratch_bytes(), np.uint8))
        return job

    def _score_again(self, job: Job, first: int, last: int) -> None:
        for lo, hi in self._pieces(first, last):
            self._scoring.give_weights(job, lo, hi)
            job.score(lo, hi)

    def _into_x(self, job: Job, first: int, last: int, *part: int) -> None:
        """Derivatives of classes [first, last) into some features of some rows of x."""
        for lo, hi in self._pieces(first, last):
            self._scoring.give_weights(job, lo, hi)
            job.gradient_x(self._gradient, lo, hi, *part)

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Classes whose weights are copied come a few at a time."""
        step = self._scoring.cut.class_step if self._scoring.weight is None else last - first
        return ((lo, min(lo + step, last)) for lo in range(first, last, step))


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
