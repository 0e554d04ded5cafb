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

from ..._arrays.checks import plain
from ..._parallel import pool
from ...results import Gradients
from . import scratch
from ._core import GROUP_STEP, Gradient, Job, address
from .kernels import in_place
from .plan import FLOPS_PER_THREAD, WORKSPACE, round_up
from .scoring import LinearScoring, pieces, score_all

BLOCK_BYTES = 3 << 20  # of rows and logits, where these are few: they stay in the caches


class Kept(LinearScoring):
    """Rows of x against a layer, their logits kept.

    Attributes
    ----------
    memory : ndarray
        Where the logits of all classes are kept, or of a window of them.
    keeps : bool
        Of all classes.
    """

    def __init__(self, layer, x, request, n_threads, memory):
        super().__init__(layer, x, request, n_threads)
        self.memory = memory
        self.keeps = len(memory) >= self.kernels.keep_size(self.m, self.n)

    def move(self, x, request):
        """Go on to as many other rows: what was found out about these has been taken.

        No thread but the caller's has a hand in this scoring now.
        """
        self.x, self.request = x, request
        if request.targets is not None:
            self.targets = np.ascontiguousarray(request.targets, np.int64)

    def job(self, lo, hi):
        """As for any scoring, and the logits stay."""
        job = super().job(lo, hi)
        if self.keeps:
            self.keep(job, lo, 0)
        return job

    def keep(self, job, lo, window):
        """Keep the logits of rows from `lo` on, of classes from `window` on."""
        job.keep(self.memory, lo * self.kernels.keep_size(1, min(self.n, self.kernels.block)),
                 self.m, window)

    def pieces(self, first, last):
        """Classes whose weights are copied come a few at a time."""
        return pieces(first, last, self.cut.class_step if self.weight is None else last - first)

    def logit_job(self, window) -> Job:
        """Make a job that finds nothing but logits, once more."""
        job = Job(self.kernels, self.m, self.n, self.k, self.softcap, self.temperature)
        values, ints = self.values[:1], self.ints[:1]
        job.remember(np.empty_like(values), None, np.empty_like(ints), None, None, None)
        job.init()
        self.open(job, 0, self.m)
        self.keep(job, 0, window)
        return job


