"""A pass over some of the classes, and what such passes have found out put together.

Spans of classes are the same wherever a pass begins with one: their states are kept apart, and
merged in order when all before them are there, as `sharing` merges those of one pass.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ..interface import Part, Request, State
from . import scratch
from ._core import FIELDS, SMALL_N, Job
from .kernels import KERNELS
from .layer import Layer
from .plan import round_up
from .scoring import ARGMAX, MAX, RANK, Block, LinearScoring, Scoring
from .sharing import merge_by_class


def part(
    layer: Layer, x: np.ndarray | SparseX, request: Request, apart: bool, n_threads: int | None
) -> Part:
    """What `request` asks for, of the rows of x (m, k), as far as other classes can be merged."""
    request, least, others = _for_part(layer, request, apart)
    scoring = LinearScoring(layer, x, request, n_threads, least=least)
    call = _Call(scoring, layer.n_classes, apart)
    if others and request.rank:
        call.block.target_logit[:, 0] = request.known
    if scoring.cut.by_class and scoring.m:
        merge_by_class(scoring, call.block, call.take if apart else None)
    else:
        call.share_rows()
    return call.part()


def _for_part(layer: Layer, request: Request, apart: bool) -> tuple[Request, int, bool]:
    """The request, how many classes there are at least, and whether there may be others.

    Up to `SMALL_N` classes have logits of their own way where these are all there are. Those who
    want more of the best, or have targets elsewhere, are not all.
    """
    n, targets = layer.n_classes, request.targets
    few = n <= SMALL_N and not apart and request.k <= n
    if few and (targets is None or (targets < n).all()):
        return request, 1, False
    if not request.rank:
        return request, SMALL_N + 1, True
    assert targets is not None  # whose ranks these are
    # Those before come before all classes, those behind behind all of them.
    targets = np.clip(targets, 0, n)
    return replace(request, targets=targets), KERNELS[request.dtype].block + 1, True


class _Call:
    """All rows against all spans, and where that goes: threads share it."""

    def __init__(self, scoring: LinearScoring, n: int, apart: bool):
        self.scoring, self.n, self.apart = scoring, n, apart
        self.block = block = Block(scoring, 0, scoring.m)
        if block.wide is None:
            block.wide = block.values if scoring.dtype == np.float64 else np.empty(
                block.values.shape)
        if block.target_logit is not None:
            block.target_logit[...] = np.nan
        self.fields = summed(scoring)
        spans = -(-n // scoring.kernels.span)
        self.sums = np.empty((spans if apart else 0, len(self.fields), scoring.m), scoring.dtype)

    def take(self, span: int, values: np.ndarray, lo: int = 0, hi: int | None = None) -> None:
        """Keep the values of a span for rows [lo, hi)."""
        hi = self.scoring.m if hi is None else hi
        self.sums[span, :, lo:hi] = values[self.fields, : hi - lo]

    def share_rows(self) -> None:
        """Threads share out blocks of rows."""
        bounds = self.scoring.cut.bounds(self.scoring.m).tolist()

        def work(tasks: pool.Tasks) -> None:
            memory = None
            for task in tasks:
                memory = self._rows(bounds[task], bounds[task + 1], memory, tasks)
            scratch.give(memory)

        pool.run(work, len(bounds) - 1, self.scoring.cut.n_threads)

    def _rows(self, lo: int, hi: int, memory: np.ndarray | None, tasks: pool.Tasks,
              ) -> np.ndarray | None:
        """Rows [lo, hi) against all classes; returns the scratch memory for the next."""
        scoring, block, span = self.scoring, self.block, self.scoring.kernels.span
        step = min(scoring.cut.class_step, span)
        values, ints = scoring.room_for_state(round_up(hi - lo, scoring.kernels.lanes))
        all_spans, one = scoring.job(block, lo, hi), scoring.job(block, lo, hi)
        one.remember(values, None, ints,
                     None if block.target_logit is None else block.target_logit[lo:hi])
        all_spans.init()
        if scoring.request.k and scoring.n > scoring.kernels.lanes:
            block.forget_best(lo, hi)
        scoring.open(one, lo, hi)
        for first in range(0, self.n, span):
            one.init()
            for c in range(first, min(first + span, self.n), step):
                last = min(c + step, first + span, self.n)
                if scoring.copies:
                    scoring.give(one, block, lo, hi, c, last)
                memory = scratch.enough(one.scratch_bytes(), memory)
                one.scratch(memory)
                one.score(c, last)
                if tasks.stopped:
                    return memory
            if self.apart:
                self.take(first // span, values, lo, hi)
            all_spans.merge(values, ints)
        return memory

    def part(self) -> Part:
        """Everything there is to merge with."""
        block, scoring, m = self.block, self.scoring, self.scoring.m
        assert block.wide is not None  # spans are merged there
        sums = self.sums if self.apart else block.wide[None, self.fields, :m]
        part = Part(sums, block.wide[MAX, :m].astype(scoring.dtype), block.ints[ARGMAX, :m].copy())
        if scoring.request.rank:
            part.rank = block.ints[RANK, :m].copy()
        if block.target_logit is not None:
            part.target_logit = block.target_logit[:, 0].copy()
        if scoring.request.k:
            # Few classes have their best in order: turned round, it is a heap.
            order = slice(None, None, -1 if scoring.n <= scoring.kernels.lanes else 1)
            part.top_logit = np.ascontiguousarray(block.top_logit[:, order])
            part.top_index = np.ascontiguousarray(block.top_index[:, order])
        return part


def summed(scoring: Scoring) -> list[int]:
    """Fields of the kernels' state that are sums; one comes of them in the end alone."""
    return [MAX, *(field for field, name in enumerate(FIELDS)
                   if field != MAX and scoring.fields >> field & 1 and name != "others")]


