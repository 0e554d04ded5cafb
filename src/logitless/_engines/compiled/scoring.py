"""One pass of the compiled engine: the state of all rows, and how it is shared out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..._arrays.checks import compute_dtype, plain
from ..._arrays.sparse import SparseRows
from ..._parallel import pool
from ..interface import Request, State
from . import _core, scratch
from ._core import KC, SMALL_N, Job
from .kernels import KERNELS, has_rows, in_place
from .layer import Layer
from .plan import COPY_BYTES, plan, round_up

STATE_BYTES = 4 << 20  # of the states of spans that wait to be merged
SPANS_PER_THREAD = 8  # of these at least

MAX, REST, OTHERS, MOMENT, PROB_SUM, PROB_GAP, _, SMOOTH_GAP = range(_core.VALUES)
ARGMAX, RANK = range(_core.INTS)


class Scoring:
    """One pass: the state of all rows, and what is done to a block of them.

    Threads share it, so nothing of it changes while they run but what the arrays hold.
    """

    def __init__(self, request: Request, dtype: np.dtype, m: int, n: int, k: int):
        self.request, self.dtype = request, dtype
        self.m, self.n, self.k = m, n, k
        self.kernels = KERNELS[dtype]
        self.softcap, self.temperature = 0.0, 1.0
        stride = round_up(max(m, 1), self.kernels.lanes)
        self.values, self.ints = self.room_for_state(stride)
        self.wide = self.room_for_sums()
        self.class_weight = request.class_weight
        if self.class_weight is not None:
            idle = -n % self.kernels.lanes
            self.class_weight = np.append(self.class_weight, np.zeros(idle, dtype))
        self.targets = request.targets
        if self.targets is not None:
            self.targets = np.ascontiguousarray(self.targets, np.int64)
        shape = None if self.targets is None else self.targets.shape
        self.target_logit = np.empty(shape, dtype) if shape else None
        self.target_loss = np.empty(shape, dtype) if shape and request.sums else None
        self.top_logit, self.top_index = self.top(m)
        probs = request.probs
        # Target distributions that must be copied come with the classes they are of.
        self.copies_probs = isinstance(probs, np.ndarray) and not in_place(probs, dtype)

    def room_for_state(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        """Make room for the values and integers of a state that the request uses."""
        q = self.request
        values = _core.VALUES if q.probs is not None or q.smooth else MOMENT + q.entropy
        *more, stride = shape
        return (np.empty((*more, values if q.sums else MAX + 1, stride), self.dtype),
                np.empty((*more, RANK + q.rank, stride), np.int64))

    def room_for_sums(self) -> np.ndarray | None:
        """Make room for the state of several spans, in double."""
        if self.n <= self.kernels.span:
            return None
        return self.values if self.dtype == np.float64 else np.empty(self.values.shape)

    def top(self, rows: int):
        """Empty heaps for the best classes of some rows."""
        k = self.request.k
        if not k:
            return None, None
        return np.full((rows, k), np.nan, self.dtype), np.full((rows, k), -1, np.int64)

    def job(self, lo: int, hi: int) -> Job:
        """What is to be found out about rows [lo, hi), and where it goes."""
        q = self.request
        job = Job(self.kernels, hi - lo, self.n, self.k, self.softcap, self.temperature)
        if isinstance(q.probs, SparseRows):
            probs = q.probs[lo:hi]
            job.sparse(probs.start, probs.index, probs.value)
        elif q.probs is not None and not self.copies_probs:
            job.probs(q.probs[lo:hi], 0)
        if self.class_weight is not None:
            job.class_weights(self.class_weight, q.smooth)
        job.ask(
            q.sums,
            q.entropy,
            q.rank,
            q.probs is not None,
            None if self.targets is None else self.targets[lo:hi],
            q.k,
            None if q.out is None else q.out[lo:hi],
            q.write,
        )
        job.remember(
            self.values[:, lo:],
            None if self.wide is None else self.wide[:, lo:],
            self.ints[:, lo:],
            None if self.target_logit is None else self.target_logit[lo:hi],
            None if self.top_logit is None else self.top_logit[lo:hi],
            None if self.top_index is None else self.top_index[lo:hi],
        )
        return job

    def give(self, job: Job, lo: int, hi: int, first: int, last: int) -> None:
        """Give a job of rows [lo, hi) what is copied for classes [first, last) alone."""
        if self.copies_probs:
            job.probs(plain(self.request.probs[lo:hi, first:last], self.dtype), first)

    def finish(self, job: Job, lo: int, hi: int) -> None:
        """Rows that have met all classes."""
        if self.request.out is not None and self.request.write != "logits":
            job.normalise()
        job.finish(None if self.target_loss is None else self.target_loss[lo:hi])

    def state(self) -> State:
        """Everything that was asked."""
        q, m, values = self.request, self.m, self.values
        state = State(values[MAX, :m], self.ints[ARGMAX, :m].astype(np.intp, copy=False))
        if q.sums:
            state.log_norm = values[REST, :m]
            state.rest = values[OTHERS, :m]
            state.target_loss = self.target_loss
        if q.entropy:
            state.entropy = values[MOMENT, :m]
        if q.probs is not None:
            state.prob_sum = values[PROB_SUM, :m]
            state.prob_loss = values[PROB_GAP, :m]
        if q.smooth:
            state.smooth_loss = values[SMOOTH_GAP, :m]
        if q.rank:
            state.target_rank = self.ints[RANK, :m]
        state.target_logit = self.target_logit
        state.top_index, state.top_logit = self.top_index, self.top_logit
        return state


class LinearScoring(Scoring):
    """Rows of x against a layer."""

    def __init__(self, layer: Layer, x: np.ndarray, request: Request, n_threads: int | None):
        dtype = layer.dtype
        if x.dtype != dtype and compute_dtype(x.dtype, "x").itemsize > dtype.itemsize:
            dtype = compute_dtype(x.dtype, "x")
        super().__init__(request, dtype, *x.shape[:1], layer.n_classes, layer.n_features)
        self.layer, self.x = layer, x
        self.softcap, self.temperature = layer.softcap, layer.temperature
        self.bias = layer.bias
        if self.bias is not None and self.bias.dtype != dtype:
            self.bias = self.bias.astype(dtype)
        self.small = self.n <= SMALL_N
        self.packed = layer.packed if layer.dtype == dtype else None
        # Weights the kernels can read where they are; else they come piece by piece.
        self.weight = None
        if self.small:
            self.weight = layer.weight
            if self.weight.dtype != dtype:
                self.weight = self.weight.astype(dtype)
        elif self.packed is not None:
            self.weight = self.packed.reshape(1, -1)
        elif layer.weight is not None and in_place(layer.weight, dtype):
            self.weight = layer.weight
        self.copies_rows = not has_rows(x, dtype)
        self.cut = plan(
            self.kernels, self.m, self.n, self.k,
            small_n=self.small,
            tiles_rows=not self.small and self.packed is None and self.k > KC,
            n_threads=n_threads,
            copies_rows=self.copies_rows,
            copies_weights=self.weight is None,
            copies_values=self.copies_probs,
        )

    def rows(self, lo: int, hi: int) -> np.ndarray:
        """Rows of x as the kernels read them."""
        x = self.x[lo:hi]
        return plain(x, self.dtype) if self.copies_rows else x

    def open(self, job: Job, lo: int, hi: int, packed: np.ndarray | None = None) -> None:
        """Give a job its rows, packed unless they are packed already."""
        if packed is not None:
            job.packed_rows(packed)
            return
        job.rows(self.rows(lo, hi))
        if not self.small:
            job.pack_rows(self.room(lo, hi))

    def share(self) -> np.ndarray:
        """All rows packed, for several jobs."""
        job = self.job(0, self.m)
        job.rows(self.rows(0, self.m))
        packed = self.room(0, self.m)
        job.pack_rows(packed)
        return packed

    def room(self, lo: int, hi: int) -> np.ndarray:
        """Memory for packed rows."""
        return np.empty((hi - lo) * self.k + self.kernels.lanes, self.dtype)

    def give(self, job: Job, lo: int, hi: int, first: int, last: int) -> None:
        """Give a job of rows [lo, hi) what belongs to classes [first, last)."""
        super().give(job, lo, hi, first, last)
        self.give_weights(job, first, last)

    def give_weights(self, job: Job, first: int, last: int) -> None:
        """Give a job the weights of a range of classes."""
        if self.weight is not None:
            job.weights(self.weight, self.bias, self.packed is not None, 0)
            return
        bias = None if self.bias is None else self.bias[first:last]
        job.weights(self.layer.classes(first, last, self.dtype), bias, False, first)

    def target_logits(self, lo: int, hi: int) -> None:
        """Logits of the targets, before the classes are gone through: ranks need them."""
        step = max(hi - lo, 1)
        if self.weight is None:
            step = max(COPY_BYTES // (max(self.k, 1) * self.dtype.itemsize), 1)
        for first in range(lo, hi, step):
            self._target_logits(first, min(first + step, hi))

    def _target_logits(self, lo: int, hi: int) -> None:
        job = self.job(lo, hi)
        job.rows(self.rows(lo, hi))
        if self.weight is not None:
            job.weights(self.weight, self.bias, self.packed is not None, 0)
        else:
            index = np.maximum(self.targets[lo:hi, 0], 0)
            weight = self.layer.targets(index, self.dtype)
            bias = None if self.bias is None else self.bias[index]
            own = np.where(self.targets[lo:hi, :1] < 0, -1, np.arange(hi - lo)[:, None])
            job.ask(False, False, True, False, own.astype(np.int64), 0, None, None)
            job.weights(weight, bias, False, 0)
        job.target_logits()


class LogitScoring(Scoring):
    """Logits at hand."""

    def __init__(self, logits: np.ndarray, request: Request, n_threads: int | None):
        dtype = compute_dtype(logits.dtype, "logits")
        super().__init__(request, dtype, *logits.shape, 0)
        self.logits, self.in_place = logits, in_place(logits, dtype)
        self.cut = plan(
            self.kernels, self.m, self.n, 0,
            small_n=False, tiles_rows=False, n_threads=n_threads,
            copies_values=not self.in_place or self.copies_probs,
        )

    def share(self) -> None:
        """Nothing to pack."""

    def open(self, job: Job, lo: int, hi: int, packed: None = None) -> None:
        """Nothing to pack."""

    def give(self, job: Job, lo: int, hi: int, first: int, last: int) -> None:
        """Give a job of rows [lo, hi) what belongs to classes [first, last)."""
        super().give(job, lo, hi, first, last)
        if self.in_place:
            job.logits(self.logits[lo:hi], 0)
        else:
            job.logits(plain(self.logits[lo:hi, first:last], self.dtype), first)

    def target_logits(self, lo: int, hi: int) -> None:
        """Logits of the targets, before the classes are gone through: ranks need them."""
        target = self.targets[lo:hi, 0]
        z = self.logits[np.arange(lo, hi), np.maximum(target, 0)]
        job = self.job(lo, hi)
        job.ask(False, False, True, False, np.minimum(target, 0)[:, None], 0, None, None)
        job.logits(plain(z, self.dtype)[:, None], 0)
        job.target_logits()


def pieces(first: int, last: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut classes [first, last) into ranges of up to `step`."""
    return ((c, min(c + step, last)) for c in range(first, last, step))


