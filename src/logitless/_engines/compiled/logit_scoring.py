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
        self.direct = not self.copies and not (request.rank and n > self.kernels.block)
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

    def target_logits(self, block: Block, lo: int, hi: int) -> None:
        assert self.request.targets is not None  # whose ranks are asked for
        target = self.request.targets[lo:hi, 0]
        z = self.logits[np.arange(lo, hi), np.maximum(target, 0)]
        job = self.job(block, lo, hi)
        job.ask(0, True, np.minimum(target, 0)[:, None], 0, None, None)
        job.logits(plain(z, self.dtype)[:, None], 0)
        job.target_logits(0)
