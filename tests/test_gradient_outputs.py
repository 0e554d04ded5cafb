"""Which gradients are computed, by what they are multiplied, and where they go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.gradients import (
    NAMES,
    REDUCTIONS,
    TrueGradients,
    assert_close,
    assert_same_gradients,
    gradient_errors,
    gradients_of,
    problem,
)
from support.losses import OPTIONS, with_weights
from support.oracle import assert_same, assert_same_bits

import logitless as ll


@pytest.mark.parametrize("wrt", [
    subset for r in range(4) for subset in itertools.combinations(NAMES, r)
], ids=str)
def test_wrt(wrt, dtype):
    inputs, target = problem(1, 30, 70, 9, dtype)
    loss, grad = gradients_of(inputs, target)
    ours, some = gradients_of(inputs, target, wrt=wrt)
    assert_same(ours, loss)
    for name in NAMES:
        if name in wrt:
            assert_same(getattr(some, name), getattr(grad, name), name)
        else:
            assert getattr(some, name) is None
    if len(wrt) == 1:
        _, one = gradients_of(inputs, target, wrt=wrt[0])
        assert_same_gradients(one, some)
    out = ll.Gradients(**{name: np.full_like(getattr(grad, name), 7) for name in wrt})
    _, into = gradients_of(inputs, target, wrt=wrt, out=out)
    assert_same_gradients(into, some)
    for name in wrt:
        assert getattr(into, name) is getattr(out, name)


def test_a_head_without_bias_has_a_gradient_of_it(dtype):
    (x, w, _), target = problem(1, 30, 70, 9, dtype)
    _, grad = gradients_of((x, w, None), target)
    _, zero = gradients_of((x, w, np.zeros(70, dtype)), target)
    assert_same_gradients(grad, zero)


def test_packed_or_not_or_one_shot(dtype):
    (x, w, bias), target = problem(1, 30, 300, 40, dtype)
    options = with_weights(OPTIONS["all"], 30, 300, dtype)
    head = ll.LinearHead(w, bias)
    loss, grad = head.value_and_grad(x, target, **options)
    for value, ours in (
        ll.LinearHead(w, bias, pack=False).value_and_grad(x, target, **options),
        ll.linear_cross_entropy_value_and_grad(x, w, target, bias, **options),
        ll.linear_cross_entropy_value_and_grad(x, w, target, bias, pack=True, **options),
    ):
        assert_same(value, loss)
        assert_same_gradients(ours, grad)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_grad_output(reduction, rng, dtype):
    inputs, target = problem(1, 12, 30, 9, dtype)
    _, grad = gradients_of(inputs, target, reduction=reduction)
    v = np.array([-2.0, 0.5] * 6) if reduction == "none" else 2.0
    for factor in (v, np.asarray(v, np.float32), np.asarray(v).tolist()):
        _, ours = gradients_of(inputs, target, reduction=reduction, grad_output=factor)
        truth = TrueGradients(inputs, target, reduction=reduction, grad_output=v)
        assert_close(ours, truth, gradient_errors(truth, inputs, {}))
        if reduction != "none":
            assert_same_bits(ours.x, 2 * grad.x)
    ones = np.ones(12) if reduction == "none" else 1
    _, ours = gradients_of(inputs, target, reduction=reduction, grad_output=ones)
    assert_same_gradients(ours, grad, same=assert_same_bits)


def test_grad_output_is_a_factor_of_the_rows(dtype):
    """Of shape (..., t) where x has (..., t, k), and the same as sample weights."""
    (x, w, bias), target = problem(1, 12, 30, 9, dtype)
    v = np.random.default_rng(0).standard_normal(12)
    shape = (3, 4)
    head = ll.LinearHead(w, bias)
    loss, grad = head.value_and_grad(
        x.reshape(*shape, 9), target.reshape(shape), reduction="none",
        grad_output=v.reshape(shape))
    assert loss.shape == shape
    assert grad.x.shape == (*shape, 9)
    assert_same(loss.ravel(), head.loss(x, target))
    _, weighted = head.value_and_grad(x, target, reduction="sum", sample_weight=v)
    assert_same(grad.x.reshape(12, 9), weighted.x)
    assert_same(grad.weight, weighted.weight)


def test_micro_batches_add_up(rng, dtype):
    inputs, target = problem(1, 50, 300, 17, dtype)
    x, w, bias = inputs
    s = rng.random(50)
    head = ll.LinearHead(w, bias, pack=False)
    options = {"reduction": "sum", "wrt": ("weight", "bias"), "label_smoothing": 0.1}
    _, whole = head.value_and_grad(x, target, sample_weight=s, **options)
    out = ll.Gradients(weight=np.zeros_like(w), bias=np.zeros_like(bias))
    for i, rows in enumerate((slice(0, 13), slice(13, 14), slice(14, 14), slice(14, 50))):
        _, grad = head.value_and_grad(
            x[rows], target[rows], sample_weight=s[rows], out=out, accumulate=i > 0, **options)
        assert grad.weight is out.weight
        assert grad.bias is out.bias
    few = 16 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(out.weight, whole.weight, rtol=0, atol=few * 50)
    np.testing.assert_allclose(out.bias, whole.bias, rtol=0, atol=few * 50)


def test_accumulate_adds_to_what_is_there(rng, dtype):
    inputs, target = problem(1, 30, 70, 9, dtype)
    _, grad = gradients_of(inputs, target)
    before = ll.Gradients(*(
        rng.standard_normal(getattr(grad, name).shape).astype(dtype) for name in NAMES))
    out = ll.Gradients(*(getattr(before, name).copy() for name in NAMES))
    gradients_of(inputs, target, out=out, accumulate=True)
    few = 8 * float(np.finfo(dtype).eps)
    for name in NAMES:
        expected = getattr(before, name) + getattr(grad, name)
        np.testing.assert_allclose(getattr(out, name), expected, rtol=few, atol=few)
    for accumulate in True, False:
        zero = ll.Gradients(*(np.zeros_like(getattr(grad, name)) for name in NAMES))
        gradients_of(inputs, target, out=zero, accumulate=accumulate)
        assert_same_gradients(zero, grad)


def test_out_may_be_a_view_and_hold_anything(dtype):
    inputs, target = problem(1, 30, 70, 9, dtype)
    _, grad = gradients_of(inputs, target)
    flat = np.full(30 * 9 + 70 * 9 + 70, np.nan, dtype)
    parts = np.split(flat, [30 * 9, 30 * 9 + 70 * 9])
    out = ll.Gradients(parts[0].reshape(30, 9), parts[1].reshape(70, 9), parts[2])
    gradients_of(inputs, target, out=out)
    assert np.isfinite(flat).all()
    assert_same_gradients(out, grad)


def test_the_head_to_train_follows_its_weights(dtype):
    """Gradient descent in place, with a head that refers to the weights: the loss goes down."""
    (x, w, bias), target = problem(1, 40, 5, 9, dtype)
    head = ll.LinearHead(w, bias, pack=False)
    losses = []
    for _ in range(20):
        loss, grad = head.value_and_grad(x, target)
        w -= dtype.type(0.5) * grad.weight
        bias -= dtype.type(0.5) * grad.bias
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