def target_logits(
    layer: Layer, x: np.ndarray | SparseX, request: Request, n_threads: int | None
) -> np.ndarray:
    """Logits of the first target of each row."""
    block_of = KERNELS[request.dtype].block
    scoring = LinearScoring(layer, x, replace(request, rank=True), n_threads, least=block_of + 1)
    block = Block(scoring, 0, scoring.m)
    bounds = scoring.cut.bounds(scoring.m).tolist()

    def work(tasks: pool.Tasks) -> None:
        for task in tasks:
            scoring.target_logits(block, bounds[task], bounds[task + 1])

    pool.run(work, len(bounds) - 1, scoring.cut.n_threads)
    return block.target_logit[:, 0].copy()


class _Merged:
    """A scoring of many classes that has none to meet, and its state."""

    def __init__(self, request: Request, m: int, n: int = 0):
        kernels = KERNELS[request.dtype]
        self.scoring = Scoring(_without_classes(request, m), m, max(n, kernels.span + 1), 0)
        self.block = Block(self.scoring, 0, m)
        self.fields = summed(self.scoring)

    def job(self) -> Job:
        return self.scoring.job(self.block, 0, self.block.m)

    def wide(self) -> np.ndarray:
        assert self.block.wide is not None  # there are several spans
        return self.block.wide


def _without_classes(request: Request, m: int) -> Request:
    """The same, with nothing that belongs to classes."""
    probs = None if request.probs is None else np.empty((m, 0), request.dtype)
    return replace(request, probs=probs, class_weight=None, temperature=None, known=None)


def fold(request: Request, sums: np.ndarray | None, later: np.ndarray) -> np.ndarray:
    """Merge spans with all there is before them."""
    m = later.shape[2]
    merged = _Merged(replace(request, targets=None, rank=False, k=0), m)
    job, wide = merged.job(), merged.wide()
    job.init()
    if sums is not None:
        wide[merged.fields, :m] = sums
    values, ints = merged.scoring.room_for_state(wide.shape[1])
    values[...], ints[...] = 0, 0
    for span in later:
        values[merged.fields, :m] = span
        job.merge(values, ints)
    return wide[merged.fields, :m]


def merge_top(part: Part, other: Part) -> tuple[np.ndarray, np.ndarray]:
    """The best classes of both."""
    logit, index = part.top_logit.copy(), part.top_index.copy()
    m, k = logit.shape
    if m:
        job = Job(KERNELS[logit.dtype], m, 0, 0, 0.0, 1.0)
        job.ask(0, False, None, k, None, None)
        job.best(logit, index, None)
        job.merge_top(other.top_logit, other.top_index)
    return logit, index


def finish(request: Request, n: int, sums: np.ndarray, part: Part) -> State:
    """Make results of what n classes have been merged to."""
    m = sums.shape[1]
    merged = _Merged(request, m, n)
    block, job = merged.block, merged.job()
    job.init()
    merged.wide()[merged.fields, :m] = sums
    block.ints[ARGMAX, :m] = part.argmax
    if request.rank:
        block.ints[RANK, :m] = part.rank
    if request.targets is not None:
        block.target_logit[:, 0] = part.target_logit
    if request.k:
        block.top_logit[...], block.top_index[...] = part.top_logit, part.top_index
    job.finish(block.target_loss)
    return block.state(merged.scoring)
