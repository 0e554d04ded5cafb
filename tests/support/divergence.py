"""Divergences of two heads by their formulas, in a precision wider than the one under test."""

from __future__ import annotations

import numpy as np

import logitless as ll

from . import oracle

NAMES = ("x", "weight", "bias")


class TrueDivergence:
    """Divergence (m,) of the softmaxes of two heads, and its gradients by the student's.

    The logits are finite; `student` and `teacher` are (x, weight, bias).
    """

    def __init__(self, student, teacher, beta, of_student=None, of_teacher=None, factor=1.0):
        x, w, bias = student
        real = np.dtype(oracle.wider(np.result_type(*(a.dtype for a in (*student, *teacher)))))
        of_student = of_student or {}
        z, zt = (oracle.logits(a, b, c, dtype=real.type, **options) for (a, b, c), options in (
            (student, of_student), (teacher, of_teacher or {})))
        log_p, log_q = (-oracle.Truth(a).minus_log_proba for a in (z, zt))
        p, q, b = np.exp(log_p), np.exp(log_q), real.type(beta)
        log_m = np.logaddexp(log_q + _log(b), log_p + _log(1 - b))
        from_teacher, from_student = (q * (log_q - log_m)).sum(1), (p * (log_p - log_m)).sum(1)
        slope = p - q
        if beta == 0:
            self.value = (q * (log_q - log_p)).sum(1)
        elif beta == 1:
            self.value = (p * (log_p - log_q)).sum(1)
            slope = p * (log_p - log_q - self.value[:, None])
        else:
            self.value = b * from_teacher + (1 - b) * from_student
            slope = (1 - b) * p * (log_p - log_m - from_student[:, None])
        t, capped = real.type(of_student.get("temperature", 1.0)), of_student.get("softcap")
        if capped is not None:
            slope = slope * (1 - np.tanh(oracle.logits(x, w, bias, dtype=real.type) / capped) ** 2)
        self.by_logit = g = slope / t * (np.asarray(factor, real) * np.ones(len(x), real))[:, None]
        self.x, self.weight, self.bias = g @ w.astype(real), g.T @ x.astype(real), g.sum(axis=0)


def _log(b):
    return np.log(b) if b > 0 else b - np.inf


def pair(seed, m, n, k, k_teacher, dtype, scale=1.0):
    """A student and a teacher: rows, weights and biases of each."""
    rng = np.random.default_rng(seed)

    def head(k):
        w = rng.standard_normal((n, k)) * (scale / max(k, 1) ** 0.5)
        return (rng.standard_normal((m, k)).astype(dtype), w.astype(dtype),
                rng.standard_normal(n).astype(dtype))

    return head(k), head(k_teacher)


def kl_div(student, teacher, of_student=None, of_teacher=None, pack=False, **options):
    """Divergence of two heads given as (x, weight, bias)."""
    (x, ours), (y, other) = _heads(student, teacher, of_student, of_teacher, pack)
    return ours.kl_div(x, other, y, **options)


def value_and_grad(student, teacher, of_student=None, of_teacher=None, pack=False, **options):
    """The same with gradients."""
    (x, ours), (y, other) = _heads(student, teacher, of_student, of_teacher, pack)
    return ours.kl_div_value_and_grad(x, other, y, **options)


def _heads(student, teacher, of_student, of_teacher, pack):
    return ((student[0], ll.LinearHead(*student[1:], pack=pack, **(of_student or {}))),
            (teacher[0], ll.LinearHead(*teacher[1:], pack=pack, **(of_teacher or {}))))
