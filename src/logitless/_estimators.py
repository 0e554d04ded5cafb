"""Linear classifiers in scikit-learn's form: fitted ones as heads, and one that is being fitted.

scikit-learn keeps one row of coefficients for two classes, whose score is that of the second
class; a head has a row for every class.
"""

from __future__ import annotations

import numpy as np

from ._results import Gradients
from ._sparse import checked_csr, is_sparse
from .functional import linear_cross_entropy_value_and_grad

F64 = np.dtype(np.float64)


def head_arrays(fitted) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, k) and bias (n,) of a fitted classifier; see `LinearHead.from_estimator`."""
    if not (hasattr(fitted, "coef_") and hasattr(fitted, "classes_")):
        _raise_unfitted(fitted)
        raise _unexpected(fitted, "one without `coef_` or `classes_`")
    coef = fitted.coef_
    if is_sparse(coef):
        coef = checked_csr(coef, "coef_").toarray()
    coef = np.atleast_2d(coef)
    _check_rows(fitted, coef)
    bias = np.asarray(getattr(fitted, "intercept_", 0))
    if bias.shape not in ((), (len(coef),)):
        raise _unexpected(fitted, f"`intercept_` of shape {bias.shape} beside `coef_` of shape "
                                  f"{coef.shape}")
    bias = np.broadcast_to(bias, len(coef))
    return both_classes(coef, bias) if len(coef) == 1 else (coef, bias)


def both_classes(coef: np.ndarray, intercept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two classes with the logits 0 and z, whose softmax is 1 - sigmoid(z) and sigmoid(z)."""
    return (np.concatenate([np.zeros_like(coef), coef]),
            np.concatenate([np.zeros_like(intercept), intercept]))


def _raise_unfitted(fitted) -> None:
    """Have scikit-learn raise NotFittedError where `fitted` is its own and is not."""
    if hasattr(fitted, "fit") and hasattr(fitted, "get_params"):
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(fitted)


def _check_rows(fitted, coef: np.ndarray) -> None:
    """One row for each class, or one for two of them, which are alternatives."""
    n = np.size(np.asarray(fitted.classes_, object))
    rows = (1, 2) if n == 2 else (n,)
    if coef.ndim != 2 or len(coef) not in rows or n < 2:
        raise _unexpected(fitted, f"`coef_` of shape {coef.shape} for {n} classes")
    if n > 2 and hasattr(fitted, "support_vectors_"):
        raise _unexpected(fitted, "`coef_` that tells classes apart two by two")
    binarizer = getattr(fitted, "_label_binarizer", None)
    if getattr(binarizer, "y_type_", "").startswith("multilabel"):
        raise _unexpected(fitted, "one with several labels a row")


def _unexpected(fitted, got: str) -> TypeError:
    return TypeError(
        "`fitted` must be a fitted linear classifier with `coef_` of one row for each of "
        f"`classes_` (or one row for two classes), got {type(fitted).__name__}: {got}"
    )


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

    def __init__(self, n: int, k: int, dtype, fit_intercept: bool):
        rows = 1 if n == 2 else n
        weight, bias = np.zeros((rows, k), dtype), np.zeros(rows, dtype)
        if n == 2:
            weight, bias = both_classes(weight, bias)
        self._weight, self._bias = weight, bias
        self._gradients = Gradients(None, np.empty_like(weight), np.empty_like(bias))
        self.n_classes, self.dtype, self.fit_intercept = n, self._weight.dtype, fit_intercept
        free = slice(n - rows, n)  # the first of two classes stays at 0
        self.coef, self.intercept = weight[free], bias[free]
        self.coef_gradient = self._gradients.weight[free]
        self.intercept_gradient = self._gradients.bias[free]

    def in_float64(self) -> Trainee:
        """Another one of the same shapes in float64, at 0."""
        return Trainee(self.n_classes, self.coef.shape[1], F64, self.fit_intercept)

    def find_gradients(self, x, index, weight, decay: float) -> float:
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

    def step(self, x, index, weight, decay: float, squares: Gradients, rate: float) -> None:
        """One step of AdaGrad on the same objective, with `squares` its sums of squares."""
        self.find_gradients(x, index, weight, decay)
        _adagrad(self.coef, self.coef_gradient, squares.weight, rate)
        if self.fit_intercept:
            _adagrad(self.intercept, self.intercept_gradient, squares.bias, rate)


def _adagrad(value, gradient, squares, rate: float) -> None:
    squares += np.square(gradient)
    value -= rate * gradient / np.sqrt(np.maximum(squares, np.finfo(value.dtype).tiny))
