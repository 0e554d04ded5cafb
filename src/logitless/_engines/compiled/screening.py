"""Screened prediction: bytes tell which classes cannot be among the best, the rest is exact.

The proof that no class is lost is in docs/screening.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from ..._arrays.bfloat16 import BFLOAT16
from ..._arrays.checks import plain
from ..._parallel import pool
from ..interface import Request, State
from ._core import Job, Screening
from .kernels import BF16, KERNELS, has_rows, type_of
from .layer import Layer
from .plan import ROW_STEP, round_up
from .scratch import aligned
from .screen import Screen

FEW_ROWS = 2  # products take less time than memory: two levels cost nothing
MAX_ROWS = 1008
ROOM = 512, 2048  # candidates of a row: between these half as many as there are features
CANDIDATES = 1 << 19  # of all rows of a block, at most
FIRST_BLOCKS = 2  # blocks of classes to begin with: there is room for all, before any is kept out
BLOCKS = 16  # blocks that a thread takes at a time
MACS_PER_CALL = 1 << 33
MACS_PER_THREAD = 1 << 24
FLOAT32 = np.dtype(np.float32)


class _Block:
    """Memory for a block of rows, and their screening."""

    def __init__(self, scan: ScreenedScoring, rows: int):
        self.scan = scan
        self.least = np.empty(rows, np.float32)
        self.best = np.empty((rows, scan.top), np.float32)
        self.upper = np.empty((rows, scan.room), np.float32)
        self.index = np.empty((rows, scan.room), np.int32)
        self.count = np.empty(rows, np.int32)
        self.bounds = np.empty((rows, scan.screen.screener.row_bounds), np.float32)
        self.start = np.empty(2 * rows, np.int32)
        self.packed: np.ndarray | None = None
        self.scratch: np.ndarray | None = None

    def open(self, lo: int, hi: int) -> None:
        """Begin with rows [lo, hi)."""
        scan, layer, screen = self.scan, self.scan.layer, self.scan.screen
        x = scan.x[lo:hi]
        exact = x if has_rows(x, scan.x_dtype) else plain(x, scan.x_dtype)
        self.lo, self.hi = lo, hi
        self.job = Job(scan.kernels, hi - lo, scan.n, scan.k, layer.softcap, layer.temperature)
        if scan.x_dtype == BFLOAT16:
            self.job.multiply_by(BF16)
        self.job.rows(exact)
        self.job.weights(scan.panels, scan.bias, True, 0, type_of(layer.held))
        self.job.ask(0, False, None, scan.top, None, None)
        self.job.best(scan.top_logit[lo:hi], scan.top_index[lo:hi])
        self.screening = Screening(screen.screener, hi - lo, scan.n, scan.k, scan.top,
                                   layer.softcap, layer.temperature)
        self.screening.classes(screen.weight, screen.bounds, screen.bias, screen.no_bias,
                               screen.slack)
        self.screening.remember(self.least, self.best, self.upper, self.index, self.count)
        with np.errstate(over="ignore", under="ignore"):
            narrow = plain(exact, FLOAT32)
        if scan.x_dtype == BFLOAT16:  # whose subnormals count as zero
            narrow[np.abs(narrow) < np.finfo(FLOAT32).tiny] = 0
        few = hi - lo <= FEW_ROWS
        self.quantise(narrow, 2 if few else 1)
        if not few and self.is_loose():
            self.quantise(narrow, 2)
        if self.scratch is None:  # the first block is the largest
            self.scratch = np.empty(self.screening.scratch_bytes(self.job), np.uint8)
        self.screening.scratch(self.scratch)

    def quantise(self, x: np.ndarray, levels: int) -> None:
        """Make bytes of its rows."""
        size = self.scan.screen.screener.row_bytes(len(x) * levels, self.scan.k)
        if self.packed is None or len(self.packed) < size:
            self.packed = aligned((size,), np.dtype(np.uint8))
        self.screening.quantise_rows(x, levels, self.packed, self.bounds, self.start)

    def is_loose(self) -> bool:
        """Whether so many rows of one level have bounds so loose that two levels take less time."""
        _, reach, size = self.bounds[: self.hi - self.lo].T
        with np.errstate(invalid="ignore"):  # inf * 0
            loose = reach > self.scan.loosest * size
        return 4 * int(np.count_nonzero(loose)) > self.hi - self.lo

    def look(self, first: int, last: int) -> None:
        """Look for candidates among blocks [first, last) of classes."""
        self.screening.scan(first, last)
        many = self.scan.room // 2
        if self.count[: self.hi - self.lo].max() > many:
            self.screening.tighten(self.job, many)

    def rescore(self) -> bool:
        """Find the best classes; returns whether most rows were given up."""
        self.screening.rescore(self.job)
        count = self.count[: self.hi - self.lo]
        self.scan.rescored[self.lo : self.hi] = count
        return int(np.count_nonzero(count < 0)) > len(count) // 2


def _steps(
    first: int, end: int, most: int, known: bool = False
) -> Iterator[tuple[int, int]]:
    """Ranges of blocks, small ones to begin with unless something is known."""
    begin, step = first, most if known else FIRST_BLOCKS
    while first < end:
        last = min(first + step, end)
        yield first, last
        first, step = last, most if known else min((last - begin) // 2, most)


def _loosest(screen: Screen, n: int, k: int, top: int, room: int) -> float:
    """How much of a row bytes may lack, as a part of its norm, for one level to take less time.

    The second level doubles the products, a quarter of those of float32. It spares exact logits,
    16 for each candidate, or those of all classes where there is no room for candidates. How many
    these are is that of random logits: the best are about 3.5 standard deviations above the mean,
    each of them the norms over the square root of k.
    """
    few = top * math.exp(min(3.5 * k**0.5 * screen.loose, 50))  # with two levels
    if few > room / 2:
        return math.inf
    many = min(room / 2, few + 0.25 * n / 16)
    return math.log(many / top) / (3.5 * k**0.5) - screen.loose


class ScreenedScoring:
    """The best classes of the rows of x by the screen of a layer."""

    def __init__(self, layer: Layer, x: np.ndarray, request: Request, n_threads: int | None):
        self.layer, self.x, self.request = layer, x, request
        self.screen: Screen = layer.screen
        self.panels = layer.panels()
        self.m, self.n, self.k = len(x), layer.n_classes, layer.n_features
        self.x_dtype = BFLOAT16 if x.dtype == layer.held == BFLOAT16 else layer.dtype
        self.top = max(request.k, 1)
        self.kernels = KERNELS[layer.dtype]
        self.bias = layer.bias
        if self.bias is not None and self.bias.dtype != layer.dtype:
            self.bias = self.bias.astype(layer.dtype)
        self.room = min(max(self.n // 16, 8 * self.top), min(max(self.k // 2, ROOM[0]), ROOM[1]))
        threads = max(1, min(pool.resolve(n_threads),
                             self.m * self.n * self.k // MACS_PER_THREAD))
        self.loosest = _loosest(self.screen, self.n, self.k, self.top, self.room)
        rows = min(MAX_ROWS, CANDIDATES // self.room)
        self.by_class = threads > 1 and self.m <= rows and self.m < threads * 4 * ROW_STEP
        if not self.by_class:
            blocks = round_up(-(-self.m // rows), threads)
            rows = min(rows, round_up(-(-self.m // blocks), ROW_STEP))
        self.rows, self.threads = max(rows // ROW_STEP * ROW_STEP, ROW_STEP), threads
        self.top_logit = np.full((self.m, self.top), np.nan, layer.dtype)
        self.top_index = np.full((self.m, self.top), -1, np.int64)
        self.rescored = np.full(self.m, -1, np.int32)
        self.blocks = -(-self.n // self.screen.screener.block)

    def by_rows(self) -> None:
        """Threads share out blocks of rows."""
        block_macs = min(self.rows, self.m) * self.k * self.screen.screener.block
        most = max(MACS_PER_CALL // block_macs, BLOCKS)

        def work(tasks: pool.Tasks) -> None:
            block = None
            for task in tasks:
                lo = task * self.rows
                hi = min(lo + self.rows, self.m)
                block = block or _Block(self, hi - lo)
                block.open(lo, hi)
                for first, last in _steps(0, self.blocks, most):
                    block.look(first, last)
                    if tasks.stopped:
                        return
                if block.rescore():
                    return  # this thread tries no others: they would be given up as well

        pool.run(work, -(-self.m // self.rows), self.threads)

    def by_classes(self) -> None:
        """Threads share out blocks of classes of all rows."""
        blocks: list[_Block] = []

        def work(tasks: pool.Tasks) -> None:
            block, known = _Block(self, self.m), False
            block.open(0, self.m)
            blocks.append(block)
            for task in tasks:
                lo, hi = task * BLOCKS, min((task + 1) * BLOCKS, self.blocks)
                for first, last in _steps(lo, hi, BLOCKS, known):
                    block.look(first, last)
                known = True

        pool.run(work, -(-self.blocks // BLOCKS), self.threads)
        whole, *others = blocks
        for other in others:
            whole.screening.merge(other.screening)
        whole.rescore()

    def state(self, dense: Callable[[np.ndarray, Request], State]) -> State:
        """Screen all rows; those given up go to ``dense(x, request)``."""
        if self.by_class:
            self.by_classes()
        else:
            self.by_rows()
        state = State(self.top_logit[:, 0].copy(), self.top_index[:, 0].astype(np.intp))
        if self.request.k:
            state.top_logit, state.top_index = self.top_logit, self.top_index
        fallen, step = np.flatnonzero(self.rescored < 0), MAX_ROWS * self.threads
        for rows in (fallen[i : i + step] for i in range(0, len(fallen), step)):
            rest = dense(self.x[rows], self.request)  # a copy, of no more rows than that
            for name in ("max", "argmax", "top_logit", "top_index"):
                if getattr(rest, name) is not None:
                    getattr(state, name)[rows] = getattr(rest, name)
        state.rescored = self.rescored
        return state
