"""Coefficients that are being fitted, in scikit-learn's form."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.sparse_x import SparseX, read_x
from .._calls.coefficients import both_classes
from ..functional import linear_cross_entropy_value_and_grad
from ..results import Gradients

F64 = np.dtype(np.float64)


class Trainee:
    """Coefficients that are being fitted, and their gradients.

    Attributes
    ----------
    n_classes : int
    dtype : dtype
    fit_intercept : bool
    coef, intercept : ndarray, shape (n, k) and (n,), or (1, k) and (1,) for two classes
    coef_gradient, intercept_gradient : ndarray
        Of the last call of `find_gradients`, in these shapes.
    """

    def __init__(self, n: int, k: int, dtype: np.dtype, fit_intercept: bool):
        rows = 1 if n == 2 else n
        weight, bias = np.zeros((rows, k), dtype), np.zeros(rows, dtype)
        if n == 2:
            weight, bias = both_classes(weight, bias)
        self._weight, self._bias = weight, bias
        d_weight, d_bias = np.empty_like(weight), np.empty_like(bias)
        self._gradients = Gradients(None, d_weight, d_bias)
        self.n_classes, self.dtype, self.fit_intercept = n, self._weight.dtype, fit_intercept
        free = slice(n - rows, n)  # the first of two classes stays at 0
        self.coef, self.intercept = weight[free], bias[free]
        self.coef_gradient, self.intercept_gradient = d_weight[free], d_bias[free]

    def in_float64(self) -> Trainee:
        """Another one of the same shapes in float64, at 0."""
        return Trainee(self.n_classes, self.coef.shape[1], F64, self.fit_intercept)

    def find_gradients(
        self, x: Any, index: np.ndarray, weight: np.ndarray, decay: float
    ) -> float:
        """Sum of the losses times their weights plus ``decay / 2 * sum(coef ** 2)``.

        Its gradients stay here.
        """
        wrt = ("weight", "bias") if self.fit_intercept else ("weight",)
        losses, _ = linear_cross_entropy_value_and_grad(
            x, self._weight, index, self._bias, sample_weight=weight, reduction="none", wrt=wrt,
            out=self._gradients)
        self.coef_gradient += decay * self.coef
        penalty = 0.5 * decay * np.square(self.coef, dtype=F64).sum() if decay else 0.0
        return float(losses.sum(dtype=F64) + penalty)

    @property
    def largest_gradient(self) -> float:
        """Largest entry of the last gradients, NaN where one is."""
        return float(max(np.abs(self.coef_gradient).max(),
                         np.abs(self.intercept_gradient).max() if self.fit_intercept else 0.0))

    def step(self, x: Any, index: np.ndarray, weight: np.ndarray, decay: float,
             squares: Gradients, rate: float) -> None:
        """One step of AdaGrad on the same objective, with `squares` its sums of squares."""
        assert squares.weight is not None
        assert squares.bias is not None
        self.find_gradients(x, index, weight, decay)
        _adagrad(self.coef, self.coef_gradient, squares.weight, rate)
        if self.fit_intercept:
            _adagrad(self.intercept, self.intercept_gradient, squares.bias, rate)


def _adagrad(
    value: np.ndarray, gradient: np.ndarray, squares: np.ndarray, rate: float
) -> None:
    squares += np.square(gradient)
    value -= rate * gradient / np.sqrt(np.maximum(squares, np.finfo(value.dtype).tiny))


def rows_of(x: Any) -> np.ndarray | SparseX:
    """Rows as all steps of a fit read them: sparse ones checked, and put into order, once."""
    return x if isinstance(x, np.ndarray) else read_x(x, "X")


def squares(x: np.ndarray | SparseX) -> np.ndarray:
    """Sum of the squares of each feature."""
    if isinstance(x, SparseX):
        return np.bincount(x.index, np.square(x.value, dtype=F64), x.n)
    return np.einsum("ij,ij->j", x, x)
