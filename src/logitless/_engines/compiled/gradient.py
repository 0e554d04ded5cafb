"""The gradients over the compiled kernels: blocks of rows, memory and threads.

Rows are taken in blocks of whole groups. The logits of a block are kept, turned into derivatives
where they are, and multiplied with the weights and with the rows: nothing is computed twice. Where
not even a group's logits fit into the workspace, its classes are taken a window at a time and
scored again.

Threads share out what there is most of, in one of three ways; the bits are the same:

- the rows of a block, as far as their derivatives, then the classes of the gradient of the weights;
- of few rows the classes of a block, then its features and rows;
- where the weights are small, whole blocks, with the gradients of each group held apart until they
  are added in order.
"""

from __future__ import annotations

import math

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ...results import Gradients
from ..interface import Backward, Request, Teacher
from . import scratch
from ._core import GROUP_STEP, Gradient, Job
from .divergence import Pair, score_again
from .gradient_plan import BLOCK_BYTES, plan_gradients
from .kept import Kept
from .kernels import KERNELS
from .layer import Layer
from .plan import flops_per_call, round_up
from .scoring import Block, LinearScoring
from .sharing import score_block
from .sparse_gradient import sparse_gradients

TASKS = 2  # of rows or classes for a thread
LEAST_SUM = 1 << 15  # numbers that are worth a thread


def gradients(layer: Layer, x: Rows | SparseX, request: Request, backward: Backward,
              grads: Gradients, accumulate: bool, workspace_bytes: int, n_threads: int | None,
              teacher: Teacher[Layer] | None = None) -> None:
    """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`."""
    if x.m == 0:
        for grad in (grads.weight, grads.bias):
            if grad is not None and not accumulate:
                grad[...] = 0
        return
    if isinstance(x, SparseX):
        sparse_gradients(layer, x, request, backward, grads, accumulate, workspace_bytes,
                         n_threads, teacher)
        return
    call = _Call(layer, x, request, backward, grads, accumulate, workspace_bytes, n_threads,
                 teacher)
    if call.plan.by_block:
        _blocks_side_by_side(call)
        return
    memory, own = _Memory(call), _Scratch()
    for lo in range(0, x.m, call.plan.step):
        block = range(lo, min(lo + call.plan.step, x.m))
        if call.plan.by_row:
            _rows_side_by_side(call, block, memory)
            _classes_side_by_side(call, block, memory)
        else:
            _rows(call, block, block, memory, own, call.plan.n_threads, call.weights(lo > 0))
    memory.give_back()
    own.give_back()


class _Weights:
    """Where gradients of the weights go.

    Attributes
    ----------
    weight, bias : ndarray or None
    add : bool
        To what is there.
    apart : bool
        Each group of rows has gradients of its own.
    """

    __slots__ = ("add", "apart", "bias", "weight")

    def __init__(self, weight: np.ndarray | None, bias: np.ndarray | None, add: bool,
                 apart: bool = False):
        self.weight, self.bias, self.add, self.apart = weight, bias, add, apart


class _Call:
    """What all blocks of one call have in common; nothing of it changes.

    Attributes
    ----------
    plan : GradientPlan
    pair : Pair or None
        The teacher, and the student.
    """

    def __init__(self, layer: Layer, x: Rows, request: Request, backward: Backward,
                 grads: Gradients, accumulate: bool, workspace_bytes: int, n_threads: int | None,
                 teacher: Teacher[Layer] | None):
        self.backward, self.grads, self.accumulate = backward, grads, accumulate
        n_threads = pool.resolve(n_threads)
        self.plan = plan = plan_gradients(
            KERNELS[request.dtype], x.m, layer.n_classes, layer.n_features,
            heads=1 if teacher is None else 2, columns=grads.weight is not None,
            workspace_bytes=workspace_bytes, n_threads=n_threads)
        threads = 1 if plan.by_block or plan.by_row else n_threads
        rows, keeps = min(plan.step, x.m), plan.window >= layer.n_classes
        self.scoring = LinearScoring(layer, x if x.whole is None else x.whole, request, threads,
                                     rows, keeps)
        self.pair = None if teacher is None else Pair(self.scoring, teacher, threads, rows, keeps)

    def weights(self, later: bool) -> _Weights:
        """Say where the gradients of a block go, which is not the first."""
        return _Weights(self.grads.weight, self.grads.bias, self.accumulate or later)


