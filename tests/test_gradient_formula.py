"""Gradients are those of the formula, as exact as their precision allows, and of differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.formula import Formula
from support.gradients import (
    NAMES,
    REDUCTIONS,
    TrueGradients,
    assert_close,
    gradient_errors,
    gradients_of,
    problem,
)
from support.losses import KINDS, OF_HEAD, OPTIONS, ROWS, in_force, losses, targets_of, with_weights
from support.oracle import assert_same, ulp

import logitless as ll


@given(losses(481), st.sampled_from(REDUCTIONS), st.booleans(), st.data())
def test_any_options(case, reduction, pack, data):
    (x, w, bias), target, of_head, options = case
    inputs = x, w, bias
    grad_output = 1.0
    if data.draw(st.booleans()):
        rng = np.random.default_rng(1)
        grad_output = rng.standard_normal(len(x)) if reduction == "none" else -2.5
    truth = Formula(oracle.logits(x, w, bias, **of_head), target, **options)
    if reduction == "mean" and abs(truth.divisor) < 1e-3 * np.abs(truth.weight).sum() + 1e-3:
        reduction = "sum"  # weights that cancel
    truth = TrueGradients(inputs, target, of_head, options, reduction, grad_output)
    head = ll.LinearHead(w, bias, pack=pack, **of_head)
    loss, grad = head.value_and_grad(
        x, target, reduction=reduction, grad_output=grad_output if np.ndim(grad_output) or
        grad_output != 1 else None, **options)
    assert_close(grad, truth, gradient_errors(truth, inputs, of_head))
    assert all(getattr(grad, name).dtype == x.dtype for name in NAMES)
    assert_same(loss, head.loss(x, target, reduction=reduction, **options), "loss")


@given(
    st.sampled_from(ROWS), st.integers(1, 40), st.integers(0, 20), st.sampled_from([*OPTIONS]),
    st.booleans(), st.integers(0, 9), st.sampled_from([1, 4000, 1 << 20]),
)
def test_any_number_of_rows(m, n, k, name, soft, seed, workspace_bytes):
    inputs, target = problem(seed, m, n, k, np.float64)
    if soft:
        target = np.random.default_rng(seed).dirichlet(np.ones(n), m)
    options = with_weights(OPTIONS[name], m, n, np.float64)
    truth = TrueGradients(inputs, target, {}, options)
    _, grad = gradients_of(inputs, target, workspace_bytes=workspace_bytes, **options)
    assert_close(grad, truth, gradient_errors(truth, inputs, {}))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_head", OF_HEAD, ids=["plain", "capped"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_each_option(name, kind, of_head, reduction):
    m, n, k = 25, 40, 6
    inputs, _ = problem(1, m, n, k, np.float64, 3.0)
    target = targets_of(kind, m, n, np.float64)
    options = with_weights(OPTIONS[name], m, n, np.float64)
    of_head = in_force(of_head, options)
    grad_output = np.linspace(-1, 2, m) if reduction == "none" else 0.5
    truth = TrueGradients(inputs, target, of_head, options, reduction, grad_output)
    _, grad = gradients_of(
        inputs, target, of_head, reduction=reduction, grad_output=grad_output, **options)
    for which in NAMES:
        exact = getattr(truth, which).astype(np.float64)
        np.testing.assert_allclose(getattr(grad, which), exact, rtol=1e-12, atol=1e-13)


def naive_gradients(inputs, target, reduction):
    """The textbook in the precision of its arguments."""
    x, w, bias = inputs
    z = x @ w.T + bias
    e = np.exp(z - z.max(axis=1, keepdims=True))
    g = e / e.sum(axis=1, keepdims=True)
    if target.ndim == 1:
        g[np.arange(len(x)), target] -= 1
    else:
        g = g * target.sum(axis=1, keepdims=True) - target
    if reduction == "mean":
        g /= x.dtype.type(len(x))
    return {"x": g @ w, "weight": g.T @ x, "bias": g.sum(axis=0)}


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "k", "scale"), [
    (1, 10, 64, 1.0),
    (400, 10, 64, 10.0),
    (100, 257, 257, 3.0),
    (60, 1000, 513, 10.0),
    (241, 1000, 33, 3.0),
    (13, 10_000, 64, 3.0),
    (13, 30_000, 16, 0.5),
])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
def test_no_worse_than_naive(m, n, k, scale, soft):
    inputs, target = problem(m + n + k, m, n, k, np.float32, scale)
    if soft:
        target = np.random.default_rng(0).dirichlet(np.ones(n), m).astype(np.float32)
    naive = []
    for seed in range(4):  # which errors a product makes depends on the order of the features
        order = np.random.default_rng(seed).permutation(k)
        rows = np.random.default_rng(seed + 9).permutation(m)
        x, w, bias = inputs
        shuffled = naive_gradients((x[rows][:, order], w[:, order], bias), target[rows], "mean")
        back, features = np.argsort(rows), np.argsort(order)
        naive.append({"x": shuffled["x"][back][:, features],
                      "weight": shuffled["weight"][:, features], "bias": shuffled["bias"]})
    truth = TrueGradients(inputs, target)
    _, grad = gradients_of(inputs, target)
    for name in NAMES:
        ours, exact = getattr(grad, name), getattr(truth, name)
        error = np.abs(ours - exact)
        worst = max(np.abs(a[name] - exact).max() for a in naive)
        # Gradients are sums of many small errors, in whose worst luck is most of it, and the
        # order of a sum decides how they add up: one bit for that.
        allowed = 2 * worst + 2 * ulp(exact, ours.dtype)
        assert (error <= allowed).all(), f"{name}: {(error / allowed).max():.3f} times the allowed"
        # And on the whole: the classes that are likely in one of a few rows are most of that.
        typical = max(np.sqrt(np.mean((a[name] - exact) ** 2)) for a in naive)
        assert np.sqrt(np.mean(error**2)) <= 2 * typical + 1e-12, name


# Against differences


def difference(function, step):
    """Derivative at 0 from four values, exact up to the fourth power."""
    a, b, c, d = (function(i * step) for i in (-2, -1, 1, 2))
    return (a - 8 * b + 8 * c - d) / (12 * step)


@given(losses(40), st.sampled_from(REDUCTIONS[1:]))
def test_central_differences(case, reduction):
    inputs, target, of_head, options = case
    inputs = [None if a is None else a.astype(np.float64) for a in inputs]
    x, w, bias = inputs
    bias = np.zeros(len(w)) if bias is None else bias
    formula = Formula(oracle.logits(x, w, bias, **of_head), target, **options)
    if abs(formula.divisor) < 1e-3 * np.abs(formula.weight).sum() + 1e-3:
        reduction = "sum"
    _, grad = gradients_of((x, w, bias), target, of_head, reduction=reduction, **options)
    size = float(formula.size.sum()) / {"sum": 1, "batch_mean": len(x)}.get(
        reduction, abs(float(formula.divisor)))
    rng = np.random.default_rng(2)
    for i, (name, value) in enumerate(zip(NAMES, (x, w, bias), strict=True)):
        to = rng.standard_normal(value.shape)
        reach = {"x": lambda to: to @ w.T, "weight": lambda to: x @ to.T, "bias": lambda to: to}
        to /= max(1.0, np.abs(reach[name](to)).max(initial=0))  # logits change by 1 at most

        def loss(step, i=i, to=to):
            moved = [x, w, bias]
            moved[i] = moved[i] + step * to
            return ll.linear_cross_entropy(
                moved[0], moved[1], target, moved[2], reduction=reduction, **of_head, **options)

        ours = float((getattr(grad, name) * to).sum())
        # Step**4 times the fifth derivative, of the order of (1 / temperature)**5 and more where
        # the cap is narrow; and the rounding of the loss by the step.
        assert abs(ours - difference(loss, 1e-3)) <= 2e-8 * (size + len(x)), name


@pytest.mark.slow
@pytest.mark.parametrize("workspace_bytes", [1, 5000, 100_000, 1 << 40])
def test_workspace_changes_no_value(workspace_bytes, dtype):
    inputs, target = problem(1, 100, 700, 20, dtype)
    options = with_weights(OPTIONS["all"], 100, 700, dtype)
    truth = TrueGradients(inputs, target, {}, options)
    _, grad = gradients_of(inputs, target, workspace_bytes=workspace_bytes, **options)
    assert_close(grad, truth, gradient_errors(truth, inputs, {}))
