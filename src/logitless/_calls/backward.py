"""What turns the states of rows into the gradients of their losses."""

from __future__ import annotations

import numpy as np

from .._engines.interface import State
from .objective import F64, Objective

# Rows of the coefficients of a row of G = d loss / d logits, times 1 / temperature:
# G[c] = SOFTMAX * p[c] - TARGET * (c == y) - class_weight[c] * (PROBS * t[c] + SMOOTH),
# where what is smaller than LIMIT may be left out.
SOFTMAX, TARGET, PROBS, SMOOTH, LIMIT, COEFFICIENTS = range(6)


class Backward:
    """What turns the states of rows into their losses and the coefficients of their gradients.

    Attributes
    ----------
    filters : bool
        Tiles below the limits are to be left out.
    losses : ndarray, shape (m,)
        Of the rows that have been taken in.
    """

    def __init__(self, objective: Objective, grad_output, filter_eps: float, temperature: float):
        self._objective = objective
        self._filter_eps = filter_eps
        self.filters = filter_eps > 0
        self.losses = np.empty(objective.targets.rows, objective.dtype)
        divisor = objective.divisor()
        # Of each row, or of all that count; nothing is reduced where none counts.
        self._weight = grad_output / (divisor * temperature) if divisor else 0.0
        self._class_total = objective.n
        if objective.class_weight is not None:
            self._class_total = float(objective.class_weight.sum(dtype=F64))

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the losses of some rows and give their coefficients, 0 for rows left out."""
        self.losses[rows] = self._objective.losses(state, rows)
        weight = self._row_weight(rows)
        coefficients = np.zeros((COEFFICIENTS, rows.stop - rows.start), self._objective.dtype)
        with np.errstate(all="ignore"):
            self._fill(coefficients, weight, state, rows)
        return coefficients

    def _row_weight(self, rows: slice):
        """Find what the gradients of some rows are multiplied with: an array, or one number."""
        weight = self._weight if np.ndim(self._weight) == 0 else self._weight[rows]
        if self._objective.sample_weight is not None:
            weight = weight * self._objective.sample_weight[rows]
        counts = self._objective.counts(rows)
        return weight if counts is None else np.where(counts, weight, 0.0)

    def _fill(self, c: np.ndarray, weight: np.ndarray, state: State, rows: slice) -> None:
        o = self._objective
        c[LIMIT] = self._filter_eps * np.abs(weight)
        if o.plain and o.targets.probs is None:
            c[SOFTMAX] = c[TARGET] = weight
            return
        index = None if o.targets.index is None else o.targets.index[rows, 0]
        target = weight * (1 - o.label_smoothing)
        of_class = o.target_weight(rows)
        if o.targets.probs is not None:
            is_index = False if index is None else index >= 0
            c[PROBS] = np.where(is_index, 0, target)
            target = np.where(is_index, target, 0)
        if of_class is not None:
            target = target * of_class
        c[TARGET] = mass = target
        if o.targets.probs is not None:
            mass = mass + _times(np.asarray(c[PROBS], F64), state.prob_sum)
        if o.label_smoothing > 0:
            smooth = weight * (o.label_smoothing / o.n)
            c[SMOOTH] = smooth
            mass = mass + smooth * self._class_total
        if o.z_loss > 0:
            mass = mass + _times(2 * o.z_loss * weight, state.lse.astype(F64))
        c[SOFTMAX] = mass


def _times(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Weight 0 makes 0 of anything."""
    return np.where(weight == 0, 0, weight * value)
