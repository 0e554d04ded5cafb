"""The weights of rows, from those of their classes and their own, as scikit-learn takes them."""

from __future__ import annotations

import sys
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array


def row_weights(
    class_weight: Any, sample_weight: Any, classes: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """Class weight times sample weight of each row in float64, (m,), with a finite sum.

    `index` is the position in `classes` of each row's label.
    """
    weight = _check_sample_weight(sample_weight, len(index))
    with np.errstate(over="ignore", invalid="ignore"):
        if class_weight == "balanced":
            sums = np.bincount(index, weight)
            of_class = sums.sum() / (len(sums) * np.where(sums > 0, sums, 1))
        else:
            of_class = _by_class(class_weight or {}, classes)
        weight = weight * of_class[index]
        total = weight.sum()
    if not np.isfinite(total):
        raise ValueError("the weights of rows must have a finite sum, got more than "
                         f"{sys.float_info.max:.2g}: `sample_weight` or `class_weight` is too "
                         "large")
    return weight


def _check_sample_weight(weight: Any, m: int) -> np.ndarray:
    if weight is None:
        return np.ones(m)
    if isinstance(weight, Real):
        weight = np.full(m, weight)
    weight = check_array(weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (m,):
        raise ValueError(f"`sample_weight` must have shape ({m},), got {weight.shape}")
    if (weight < 0).any():
        row = int((weight < 0).argmax())
        raise ValueError(f"`sample_weight` must not be negative, got {weight[row]} in row {row}")
    return weight


def _by_class(class_weight: dict[Any, float], classes: np.ndarray) -> np.ndarray:
    """Weight of each class: 1 for those not named, unless others are that do not occur."""
    for label, value in class_weight.items():
        if not isinstance(value, Real) or not value <= sys.float_info.max or value < 0:
            raise ValueError(f"`class_weight` must be finite and not negative, got {value!r} for "
                             f"class {label!r}")
    labels = classes.tolist()
    missing = [label for label in labels if label not in class_weight]
    if missing and len(labels) - len(missing) < len(class_weight):
        unknown = [label for label in class_weight if label not in labels]
        raise ValueError(f"`class_weight` may name labels that do not occur, here {unknown}, only "
                         f"beside all that do: {missing} are not in class_weight")
    return np.array([class_weight.get(label, 1.0) for label in labels], np.float64)
