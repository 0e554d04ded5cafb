"""Inputs that are the same everywhere, whatever random generator or math library is installed.

They are exact multiples of powers of two made by integer arithmetic. And hashes of results, so that
those of different instruction sets, machines and versions can be held side by side.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

MASK = (1 << 64) - 1


def exact(shape, seed, dtype=np.float32, scale=1.0):
    """Numbers in [-scale, scale), multiples of ``scale / 2**19``; `scale` a power of two."""
    z = np.arange(math.prod(shape), dtype=np.uint64)
    z = z * np.uint64(0x9E3779B97F4A7C15) + np.uint64((seed * 0xD1342543DE82EF95 + 1) & MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    top = ((z ^ (z >> np.uint64(31))) >> np.uint64(44)).astype(np.float64)
    return ((top / 2**19 - 1) * scale).astype(dtype).reshape(shape)


def labels(m, n, seed):
    return ((exact((m,), seed, np.float64) + 1) / 2 * n).astype(np.int64)


def distributions(m, n, seed, dtype=np.float32):
    """Targets (m, n): every third row one-hot, the others arbitrary, some entries zero."""
    t = np.maximum(exact((m, n), seed, dtype), 0)
    t[::3] = 0
    t[np.arange(0, m, 3), labels(len(t[::3]), n, seed)] = 1
    return t


class Sparse:
    """What is read of a SciPy sparse array of class probabilities."""

    has_canonical_format = True

    def __init__(self, dense):
        row, self.indices = np.nonzero(dense)
        self.indptr = np.searchsorted(row, np.arange(len(dense) + 1))
        self.data = dense[row, self.indices]
        self.shape, self.dtype, self.nnz = dense.shape, dense.dtype, len(row)

    def tocsr(self):
        return self


def digest(a):
    a = np.array(a, order="C")
    if a.dtype.kind == "f":
        a[np.isnan(a)] = np.nan
    little = a.astype(a.dtype.newbyteorder("<"))
    head = f"{little.dtype.str}{little.shape}".encode()
    return hashlib.sha256(head + little.tobytes()).hexdigest()[:16]


def hashes(cases):
    """``{case/result: hash}`` of all results of some cases."""
    return {f"{name}/{key}": digest(a) for name, results in cases for key, a in results.items()}
