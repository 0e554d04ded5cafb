"""Numbers of 16 bits, and what the sum of products of bfloat16 is by its definition."""

from __future__ import annotations

import numpy as np
import pytest

from .exact import exact

TINY = np.float64(np.finfo(np.float32).tiny)


def bfloat16():
    """The dtype of ml_dtypes, or a skip."""
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


def kind(name):
    return bfloat16() if name == "bfloat16" else np.dtype(name)


def narrow(shape, seed, name, scale=1.0):
    """Numbers in [-scale, scale), the same everywhere, of a dtype of 16 bits."""
    return exact(shape, seed, np.float32, scale).astype(kind(name))


def flushed(a):
    """Subnormal numbers as zeros with their sign."""
    return np.where(np.abs(a) < TINY, np.copysign(np.float32(0), a), a)


def flushed_fma(a, b, c):
    """``a * b + c`` rounded once, 0 where that is subnormal with an unbounded exponent."""
    p, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)  # exact
    s = p + c
    part = s - p
    error = (p - (s - part)) + (c - part)
    # Rounded to odd, so that rounding once more, to float32, is rounding once.
    odd = s.view(np.int64) & 1
    other = np.where((error > 0) == (s > 0), 1, -1)
    s = np.where((error != 0) & (odd == 0) & np.isfinite(s), s.view(np.int64) + other,
                 s.view(np.int64)).view(np.float64)
    r = s.astype(np.float32)
    return np.where(np.abs(s) < TINY - 2.0**-151, np.copysign(np.float32(0), r), r)


def bf16_logits(x, w, bias=None):
    """The logits of bfloat16 rows (m, k) and weights (n, k), step by step of 32 features."""
    (m, k), n = x.shape, len(w)
    steps = -(-k // 32)
    xs, ws = np.zeros((m, 1, steps * 32), np.float32), np.zeros((1, n, steps * 32), np.float32)
    xs[:, 0, :k], ws[0, :, :k] = flushed(x.astype(np.float32)), flushed(w.astype(np.float32))
    total = np.zeros((m, n), np.float32)
    with np.errstate(all="ignore"):
        for first in range(0, steps * 32, 32):
            chains = []
            for begin in (first, first + 1):
                chain = np.zeros((m, n), np.float32)
                for p in range(begin, first + 32, 2):
                    chain = flushed_fma(xs[..., p], ws[..., p], chain)
                chains.append(chain)
            total = flushed(total + flushed(chains[0] + chains[1]))
        return flushed(total + (0 if bias is None else flushed(bias)))
