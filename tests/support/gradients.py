"""Gradients by the formula in a wider precision, and what rounding may do to them."""

from __future__ import annotations

import math

import numpy as np

import logitless as ll

from . import oracle
from .formula import Formula, logits_error
from .oracle import assert_same

NAMES = ("x", "weight", "bias")
REDUCTIONS = ("none", "sum", "mean", "batch_mean")


class TrueGradients:
    """Gradients of the reduced loss in the precision `real`, and what goes into them.

    Attributes
    ----------
    formula : Formula
    slope : (m, n)
        Derivative of the logits by ``x @ weight.T + bias``.
    scale : (m,)
        What the loss of a row is multiplied with on its way into the reduced one.
    by_logit : (m, n)
        Derivative of the reduced loss by ``x @ weight.T + bias``.
    x, weight, bias
    """

    def __init__(self, inputs, target, of_head=None, options=None, reduction="mean",
                 grad_output=1.0, real=None):
        x, w, bias = inputs
        real = np.dtype(real or oracle.wider(x.dtype)).type
        x, w = x.astype(real), w.astype(real)
        of_head = of_head or {}
        capped, t = of_head.get("softcap"), real(of_head.get("temperature", 1.0))
        a = oracle.logits(x, w, bias, dtype=real)
        slope = np.ones_like(a) if capped is None else 1 - np.tanh(a / real(capped)) ** 2
        z = oracle.logits(x, w, bias, dtype=real, **of_head)
        self.formula = Formula(z, target, **(options or {}))
        self.slope = slope / t
        by = {"batch_mean": len(x), "mean": self.formula.divisor}.get(reduction, 1)
        self.scale = np.asarray(grad_output, real) / real(by) * np.ones(len(x), real)
        self.by_logit = g = self.formula.d_logits * self.slope * self.scale[:, None]
        self.x, self.weight, self.bias = g @ w, g.T @ x, g.sum(axis=0)


def gradient_errors(truth, inputs, of_head):
    """Bounds for the rounding errors of the three gradients, by name."""
    x, w, bias = inputs
    m, n = truth.by_logit.shape
    eps = np.finfo(np.result_type(x, w)).eps
    t = of_head.get("temperature", 1.0)
    f, scale = truth.formula, np.abs(truth.scale * truth.formula.weight)
    slack = logits_error(x, w, bias, t) / float(f.temperature.min(initial=1))
    scale = scale / f.temperature
    # How far a derivative by a logit may be off: a probability is as a logit times itself, the
    # slope of the cap changes with its argument, everything is rounded some times. The entropy
    # is multiplied with a logit's way to the mean, of which both ends are off.
    plus = np.abs(f.d_logits) * (f.temperature / np.where(f.weight == 0, 1, np.abs(f.weight)))[
        :, None] + f.taken
    plus += np.abs(f.entropic)
    bend = 0 if of_head.get("softcap") is None else 2 * t / of_head["softcap"]
    off = scale[:, None] * (plus * (3 * slack + 32 * eps) * truth.slope + plus * bend * slack)
    off += scale[:, None] * 4 * eps  # a slope near 0 comes from 1 - h
    off += scale[:, None] * f.unsure * (4 * slack + 8 * eps * math.log(2 * n)) * truth.slope
    off, g = off.astype(np.float64), np.abs(truth.by_logit).astype(np.float64)
    wide_x, wide_w = np.abs(x).astype(np.float64), np.abs(w).astype(np.float64)
    over_n, over_m = (eps * (4 * math.sqrt(length) + 8) for length in (n, m))
    tiny = 64 * np.finfo(np.result_type(x, w)).tiny
    return {
        "x": (off + over_n * g) @ wide_w + tiny,
        "weight": (off + over_m * g).T @ wide_x + tiny,
        "bias": (off + over_m * g).sum(axis=0) + tiny,
    }


def assert_close(grad, truth, allowed, wrt=NAMES):
    for name in wrt:
        ours, exact = getattr(grad, name), getattr(truth, name)
        assert ours.shape == exact.shape, name
        error = np.abs(ours - exact).astype(np.float64)
        excess = (error / allowed[name]).max(initial=0)
        assert excess <= 1, f"{name}: {excess:.3g} times the error allowed"


def problem(seed, m, n, k, dtype, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (scale / math.sqrt(max(k, 1)))).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    return (x, w, bias), rng.integers(0, n, m)


def gradients_of(inputs, target, of_head=None, **options):
    x, w, bias = inputs
    head = ll.LinearHead(w, bias, pack=False, **(of_head or {}))
    return head.value_and_grad(x, target, **options)


def assert_same_gradients(a, b, what="", same=assert_same):
    for name in NAMES:
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            same(one, other, f"{what} {name}")
