"""How a pass is cut: rows to a block, spans to a call, and what the threads share out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ._core import Kernels

ROW_STEP = 48  # whole micro-panels and whole vectors, for every instruction set
VECTOR = 16  # rows: whole vectors
MAX_ROWS = 1008
THREAD_BYTES = 6 << 20  # bytes of packed rows, copies and tiles a thread may hold
COPY_BYTES = 1 << 21  # of weights, logits, distributions that must be copied
SMALL_N_ROWS = 16 * MAX_ROWS
FLOPS_PER_CALL = {"scalar": 1 << 26}  # a call this size ends soon enough for Ctrl-C
FLOPS_PER_CALL_VECTOR = 1 << 32
FLOPS_PER_THREAD = 1 << 24  # less is not worth waking a thread for that runs Python,
FLOPS_PER_SHARE = 1 << 22  # and one that does not
LEAST_ROWS = 8  # weights take as long to read as to multiply with so many
KEPT_BYTES = 4 << 20  # of logits of few rows that threads keep for each other
EVEN_BYTES = 8 << 20  # of weights: larger ones are met by as few blocks of rows as can be
FLOPS_TINY = 1 << 22  # not worth planning
PANEL_ENTRIES = 16  # features of a panel are packed in the time that an entry takes without one
PANEL_FEATURES = 1 << 20  # of a panel that is packed on the way: 64 MiB
READ_ROWS = 64  # so many rows are read where they are, not packed, ...
READ_CLASSES = 256  # against so many classes at most, ...
READ_WEIGHTS = 1 << 17  # whose weights stay in L2


@dataclass(frozen=True, slots=True)
class Plan:
    """Blocks of one pass.

    Attributes
    ----------
    row_block : int
        Rows that are packed and scored together, at most.
    class_step : int
        Classes that one call takes: whole spans, or whole blocks where weights are copied.
    by_class : bool
        Threads share out the classes of all rows rather than blocks of rows.
    by_block : bool
        So they do, by blocks of classes, whose logits are kept.
    even : bool
        A block of rows costs much besides its rows: as few of them as can be.
    n_threads : int
        Threads that take part.
    """

    row_block: int
    class_step: int
    by_class: bool
    by_block: bool
    even: bool
    n_threads: int

    def bounds(self, m: int) -> np.ndarray:
        """Where the blocks of m rows begin, and m.

        Threads take them in order: the later, the smaller, so that all come to an end together,
        however late one has begun, and memory for the first is enough for the others.
        """
        if self.n_threads == 1:
            return np.array([*range(0, m, self.row_block), m], np.int64)
        if self.even:
            vectors = -(-m // VECTOR)
            blocks = min(round_up(-(-m // self.row_block), self.n_threads), vectors)
            whole, more = divmod(vectors, max(blocks, 1))
            starts = [i * whole + min(i, more) for i in range(blocks)]
            return np.array([*(VECTOR * start for start in starts), m], np.int64)
        bounds, fewest = [0], min(ROW_STEP, round_up(-(-m // self.n_threads), VECTOR))
        while (left := m - bounds[-1]) > 0:
            rows = left // (2 * self.n_threads) // ROW_STEP * ROW_STEP
            bounds.append(bounds[-1] + min(left, max(min(rows, self.row_block), fewest)))
        return np.array(bounds, np.int64)


ONE_CALL = Plan(row_block=1 << 62, class_step=1 << 62, by_class=False, by_block=False, even=False,
                n_threads=1)


def round_up(count: int, step: int) -> int:
    """Round up to a multiple of `step`."""
    return -(-count // step) * step


def plan(kernels: Kernels, m: int, n: int, k: int, *, small_n: bool, tiles_rows: bool,
         n_threads: int, packs_weights: bool = False, copies_rows: bool = False,
         copies_weights: bool = False, copies_values: bool = False, keeps: bool = False) -> Plan:
    """Cut m rows by n classes of k features into calls.

    Results do not depend on any of it: rows are independent, and classes are cut at blocks.

    Parameters
    ----------
    kernels : Kernels
        The kernels in use: name, lanes and span matter.
    m, n, k : int
        Rows, classes, features (0 when logits are given).
    small_n : bool
        Classes are few: rows are not packed.
    copies_rows : bool
        Rows must be copied before they are used.
    copies_weights, copies_values : bool
        So must weights; or logits at hand, or target distributions.
    tiles_rows : bool
        A tile holds all rows of a block.
    packs_weights : bool
        Weights are packed on the way, once for each block.
    keeps : bool
        Logits are kept: the rows are as many as may be, and calls take some blocks of classes.
    n_threads : int
        Threads the call may use.
    """
    m = max(m, 1)
    if m <= small_rows(kernels, n, k) and not (copies_weights or copies_values):
        return ONE_CALL
    copies = copies_rows or copies_weights or copies_values
    flops = 2 * max(m, LEAST_ROWS) * n * max(k, 16)
    n_threads = max(1, min(n_threads, flops // (FLOPS_PER_THREAD if copies else FLOPS_PER_SHARE)))

    item = kernels.itemsize
    row_bytes = 1 + item * (k * (0 if small_n and not copies_rows else 1 + copies_rows)
                            + (kernels.block if tiles_rows else 0))
    rows = min(SMALL_N_ROWS if small_n else MAX_ROWS, THREAD_BYTES // row_bytes)
    per_call, span = flops_per_call(kernels), kernels.block if keeps else kernels.span
    span_flops = 2 * min(n, span) * max(k, 16)
    rows = min(rows, max(per_call // span_flops, ROW_STEP))
    rows = max(rows // ROW_STEP * ROW_STEP, ROW_STEP)
    few = n_threads > 1 and m <= rows and m < n_threads * 4 * ROW_STEP
    by_class = few and n > kernels.span
    even = packs_weights or copies or n * k * item > EVEN_BYTES
    by_block = few and k > 0 and not copies and _by_block(kernels, m, n, even, n_threads)
    if not (by_class or by_block):
        n_threads = min(n_threads, -(-m // VECTOR))
    spans = 1 if by_class else max(1, per_call // max(1, span_flops * min(rows, m)))
    step = spans * span
    if copies_weights or copies_values:
        copied = k * copies_weights + min(rows, m) * copies_values
        step = min(step, copied_classes(kernels, copied, kernels.block))
    return Plan(rows, step, by_class, by_block, even, n_threads)


def makes_panels(entries: int, rows: int, m: int, k: int) -> bool:
    """Whether sparse rows, at most so many of m at a time, are met by panels made on the way.

    It takes as long as reading all features of a class; the entries of some rows else read each
    their own, one at a time.
    """
    return (entries * min(rows, SMALL_N_ROWS, m) * PANEL_ENTRIES > k * max(m, 1)
            and k <= PANEL_FEATURES)


def plan_sparse(kernels: Kernels, m: int, n: int, k: int, entries: float, *, panels: bool,
                n_threads: int, copies_weights: bool, copies_values: bool, keeps: bool) -> Plan:
    """Cut m sparse rows, of so many entries on the average, by n classes into calls.

    Parameters are those of `plan`.

    Parameters
    ----------
    kernels, m, n, k, n_threads, copies_weights, copies_values, keeps
        As for `plan`.
    entries : float
        Of a row.
    panels : bool
        Weights are packed on the way, for all rows of a block.
    """
    m, per_row = max(m, 1), 2 * (entries + 16)
    flops = int(m * n * per_row)
    n_threads = max(1, min(n_threads, flops // FLOPS_PER_SHARE))
    per_call, span = flops_per_call(kernels), kernels.block if keeps else kernels.span
    tile = kernels.itemsize * min(n, kernels.block) * panels + 1
    rows = min(SMALL_N_ROWS, THREAD_BYTES // tile, int(per_call / (per_row * min(n, span))))
    rows = max(rows // ROW_STEP * ROW_STEP, ROW_STEP)
    few = n_threads > 1 and m <= rows and m < n_threads * 4 * ROW_STEP
    by_class = few and n > kernels.span
    if not by_class:
        n_threads = min(n_threads, -(-m // VECTOR))
    step = max(1, int(per_call / (per_row * min(n, span) * min(rows, m)))) * span
    if copies_weights or copies_values:
        copied = k * copies_weights + min(rows, m) * copies_values
        step = min(step, copied_classes(kernels, copied, kernels.block))
    return Plan(rows, step, by_class, False, panels or copies_weights, n_threads)


def _by_block(kernels: Kernels, m: int, n: int, even: bool, n_threads: int) -> bool:
    """Whether spans are too few to be shared out, and rows too few, or each block of them dear."""
    if n <= kernels.block or n > 2 * n_threads * kernels.span:
        return False
    at_once = min(n, max(2 * n_threads * kernels.block, kernels.span))
    return (even or m < 2 * VECTOR * n_threads) and kept_classes(kernels, m) >= at_once


def kept_classes(kernels: Kernels, m: int) -> int:
    """Classes, whole spans, of m rows whose logits are kept at a time."""
    row = kernels.keep_size(1, kernels.block) * kernels.itemsize
    return KEPT_BYTES // (m * row) * kernels.block // kernels.span * kernels.span


def reads_rows(m: int, n: int, k: int) -> bool:
    """Whether rows are read where they are: packing them for few classes takes too long."""
    return m >= READ_ROWS and n <= READ_CLASSES and n * k <= READ_WEIGHTS


def flops_per_call(kernels: Kernels) -> int:
    """Work of one call, which Ctrl-C waits for."""
    return FLOPS_PER_CALL.get(kernels.isa, FLOPS_PER_CALL_VECTOR)


def copied_classes(kernels: Kernels, values: int, least: int) -> int:
    """Classes, a multiple of `least`, of which so many values each may be copied at a time."""
    return max(COPY_BYTES // (max(values, 1) * kernels.itemsize) // least, 1) * least


def small_rows(kernels: Kernels, n: int, k: int) -> int:
    """Most rows of a call that is not worth planning."""
    if n > kernels.span:
        return 0
    return min(ROW_STEP, (FLOPS_TINY - 1) // (2 * n * max(k, 16)))
