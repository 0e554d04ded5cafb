"""One pass over the classes: who does it. Threads share out rows, spans or blocks of classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..._parallel import pool
from ..interface import Request, State
from . import scratch
from ._core import ClassShares, Job, KeptShares, RowShares, Shares
from .plan import FLOPS_PER_THREAD, kept_classes, round_up
from .scoring import Block, Scoring

STATE_BYTES = 4 << 20  # of the states of spans that wait to be merged
SPANS_PER_THREAD = 8  # of these at least
Take = Callable[[int, np.ndarray], None]  # has the number of a span and its values
TARGET_ROWS = 192  # that a thread takes at a time


def score_all(scoring: Scoring) -> State:
    """Score all rows of a scoring."""
    block = Block(scoring, 0, scoring.m)
    scratch.give(score_block(scoring, block, None))
    return block.state(scoring)


def find_targets(scoring: Scoring, n_threads: int | None) -> State:
    """Find the logits of the targets, and nothing else, without a pass over the classes."""
    assert scoring.request.targets is not None  # whose logits are asked for
    block, m = Block(scoring, 0, scoring.m), scoring.m
    flops = 2 * scoring.request.targets.size * max(scoring.k, 16)
    threads = max(1, min(pool.resolve(n_threads), flops // FLOPS_PER_THREAD))

    def work(tasks: pool.Tasks) -> None:
        for task in tasks:
            scoring.target_logits(block, task * TARGET_ROWS, min((task + 1) * TARGET_ROWS, m))

    pool.run(work, -(-m // TARGET_ROWS), threads)
    if scoring.request.exclude is not None:
        block.target_logit[scoring.request.exclude.holds(scoring.request.targets)] = -np.inf
    return State(target_logit=block.target_logit)


def score_block(
    scoring: Scoring, block: Block, memory: np.ndarray | None
) -> np.ndarray | None:
    """Score the rows of a block against all classes.

    Gives back the scratch memory for the next, of no more rows, where only this thread had one.
    """
    if scoring.cut.by_block and scoring.direct and block.m:
        _score_by_block(scoring, block)
        return memory
    if scoring.cut.by_class and block.m:
        _score_by_class(scoring, block)
        return memory
    bounds = scoring.cut.bounds(block.m)
    if scoring.direct and block.m:
        return _share_rows(scoring, block, bounds, memory)
    bounds = (bounds + block.first).tolist()
    if len(bounds) < 3:
        return _score_rows(scoring, block, block.first, block.first + block.m, memory, None)

    def work(tasks: pool.Tasks) -> None:
        memory = None
        for task in tasks:
            memory = _score_rows(scoring, block, bounds[task], bounds[task + 1], memory, tasks)
        scratch.give(memory)

    pool.run(work, len(bounds) - 1, scoring.cut.n_threads)
    return memory


def _share_rows(scoring: Scoring, block: Block, bounds: np.ndarray,
                memory: np.ndarray | None) -> np.ndarray:
    """Threads share out blocks of rows, without a step of Python."""
    rows = block.first, block.first + block.m
    job = scoring.job(block, *rows)
    packs = scoring.see(job, *rows)
    ranks = scoring.request.rank and scoring.n > scoring.kernels.block
    shares = RowShares(job, bounds, scoring.cut.class_step, packs, ranks, block.target_loss)
    return _take_part(shares, min(scoring.cut.n_threads, len(bounds) - 1), memory)


def _take_part(shares: Shares, n_threads: int, memory: np.ndarray | None = None) -> np.ndarray:
    """Give shares to threads, with scratch memory that each of them touches first.

    Gives back that of the calling thread, which `memory` is if it is large enough.
    """
    nbytes = shares.memory_bytes()
    memory = scratch.enough(nbytes, memory)
    others = [scratch.take(nbytes) for _ in range(n_threads - 1)]
    shares.memory([memory, *others])
    pool.share(shares, n_threads - 1)
    for each in others:
        scratch.give(each)
    return memory


def _score_rows(
    scoring: Scoring, block: Block, lo: int, hi: int, memory: np.ndarray | None,
    tasks: pool.Tasks | None,
) -> np.ndarray | None:
    """Score rows [lo, hi) against all classes; returns the scratch memory for the next."""
    step, n = scoring.cut.class_step, scoring.n
    job = scoring.job(block, lo, hi)
    job.init()
    if scoring.request.k and n > scoring.kernels.lanes:
        block.forget_best(lo - block.first, hi - block.first)
    if scoring.request.rank and n > scoring.kernels.block:
        scoring.target_logits(block, lo, hi)
    scoring.open(job, lo, hi)
    for first in range(0, n, step):
        last = min(first + step, n)
        if scoring.copies:
            scoring.give(job, block, lo, hi, first, last)
        if first == 0:
            memory = scratch.enough(job.scratch_bytes(), memory)
            job.scratch(memory)
        job.score(first, last)
        if tasks is not None and tasks.stopped:
            return memory
    loss = block.target_loss
    job.finish(None if loss is None else loss[lo - block.first : hi - block.first])
    return memory


def _score_by_block(scoring: Scoring, block: Block) -> None:
    """Threads share out blocks of classes, then rows: where spans are too few for them all.

    A block is not folded into the state where it is computed: its logits are kept until those of
    all blocks before it are there.
    """
    m, n, threads = block.m, scoring.n, scoring.cut.n_threads
    rows = block.first, block.first + m
    job, product = scoring.job(block, *rows), scoring.product(*rows)
    if scoring.request.rank and n > scoring.kernels.block:
        scoring.target_logits(block, *rows)
    scoring.open(product, *rows, scoring.share(*rows))
    idle = (np.empty((threads, 1, block.values.shape[1]), scoring.dtype),
            np.empty((threads, 1, block.values.shape[1]), np.int64))
    step, kept = n, block.kept
    if kept is None:
        step = min(round_up(n, scoring.kernels.block), kept_classes(scoring.kernels, m))
        kept = np.empty(step // scoring.kernels.block * m * scoring.kept_row, scoring.dtype)
    bounds = scoring.cut.bounds(m)
    for first in range(0, n, step):
        last = min(first + step, n)
        product.keep(kept, 0, m, first)
        blocks = ClassShares(product, first, last, scoring.kernels.block, scoring.kernels.block,
                             *idle, [], True)
        scratch.give(_take_part(blocks, min(threads, -(-(last - first) // scoring.kernels.block))))
        folds = KeptShares(job, bounds, kept, first, last, block.target_loss)
        scratch.give(_take_part(folds, min(threads, len(bounds) - 1)))


def _score_by_class(scoring: Scoring, block: Block) -> None:
    """Threads share out spans of classes: few rows, many classes.

    Each span has a state of its own; they are merged in order, as one thread would have met them.
    """
    if scoring.request.rank:
        scoring.target_logits(block, block.first, block.first + block.m)
    merge_by_class(scoring, block).finish(block.target_loss)


def merge_by_class(scoring: Scoring, block: Block, take: Take | None = None) -> Job:
    """The same until all classes are merged, their ranks being prepared; `take` has each span."""
    m, n, span = block.m, scoring.n, scoring.kernels.span
    lo, hi = block.first, block.first + m
    job = scoring.job(block, lo, hi)
    job.init()
    if scoring.request.k:
        block.forget_best(0, m)
    shared = scoring.share(lo, hi)
    stride = block.values.shape[1]
    at_once = max(STATE_BYTES // (block.values.nbytes + block.ints.nbytes), 2)
    at_once = max(at_once, SPANS_PER_THREAD * scoring.cut.n_threads)

    for begin in range(0, n, at_once * span):
        end = min(begin + at_once * span, n)
        spans = -(-(end - begin) // span)
        values, ints = scoring.room_for_state(spans, stride)
        score = _share_spans if scoring.direct else _score_spans
        tops = score(scoring, block, shared, begin, end, values, ints)
        for task in range(spans):
            if take is not None:
                take(begin // span + task, values[task])
            job.merge(values[task], ints[task])
        for best in tops:
            job.merge_top(*best)
    return job


Tops = list[tuple[np.ndarray, np.ndarray]]


def _no_classes(m: int, q: Request) -> tuple[np.ndarray, np.ndarray]:
    """Logits and indices of the best classes of m rows that have seen none."""
    return np.full((m, q.k), np.nan, q.dtype), np.full((m, q.k), -1, np.int64)


def _share_spans(scoring: Scoring, block: Block, shared: np.ndarray | None, begin: int, end: int,
                 values: np.ndarray, ints: np.ndarray) -> Tops:
    """Threads share out spans of classes [begin, end), without a step of Python."""
    threads, tops = min(scoring.cut.n_threads, len(values)), []
    rows = block.first, block.first + block.m
    job = scoring.job(block, *rows)
    scoring.open(job, *rows, shared)
    if scoring.request.k:
        tops = [_no_classes(block.m, scoring.request) for _ in range(threads)]
    shares = ClassShares(job, begin, end, scoring.kernels.span, scoring.cut.class_step, values,
                         ints, tops, False)
    scratch.give(_take_part(shares, threads))
    return tops


def _score_spans(scoring: Scoring, block: Block, shared: np.ndarray | None, begin: int, end: int,
                 values: np.ndarray, ints: np.ndarray) -> Tops:
    """The same where something must be copied for each of them."""
    lo, hi = block.first, block.first + block.m
    tops: Tops = []

    def work(tasks: pool.Tasks) -> None:
        if scoring.request.k:
            best = _no_classes(block.m, scoring.request)
            tops.append(best)
        memory = None
        for task in tasks:
            part = scoring.job(block, lo, hi)
            part.remember(values[task], None, ints[task], block.target_logit)
            if scoring.request.k:
                part.best(*best, None)
            first = begin + task * scoring.kernels.span
            memory = _score_span(scoring, block, part, shared, first, memory)

    pool.run(work, len(values), scoring.cut.n_threads)
    return tops


def _score_span(
    scoring: Scoring, block: Block, part: Job, shared: np.ndarray | None, first: int,
    memory: np.ndarray | None,
) -> np.ndarray | None:
    """Score all rows of a block against one span; returns the scratch memory for the next."""
    last, step = min(first + scoring.kernels.span, scoring.n), scoring.cut.class_step
    rows = block.first, block.first + block.m
    part.init()
    scoring.open(part, *rows, shared)
    for lo in range(first, last, step):
        hi = min(lo + step, last)
        if scoring.copies:
            scoring.give(part, block, *rows, lo, hi)
        if memory is None:  # its size depends on how weights lie
            memory = np.empty(part.scratch_bytes(), np.uint8)
        part.scratch(memory)
        part.score(lo, hi)
    return memory
