"""Divergences of two heads over the compiled kernels: the logits of both are kept, block by block.

A block of rows is scored by each head, as always; then what the probabilities differ by is summed
up over the logits that are kept. Where they do not fit into the workspace, a window of classes at a
time is scored again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..._arrays.rows import Rows
from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ..interface import Request, State, Teacher
from . import plan, scratch
from .kept import Kept
from .kernels import KERNELS
from .layer import Layer
from .scoring import Block, LinearScoring
from .sharing import score_block

BLOCK_BYTES = 6 << 20  # of the logits of a block, where these are few: they stay in the caches
BLOCK_ROWS = 240  # of a block at least, where the workspace has room: weights are read once for all
ROW_STEP = 12


class Pair:
    """Student and teacher, scorings of as many rows and classes; nothing of it changes."""

    def __init__(self, student: LinearScoring, teacher: Teacher[Layer], n_threads: int | None,
                 rows: int, keeps: bool):
        request = Request(student.dtype)
        self.student, self.beta = student, teacher.beta
        self.teacher = LinearScoring(teacher.layer, _whole(teacher.x), request, n_threads, rows,
                                     keeps)

    def score(self, lo: int, hi: int, logits: np.ndarray | None, memory: np.ndarray | None,
              room: range | None = None) -> tuple[Block, np.ndarray | None]:
        """Score rows [lo, hi) by the teacher; gives the scratch memory for the next."""
        block = Block(self.teacher, lo, hi - lo, logits, None, room)
        return block, score_block(self.teacher, block, memory)

    def state(self, block: Block, other: Block, logits: np.ndarray, teachers: np.ndarray,
              window: int, n_threads: int) -> tuple[State, np.ndarray]:
        """Find what the student knows of a scored block of rows, divergences included.

        Gives the means that derivatives need as well.
        """
        sums = np.zeros((3, block.m))
        for first in range(0, self.student.n, window):
            last = min(first + window, self.student.n)
            kept = Kept(self.student, block, logits, first, last)
            teacher = Kept(self.teacher, other, teachers, first, last)
            score_again((kept, teacher), n_threads)
            self._add(kept, teacher, sums, n_threads)
        state = block.state(self.student)
        state.from_teacher, state.from_student, means = sums
        return state, means

    def _add(self, kept: Kept, teacher: Kept, sums: np.ndarray, n_threads: int) -> None:
        """Threads share out rows, whose classes are summed in order."""
        start, m = kept.block.first, kept.block.m
        step = -(-m // (4 * n_threads)) if n_threads > 1 else m

        def work(tasks: pool.Tasks) -> None:
            for task in tasks:
                lo, hi = task * step, min((task + 1) * step, m)
                job, other = (k.rows(start + lo, start + hi) for k in (kept, teacher))
                job.divergence(other, self.beta, sums[:, lo:], kept.first, kept.last)

        pool.run(work, -(-m // step), n_threads)


def score_again(heads: tuple[Kept, ...], n_threads: int) -> None:
    """Make the logits of a window, where they are not there; threads share out the classes."""
    first, last = heads[0].first, heads[0].last
    step = heads[0].class_step(n_threads)

    def work(tasks: pool.Tasks) -> None:
        scorers = [kept.scorer() for kept in heads]
        for task in tasks:
            lo = first + task * step
            for score in scorers:
                if score is not None:
                    score(lo, min(lo + step, last))

    if heads[0].block.kept is None:
        pool.run(work, -(-(last - first) // step), n_threads)


def divergence(layer: Layer, x: Rows | SparseX, teacher: Teacher[Layer], dtype: np.dtype,
               take: Callable[[State, slice], object], workspace_bytes: int,
               n_threads: int | None) -> None:
    """Let `take` have the divergences of the rows of x, some after the other."""
    if x.m == 0:
        return
    flops = 2 * x.m * layer.n_classes * max(layer.n_features + teacher.layer.n_features, 16)
    n_threads = max(1, min(pool.resolve(n_threads), flops // plan.FLOPS_PER_THREAD))
    rows, window, size = _cut(x.m, layer.n_classes, dtype, workspace_bytes, n_threads)
    whole = window >= layer.n_classes
    student = LinearScoring(layer, _whole(x), Request(dtype), n_threads, rows, whole)
    pair = Pair(student, teacher, n_threads, rows, whole)
    memory = scratch.take(2 * (size * dtype.itemsize + 64))
    logits, teachers = scratch.reals(memory, dtype, size, size)
    own: np.ndarray | None = None
    others: np.ndarray | None = None
    for lo in range(0, x.m, rows):
        hi = min(lo + rows, x.m)
        block = Block(student, lo, hi - lo, logits if whole else None)
        own = score_block(student, block, own)
        other, others = pair.score(lo, hi, teachers if whole else None, others)
        state, _ = pair.state(block, other, logits, teachers, window, n_threads)
        take(state, slice(lo, hi))
    for used in (memory, own, others):
        scratch.give(used)


def _cut(m: int, n: int, dtype: np.dtype, workspace_bytes: int,
         n_threads: int) -> tuple[int, int, int]:
    """Rows of a block, classes whose logits are kept at a time, reals of these in each head."""
    kernels = KERNELS[dtype]
    row_bytes = 2 * dtype.itemsize * kernels.keep_size(1, n)
    rows = min(workspace_bytes // row_bytes, max(BLOCK_BYTES * n_threads // row_bytes, BLOCK_ROWS))
    rows = min(max(rows // ROW_STEP, 1) * ROW_STEP, m)
    if rows * row_bytes <= workspace_bytes:
        return rows, n, rows * kernels.keep_size(1, n)
    of_block = rows * kernels.keep_size(1, min(n, kernels.block))
    blocks = max(1, workspace_bytes // (2 * dtype.itemsize * of_block))
    return rows, blocks * kernels.block, blocks * of_block


def _whole(x: Rows | SparseX) -> Rows | SparseX | np.ndarray:
    return x if x.whole is None else x.whole
