"""Kept logits of a block of rows: all of them, or a window of classes that is scored again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ._core import Job
from .scoring import Block, LinearScoring

Scorer = Callable[[int, int], None]


class Kept:
    """The logits of a block of rows and of classes [first, last).

    Attributes
    ----------
    scoring : LinearScoring
    block : Block
        Scored already.
    logits : ndarray
        Room for the logits. They are there where the block has kept those of all classes.
    """

    def __init__(self, scoring: LinearScoring, block: Block, logits: np.ndarray, first: int,
                 last: int):
        self.scoring, self.block, self.logits = scoring, block, logits
        self.first, self.last = first, last

    def job(self) -> Job:
        """Make a job of the rows of the block, which sees the logits."""
        return self.rows(self.block.first, self.block.first + self.block.m)

    def rows(self, lo: int, hi: int) -> Job:
        """Make a job of rows [lo, hi), which sees their logits."""
        job = self.scoring.job(self.block, lo, hi)
        self._keep(job, lo)
        return job

    def _keep(self, job: Job, lo: int) -> None:
        room = self.block.room
        job.keep(self.logits, (lo - room.start) * self.scoring.kept_row, len(room), self.first)

    def scorer(self) -> Scorer | None:
        """Give what makes the logits of some classes, where they are not there: one a thread."""
        if self.block.kept is not None:
            return None
        scoring, block = self.scoring, self.block
        job = scoring.product(block.first, block.first + block.m)
        values, ints = block.values[:1], block.ints[:1]
        job.remember(np.empty_like(values), None, np.empty_like(ints), None)
        job.init()
        self._keep(job, block.first)
        scoring.open(job, block.first, block.first + block.m)
        scoring.give_weights(job, self.first, self.first + 1)  # its scratch depends on their kind
        job.scratch(np.empty(job.scratch_bytes(), np.uint8))

        def score(first: int, last: int) -> None:
            for lo, hi in self.pieces(first, last):
                scoring.give_weights(job, lo, hi)
                job.score(lo, hi)

        return score

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Classes whose weights are copied come a few at a time."""
        step = self.scoring.cut.class_step if self.scoring.weight is None else last - first
        return ((lo, min(lo + step, last)) for lo in range(first, last, step))

    def class_step(self, n_threads: int) -> int:
        """Classes, whole blocks, of which threads take so many at a time."""
        step = self.scoring.kernels.block
        return step * max(1, -(-(self.last - self.first) // step) // (8 * n_threads))
