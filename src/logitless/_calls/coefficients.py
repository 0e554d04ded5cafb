"""Fitted linear classifiers and layers of other libraries, as the arrays of a head.

scikit-learn keeps one row of coefficients for two classes, whose score is that of the second
class; a head has a row for every class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._arrays.sparse import checked_csr, is_sparse


def head_arrays(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n, k) and bias (n,) of a fitted classifier; see `LinearHead.from_estimator`."""
    fitted = _last_step(fitted)
    for kind, arrays in _KINDS.items():
        if any(base.__name__ == kind for base in type(fitted).__mro__):
            return _of_classes(fitted, *arrays(fitted))
    return _of_classes(fitted, *_coefficients(fitted))


def _of_classes(
    fitted: Any, coef: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    _check_rows(fitted, coef)
    return both_classes(coef, bias) if len(coef) == 1 else (coef, bias)


def _last_step(fitted: Any) -> Any:
    """What a pipeline ends in, or a search for parameters has found."""
    while True:
        if hasattr(fitted, "best_estimator_"):
            fitted = fitted.best_estimator_
        elif hasattr(fitted, "cv_results_"):
            raise _unexpected(fitted, "a search that was not told to `refit`")
        elif hasattr(fitted, "steps") and hasattr(fitted, "named_steps"):
            fitted = fitted.steps[-1][1]
        else:
            return fitted


def _coefficients(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `coef_`, and `intercept_`."""
    if not (hasattr(fitted, "coef_") and hasattr(fitted, "classes_")):
        _raise_unfitted(fitted)
        raise _unexpected(fitted, "one without `coef_` or `classes_`")
    coef = fitted.coef_
    if is_sparse(coef):
        coef = checked_csr(coef, "coef_").toarray()
    coef = np.atleast_2d(coef)
    bias = np.asarray(getattr(fitted, "intercept_", 0))
    if bias.shape not in ((), (len(coef),)):
        _check_rows(fitted, coef)
        raise _unexpected(fitted, f"`intercept_` of shape {bias.shape} beside `coef_` of shape "
                                  f"{coef.shape}")
    return coef, np.broadcast_to(bias, len(coef))


def _naive_bayes(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    _raise_unfitted(fitted)
    return fitted.feature_log_prob_, fitted.class_log_prior_


def _last_layer(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    _raise_unfitted(fitted)
    if fitted.out_activation_ == "logistic" and fitted.n_outputs_ > 1:
        raise _unexpected(fitted, "one with several labels a row")
    return fitted.coefs_[-1].T, fitted.intercepts_[-1]


def _one_against_rest(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """A row of the classifier of each class, whose own two classes are the rest and this one."""
    _raise_unfitted(fitted)
    if fitted.multilabel_:
        raise _unexpected(fitted, "one with several labels a row")
    rows = [_coefficients(one) for one in fitted.estimators_]
    for coef, _ in rows:
        if len(coef) != 1:
            raise _unexpected(fitted, f"`coef_` of shape {coef.shape} for one class")
    return np.concatenate([coef for coef, _ in rows]), np.concatenate([bias for _, bias in rows])


# By name, so that nothing is imported that the caller has not.
_KINDS: dict[str, Callable[[Any], tuple[np.ndarray, np.ndarray]]] = {
    "MultinomialNB": _naive_bayes,
    "MLPClassifier": _last_layer,
    "OneVsRestClassifier": _one_against_rest,
}


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
        "`classes_` (or one row for two classes), a MultinomialNB, an MLPClassifier, a "
        "OneVsRestClassifier of linear ones, or a pipeline or search that ends in one of these, "
        f"got {type(fitted).__name__}: {got}"
    )