class _Memory:
    """What threads share of a block of rows: kept logits, columns of features."""

    def __init__(self, call: _Call):
        scoring = call.scoring
        item, rows = scoring.dtype.itemsize, min(call.plan.step, scoring.m)
        columns = 0
        if call.grads.weight is not None:
            groups = -(-rows // call.plan.group)
            columns = (rows + groups) * round_up(scoring.k, scoring.kernels.lanes)
        teachers = 0 if call.pair is None else call.plan.kept_reals
        sizes = call.plan.kept_reals, teachers, columns
        self._all = scratch.take(item * sum(sizes) + 64 * len(sizes))
        self.logits, self.teachers, self.columns = scratch.reals(self._all, scoring.dtype, *sizes)

    def give_back(self) -> None:
        """It is not in use any more."""
        scratch.give(self._all)


class _Scratch:
    """What one thread has for itself."""

    def __init__(self) -> None:
        self.score: np.ndarray | None = None
        self.teacher: np.ndarray | None = None

    def give_back(self) -> None:
        """It is not in use any more."""
        for memory in (self.score, self.teacher):
            scratch.give(memory)


def _blocks_side_by_side(call: _Call) -> None:
    """Threads share out blocks; their gradients of the weights wait to be added in order."""
    scoring, step, into = call.scoring, call.plan.step, call.weights(False)
    m, n, k, item = scoring.m, scoring.n, scoring.k, scoring.dtype.itemsize
    groups = step // call.plan.group
    most = min(call.plan.at_once * groups, -(-m // call.plan.group))
    memory = scratch.take(item * most * n * (k + 1) + 128)
    d_weight, d_bias = scratch.reals(memory, scoring.dtype, most * n * k, most * n)
    apart = _Weights(None if into.weight is None else d_weight.reshape(most, n * k),
                     None if into.bias is None else d_bias.reshape(most, n), False, True)
    for first in range(0, m, call.plan.at_once * step):
        last = min(first + call.plan.at_once * step, m)

        def work(tasks: pool.Tasks, first: int = first) -> None:
            memory, own = _Memory(call), _Scratch()
            for task in tasks:
                lo = first + task * step
                block = range(lo, min(lo + step, m))
                of_groups = slice(task * groups, (task + 1) * groups)
                _rows(call, block, block, memory, own, 1, _Weights(
                    None if apart.weight is None else apart.weight[of_groups],
                    None if apart.bias is None else apart.bias[of_groups],
                    call.accumulate or lo > 0, True))
            memory.give_back()
            own.give_back()

        pool.run(work, -(-(last - first) // step), call.plan.n_threads)
        parts = -(-(last - first) // call.plan.group)
        add = call.accumulate or first > 0
        for total, of_groups in ((into.weight, apart.weight), (into.bias, apart.bias)):
            if total is not None and of_groups is not None and total.size:
                _add_in_order(call, total.reshape(-1), of_groups[:parts], add)
    scratch.give(memory)


def _add_in_order(call: _Call, into: np.ndarray, parts: np.ndarray, add: bool) -> None:
    """Threads share out the numbers, each of which is a sum over the groups in order."""
    shares = max(1, min(call.plan.n_threads, parts.size // LEAST_SUM))
    step = round_up(-(-into.size // shares), call.scoring.kernels.lanes)

    def work(tasks: pool.Tasks) -> None:
        for task in tasks:
            lo = task * step
            call.scoring.kernels.add_in_order(parts, into, add, lo, min(lo + step, into.size))

    pool.run(work, -(-into.size // step), shares)


def _rows_side_by_side(call: _Call, block: range, memory: _Memory) -> None:
    """Threads share out the rows of a block, up to their derivatives and their own gradients."""
    scoring, kernels = call.scoring, call.scoring.kernels
    most = flops_per_call(kernels) // (2 * min(scoring.n, kernels.block) * max(scoring.k, 1))
    copied = scoring.dtype.itemsize * _copied_reals(call)
    if copied:
        most = min(most, BLOCK_BYTES // copied)
    steps = -(-len(block) // GROUP_STEP)
    count = min(steps, max(_tasks(call), -(-len(block) // max(most, call.plan.group))))
    bounds = [task * steps // count * GROUP_STEP for task in range(count)] + [len(block)]
    nowhere = _Weights(None, None, False)

    def work(tasks: pool.Tasks) -> None:
        own = _Scratch()
        for task in tasks:
            rows = block[bounds[task] : bounds[task + 1]]
            _rows(call, rows, block, memory, own, 1, nowhere)
        own.give_back()

    pool.run(work, count, call.plan.n_threads)


def _classes_side_by_side(call: _Call, block: range, memory: _Memory) -> None:
    """Threads share out classes and features of the gradient of the weights.

    Each goes over all rows of the block, whose derivatives are there, group by group.
    """
    scoring, into = call.scoring, call.weights(block.start > 0)
    if into.weight is None and into.bias is None:
        return
    n, k = scoring.n, 0 if into.weight is None else scoring.k
    gradient = Gradient(None, call.backward.filters)
    gradient.into_weight(into.weight, into.bias, into.add, False)
    gradient.columns(memory.columns)
    tasks = max(_tasks(call), 2 * len(block) * n * k // flops_per_call(scoring.kernels))
    f_step, c_step = _part(n, max(k, 1), 2 * scoring.kernels.lanes, tasks)
    if call.backward.filters:
        c_step = round_up(c_step, scoring.kernels.block)
    across, down = -(-max(k, 1) // f_step), -(-n // c_step)

    def work(tasks: pool.Tasks) -> None:
        job = scoring.product(block.start, block.stop)
        job.keep(memory.logits, 0, len(block), 0)
        space = scratch.take(job.gradient_bytes())
        job.scratch(space)
        for task in tasks:
            f, c = task % across * f_step, task // across * c_step
            job.gradient_weight(gradient, c, min(c + c_step, n), f, min(f + f_step, k))
        scratch.give(space)

    pool.run(work, across * down, call.plan.n_threads)


def _copied_reals(call: _Call) -> int:
    """Numbers to a row that a task copies before it uses them, or writes them for others."""
    scoring = call.scoring
    rows = scoring.copies_rows or scoring.x_dtype != scoring.dtype
    return (scoring.k * (rows + isinstance(call.grads.x, Rows))
            + scoring.n * (scoring.copied_probs is not None))


def _tasks(call: _Call) -> int:
    """Tasks that threads share out, of a phase of a block."""
    return TASKS * call.plan.n_threads if call.plan.n_threads > 1 else 1


def _rows(call: _Call, rows: range, block: range, memory: _Memory, own: _Scratch, n_threads: int,
          into: _Weights) -> None:
    """Some rows of a block, or all of them: forward, then their part of the gradients."""
    scoring = call.scoring
    lo, hi = rows.start, rows.stop
    probs = None
    if scoring.copied_probs is not None:
        probs = plain(scoring.copied_probs[lo:hi], scoring.dtype)  # once for all jobs of the rows
    whole = call.plan.window >= scoring.n
    part = Block(scoring, lo, hi - lo, memory.logits if whole else None, probs, block)
    own.score = score_block(scoring, part, own.score)
    other: Block | None = None
    means: np.ndarray | None = None
    if call.pair is None:
        state = part.state(scoring)
    else:
        other, own.teacher = call.pair.score(
            lo, hi, memory.teachers if whole else None, own.teacher, block)
        state, means = call.pair.state(part, other, memory.logits, memory.teachers,
                                       call.plan.window, n_threads)
    gradient = Gradient(call.backward.take(state, slice(lo, hi)), call.backward.filters)
    d_x = None if call.grads.x is None else call.grads.x[lo:hi]
    if d_x is not None:
        gradient.into_x(d_x, call.accumulate)
    gradient.into_weight(into.weight, into.bias, into.add, into.apart)
    if call.grads.weight is not None:
        scoring.job(part, lo, hi).pack_columns(gradient, scoring.real_rows(lo, hi),
                                               lo - block.start, len(block), memory.columns)
    to_x = d_x is not None and scoring.k > 0
    for first in range(0, scoring.n, call.plan.window):
        last = min(first + call.plan.window, scoring.n)
        kept = Kept(scoring, part, memory.logits, first, last)
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
