"""Divergences of two heads in plain NumPy: what there is to say of logits of the same rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..._arrays.rows import Rows
from ..._arrays.sparse_x import SparseX
from ..gaps import by_prob, slopes, terms, times
from ..interface import Request, State, Teacher
from .layer import Layer
from .scoring import NARROW, TILE, score_logits, spans
from .sparse import some_rows


class Pair:
    """Logits (r, n) of a student and a teacher, and their states.

    With p and q their probabilities and d = log p - log q the terms of the sums are
    q (e^d - 1 - d) for KL(q | p), and so on: none is negative.
    """

    def __init__(self, z: np.ndarray, state: State, teacher: Teacher[Layer], rows: slice,
                 n_threads: int | None):
        self._z, self._state, self._beta = z, state, teacher.beta
        x = some_rows(teacher.x, rows, z.dtype)
        self._other = logits_of(teacher.layer, x)
        self._other_state = score_logits(self._other, Request(z.dtype), n_threads)
        sums = np.zeros((3, len(z)))
        with np.errstate(all="ignore"):
            for lo, hi in spans(z.shape[1], max(1, TILE // max(len(z), 1))):
                sums += self._sums(lo, hi)
        state.from_teacher, state.from_student, self._mean = sums

    def _probs(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = self._z[:, lo:hi].astype(np.float64) - self._state.max[:, None]
        t = self._other[:, lo:hi].astype(np.float64) - self._other_state.max[:, None]
        norm, other = (a.log_norm.astype(np.float64)[:, None]
                       for a in (self._state, self._other_state))
        return np.exp(s - norm), np.exp(t - other), (s - t) - (norm - other)

    def _sums(self, lo: int, hi: int) -> np.ndarray:
        p, q, d = self._probs(lo, hi)
        parts = terms(self._beta, p, q, d)
        # The mean is that of rounded logarithms, as the derivatives have them.
        mean = times(p, by_prob(self._beta, d)) if self._beta > 0 else np.zeros_like(p)
        return np.array([part.sum(axis=1) for part in (*parts, mean)])

    def slopes(self, lo: int, hi: int) -> np.ndarray:
        """Derivatives of the divergence by the student's logits of classes lo to hi."""
        return slopes(self._beta, *self._probs(lo, hi), self._mean[:, None])


def logits_of(
    layer: Layer, x: np.ndarray | SparseX, step: int = 1, temperature: np.ndarray | None = None
) -> np.ndarray:
    """Logits (r, n) of rows x, made of so many classes at a time, a multiple of `step`."""
    n = layer.n_classes
    z = np.empty((len(x), n), x.dtype)
    classes = max(TILE // max(len(x), layer.n_features, 1) // step, 1) * step
    with np.errstate(all="ignore"):
        for lo, hi in spans(n, classes):
            z[:, lo:hi] = layer.logits(x, lo, hi, temperature)
    return z


def divergence(layer: Layer, x: Rows | SparseX, teacher: Teacher[Layer], dtype: np.dtype,
               take: Callable[[State, slice], object], workspace_bytes: int,
               n_threads: int | None) -> None:
    """Let `take` have the divergences of the rows of x, some after the other."""
    n = layer.n_classes
    rows = max(1, min(TILE // min(n, NARROW), workspace_bytes // (2 * n * dtype.itemsize)))
    for lo in range(0, x.m, rows):
        block = slice(lo, min(lo + rows, x.m))
        z = logits_of(layer, some_rows(x, block, dtype))
        state = score_logits(z, Request(dtype), n_threads)
        Pair(z, state, teacher, block, n_threads)
        take(state, block)
