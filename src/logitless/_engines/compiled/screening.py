"""Screened prediction: bytes tell which classes cannot be among the best, the rest is exact.

The proof that no class is lost is in docs/screening.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

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
from .screen import ROWS_READ, Screen

FEW_ROWS = 4  # products take less time than memory: two levels cost nothing
MAX_ROWS = 1008
ROOM = 512, 2048  # candidates of a row: between these as many as there are features,
ROOM_FOR_BEST = 8  # or so many for each of the best, where these are more
CANDIDATES = 1 << 19  # of all rows of a block, at most
FIRST_BLOCKS = 2  # blocks of classes to begin with: there is room for all, before any is kept out
BLOCKS = 16  # blocks that a thread takes at a time, at most
TASKS = 3  # of a thread, at least: they end together
CANDIDATE = 0.06  # the time a candidate takes by its 16ths, that by the second level being 1
SECOND_LEVEL = 140  # classes whose second levels take as long in the pass over all
MACS_PER_CALL = 1 << 33
MACS_PER_THREAD = 1 << 23  # as long as it takes to wake one and to make ready for it
FLOAT32 = np.dtype(np.float32)


class _Rows:
    """Rows [lo, hi) and their candidates, in memory of others."""

    def __init__(self, scan: ScreenedScoring, lo: int, hi: int, job: Job, count: np.ndarray):
        self.scan, self.lo, self.hi, self.job, self.count = scan, lo, hi, job, count
        self.screening = scan.screening(lo, hi)

    def look(self, first: int, last: int) -> None:
        """Look for candidates among blocks [first, last) of classes."""
        self.screening.scan(first, last)
        self.thin_out()

    def thin_out(self) -> None:
        """Leave room for candidates to come: first by bounds, then by exact logits."""
        many = self.scan.room // 2
        if self.count.max() > many:
            self.screening.lift(many)
        if self.count.max() > many:
            self.screening.tighten(self.job, many)

    def rescore(self) -> bool:
        """Find the best classes; returns whether most rows were given up."""
        self.screening.tighten(self.job, -1)  # all rows
        self.screening.refine()
        self.screening.rescore(self.job)
        self.scan.rescored[self.lo : self.hi] = self.count
        return int(np.count_nonzero(self.count < 0)) > len(self.count) // 2


class _Memory:
    """Memory for the candidates of so many rows."""

    def __init__(self, scan: ScreenedScoring, rows: int):
        self.least = np.empty(rows, np.float32)
        self.best = np.empty((rows, scan.top), np.float32)
        self.upper = np.empty((rows, scan.room), np.float32)
        self.index = np.empty((rows, scan.room), np.int32)
        self.count = np.empty(rows, np.int32)
        self.scratch: np.ndarray | None = None

    def lend(self, rows: _Rows) -> None:
        """Lend it to some rows, the first ones the most."""
        rows.screening.remember(self.least, self.best, self.upper, self.index, self.count)
        if self.scratch is None:
            self.scratch = np.empty(rows.screening.scratch_bytes(rows.job), np.uint8)
        rows.screening.scratch(rows.job, self.scratch)


class _Block:
    """Memory for a block of rows: candidates, and what is made of the rows."""

    def __init__(self, scan: ScreenedScoring, rows: int):
        self.scan, self.memory = scan, _Memory(scan, rows)
        self.bounds = np.empty((rows, scan.screen.screener.row_bounds), np.float32)
        self.start = np.empty(2 * rows, np.int32)
        self.packed: np.ndarray | None = None

    def open(self, lo: int, hi: int) -> _Rows:
        """Begin with rows [lo, hi)."""
        scan = self.scan
        job, exact = scan.job(lo, hi)
        rows = _Rows(scan, lo, hi, job, self.memory.count[: hi - lo])
        self.memory.lend(rows)
        with np.errstate(over="ignore", under="ignore"):
            narrow = plain(exact, FLOAT32)
        if scan.x_dtype == BFLOAT16:  # whose subnormals count as zero
            narrow[np.abs(narrow) < np.finfo(FLOAT32).tiny] = 0
        few = hi - lo <= FEW_ROWS
        self.quantise(rows, narrow, 2 if few else 1)
        if not few and self.is_loose(hi - lo):
            self.quantise(rows, narrow, 2)
        return rows

    def quantise(self, rows: _Rows, x: np.ndarray, levels: int) -> None:
        """Make bytes of its rows."""
        size = self.scan.screen.screener.row_bytes(len(x) * levels, self.scan.k)
        if self.packed is None or len(self.packed) < size:
            self.packed = aligned((size,), np.dtype(np.uint8))
        rows.screening.quantise_rows(x, levels, self.packed, self.bounds, self.start)

    def is_loose(self, rows: int) -> bool:
        """Whether so many rows of one level have bounds so loose that two levels take less time."""
        _, reach, size = self.bounds[:rows].T
        with np.errstate(invalid="ignore"):  # inf * 0
            loose = reach > self.scan.loosest * size
        return 4 * int(np.count_nonzero(loose)) > rows


def _steps(first: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of blocks, small ones to begin with."""
    begin, step = first, FIRST_BLOCKS
    while first < end:
        last = min(first + step, end)
        yield first, last
        first, step = last, min((last - begin) // 2, most)


def _loosest(screen: Screen, n: int, k: int, top: int, room: int) -> float:
    """How much of a row bytes may lack, as a part of its norm, for one level to take less time.

    The second level doubles the products of bytes. It spares looking at candidates: each is some
    products with its 16ths, and those that are left then take the second level of the row alone.
    Their numbers are those of random logits: the best are about 3.5 standard deviations above the
    mean, each of them the norms over the square root of k.
    """
    steep = 3.5 * k**0.5
    if top * math.exp(min(steep * screen.loose, 50)) > room / 2:  # even with two levels
        return math.inf
    loose = math.exp(steep * screen.loose)
    left = n / SECOND_LEVEL / (CANDIDATE * loose + 1)
    return math.log(max(min(left, room / 2 / loose), top) / top) / steep


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
        self.bias = layer.bias_in(layer.dtype)
        self.room = min(max(self.n // 16, 8 * self.top), min(max(self.k, ROOM[0]), ROOM[1]))
        self.room = max(self.room, ROOM_FOR_BEST * self.top)
        # So many make the sum of the work's share and of what each of them costs the smallest.
        work = max(self.m, ROWS_READ) * self.n * self.k
        threads = max(1, min(pool.resolve(n_threads), math.isqrt(work // MACS_PER_THREAD)))
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

    def job(self, lo: int, hi: int) -> tuple[Job, np.ndarray]:
        """What exact logits of rows [lo, hi) take, and these rows."""
        x, layer = self.x[lo:hi], self.layer
        exact = x if has_rows(x, self.x_dtype) else plain(x, self.x_dtype)
        job = Job(self.kernels, hi - lo, self.n, self.k, layer.softcap, layer.temperature)
        if self.x_dtype == BFLOAT16:
            job.multiply_by(BF16)
        job.rows(exact)
        job.weights(self.panels, self.bias, True, 0, type_of(layer.held))
        job.ask(0, False, None, self.top, None, None)
        job.best(self.top_logit[lo:hi], self.top_index[lo:hi], None)
        return job, exact

    def screening(self, lo: int, hi: int) -> Screening:
        """Of rows [lo, hi), against all classes."""
        screen, layer = self.screen, self.layer
        screening = Screening(screen.screener, hi - lo, self.n, self.k, self.top, layer.softcap,
                              layer.temperature)
        screening.classes(screen.weight, screen.fine, screen.bounds, screen.bias, screen.no_bias,
                          screen.slack)
        if self.request.exclude is not None:
            excluded = self.request.exclude[lo:hi]
            screening.exclude(excluded.start, excluded.index, excluded.alike)
        return screening

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
                rows = block.open(lo, hi)
                for first, last in _steps(0, self.blocks, most):
                    rows.look(first, last)
                    if tasks.stopped:
                        return
                if rows.rescore():
                    return  # this thread tries no others: they would be given up as well

        pool.run(work, -(-self.m // self.rows), self.threads)

    def by_classes(self) -> None:
        """Threads share out blocks of classes of all rows; then rows, to be finished."""
        block = _Block(self, self.m)
        whole, found = block.open(0, self.m), []
        size = max(min(BLOCKS, self.blocks // (TASKS * self.threads)), FIRST_BLOCKS)
        share = -(-self.m // self.threads)

        def look(tasks: pool.Tasks) -> None:
            part = None
            for task in tasks:
                lo, hi = task * size, min((task + 1) * size, self.blocks)
                if part is None:
                    part = self.twin(whole, block.memory)
                    found.append(part)
                    for first, last in _steps(lo, hi, size):
                        part.look(first, last)
                else:
                    part.look(lo, hi)

        def finish(tasks: pool.Tasks) -> None:
            for task in tasks:
                lo, hi = task * share, min((task + 1) * share, self.m)
                rows = _Rows(self, lo, hi, self.job(lo, hi)[0], whole.count[lo:hi])
                rows.screening.share(whole.screening, lo)
                scratch = np.empty(rows.screening.scratch_bytes(rows.job), np.uint8)
                rows.screening.scratch(rows.job, scratch)
                for part in found:
                    rows.screening.merge(part.screening, lo)
                    rows.thin_out()
                rows.rescore()

        pool.run(look, -(-self.blocks // size), self.threads)
        pool.run(finish, -(-self.m // share), self.threads)

    def twin(self, whole: _Rows, memory: _Memory) -> _Rows:
        """The same rows with candidates of their own."""
        own = _Memory(self, self.m)
        own.least[:], own.best[:], own.count[:] = memory.least, memory.best, memory.count
        rows = _Rows(self, 0, self.m, whole.job, own.count)
        rows.screening.share(whole.screening, 0)
        own.lend(rows)
        return rows

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
            request = self.request
            if request.exclude is not None:
                request = replace(request, exclude=request.exclude[rows])
            rest = dense(self.x[rows], request)  # a copy, of no more rows than that
            for name in ("max", "argmax", "top_logit", "top_index"):
                if getattr(rest, name) is not None:
                    getattr(state, name)[rows] = getattr(rest, name)
        state.rescored = self.rescored
        return state
