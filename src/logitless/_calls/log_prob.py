"""Log-probabilities of some classes of each row, its entropy, and gradients of sums of them."""

from __future__ import annotations

from functools import partial

import numpy as np

from .._arrays.rows import Rows
from .._arrays.sparse import SparseRows
from .._engines.choice import engine
from .._engines.interface import COEFFICIENTS, Layer, Request, State
from ..results import Gradients
from .batch import Batch
from .value_and_grad import WORKSPACE_BYTES

SOFTMAX, PROBS, ENTROPY = map(COEFFICIENTS.index, ("softmax", "probs", "entropy"))


def log_prob(layer: Layer, rows: Rows, index: np.ndarray, temperature: np.ndarray | None,
             dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (m, j) of the classes `index`, 0 for class -1, and entropies (m,).

    What comes in has been checked; `temperature` is that of each row, float64 (m,), or None.
    """
    batch = Batch(rows, layer.n_classes, dtype, partial(engine.score, layer), None)
    state = batch.run(Request(dtype, targets=index, entropy=True, temperature=temperature))
    return 0 - state.target_loss, state.entropy.copy()  # not a part of all that was found


def log_prob_gradients(layer: Layer, rows: Rows, index: np.ndarray, temperature: np.ndarray | None,
                       by_log_prob: np.ndarray | None, by_entropy: np.ndarray | None,
                       grads: Gradients) -> None:
    """Write the gradients of ``sum(by_log_prob * log_prob) + sum(by_entropy * entropy)``.

    With g the first factors of a row, y its classes and h the other factor, the derivative by
    logit c is ``sum_j g[j] ((c == y[j]) - p[c]) - h p[c] (log p[c] + entropy)``: that of a loss
    against a "distribution" with the masses -g, of either sign, and the entropy.
    """
    grad = next(g for g in (grads.x, grads.weight, grads.bias) if g is not None)
    by = 1 / (np.full(rows.m, layer.temperature) if temperature is None else temperature)
    backward = _Backward(rows.m, grad.dtype)
    masses = None
    if by_log_prob is not None:
        masses = _masses(index, by_log_prob * by[:, None], layer.n_classes, grad.dtype)
        backward.against(masses)
    if by_entropy is not None:
        backward.coefficients[ENTROPY] = by_entropy * by
    request = Request(grad.dtype, probs=masses, entropy=by_entropy is not None,
                      temperature=temperature)
    engine.gradients(layer, rows, request, backward, grads, False, WORKSPACE_BYTES, None)


class _Backward:
    """Coefficients of all rows, which are known beforehand."""

    filters = False

    def __init__(self, m: int, dtype: np.dtype):
        self.coefficients = np.zeros((len(COEFFICIENTS), m), dtype)

    def against(self, masses: SparseRows) -> None:
        """Fill in those of masses that are added where they are.

        They are rounded already: a sure row whose class is the only one loses no digit.
        """
        row = np.repeat(np.arange(masses.m), np.diff(masses.start))
        with np.errstate(invalid="ignore"):
            total = np.bincount(row, masses.value, masses.m)
        self.coefficients[SOFTMAX] = -total
        self.coefficients[PROBS, row[masses.value != 0]] = -1

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Give the coefficients of some rows."""
        return np.ascontiguousarray(self.coefficients[:, rows])


def _masses(index: np.ndarray, values: np.ndarray, n: int, dtype: np.dtype) -> SparseRows:
    """What each class of a row is given, added up where it is there several times."""
    order = np.argsort(index, axis=1, kind="stable")
    index = np.take_along_axis(index, order, 1)
    values = np.take_along_axis(values, order, 1)
    first = index >= 0
    first[:, 1:] &= index[:, 1:] != index[:, :-1]
    start = np.append(0, np.cumsum(np.count_nonzero(first, axis=1)))
    found = index >= 0
    values, begins = values[found], np.flatnonzero(first[found])
    if len(begins):
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.add.reduceat(values, begins)
    return SparseRows(start.astype(np.int64), index[first], values.astype(dtype), n)
