"""One pass over the classes of logits at hand."""

from __future__ import annotations

import numpy as np

from ..._arrays.checks import plain
from ..._parallel import pool
from ..interface import Request
from ._core import Job
from .kernels import in_place
from .plan import plan
from .scoring import Block, Scoring


class LogitScoring(Scoring):
    """Logits at hand."""

    __slots__ = ("in_place", "logits")

    def __init__(self, logits: np.ndarray, request: Request, n_threads: int | None):
        m, n = logits.shape
        super().__init__(request, m, n, 0)
        self.logits, self.in_place = logits, in_place(logits, self.dtype)
        self.copies = not self.in_place or self.copied_probs is not None
        self.direct = not self.copies
        self.cut = plan(
            self.kernels, self.m, self.n, 0, small_n=False, tiles_rows=False,
            n_threads=pool.resolve(n_threads), copies_values=self.copies,
        )

    def open(self, job: Job, lo: int, hi: int, packed: np.ndarray | None = None) -> None:
        if self.in_place:
            job.logits(self.logits[lo:hi], 0)

    def see(self, job: Job, lo: int, hi: int) -> bool:
        self.open(job, lo, hi)
        return False

    def give(self, job: Job, block: Block, lo: int, hi: int, first: int, last: int) -> None:
        super().give(job, block, lo, hi, first, last)
        if not self.in_place:
            job.logits(plain(self.logits[lo:hi, first:last], self.dtype), first)
