"""Rows that do not count and impossible classes add nothing to a gradient, whatever they hold."""

from __future__ import annotations

import numpy as np
import pytest
from support.gradients import NAMES, gradients_of, problem
from support.oracle import assert_same

import logitless as ll


@pytest.mark.parametrize("why", ["ignored", "weight 0", "both"])
def test_rows_left_out_may_hold_anything(why, dtype):
    inputs, target = problem(1, 30, 70, 9, dtype)
    x, w, bias = inputs
    out = np.zeros(30, bool)
    out[[0, 4, 5, 17, 29]] = True
    x = x.copy()
    x[4], x[5], x[17, 3], x[29] = np.nan, np.inf, -np.inf, 1e30
    s = np.random.default_rng(0).random(30)
    target = target.copy()
    if why != "weight 0":
        target[out] = -100
    if why != "ignored":
        s[out] = 0
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "class_weight": np.linspace(0, 2, 70),
               "entropy_weight": -0.1}
    for reduction in "sum", "mean":
        loss, grad = gradients_of(
            (x, w, bias), target, sample_weight=s, reduction=reduction, **options)
        kept, left = gradients_of((x[~out], w, bias), target[~out], sample_weight=s[~out],
                                  reduction=reduction, **options)
        few = 32 * float(np.finfo(dtype).eps)
        assert loss == pytest.approx(kept, rel=few)  # other places in the sum
        assert grad.x[out].tolist() == np.zeros((5, 9)).tolist()
        assert_same(grad.x[~out], left.x)
        few *= 30 if reduction == "sum" else 1
        np.testing.assert_allclose(grad.weight, left.weight, rtol=0, atol=few)
        np.testing.assert_allclose(grad.bias, left.bias, rtol=0, atol=few)


def test_rows_left_out_and_probabilities(dtype):
    inputs, _ = problem(1, 6, 70, 9, dtype)
    x, w, bias = inputs
    t = np.random.default_rng(0).dirichlet(np.ones(70), 6)
    s = np.array([1, 0, 2, 0, 1, 1.0])
    x[1], x[3] = np.nan, np.inf
    _, grad = gradients_of(inputs, t, sample_weight=s)
    _, left = gradients_of((x[s != 0], w, bias), t[s != 0], sample_weight=s[s != 0])
    assert not grad.x[s == 0].any()
    np.testing.assert_allclose(grad.weight, left.weight, rtol=0, atol=32 * np.finfo(dtype).eps)


@pytest.mark.parametrize("target", ["ignored", "weight 0"])
def test_no_row_counts(target, dtype):
    inputs, t = problem(1, 6, 70, 9, dtype)
    options = {"sample_weight": np.zeros(6)}
    if target == "ignored":
        t, options = np.full(6, -100), {}
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        loss, grad = gradients_of(inputs, t, **options)
    assert np.isnan(loss)
    for name in NAMES:
        assert not getattr(grad, name).any()
    loss, grad = gradients_of(inputs, t, reduction="sum", **options)
    assert loss == 0
    for name in NAMES:
        assert not getattr(grad, name).any()


def test_a_nan_row_that_counts_touches_no_other_row(dtype):
    inputs, target = problem(1, 30, 70, 9, dtype)
    _, good = gradients_of(inputs, target, reduction="sum")
    x, w, bias = inputs
    x = x.copy()
    x[4, 2], x[17] = np.nan, np.inf
    _, grad = gradients_of((x, w, bias), target, reduction="sum")
    bad = [4, 17]
    assert np.isnan(grad.x[bad]).all()
    others = np.delete(np.arange(30), bad)
    assert_same(grad.x[others], good.x[others])
    assert np.isnan(grad.bias).all()


def test_impossible_classes(dtype):
    """A class of logit -inf has probability 0: it takes no gradient and changes no other."""
    (x, w, bias), _ = problem(1, 6, 8, 5, dtype)
    possible = np.arange(8) != 3
    target = np.array([0, 1, 2, 4, 5, 7])
    bias[3] = -np.inf
    _, grad = gradients_of((x, w, bias), target, z_loss=0.1)
    renamed = np.where(target > 3, target - 1, target)
    _, kept = gradients_of((x, w[possible], bias[possible]), renamed, z_loss=0.1)
    assert grad.bias[3] == 0
    assert not grad.weight[3].any()
    few = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(grad.x, kept.x, rtol=0, atol=few)
    np.testing.assert_allclose(grad.weight[possible], kept.weight, rtol=0, atol=few)
    # With a weight of 0 it may even be the target.
    w_class = possible.astype(dtype)
    _, grad = gradients_of((x, w, bias), np.full(6, 3), reduction="sum", class_weight=w_class)
    for name in NAMES:
        assert not getattr(grad, name).any()
    _, grad = gradients_of((x, w, bias), target, class_weight=w_class, label_smoothing=0.5)
    assert np.isfinite(grad.weight).all()
    assert grad.bias[3] == 0


@pytest.mark.parametrize("n", [7, 40])
def test_rows_left_out_hold_anything_under_a_softcap(n):
    (x, w, bias), target = problem(1, 30, n, 9, np.float32, 1.0)
    few = ll.LinearHead(w, bias, softcap=3.0).value_and_grad(x[1:], target[1:])[1]
    x = x.copy()
    x[0] = np.nan
    target = target.copy()
    target[0] = -100
    whole = ll.LinearHead(w, bias, softcap=3.0).value_and_grad(x, target)[1]
    np.testing.assert_allclose(whole.weight, few.weight, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(whole.x[0], 0)
