"""The loss by its formula, its derivatives, and what rounding may do to it."""

from __future__ import annotations

import math

import numpy as np

from . import oracle


class Formula:
    """Loss of each row and its derivatives by the logits, in the precision of `z` (m, n).

    ``s * (sum(w * ((1 - e) * t + e / n) * -log(p)) + z_loss * lse**2 + entropy_weight * h)``
    with the entropy ``h = sum(p * -log(p))``, of logits ``z / temperature``. What has weight 0
    counts as 0, whatever it is multiplied with.

    Attributes
    ----------
    rows : (m,)
    d_logits : (m, n)
        Derivatives of the sum of `rows`.
    divisor : float
        Of the mean.
    size : (m,)
        What `rows` is the sum of, without signs.
    taken : (m, n)
        What is subtracted from the softmax.
    entropic, unsure : (m, n)
        What the entropy adds to that, and what it is a multiple of: the softmax times its weight.
    """

    def __init__(self, z, target, *, class_weight=None, sample_weight=None, label_smoothing=0.0,
                 z_loss=0.0, entropy_weight=0.0, temperature=None, ignore_index=-100):
        m, n = z.shape
        t_of_row = np.ones(m, z.dtype) if temperature is None else np.asarray(temperature, z.dtype)
        z = z / t_of_row[:, None]
        real, target = z.dtype.type, np.asarray(target)
        rest = np.arange(n) != z.argmax(axis=1)[:, None]  # all but the largest
        with np.errstate(all="ignore"):
            below = z.max(axis=1, keepdims=True) - z
            log_norm = np.log1p(np.exp(-below, where=rest, out=np.zeros_like(z)).sum(axis=1))
            minus_log_p = below + log_norm[:, None]
            lse = z.max(axis=1) + log_norm
        w = np.ones(n, z.dtype) if class_weight is None else np.asarray(class_weight, z.dtype)
        s = np.ones(m, z.dtype) if sample_weight is None else np.asarray(sample_weight, z.dtype)
        counts = s != 0
        if target.ndim == 2:
            t, self.divisor = target.astype(z.dtype), s.sum()
        else:
            counts &= target != ignore_index
            t = np.zeros_like(z)
            t[counts, target[counts]] = 1
            self.divisor = (s * w[np.where(counts, target, 0)])[counts].sum()
        e = real(label_smoothing)
        self.taken = w * ((1 - e) * t + e / n)
        with np.errstate(all="ignore"):
            terms = np.where(self.taken == 0, 0, self.taken * minus_log_p)
            z_term = real(z_loss) * lse**2 if z_loss else np.zeros(m, z.dtype)
            p, weight = np.exp(-minus_log_p), real(entropy_weight)
            parts = np.where(p == 0, 0, p * minus_log_p)
            h = parts.sum(axis=1) if entropy_weight else np.zeros(m, z.dtype)
            self.rows = np.where(counts, s * (terms.sum(axis=1) + z_term + weight * h), 0)
            self.size = np.where(counts, np.abs(s) * (
                np.abs(terms).sum(axis=1) + z_term + np.abs(weight) * h), 0)
            mass = self.taken.sum(axis=1) + (2 * real(z_loss) * lse if z_loss else 0)
            self.entropic = weight * (parts - p * h[:, None]) if entropy_weight else 0 * p
            self.unsure = np.abs(weight) * p
            d = s[:, None] * (mass[:, None] * p - self.taken + self.entropic)
            d /= t_of_row[:, None]
        self.d_logits = np.where(counts[:, None], d, 0)
        self.lse, self.weight, self.temperature = lse, np.where(counts, s, 0), t_of_row
        self.m = m

    def reduced(self, reduction):
        by = {"none": 1, "sum": 1, "batch_mean": self.m, "mean": self.divisor}[reduction]
        return self.rows if reduction == "none" else self.rows.sum() / by


def logits_error(x, w, bias, temperature=1.0):
    """A bound for the rounding error of a logit: of a dot product and what is done to it.

    The terms are random, and so are the roundings of their sum.
    """
    reach = (np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)).max(initial=0)
    reach += 0 if bias is None else np.abs(bias[np.isfinite(bias)]).max(initial=0)
    eps = np.finfo(np.result_type(x, w)).eps
    return float((4 * math.sqrt(x.shape[1]) + 8) * eps * (reach + 1) / temperature + 20 * eps)


def loss_error(formula, slack, eps):
    """A bound for the rounding error of the losses `formula.rows`, logits being off by `slack`.

    Every -log p is off by twice that, lse by once; the sum over n classes rounds at each of
    its steps, of which a tree has log2(n).
    """
    n = formula.taken.shape[1]
    weight = np.abs(formula.weight).astype(np.float64)
    size = formula.size.astype(np.float64)
    per_class = (np.abs(formula.taken) + np.abs(formula.entropic)).sum(axis=1).astype(np.float64)
    z_part = 4 * np.abs(formula.lse).astype(np.float64) + 1
    return (2 * weight * (per_class + z_part) * slack
            + (32 + 8 * math.log2(n)) * eps * size + 4 * np.finfo(np.float32).tiny)


def formula_of(inputs, target, of_head, options):
    x, w, bias = inputs
    z = oracle.logits(x, w, bias, dtype=oracle.wider(x.dtype), **of_head)
    return Formula(z, target, **options)
