"""A problem to compare with other libraries, and what comes from logits at hand."""

from __future__ import annotations

import numpy as np

import logitless as ll

NAMES = ("x", "weight", "bias")


class Problem:
    """A layer, its inputs and labels, of which some are -100, and weights."""

    def __init__(self, m=29, n=11, k=7, dtype=np.float64):
        rng = np.random.default_rng(12)
        self.m, self.n, self.k = m, n, k
        self.x = rng.standard_normal((m, k)).astype(dtype)
        self.weight = rng.standard_normal((n, k)).astype(dtype)
        self.bias = rng.standard_normal(n).astype(dtype)
        self.label = rng.integers(0, n, m)
        self.target = self.label.copy()
        self.target[::4] = -100
        self.counts = self.target != -100
        self.soft = rng.dirichlet(np.ones(n), m).astype(dtype)
        self.w = rng.uniform(0.2, 2, n).astype(dtype)
        self.s = rng.uniform(0.2, 2, m).astype(dtype)
        self.logits = self.x @ self.weight.T + self.bias

    def value_and_grad(self, target, **options):
        return ll.linear_cross_entropy_value_and_grad(
            self.x, self.weight, target, self.bias, **options)


def by_logits(logits, target, **options):
    """Loss and its gradient by logits at hand."""
    logits = logits.reshape(-1, logits.shape[-1])
    loss, grad = ll.linear_cross_entropy_value_and_grad(
        logits, np.eye(logits.shape[1], dtype=logits.dtype), target, wrt="x", **options)
    return loss, grad.x


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def close(ours, theirs, rtol=1e-12, atol=1e-13):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
