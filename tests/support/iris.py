"""Irises, and a model fitted to them by either method."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.datasets import load_iris

IRIS, SPECIES = load_iris(return_X_y=True)


def call(model, method, x=IRIS, y=SPECIES, **weights):
    classes = {"classes": np.unique(y)} if method == "partial_fit" else {}
    return getattr(model, method)(x, y, **classes, **weights)
