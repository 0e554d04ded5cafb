"""The gradients in plain NumPy, a block of rows at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..._arrays.rows import Rows
from ..._arrays.sparse import SparseRows
from ..._arrays.sparse_x import SparseX
from ...results import Gradients
from ..interface import COEFFICIENTS, Backward, Request, State, Teacher
from .divergence import Pair, logits_of
from .layer import Layer, as_column
from .scoring import NARROW, TILE, probs_tile, score_logits, spans
from .sparse import add_product, some_rows

SOFTMAX, LIMIT = map(COEFFICIENTS.index, ("softmax", "limit"))
CLASS_STEP = 256  # classes come so many at a time, or a multiple


def gradients(layer: Layer, x: Rows | SparseX, request: Request, backward: Backward,
              grads: Gradients, accumulate: bool, workspace_bytes: int, n_threads: int | None,
              teacher: Teacher[Layer] | None = None) -> None:
    """Take the rows of x (m, k) in by `backward` and write the gradients into `grads`."""
    m, n, dtype = x.m, layer.n_classes, request.dtype
    if not accumulate:
        for grad in (grads.weight, grads.bias):
            if grad is not None:
                grad[...] = 0
    row_bytes = (1 if teacher is None else 2) * n * dtype.itemsize
    rows = min(TILE // min(n, NARROW), workspace_bytes // row_bytes)
    rows = max(rows, 1)
    for lo in range(0, m, rows):
        block = slice(lo, min(lo + rows, m))
        _block_gradients(layer, some_rows(x, block, dtype), block, request.rows(block), backward,
                         grads, accumulate, n_threads, teacher)


def _block_gradients(
    layer: Layer, x: np.ndarray | SparseX, block: slice, request: Request, backward: Backward,
    grads: Gradients, accumulate: bool, n_threads: int | None, teacher: Teacher[Layer] | None,
) -> None:
    """Add what a block of rows makes of the gradients."""
    n, dtype = layer.n_classes, x.dtype
    classes = TILE // max(len(x), layer.n_features, 1)
    classes = max(classes // CLASS_STEP, 1) * CLASS_STEP
    z = logits_of(layer, x, CLASS_STEP, request.temperature)
    state = score_logits(z, replace(request, temperature=None), n_threads)
    pair = None if teacher is None else Pair(z, state, teacher, block, n_threads)
    coef = backward.take(state, block)
    live = np.logical_or.reduce(coef[:-1])
    if isinstance(x, np.ndarray):
        x = np.where(live[:, None], x, 0)  # rows that are left out may hold anything
    d_x = np.zeros(x.shape, dtype) if grads.x is not None else np.empty(0)
    with np.errstate(all="ignore"):
        for lo, hi in spans(n, classes):
            if pair is None:
                g = _logit_gradient(z, lo, hi, state, request, coef)
            else:
                g = (coef[SOFTMAX][:, None] * pair.slopes(lo, hi)).astype(dtype)
            _through_softcap(g, z[:, lo:hi], layer, request.temperature)
            if backward.filters:
                g[np.abs(g) < coef[LIMIT][:, None]] = 0
            g[~live] = 0
            if grads.x is not None:
                d_x += g @ layer.classes(lo, hi, dtype)
            if grads.weight is not None:
                if isinstance(x, SparseX):
                    add_product(g, x, live, grads.weight[lo:hi])
                else:
                    grads.weight[lo:hi] += g.T @ x
            if grads.bias is not None:
                grads.bias[lo:hi] += g.sum(axis=0)
        if grads.x is not None:
            grads.x[block] = d_x + grads.x[block] if accumulate else d_x


def _logit_gradient(
    z: np.ndarray, lo: int, hi: int, state: State, request: Request, coef: np.ndarray,
) -> np.ndarray:
    """Derivatives (r, hi - lo) of the loss by the logits of classes lo to hi."""
    softmax, target, probs, smooth, entropy, given, _ = coef[:, :, None]
    row = np.arange(len(z))
    tile = z[:, lo:hi]
    gap = tile - state.max[:, None]
    g = np.exp(gap)
    if request.entropy:
        # log p + entropy, without the norm that cancels; a class that cannot happen has none.
        mean = state.log_norm - state.entropy
        gap[g == 0] = 0
        g *= (softmax - entropy * (gap - mean[:, None])) / (1 + state.rest[:, None])
    else:
        g *= softmax / (1 + state.rest[:, None])
    # What is taken off the softmax. Where a row is sure, the largest class has
    # p = 1 - rest / (1 + rest), and no digit of what is left may be lost.
    taken = np.zeros_like(g)
    if request.smooth:
        assert request.class_weight is not None  # of which the sum is
        taken += smooth * request.class_weight[lo:hi]
    if request.probs is not None:
        t = probs_tile(request.probs, lo, hi, z.dtype)
        weight = 1 if request.class_weight is None else request.class_weight[lo:hi]
        taken += np.where(probs == 0, 0, probs * (weight * t))
    if request.targets is not None:
        y = request.targets[:, 0] - lo
        here = (y >= 0) & (y < hi - lo)
        taken[row[here], y[here]] += target[here, 0]
    g -= taken
    best = state.argmax - lo
    here = (best >= 0) & (best < hi - lo) & (state.rest < 1)
    at = row[here], best[here]
    q = state.rest[here] / (1 + state.rest[here])
    g[at] = (softmax[here, 0] - taken[at]) - softmax[here, 0] * q
    if request.entropy:
        g[at] += entropy[here, 0] * (mean[here] / (1 + state.rest[here]))
    if isinstance(request.probs, SparseRows):
        i, c, t = request.probs.entries(lo, hi)
        g[i, c] = np.where(given[i, 0] == 0, g[i, c], given[i, 0] * (
            t if request.class_weight is None else request.class_weight[lo + c] * t))
    return g


def _through_softcap(
    g: np.ndarray, z: np.ndarray, layer: Layer, temperature: np.ndarray | None
) -> None:
    if not layer.softcap:
        return
    by_cap: float | np.ndarray = layer.temperature / layer.softcap
    if temperature is not None:
        by_cap = as_column(temperature / layer.softcap, z.dtype)
    h = z * by_cap
    g *= np.where(np.isneginf(z), 1, (1 - h) * (1 + h))
