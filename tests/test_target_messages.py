"""Targets of a wrong kind are named for what they are, with what makes good ones of them."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import says

import logitless as ll

M, N = 4, 3

WRONG = {
    "whole floats": (TypeError, np.array([0.0, 1, 2, 1]), ["float64", ".astype(np.int64)"]),
    "broken floats": (TypeError, np.array([0, 1, 0.5, 1]), ["float64", "0.5 in row 2"]),
    "missing labels": (TypeError, np.array([0, np.nan, 2, 1]), ["float64", "nan in row 1"]),
    "bools": (TypeError, np.array([True, False] * 2), ["bool", ".astype(np.int64)"]),
    "one-hot bools": (TypeError, np.eye(N, dtype=bool)[[0, 1, 2, 0]], [".astype(np.float32)"]),
    "one-hot integers": (ValueError, np.eye(N, dtype=int)[[0, 1, 2, 0]],
                         ["(4,)", "(4, 3)", ".astype(np.float32)", ".argmax(axis=-1)"]),
    "text": (TypeError, np.array(["cat", "dog", "cat", "cow"]), ["<U3", "np.unique"]),
    "objects": (TypeError, np.array([0, 1, 2, 1], object), ["object", ".astype"]),
    "a column": (ValueError, np.zeros((M, 1), int), ["(4,)", "(4, 1)"]),
    "too few": (ValueError, np.zeros(M - 1, int), ["(4,)", "(3,)"]),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_targets(kind):
    error, target, words = WRONG[kind]
    x, w = np.ones((M, 2)), np.ones((N, 2))
    for call in (lambda: ll.linear_cross_entropy(x, w, target),
                 lambda: ll.linear_cross_entropy_value_and_grad(x, w, target),
                 lambda: ll.cross_entropy(np.ones((M, N)), target),
                 lambda: ll.nll(np.ones((M, N)), target)):
        with says(error, "target", *words):
            call()


@pytest.mark.parametrize("name", ["x", "weight"])
def test_arrays_of_objects_and_records(name):
    for bad, word in ((np.ones((2, 3), object), ".astype(np.float32)"),
                      (np.ones((2, 3), "V2"), "ml_dtypes.bfloat16"),
                      (np.ones((2, 3), "U4"), "text"),
                      (np.ones((2, 3), [("a", "f4")]), "'a'")):
        arrays = {"x": np.ones((2, 3)), "weight": np.ones((2, 3)), name: bad}
        with says(TypeError, name, word):
            ll.linear_logsumexp(**arrays)
