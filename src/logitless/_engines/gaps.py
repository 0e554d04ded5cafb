"""Terms of divergences of two distributions, none of them negative, and their slopes, in float64.

p and q are probabilities of the same classes and ``d = log p - log q``, NaN where both are 0; beta
is the share of q in ``m = beta q + (1 - beta) p``.
"""

from __future__ import annotations

import math

import numpy as np

_EXP = [1 / math.factorial(i) for i in range(2, 15)]
_LOG = [2 / (2 * i + 3) for i in range(14)]


def terms(
    beta: float, p: np.ndarray, q: np.ndarray, d: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Terms of KL(q | m), 0 for beta 1, and of KL(p | m), 0 for beta 0."""
    if beta == 0:
        return _exp_gap(q, p, d), np.zeros_like(p)
    if beta == 1:
        return np.zeros_like(p), _exp_gap(p, q, -d)
    rest = 1 - beta
    return (_log_gap(q, rest * (p - q), *_share(rest, beta, d)),
            _log_gap(p, beta * (q - p), *_share(beta, rest, -d)))


def slopes(beta: float, p: np.ndarray, q: np.ndarray, d: np.ndarray,
           mean: np.ndarray) -> np.ndarray:
    """Derivatives by what p is the softmax of; `mean` is that of `by_prob`."""
    if beta == 0:
        return np.where(np.abs(d) < 0.34, q * _expm1(d), p - q)
    return times(p, by_prob(beta, d) - mean)


def by_prob(beta: float, d: np.ndarray) -> np.ndarray:
    """Derivatives by p itself but for what is the same for all classes; of beta above 0."""
    if beta == 1:
        return d
    return (beta - 1) * _log1p(*_share(beta, 1 - beta, -d))


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """0 makes 0 of anything."""
    return np.where(a == 0, 0, a * b)


def _curve(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(x, coefficients)


def _expm1(d: np.ndarray) -> np.ndarray:
    return np.expm1(np.minimum(d, 700))


def _exp_gap(a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    """``a (e^d - 1 - d)``, where a e^d = b."""
    return np.where(np.abs(d) < 0.34, a * (d * d * _curve(_EXP, d)), (b - a) - times(a, d))


def _share(a: float, rest: float, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``u = a (e^d - 1)`` and ``1 + u = a e^d + rest``, each with its digits."""
    return a * _expm1(d), a * np.exp(np.minimum(d, 700)) + rest


def _log1p(u: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(np.abs(u) < 0.28, np.log1p(u), np.log(whole))


def _log_gap(a: np.ndarray, b: np.ndarray, u: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``a (u - log(1 + u))``, where a u = b."""
    half, s = u * u / 2, u / (2 + u)
    near = a * (half - s * (s * s * _curve(_LOG, s * s) + half))
    return np.where(np.abs(u) < 0.28, near, b - times(a, np.log(whole)))
