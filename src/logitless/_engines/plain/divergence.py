"""Divergences of two heads in plain NumPy: what there is to say of logits of the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..interface import Request, State, Teacher
from .layer import Layer
from .scoring import NARROW, TILE, score_logits, spans

_EXP = [1 / math.factorial(i) for i in range(2, 15)]
_LOG = [2 / (2 * i + 3) for i in range(14)]


class Pair:
    """Logits (r, n) of a student and a teacher, and their states.

    With p and q their probabilities and d = log p - log q the terms of the sums are
    q (e^d - 1 - d) for KL(q | p), and so on: none is negative.
    """

    def __init__(self, z: np.ndarray, state: State, teacher: Teacher[Layer], rows: slice,
                 n_threads: int | None):
        self._z, self._state, self._beta = z, state, teacher.beta
        x = plain(teacher.x[rows], z.dtype)
        self._other = logits_of(teacher.layer, x)
        self._other_state = score_logits(self._other, Request(z.dtype), n_threads)
        sums = np.zeros((2, len(z)))
        with np.errstate(all="ignore"):
            for lo, hi in spans(z.shape[1], max(1, TILE // max(len(z), 1))):
                sums += self._sums(lo, hi)
        state.from_teacher, state.from_student = sums

    def _probs(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = _log_probs(self._z[:, lo:hi], self._state)
        q = _log_probs(self._other[:, lo:hi], self._other_state)
        return np.exp(p), np.exp(q), p - q

    def _sums(self, lo: int, hi: int) -> np.ndarray:
        p, q, d = self._probs(lo, hi)
        b, none = self._beta, np.zeros(len(p))
        if b == 0:
            return np.array([_exp_gap(q, p, d).sum(axis=1), none])
        if b == 1:
            return np.array([none, _exp_gap(p, q, -d).sum(axis=1)])
        return np.array([
            _log_gap(q, (1 - b) * (p - q), *_share(1 - b, b, d)).sum(axis=1),
            _log_gap(p, b * (q - p), *_share(b, 1 - b, -d)).sum(axis=1),
        ])

    def slopes(self, lo: int, hi: int) -> np.ndarray:
        """Derivatives of the divergence by the student's logits of classes lo to hi."""
        p, q, d = self._probs(lo, hi)
        mean = self._state.from_student[:, None]
        if self._beta == 0:
            return np.where(np.abs(d) < 0.34, q * _expm1(d), p - q)
        if self._beta == 1:
            return _times(p, d - mean)
        log = _log1p(*_share(self._beta, 1 - self._beta, -d))
        return (1 - self._beta) * _times(p, -log - mean)


def logits_of(
    layer: Layer, x: np.ndarray, step: int = 1, temperature: np.ndarray | None = None
) -> np.ndarray:
    """Logits (r, n) of rows x, made of so many classes at a time, a multiple of `step`."""
    n = layer.n_classes
    z = np.empty((len(x), n), x.dtype)
    classes = max(TILE // max(len(x), layer.n_features, 1) // step, 1) * step
    with np.errstate(all="ignore"):
        for lo, hi in spans(n, classes):
            z[:, lo:hi] = layer.logits(x, lo, hi, temperature)
    return z


def divergence(layer: Layer, x: Rows, teacher: Teacher[Layer], dtype: np.dtype,
               take: Callable[[State, slice], object], workspace_bytes: int,
               n_threads: int | None) -> None:
    """Let `take` have the divergences of the rows of x, some after the other."""
    n = layer.n_classes
    rows = max(1, min(TILE // min(n, NARROW), workspace_bytes // (2 * n * dtype.itemsize)))
    for lo in range(0, x.m, rows):
        block = slice(lo, min(lo + rows, x.m))
        z = logits_of(layer, plain(x[block], dtype))
        state = score_logits(z, Request(dtype), n_threads)
        Pair(z, state, teacher, block, n_threads)
        take(state, block)


def _log_probs(z: np.ndarray, state: State) -> np.ndarray:
    z = z.astype(np.float64)
    z -= state.max[:, None]
    z -= state.log_norm[:, None]
    return z


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """0 makes 0 of anything."""
    return np.where(a == 0, 0, a * b)


def _curve(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(x, coefficients)


def _expm1(d: np.ndarray) -> np.ndarray:
    return np.expm1(np.minimum(d, 700))


def _exp_gap(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """``a (e^d - 1 - d)``, where a e^d = b."""
    return np.where(np.abs(d) < 0.34, a * (d * d * _curve(_EXP, d)), (b - a) - _times(a, d))


def _share(a: float, rest: float, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``u = a (e^d - 1)`` and ``1 + u = a e^d + rest``, each with its digits."""
    return a * _expm1(d), a * np.exp(np.minimum(d, 700)) + rest


def _log1p(u: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(np.abs(u) < 0.28, np.log1p(u), np.log(whole))


def _log_gap(a: np.ndarray, b: np.ndarray, u: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``a (u - log(1 + u))``, where a u = b."""
    half, s = u * u / 2, u / (2 + u)
    near = a * (half - s * (s * s * _curve(_LOG, s * s) + half))
    return np.where(np.abs(u) < 0.28, near, b - _times(a, np.log(whole)))
