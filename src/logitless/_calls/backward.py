"""What turns the states of rows into the gradients of their losses."""

from __future__ import annotations

import numpy as np

from .._engines.interface import COEFFICIENTS, State
from .objective import F64, Objective

SOFTMAX, TARGET, PROBS, SMOOTH, ENTROPY, LIMIT = map(COEFFICIENTS.index, (
    "softmax", "target", "probs", "smooth", "entropy", "limit"))


class RowScores:
    """What a pass finds out about m rows beside their losses.

    Attributes
    ----------
    lse, entropy : ndarray, shape (m,)
    predicted : ndarray of intp, shape (m,)
    """

    def __init__(self, m: int, dtype: np.dtype):
        self.lse, self.entropy = np.empty((2, m), dtype)
        self.predicted = np.empty(m, np.intp)

    def take(self, state: State, rows: slice) -> None:
        """Note the scores of some rows."""
        with np.errstate(invalid="ignore"):  # inf - inf in rows that are NaN anyway
            self.lse[rows] = state.lse
        self.entropy[rows] = state.entropy
        self.predicted[rows] = state.argmax


class Backward:
    """What turns the states of rows into their losses and the coefficients of their gradients.

    Attributes
    ----------
    filters : bool
        Tiles below the limits are to be left out.
    losses : ndarray, shape (m,)
        Of the rows that have been taken in.
    """

    def __init__(self, objective: Objective, grad_output: np.ndarray | float, filter_eps: float,
                 temperature: float, scores: RowScores | None = None):
        self._objective, self._scores = objective, scores
        self._filter_eps = filter_eps
        self.filters = filter_eps > 0
        self.losses = np.empty(objective.targets.rows, objective.dtype)
        divisor = objective.divisor()
        by = temperature if objective.options.temperature is None else objective.options.temperature
        # Of each row, or of all that count; nothing is reduced where none counts.
        with np.errstate(all="ignore"):
            self._weight = np.divide(grad_output, divisor * by) if divisor else 0.0
            self._class_total: float = objective.n
            if objective.options.class_weight is not None:
                self._class_total = float(objective.options.class_weight.sum(dtype=F64))

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the losses of some rows and give their coefficients, 0 for rows left out."""
        o = self._objective
        self.losses[rows] = o.losses(state, rows)
        if self._scores is not None:
            self._scores.take(state, rows)
        counts = o.counts(rows)
        weight = self._weight[rows] if isinstance(self._weight, np.ndarray) else self._weight
        coefficients = np.zeros((len(COEFFICIENTS), rows.stop - rows.start), o.dtype)
        with np.errstate(all="ignore"):
            if o.options.sample_weight is not None:
                weight = weight * o.options.sample_weight[rows]
            if counts is not None:
                weight = np.where(counts, weight, 0.0)
            coefficients[LIMIT] = self._filter_eps * np.abs(weight)
            if o.plain and o.targets.probs is None:
                coefficients[SOFTMAX] = coefficients[TARGET] = weight
            else:
                self._fill(coefficients, weight, state, rows)
        return coefficients

    def _fill(self, c: np.ndarray, weight: np.ndarray | float, state: State,
              rows: slice) -> None:
        """Fill in the coefficients of rows whose gradients are multiplied with `weight`."""
        o = self._objective
        index = None if o.targets.index is None else o.targets.index[rows, 0]
        target = weight * (1 - o.options.label_smoothing)
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
        if o.options.label_smoothing > 0:
            smooth = weight * (o.options.label_smoothing / o.n)
            c[SMOOTH] = smooth
            mass = mass + smooth * self._class_total
        if o.options.z_loss > 0:
            mass = mass + _times(2 * o.options.z_loss * weight, state.lse.astype(F64))
        c[SOFTMAX] = mass
        if o.options.entropy_weight != 0:  # of which there are no sums else
            c[ENTROPY] = weight * o.options.entropy_weight


def _times(weight: np.ndarray | float, value: np.ndarray) -> np.ndarray:
    """Weight 0 makes 0 of anything."""
    return np.where(weight == 0, 0, weight * value)
