"""What the results and messages should be, and how two results are compared.

`Truth` evaluates the formulas in a precision wider than the one under test;
`naive` is what a user would write in NumPy in the same precision.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

import logitless as ll

COMPILED = ll.active_isa() != "numpy"
LONG_IS_WIDER = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps


def wider(dtype):
    """A precision in which rounding errors of `dtype` are plain to see."""
    return np.float64 if np.dtype(dtype) == np.float32 else np.longdouble


def logits(x, weight, bias=None, *, softcap=None, temperature=1.0, dtype=np.float64):
    z = np.asarray(x, dtype) @ np.asarray(weight, dtype).T
    if bias is not None:
        z = z + np.asarray(bias, dtype)
    if softcap is not None:
        z = softcap * np.tanh(z / dtype(softcap))
    return z / dtype(temperature)


class Truth:
    """Softmax statistics of finite logits (m, n), no digit lost to cancellation."""

    def __init__(self, z):
        self.z = np.asarray(z)
        rows = np.arange(len(z))
        self.argmax = self.z.argmax(axis=1)
        self.max = self.z[rows, self.argmax]
        self.below = self.max[:, None] - self.z
        e = np.exp(-self.below)
        e[rows, self.argmax] = 0
        self.log_norm = np.log1p(e.sum(axis=1))
        self.lse = self.max + self.log_norm
        self.minus_log_proba = self.below + self.log_norm[:, None]
        self.proba = np.exp(-self.minus_log_proba)
        self.entropy = (self.proba * self.minus_log_proba).sum(axis=1)

    def loss(self, target):
        target = np.asarray(target)
        if target.ndim == 2:
            return (target.astype(self.z.dtype) * self.minus_log_proba).sum(axis=1)
        return self.minus_log_proba[np.arange(len(self.z)), target]

    def rank(self, target):
        zt = self.z[np.arange(len(self.z)), target][:, None]
        lower = np.arange(self.z.shape[1]) < np.asarray(target)[:, None]
        return ((self.z > zt) | ((self.z == zt) & lower)).sum(axis=1)

    def order(self, k):
        return np.argsort(-self.z, axis=1, kind="stable")[:, :k]


def logits_and_log_proba(x, weight, bias=None, **options):
    """Of finite logits, in float64."""
    truth = Truth(logits(x, weight, bias, **options))
    return truth.z, -truth.minus_log_proba


def naive(x, weight, bias, target):
    """The textbook in the precision of its arguments: logits, max, exp, sum, log."""
    z = x @ weight.T
    if bias is not None:
        z = z + bias
    top = z.max(axis=1, keepdims=True)
    e = np.exp(z - top)
    total = e.sum(axis=1, keepdims=True)
    lse = (top + np.log(total))[:, 0]
    proba = e / total
    log_proba = z - lse[:, None]
    return {
        "logits": z,
        "logsumexp": lse,
        "loss": lse - z[np.arange(len(z)), target],
        "predict_proba": proba,
        "predict_log_proba": log_proba,
        "entropy": -(proba * log_proba).sum(axis=1),
    }


def ulp(value, dtype):
    """Spacing of `dtype` at `value`, which may be of a wider type."""
    return np.spacing(np.abs(np.asarray(value)).astype(dtype)).astype(np.float64)


def assert_no_worse(ours, naive_results, truth, what="", factor=1):
    """No row further from the truth than the worst of the naive results, and 2 ulp."""
    assert ours.shape == truth.shape
    assert all(ours.dtype == a.dtype for a in naive_results)
    error = np.abs(ours - truth).astype(np.float64)
    worst = max(np.abs(a - truth).max() for a in naive_results)
    allowed = factor * float(worst) + 2 * ulp(truth, ours.dtype)
    assert np.isfinite(error).all(), what
    excess = (error / allowed).max()
    assert excess <= 1, f"{what}: {excess:.3f} times the error allowed"


def assert_relative(ours, truth, limit):
    """Relative error below `limit`; `truth` has no zero."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.shape == truth.shape
    error = np.abs((ours.astype(truth.dtype) - truth) / truth).astype(np.float64)
    assert error.max() < limit, f"relative error {error.max():.3e}, allowed {limit:.1e}"


def bits(a):
    """The bytes of an array; all NaNs count as one."""
    a = np.array(a, order="C")
    if a.dtype.kind == "f":
        a[np.isnan(a)] = np.nan
    return a.dtype.str, a.shape, a.tobytes()


def assert_same_bits(a, b, what=""):
    if bits(a) == bits(b):
        return
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype, f"{what}: {a.dtype} and {b.dtype}"
    assert a.shape == b.shape, f"{what}: {a.shape} and {b.shape}"
    nan = (a != a) & (b != b)
    where = np.argwhere((a != b) & ~nan)
    if len(where):
        first = tuple(where[0])
        raise AssertionError(
            f"{what}: {len(where)} of {a.size} differ, first at {first}: {a[first]!r}, {b[first]!r}"
        )
    raise AssertionError(f"{what}: a zero has another sign")


def assert_same(a, b, what=""):
    """Equal bits from the compiled engine, equal up to rounding from the plain one."""
    if COMPILED:
        assert_same_bits(a, b, what)
        return
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype, f"{what}: {a.dtype} and {b.dtype}"
    if a.dtype.kind == "f":
        few = 64 * np.finfo(a.dtype).eps
        np.testing.assert_allclose(a, b, rtol=few, atol=few, err_msg=what)
    else:
        np.testing.assert_array_equal(a, b, err_msg=what)


def says(error, *words):
    """Expect `error` with a message that has all of these, in any order."""
    pattern = "".join(f"(?=.*{re.escape(str(word))})" for word in words)
    return pytest.raises(error, match=f"(?s){pattern}")
