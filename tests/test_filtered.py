"""Rows that do not count, beside a filter: they add nothing, and keep no tile it drops."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import assert_same

import logitless as ll

NAMES = ("x", "weight", "bias")
WAYS = ["class weight", "sample weight", "ignored", "factor"]


def gradients(way, x, w, b, target, row, **options):
    """The gradients where one row does not count."""
    options["reduction"] = "sum"
    if way == "class weight":  # the filter's limit of the row is not 0 here
        target = np.where(target == 0, 1, target)
        target[row] = 0
        options["class_weight"] = np.append(0, np.ones(len(w) - 1))
    elif way == "sample weight":
        options["sample_weight"] = np.arange(len(x)) != row
    elif way == "ignored":
        target[row] = -100
    else:
        options |= {"reduction": "none", "grad_output": (np.arange(len(x)) != row) * 1.0}
    head = ll.LinearHead(w, b, softcap=options.pop("softcap"), pack=options.pop("pack"))
    return head.value_and_grad(x, target, **options)[1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("filter_eps", [0.0, 0.02, 0.5])
@pytest.mark.parametrize(("m", "n"), [(5, 9), (30, 9), (5, 700), (30, 700)])
def test_a_row_that_does_not_count(rng, dtype, way, softcap, pack, filter_eps, m, n):
    x, w = rng.standard_normal((m, 6)).astype(dtype), rng.standard_normal((n, 6)).astype(dtype)
    b, target = rng.standard_normal(n).astype(dtype), rng.integers(0, min(n, 200), m)
    options = {"softcap": softcap, "pack": pack, "filter_eps": filter_eps}
    plain = gradients(way, x, w, b, target.copy(), 1, **options)
    for held in (np.nan, np.inf, 0):
        x[1] = held
        ours = gradients(way, x, w, b, target.copy(), 1, **options)
        for name in NAMES:
            assert_same(getattr(ours, name), getattr(plain, name), f"{name}, {held}")


@pytest.mark.parametrize("way", WAYS)
def test_it_keeps_no_tile(rng, dtype, way):
    """All derivatives are below the limit but those of the targets' tile."""
    m, n, row = 12, 600, 5
    x, w = rng.standard_normal((m, 4)).astype(dtype), rng.standard_normal((n, 4)).astype(dtype) / 9
    target = rng.integers(1, 200, m)
    x[row] *= 1e3  # alone it would be sure, in whatever tile
    grad = gradients(way, x, w, None, target, row, softcap=None, pack=True, filter_eps=0.1)
    assert grad.weight[:200].any()
    assert not grad.weight[256:].any()
    assert not grad.bias[256:].any()