def _score_block(scoring, lo: int, hi: int, memory: np.ndarray | None, tasks) -> np.ndarray | None:
    """Score rows [lo, hi) against all classes; returns the scratch memory for the next block."""
    cut, n = scoring.cut, scoring.n
    job = scoring.job(lo, hi)
    job.init()
    if scoring.request.rank and n > scoring.kernels.block:
        scoring.target_logits(lo, hi)
    scoring.open(job, lo, hi)
    for first, last in pieces(0, n, cut.class_step):
        scoring.give(job, lo, hi, first, last)
        if memory is None:  # the first block is the largest
            memory = scratch.take(job.scratch_bytes())
        if first == 0:
            job.scratch(memory)
        job.score(first, last)
        if tasks is not None and tasks.stopped:
            return memory
    scoring.finish(job, lo, hi)
    return memory


def _score_rows(scoring) -> None:
    """Threads share out blocks of rows."""
    step, m = scoring.cut.row_block, scoring.m
    if m <= step:
        scratch.give(_score_block(scoring, 0, m, None, None))
        return

    def work(tasks):
        memory = None
        for block in tasks:
            lo = block * step
            memory = _score_block(scoring, lo, min(lo + step, m), memory, tasks)
        scratch.give(memory)

    pool.run(work, -(-m // step), scoring.cut.n_threads)


def _score_classes(scoring) -> None:
    """Threads share out spans of classes: few rows, many classes.

    Each span has a state of its own; they are merged in order, as one thread would have met them.
    """
    m, n, span = scoring.m, scoring.n, scoring.kernels.span
    job = scoring.job(0, m)
    job.init()
    if scoring.request.rank:
        scoring.target_logits(0, m)
    shared = scoring.share()
    stride = scoring.values.shape[1]
    at_once = max(STATE_BYTES // (scoring.values.nbytes + scoring.ints.nbytes), 2)
    at_once = max(at_once, SPANS_PER_THREAD * scoring.cut.n_threads)

    for begin in range(0, n, at_once * span):
        spans = range(begin, min(begin + at_once * span, n), span)
        values, ints = scoring.room_for_state(len(spans), stride)
        tops = []

        def work(tasks, spans=spans, values=values, ints=ints, tops=tops):
            best = scoring.top(m)
            tops.append(best)
            memory = None
            for task in tasks:
                part = scoring.job(0, m)
                part.remember(values[task], None, ints[task], scoring.target_logit, *best)
                memory = _score_span(scoring, part, shared, spans[task], memory)

        pool.run(work, len(spans), scoring.cut.n_threads)
        for task in range(len(spans)):
            job.merge(values[task], ints[task])
        for best in tops:
            if scoring.request.k:
                job.merge_top(*best)
    scoring.finish(job, 0, m)


def _score_span(scoring, part: Job, shared, first: int, memory) -> np.ndarray:
    """Score all rows against one span; returns the scratch memory for the next."""
    last = min(first + scoring.kernels.span, scoring.n)
    part.init()
    scoring.open(part, 0, scoring.m, shared)
    for lo, hi in pieces(first, last, scoring.cut.class_step):
        scoring.give(part, 0, scoring.m, lo, hi)
        if memory is None:  # its size depends on how weights lie
            memory = np.empty(part.scratch_bytes(), np.uint8)
        part.scratch(memory)
        part.score(lo, hi)
    return memory


def score_all(scoring) -> State:
    """Score all rows of a scoring."""
    if scoring.cut.by_class:
        _score_classes(scoring)
    else:
        _score_rows(scoring)
    return scoring.state()
