"""Fitted linear classifiers and layers of other libraries, as the arrays of a head.

scikit-learn keeps one row of coefficients for two classes, whose score is that of the second
class; a head has a row for every class.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.sparse import checked_csr, is_sparse


def head_arrays(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
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


def module_arrays(linear: Any) -> tuple[Any, Any]:
    """Weights (n, k) and bias (n,), or None, of a module; see `LinearHead.from_module`."""
    weight, bias = getattr(linear, "weight", None), getattr(linear, "bias", None)
    if weight is None or callable(weight):
        raise TypeError("`linear` must have a `weight` (n, k), as torch.nn.Linear has, got "
                        f"{type(linear).__name__}, which has none")
    is_real = getattr(weight, "is_floating_point", None)  # of tensors
    if is_real is not None and not is_real():
        raise TypeError("`linear` must have a `weight` of floating point numbers, got "
                        f"{type(linear).__name__} with {weight.dtype}; dequantise it first")
    return _detached(weight), _detached(bias)


def _detached(parameter: Any) -> Any:
    """A parameter's numbers, where gradients are none of ours."""
    return parameter.detach() if hasattr(parameter, "detach") else parameter


def _raise_unfitted(fitted: Any) -> None:
    """Have scikit-learn raise NotFittedError where `fitted` is its own and is not."""
    if hasattr(fitted, "fit") and hasattr(fitted, "get_params"):
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(fitted)


def _check_rows(fitted: Any, coef: np.ndarray) -> None:
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


def _unexpected(fitted: Any, got: str) -> TypeError:
    return TypeError(
        "`fitted` must be a fitted linear classifier with `coef_` of one row for each of "
        f"`classes_` (or one row for two classes), got {type(fitted).__name__}: {got}"
    )
