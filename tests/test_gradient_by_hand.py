"""Gradients as found by hand and by mpmath; those of sure rows keep their digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.gradients import gradients_of, problem
from support.oracle import assert_relative

import logitless as ll


def test_a_row_by_hand():
    """Logits log 1, log 2, log 3: probabilities 1/6, 1/3, 1/2."""
    x, w = np.array([[2.0, -1.0]]), np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    loss, grad = ll.linear_cross_entropy_value_and_grad(x, w, [1], np.log([1.0, 2.0, 3.0]))
    assert_relative(loss, math.log(3), 1e-15)
    np.testing.assert_allclose(grad.bias, [1 / 6, -2 / 3, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(grad.weight, np.outer([1 / 6, -2 / 3, 1 / 2], x[0]), rtol=1e-15)
    assert grad.x.tolist() == [[0, 0]]


def test_an_infinite_weight_of_a_row(dtype):
    """An entropy that is not asked for is not looked at, though its weight times 0 were NaN."""
    x, w = np.zeros((1, 2), dtype), np.zeros((40, 2), dtype)
    _, grad = ll.linear_cross_entropy_value_and_grad(
        x, w, [3], reduction="none", sample_weight=[1e308], grad_output=[1e308], z_loss=0.1)
    assert (np.delete(grad.bias, 3) == np.inf).all()


ENTROPY = math.log(6) / 6 + math.log(3) / 3 + math.log(2) / 2
BY_HAND = {
    "class weight": ({"class_weight": [5.0, 0.5, 7.0]}, 1, [1 / 12, -1 / 3, 1 / 4]),
    "sample weight": ({"sample_weight": [-3.0]}, 1, [-1 / 2, 2, -3 / 2]),
    "smoothing": ({"label_smoothing": 0.3}, 1, [1 / 6 - 0.1, 1 / 3 - 0.8, 1 / 2 - 0.1]),
    "smoothing and class weights": (
        {"label_smoothing": 0.3, "class_weight": [1.0, 0.0, 2.0]}, 1, [-0.05, 0.1, -0.05]
    ),
    "z-loss": (
        {"z_loss": 0.5, "class_weight": [0.0, 0.0, 0.0]}, 1, np.log(6) / np.array([6, 3, 2])
    ),
    "entropy": (
        {"entropy_weight": -0.5, "class_weight": [0.0, 0.0, 0.0]}, 1,
        np.array([1, 2, 3]) / 12 * (ENTROPY - np.log([6, 3, 2]))
    ),
    "ignored": ({"z_loss": 1.0, "entropy_weight": 1.0, "ignore_index": 1}, 1, [0, 0, 0]),
    "probabilities": ({}, [0.5, 0.25, 0.25], [-1 / 3, 1 / 12, 1 / 4]),
    "masses": ({}, [2.0, 0.0, 4.0], [-1, 2, -1]),
    "masses and class weights": (
        {"class_weight": [1.0, 9.0, 0.5]}, [2.0, 0.0, 4.0], [-4 / 3, 4 / 3, 0]
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name, dtype):
    options, target, value = BY_HAND[name]
    z = np.log(np.array([[1, 2, 3]])).astype(dtype)
    eye = np.eye(3, dtype=dtype)
    _, grad = gradients_of((z, eye, None), [target], reduction="sum", **options)
    few = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(grad.x, [value], rtol=0, atol=few)
    np.testing.assert_allclose(grad.bias, value, rtol=0, atol=few)
    np.testing.assert_allclose(grad.weight, np.outer(value, z), rtol=0, atol=few)


@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
def test_digits_of_mpmath(soft):
    """Derivatives that mpmath finds by differences in 60 digits, all options together."""
    x, w = np.array([[0.5, -1.25], [2.0, 0.75]]), np.array([[1.0, 0.5], [-0.25, 2.0], [0.0, -1.5]])
    bias, cw, s = np.array([0.125, -0.5, 1.0]), np.array([1.0, 0.5, 2.0]), np.array([0.75, 1.5])
    t = np.array([[0.5, 0.25, 0.25], [0.0, 1.5, 0.125]]) if soft else np.eye(3)[[2, 1]]
    cap, temperature, smoothing, z_loss, of_entropy = 3.0, 0.75, 0.125, 0.0625, -0.375

    def loss(*parameters):
        value = iter(parameters)
        xs, ws, bs = ([[next(value) for _ in range(columns)] for _ in range(rows)]
                      for rows, columns in ((2, 2), (3, 2), (1, 3)))
        total = mpmath.mpf(0)
        for i in range(2):
            z = [cap * mpmath.tanh((xs[i][0] * ws[c][0] + xs[i][1] * ws[c][1] + bs[0][c]) / cap)
                 / mpmath.mpf(temperature) for c in range(3)]
            lse = mpmath.log(mpmath.fsum(mpmath.e**v for v in z))
            ce = mpmath.fsum(
                cw[c] * ((1 - smoothing) * t[i, c] + mpmath.mpf(smoothing) / 3) * (lse - z[c])
                for c in range(3))
            entropy = mpmath.fsum(mpmath.e ** (v - lse) * (lse - v) for v in z)
            total += s[i] * (ce + z_loss * lse**2 + of_entropy * entropy)
        return total

    at = [*x.ravel(), *w.ravel(), *bias]
    with mpmath.workdps(60):
        at = [mpmath.mpf(float(v)) for v in at]
        exact = loss(*at)
        slopes = [mpmath.diff(loss, at, tuple(int(i == j) for i in range(13))) for j in range(13)]
    exact, slopes = float(exact), np.array([float(v) for v in slopes])
    target = t if soft else [2, 1]
    value, grad = gradients_of(
        (x, w, bias), target, {"softcap": cap, "temperature": temperature}, reduction="sum",
        class_weight=cw, sample_weight=s, label_smoothing=smoothing, z_loss=z_loss,
        entropy_weight=of_entropy)
    assert value == pytest.approx(exact, rel=1e-15)
    ours = np.concatenate([grad.x.ravel(), grad.weight.ravel(), grad.bias])
    np.testing.assert_allclose(ours, slopes, rtol=1e-13, atol=1e-15)


# Sure rows


def test_the_gradient_of_a_sure_row_keeps_its_digits(dtype):
    """p - 1 is -rest / (1 + rest), which nothing cancels in, down to 1e-26 and below."""
    gap = np.arange(10, 70, 2).astype(dtype)
    z = -np.stack([gap, np.zeros_like(gap), gap], axis=1)
    with mpmath.workdps(60):
        rest = [2 * mpmath.e ** -mpmath.mpf(float(g)) for g in gap]
        truth = np.array([[float(r / 2 / (1 + r)), float(-r / (1 + r)), float(r / 2 / (1 + r))]
                          for r in rest])
    assert np.abs(truth).min() < 1e-29
    few = 1e-6 if dtype == np.float32 else 1e-14
    eye = np.eye(3, dtype=dtype)
    index, m = np.ones(len(z), int), len(z)
    weights = np.linspace(0.5, 3, m)
    for target, options, factor in (
        (index, {}, 1),
        (eye[index], {}, 1),
        (index, {"class_weight": [5, 0.3, 2]}, np.float64(dtype.type(0.3))),
        (index, {"sample_weight": weights}, weights[:, None]),
        (eye[index], {"class_weight": [5, 0.3, 2], "sample_weight": weights},
         np.float64(dtype.type(0.3)) * weights[:, None]),
    ):
        _, grad = gradients_of((z, eye, None), target, reduction="sum", **options)
        assert_relative(grad.x, truth * factor, few)
    _, grad = gradients_of((z, eye, None), index)
    assert_relative(grad.x, truth / m, few)
    _, grad = gradients_of((z[-1:], eye, None), index[-1:])
    assert_relative(grad.bias, truth[-1], few)
    _, grad = gradients_of((z, eye, None), index, {"temperature": 0.5}, reduction="sum")
    with mpmath.workdps(60):
        rest = [2 * mpmath.e ** (-2 * mpmath.mpf(float(g))) for g in gap[:20]]
        sharp = np.array([float(-2 * r / (1 + r)) for r in rest])
    some = np.abs(sharp) > 1e-30
    assert_relative(grad.x[:20, 1][some], sharp[some], few)


@given(st.data())
def test_sure_rows(data):
    """Whole eighths, so that no difference of two logits is rounded."""
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    n = data.draw(st.integers(2, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    z = rng.integers(-8 * 55, -8 * 9, (3, n)).astype(dtype) / 8
    best = rng.integers(0, n, 3)
    z[np.arange(3), best] = 1
    e = np.exp(z.astype(oracle.wider(dtype)) - 1)
    e[np.arange(3), best] = 0
    rest = e.sum(axis=1)
    truth = e / (1 + rest)[:, None]
    truth[np.arange(3), best] = -rest / (1 + rest)
    _, grad = gradients_of((z, np.eye(n, dtype=dtype), None), best, reduction="sum")
    assert_relative(grad.x, truth, 2e-6 if dtype == np.float32 else 2e-14)


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_the_entropy_of_a_sure_row_keeps_its_digits(weight, dtype):
    """Alone, where nothing of the loss is left beside it, down to 1e-28.

    One class cannot happen: its derivative is 0.
    """
    gap = np.arange(10, 70, 2).astype(dtype)
    z = np.stack([-gap, np.zeros_like(gap), -gap - 1, np.full_like(gap, -np.inf)], axis=1)
    truth, entropies = np.zeros(z.shape), np.zeros(len(z))
    with mpmath.workdps(60):
        for i, row in enumerate(z):
            e = [mpmath.e ** mpmath.mpf(float(v)) for v in row[:3]]
            log_p = [mpmath.log(v / mpmath.fsum(e)) for v in e]
            h = -mpmath.fsum(v / mpmath.fsum(e) * u for v, u in zip(e, log_p, strict=True))
            entropies[i] = weight * h
            truth[i, :3] = [-weight * v / mpmath.fsum(e) * (u + h)
                            for v, u in zip(e, log_p, strict=True)]
    assert np.abs(truth[:, :3]).min() < 1e-28
    few = 2e-6 if dtype == np.float32 else 1e-14
    nothing = np.zeros((len(z), 4), dtype)
    # A logit of -inf is no product of finite numbers: it comes from the bias.
    bias = np.array([0, 0, 0, -np.inf], dtype)
    x = np.where(np.isinf(z), 0, z)
    loss, grad = gradients_of((x, np.eye(4, dtype=dtype), bias), nothing, reduction="none",
                              entropy_weight=weight)
    assert_relative(loss, entropies, few)
    assert_relative(grad.x[:, :3], truth[:, :3], few)
    assert not grad.x[:, 3].any()


def test_the_entropy_of_classes_that_cannot_happen():
    """Of equal logits it is at its most; with one class there is none."""
    for possible in 1, 2, 5:
        bias = np.full(20, -np.inf)
        bias[:possible] = 0
        loss, grad = gradients_of((np.ones((1, 2)), np.zeros((20, 2)), bias), np.zeros((1, 20)),
                                  reduction="none", entropy_weight=1.0)
        np.testing.assert_allclose(loss, [math.log(possible)], rtol=1e-15)
        np.testing.assert_allclose(grad.bias, 0, atol=1e-15)


def test_a_wrong_but_sure_row(dtype):
    """The best class has probability 1 and the target about 0: gradient 1 and -1."""
    z = np.array([[0, -80, -80]], dtype)
    _, grad = gradients_of((z, np.eye(3, dtype=dtype), None), [2])
    assert grad.x[0, 0] == 1
    assert grad.x[0, 2] == -1
    assert grad.x[0, 1] == pytest.approx(math.exp(-80), rel=1e-6)


def test_gradients_of_a_row_add_up_to_zero(rng, dtype):
    """Whatever the target distribution, as its mass moves from class to class."""
    inputs, t = problem(3, 50, 300, 20, dtype, 3.0)
    soft = rng.random((50, 300)).astype(dtype)
    for target in t, soft:
        _, grad = gradients_of(inputs, target, reduction="sum")
        scale = 1 if target.ndim == 1 else 150
        assert abs(grad.bias.sum(dtype=np.float64)) < 50 * scale * 64 * np.finfo(dtype).eps