class _Memory:
    """What one thread needs for a block of rows: a scoring, kept logits, columns of features."""

    def __init__(self, call: _Call):
        item, rows = call.dtype.itemsize, min(call.step, call.x.m)
        width = round_up(call.layer.n_features, call.kernels.lanes)
        columns = (rows + -(-rows // call.group)) * width
        if call.grads.weight is None:
            columns = 0
        self._all = scratch.take(item * (call.kept_reals + columns) + 64)
        start = -address(self._all) % 64
        reals = self._all[start : start + item * (call.kept_reals + columns)].view(call.dtype)
        self.logits, self.columns = np.split(reals, [call.kept_reals])
        self.scoring = None

    def give_back(self) -> None:
        """Nothing of it is in use any more."""
        scratch.give(self._all)


class _Call:
    """What all blocks of one call have in common."""

    def __init__(self, layer, x, probs, request, backward, grads, accumulate, workspace_bytes,
                 n_threads):
        self.layer, self.x, self.probs, self.request = layer, x, probs, request
        self.backward, self.grads, self.accumulate = backward, grads, accumulate
        m, n, k = x.m, layer.n_classes, layer.n_features
        scoring = LinearScoring(layer, x[0:0], replace(request, targets=None), 1)
        self.kernels, self.dtype = scoring.kernels, scoring.dtype
        item = self.dtype.itemsize
        self.group = self.kernels.group(n)
        row_bytes = item * self.kernels.keep_size(1, n)
        flops = 6 * m * n * max(k, 16)
        self.n_threads = max(1, min(pool.resolve(n_threads), flops // FLOPS_PER_THREAD))
        # Groups of rows whose logits the workspace holds, and that stay in a thread's cache.
        fitting = workspace_bytes // row_bytes // self.group
        cached = BLOCK_BYTES // ((item * 2 * k + row_bytes) * self.group)
        # Small gradients of the weights may wait for their turn, a group each.
        step = max(1, min(fitting, cached))
        self.at_once = min(WORKSPACE // (item * n * (k + 1)) // step, -(-m // (step * self.group)))
        self.by_block = self.n_threads > 1 and self.at_once >= 2 * self.n_threads
        if not self.by_block:
            step = max(1, min(fitting, cached * self.n_threads))
        self.step = step * self.group
        rows = min(self.step, m)
        self.kept_reals = rows * row_bytes // item
        if self.kept_reals * item > workspace_bytes:
            block = rows * self.kernels.keep_size(1, min(n, self.kernels.block))
            self.kept_reals = block * max(1, workspace_bytes // (item * block))

    def blocks(self) -> list[slice]:
        """Ranges of rows, each of whole groups."""
        m = self.x.m
        return [slice(lo, min(lo + self.step, m)) for lo in range(0, m, self.step)]

    def forward(self, rows: slice, memory: _Memory, n_threads: int):
        """Score a block of rows: the scoring and the coefficients."""
        q = self.request
        probs = None if self.probs is None else self.probs[rows]
        if isinstance(probs, np.ndarray) and not in_place(probs, self.dtype):
            probs = plain(probs, self.dtype)  # once for all jobs of the block
        request = replace(q, targets=None if q.targets is None else q.targets[rows], probs=probs)
        x = self.x[rows]
        if memory.scoring is None or memory.scoring.m != len(x):
            memory.scoring = Kept(self.layer, x, request, n_threads, memory.logits)
        else:
            memory.scoring.move(x, request)
        return memory.scoring, self.backward.take(score_all(memory.scoring), rows)

    def gradient(self, rows: slice, coefficients: np.ndarray, apart) -> Gradient:
        """Say where the gradients of a block go."""
        gradient = Gradient(coefficients, self.backward.filters)
        if self.grads.x is not None:
            gradient.into_x(self.grads.x[rows], self.accumulate)
        if apart is None:
            add = self.accumulate or rows.start > 0
            gradient.into_weight(self.grads.weight, self.grads.bias, add, False)
        else:
            gradient.into_weight(*apart, False, True)
        return gradient


def gradients(layer, x, probs, request, backward, grads: Gradients, accumulate, workspace_bytes,
              n_threads) -> None:
    """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`.

    `x` and the target distributions `probs` (m, n) are Rows: a block of them at a time is made.
    """
    call = _Call(layer, x, probs, request, backward, grads, accumulate, workspace_bytes, n_threads)
    if x.m == 0:
        for grad in (grads.weight, grads.bias):
            if grad is not None and not accumulate:
                grad[...] = 0
        return
    blocks = call.blocks()
    if call.by_block:
        _blocks_side_by_side(call, blocks)
        return
    memory = _Memory(call)
    for rows in blocks:
        _block(call, rows, memory, call.n_threads)
    memory.give_back()


def _blocks_side_by_side(call: _Call, blocks: list[slice]) -> None:
    """Threads share out blocks; their gradients of the weights wait to be added in order."""
    n, k, add = call.layer.n_classes, call.layer.n_features, call.accumulate
    groups = call.step // call.group
    for first in range(0, len(blocks), call.at_once):
        some = blocks[first : first + call.at_once]
        d_weight = _room(call.grads.weight, (len(some) * groups, n, k))
        d_bias = _room(call.grads.bias, (len(some) * groups, n))

        def work(tasks, some=some, d_weight=d_weight, d_bias=d_bias):
            memory = _Memory(call)
            for task in tasks:
                own = slice(task * groups, (task + 1) * groups)
                apart = [None if d is None else d[own] for d in (d_weight, d_bias)]
                _block(call, some[task], memory, 1, apart)
            memory.give_back()

        pool.run(work, len(some), call.n_threads)
        last = -(-(some[-1].stop - some[0].start) // call.group)
        for into, parts in ((call.grads.weight, d_weight), (call.grads.bias, d_bias)):
            if into is not None:
                _add_in_order(into, parts[:last], add)
        add = True


def _room(like, shape) -> np.ndarray | None:
    return None if like is None else np.empty(shape, like.dtype)


def _add_in_order(into: np.ndarray, parts: np.ndarray, add: bool) -> None:
    with np.errstate(all="ignore"):
        for i, part in enumerate(parts):
            if add or i:
                into += part
            else:
                into[...] = part


def _block(call: _Call, rows: slice, memory: _Memory, n_threads: int, apart=None) -> None:
    """One block of rows: forward, then its part of the gradients."""
    scoring, coefficients = call.forward(rows, memory, n_threads)
    gradient = call.gradient(rows, coefficients, apart)
    if call.grads.weight is not None:
        job = scoring.job(0, scoring.m)
        job.pack_columns(gradient, scoring.rows(0, scoring.m), memory.columns)
    window = scoring.n
    if not scoring.keeps:
        block = scoring.kernels.block
        window = len(memory.logits) // scoring.kernels.keep_size(scoring.m, block) * block
    for first in range(0, scoring.n, window):
        last = min(first + window, scoring.n)
        to_x = call.grads.x is not None and scoring.k > 0
        _window(scoring, gradient, first, last, to_x, n_threads)


def _window(scoring: Kept, gradient, first: int, last: int, to_x: bool, n_threads: int) -> None:
    """Gradients of a block of rows by the logits of classes [first, last), and what follows."""
    if n_threads == 1:
        job = _Worker(scoring, first)
        for c in range(first, last, scoring.kernels.block):
            job.logits(gradient, c, min(c + scoring.kernels.block, last))
            if to_x:
                job.x(gradient, c, min(c + scoring.kernels.block, last), 0, scoring.k,
                      0, scoring.m)
        return
    step = scoring.kernels.block
    step *= max(1, -(-(last - first) // step) // (8 * n_threads))

    def by_class(tasks):
        job = _Worker(scoring, first)
        for task in tasks:
            c = first + task * step
            job.logits(gradient, c, min(c + step, last))

    pool.run(by_class, -(-(last - first) // step), n_threads)
    if to_x:
        _x_side_by_side(scoring, gradient, first, last, n_threads)


def _x_side_by_side(scoring: Kept, gradient, first, last, n_threads) -> None:
    """Threads share out a grid of features and rows, one part each."""
    m, k = scoring.m, scoring.k
    f_step, r_step = _part(m, k, 2 * scoring.kernels.lanes, n_threads)
    across, down = -(-k // f_step), -(-m // r_step)

    def by_part(tasks):
        job = _Worker(scoring, first)
        for task in tasks:
            f, r = task % across * f_step, task // across * r_step
            job.x(gradient, first, last, f, min(f + f_step, k), r, min(r + r_step, m))

    pool.run(by_part, across * down, n_threads)


def _part(m: int, k: int, columns: int, n_threads: int) -> tuple[int, int]:
    """Features and rows of one thread.

    Each reads the derivatives of its rows and the weights of its features: the cut that makes the
    least of that, of those that give every thread something.
    """
    best = None
    for across in range(1, n_threads + 1):
        f_step = round_up(-(-k // across), columns)
        r_step = round_up(-(-m // max(1, n_threads // across)), GROUP_STEP)
        parts = -(-k // f_step), -(-m // r_step)
        cost = parts[0] * parts[1] < n_threads, parts[0] * m + parts[1] * k
        if best is None or cost < best[0]:
            best = cost, (f_step, r_step)
    return best[1]


class _Worker:
    """One thread's jobs for the gradients of a block, where logits from `window` on are kept."""

    def __init__(self, scoring: Kept, window: int):
        self._scoring, self._window = scoring, window
        self._job = scoring.job(0, scoring.m)
        scoring.keep(self._job, 0, window)
        self._job.scratch(np.empty(self._job.gradient_bytes(), np.uint8))
        self._again = self._memory = None

    def logits(self, gradient, first: int, last: int) -> None:
        """Logits to derivatives; scored again where they were not kept."""
        scoring = self._scoring
        if not scoring.keeps:
            if self._again is None:
                self._again = scoring.logit_job(self._window)
            for lo, hi in scoring.pieces(first, last):
                scoring.give_weights(self._again, lo, hi)
                if self._memory is None:
                    self._memory = np.empty(self._again.scratch_bytes(), np.uint8)
                    self._again.scratch(self._memory)
                self._again.score(lo, hi)
        self._job.gradient_logits(gradient, first, last)

    def x(self, gradient, first, last, f_first, f_last, r_first, r_last) -> None:
        """Derivatives into some features of some rows of x."""
        for lo, hi in self._scoring.pieces(first, last):
            self._scoring.give_weights(self._job, lo, hi)
            self._job.gradient_x(gradient, lo, hi, f_first, f_last, r_first, r_last)
