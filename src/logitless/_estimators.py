"""Linear classifiers in scikit-learn's form: fitted ones as heads, and one that is being fitted.

scikit-learn keeps one row of coefficients for two classes, whose score is that of the second
class; a head has a row for every class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._results import Gradients
from ._sparse import is_sparse
from .functional import linear_cross_entropy_value_and_grad

F64 = np.dtype(np.float64)


def head_arrays(fitted) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, k) and bias (n,) of a fitted classifier; see `LinearHead.from_estimator`."""
    if not (hasattr(fitted, "coef_") and hasattr(fitted, "classes_")):
        _raise_unfitted(fitted)
        raise _unexpected(fitted, "one without `coef_` or `classes_`")
    coef = fitted.coef_.toarray() if is_sparse(fitted.coef_) else fitted.coef_
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
        self._fit_intercept = fit_intercept
        free = slice(n - rows, n)  # the first of two classes stays at 0
        self.coef, self.intercept = weight[free], bias[free]
        self.coef_gradient = self._gradients.weight[free]
        self.intercept_gradient = self._gradients.bias[free]

    def find_gradients(self, x, index, weight) -> float:
        """Sum of the losses of some rows times their weights; its gradients stay here."""
        wrt = ("weight", "bias") if self._fit_intercept else ("weight",)
        losses, _ = linear_cross_entropy_value_and_grad(
            x, self._weight, index, self._bias, sample_weight=weight, reduction="none", wrt=wrt,
            out=self._gradients)
        return float(losses.sum(dtype=F64))

    def minimise(self, x, index, weight, decay: float, *, tol: float, max_iter: int,
                 report: Callable):
        """Minimise the weighted loss plus ``decay / 2 * sum(coef ** 2)`` by L-BFGS.

        `report` is called with the number and the objective of each iteration. Gives
        SciPy's OptimizeResult.
        """
        from scipy.optimize import minimize

        iteration = 0

        def objective(flat):
            self._take(flat)
            loss = self.find_gradients(x, index, weight)
            slope = self._joined(self.coef_gradient, self.intercept_gradient)
            coef = flat[: self.coef.size]
            slope[: coef.size] += decay * coef
            return loss + 0.5 * decay * (coef @ coef), slope

        def callback(intermediate_result):
            nonlocal iteration
            iteration += 1
            report(iteration, float(intermediate_result.fun))

        # `ftol` and `maxls` as scikit-learn has them, so that `tol` alone decides.
        found = minimize(objective, self._joined(self.coef, self.intercept), method="L-BFGS-B",
                         jac=True, callback=callback,
                         options={"maxiter": max_iter, "gtol": tol, "maxls": 50,
                                  "ftol": 64 * np.finfo(F64).eps})
        self._take(found.x)
        return found

    def step(self, x, index, weight, decay: float, squares: Gradients, rate: float) -> None:
        """One step of AdaGrad on the same objective, with `squares` its sums of squares."""
        self.find_gradients(x, index, weight)
        self.coef_gradient += decay * self.coef
        _adagrad(self.coef, self.coef_gradient, squares.weight, rate)
        if self._fit_intercept:
            _adagrad(self.intercept, self.intercept_gradient, squares.bias, rate)

    def _take(self, flat: np.ndarray) -> None:
        self.coef[...] = flat[: self.coef.size].reshape(self.coef.shape)
        if self._fit_intercept:
            self.intercept[...] = flat[self.coef.size :]

    def _joined(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """All that is fitted as one new float64 vector."""
        parts = (coef.ravel(), intercept) if self._fit_intercept else (coef.ravel(),)
        return np.concatenate(parts, dtype=F64)


def _adagrad(value, gradient, squares, rate: float) -> None:
    squares += np.square(gradient)
    value -= rate * gradient / np.sqrt(np.maximum(squares, np.finfo(value.dtype).tiny))
