"""Gradients against the formula in a wider precision, against differences, and by hand."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.oracle import assert_relative, assert_same, assert_same_bits, ulp
from test_options import (
    KINDS,
    OF_HEAD,
    OPTIONS,
    ROWS,
    Formula,
    logits_error,
    losses,
    targets_of,
    with_weights,
)

import logitless as ll

NAMES = ("x", "weight", "bias")
REDUCTIONS = ("none", "sum", "mean", "batch_mean")


class TrueGradients:
    """Gradients of the reduced loss in the precision `real`, and what goes into them.

    Attributes
    ----------
    formula : Formula
    slope : (m, n)
        Derivative of the logits by ``x @ weight.T + bias``.
    scale : (m,)
        What the loss of a row is multiplied with on its way into the reduced one.
    by_logit : (m, n)
        Derivative of the reduced loss by ``x @ weight.T + bias``.
    x, weight, bias
    """

    def __init__(self, inputs, target, of_head=None, options=None, reduction="mean",
                 grad_output=1.0, real=None):
        x, w, bias = inputs
        real = np.dtype(real or oracle.wider(x.dtype)).type
        x, w = x.astype(real), w.astype(real)
        of_head = of_head or {}
        capped, t = of_head.get("softcap"), real(of_head.get("temperature", 1.0))
        a = oracle.logits(x, w, bias, dtype=real)
        slope = np.ones_like(a) if capped is None else 1 - np.tanh(a / real(capped)) ** 2
        z = oracle.logits(x, w, bias, dtype=real, **of_head)
        self.formula = Formula(z, target, **(options or {}))
        self.slope = slope / t
        by = {"batch_mean": len(x), "mean": self.formula.divisor}.get(reduction, 1)
        self.scale = np.asarray(grad_output, real) / real(by) * np.ones(len(x), real)
        self.by_logit = g = self.formula.d_logits * self.slope * self.scale[:, None]
        self.x, self.weight, self.bias = g @ w, g.T @ x, g.sum(axis=0)


def gradient_errors(truth, inputs, of_head):
    """Bounds for the rounding errors of the three gradients, by name."""
    x, w, bias = inputs
    m, n = truth.by_logit.shape
    eps = np.finfo(np.result_type(x, w)).eps
    t = of_head.get("temperature", 1.0)
    slack = logits_error(x, w, bias, t)
    f, scale = truth.formula, np.abs(truth.scale * truth.formula.weight)
    # How far a derivative by a logit may be off: a probability is as a logit times itself, the
    # slope of the cap changes with its argument, everything is rounded some times.
    plus = np.abs(f.d_logits) / np.where(f.weight == 0, 1, np.abs(f.weight))[:, None] + f.taken
    bend = 0 if of_head.get("softcap") is None else 2 * t / of_head["softcap"]
    off = scale[:, None] * (plus * (3 * slack + 32 * eps) * truth.slope + plus * bend * slack)
    off += scale[:, None] * 4 * eps  # a slope near 0 comes from 1 - h
    off, g = off.astype(np.float64), np.abs(truth.by_logit).astype(np.float64)
    wide_x, wide_w = np.abs(x).astype(np.float64), np.abs(w).astype(np.float64)
    over_n, over_m = (eps * (4 * math.sqrt(length) + 8) for length in (n, m))
    tiny = 64 * np.finfo(np.result_type(x, w)).tiny
    return {
        "x": (off + over_n * g) @ wide_w + tiny,
        "weight": (off + over_m * g).T @ wide_x + tiny,
        "bias": (off + over_m * g).sum(axis=0) + tiny,
    }


def assert_close(grad, truth, allowed, wrt=NAMES):
    for name in wrt:
        ours, exact = getattr(grad, name), getattr(truth, name)
        assert ours.shape == exact.shape, name
        error = np.abs(ours - exact).astype(np.float64)
        excess = (error / allowed[name]).max(initial=0)
        assert excess <= 1, f"{name}: {excess:.3g} times the error allowed"


def problem(seed, m, n, k, dtype, scale=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (scale / math.sqrt(max(k, 1)))).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    return (x, w, bias), rng.integers(0, n, m)


def gradients_of(inputs, target, of_head=None, **options):
    x, w, bias = inputs
    head = ll.LinearHead(w, bias, pack=False, **(of_head or {}))
    return head.value_and_grad(x, target, **options)


def assert_same_gradients(a, b, what="", same=assert_same):
    for name in NAMES:
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            same(one, other, f"{what} {name}")


# Against the formula


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


# By hand


def test_a_row_by_hand():
    """Logits log 1, log 2, log 3: probabilities 1/6, 1/3, 1/2."""
    x, w = np.array([[2.0, -1.0]]), np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    loss, grad = ll.linear_cross_entropy_value_and_grad(x, w, [1], np.log([1.0, 2.0, 3.0]))
    assert_relative(loss, math.log(3), 1e-15)
    np.testing.assert_allclose(grad.bias, [1 / 6, -2 / 3, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(grad.weight, np.outer([1 / 6, -2 / 3, 1 / 2], x[0]), rtol=1e-15)
    assert grad.x.tolist() == [[0, 0]]


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
    "ignored": ({"z_loss": 1.0, "ignore_index": 1}, 1, [0, 0, 0]),
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
    cap, temperature, smoothing, z_loss = 3.0, 0.75, 0.125, 0.0625

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
            total += s[i] * (ce + z_loss * lse**2)
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
        class_weight=cw, sample_weight=s, label_smoothing=smoothing, z_loss=z_loss)
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


# What to compute, and where it goes


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


# Rows that add nothing


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
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "class_weight": np.linspace(0, 2, 70)}
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


# Shift


@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
def test_shift(shift, soft, rng, dtype):
    lead, n, k = (3, 5), 7, 4
    x = rng.standard_normal((*lead, k)).astype(dtype)
    head = ll.LinearHead(rng.standard_normal((n, k)).astype(dtype))
    t = rng.dirichlet(np.ones(n), lead) if soft else rng.integers(0, n, lead)
    options = {"label_smoothing": 0.1, "reduction": "sum"}
    s = rng.random(lead)
    cut = 5 - shift
    loss, grad = head.value_and_grad(x, t, shift=shift, sample_weight=s, **options)
    value, part = head.value_and_grad(x[:, :cut], t[:, shift:], sample_weight=s[:, shift:],
                                      **options)
    assert_same(loss, value)
    assert grad.x.shape == x.shape
    assert_same(grad.x[:, :cut], part.x)
    assert not grad.x[:, cut:].any()
    assert_same(grad.weight, part.weight)
    assert_same(grad.bias, part.bias)
    # Into `out`: zero where no position is scored, or what was there.
    out = ll.Gradients(x=np.full(x.shape, 3, dtype))
    head.value_and_grad(x, t, shift=shift, sample_weight=s, wrt="x", out=out, **options)
    assert_same(out.x, grad.x)
    out = ll.Gradients(x=np.full(x.shape, 3, dtype))
    head.value_and_grad(x, t, shift=shift, sample_weight=s, wrt="x", out=out, accumulate=True,
                        **options)
    np.testing.assert_allclose(out.x, 3 + grad.x, rtol=8 * np.finfo(dtype).eps)
    assert (out.x[:, cut:] == 3).all()


def test_shift_of_one_sequence(rng, dtype):
    x, t = rng.standard_normal((6, 3)).astype(dtype), rng.integers(0, 4, 6)
    head = ll.LinearHead(rng.standard_normal((4, 3)).astype(dtype))
    v = rng.standard_normal(4)
    loss, grad = head.value_and_grad(x, t, shift=2, reduction="none", grad_output=v)
    value, part = head.value_and_grad(x[:4], t[2:], reduction="none", grad_output=v)
    assert_same(loss, value)
    assert_same(grad.x[:4], part.x)
    assert not grad.x[4:].any()
    out = ll.Gradients(x=np.ones_like(x))
    head.value_and_grad(x, t, shift=2, wrt="x", out=out, accumulate=True, reduction="none",
                        grad_output=v)
    np.testing.assert_allclose(out.x, 1 + grad.x, rtol=8 * np.finfo(dtype).eps)


# Shapes, layouts, types


def test_no_rows(dtype):
    (x, w, bias), _ = problem(1, 6, 70, 9, dtype)
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        loss, grad = gradients_of((x[:0], w, bias), [])
    assert np.isnan(loss)
    assert grad.x.shape == (0, 9)
    assert not grad.weight.any()
    assert not grad.bias.any()
    loss, grad = gradients_of((x[:0], w, bias), np.zeros((0, 70)), reduction="none")
    assert loss.shape == (0,)
    assert not grad.weight.any()
    out = ll.Gradients(weight=np.ones_like(w), bias=np.ones_like(bias))
    gradients_of((x[:0], w, bias), [], reduction="sum", wrt=("weight", "bias"), out=out,
                 accumulate=True)
    assert (out.weight == 1).all()
    assert (out.bias == 1).all()


def test_no_features(dtype):
    bias = np.log(np.array([1, 2, 3], dtype))
    loss, grad = gradients_of((np.zeros((4, 0), dtype), np.zeros((3, 0), dtype), bias),
                              [0, 1, 2, 2])
    assert grad.x.shape == (4, 0)
    assert grad.weight.shape == (3, 0)
    np.testing.assert_allclose(grad.bias, [1 / 6 - 1 / 4, 1 / 3 - 1 / 4, 0], atol=1e-6)
    assert loss == pytest.approx(np.log(6) / 4 + np.log(3) / 4 + np.log(2) / 2, rel=1e-6)


def test_one_class(dtype):
    """Its probability is 1, so that only the z-loss has a gradient."""
    (x, w, bias), _ = problem(1, 6, 1, 9, dtype)
    t = np.zeros(6, int)
    loss, grad = gradients_of((x, w, bias), t)
    assert loss == 0
    for name in NAMES:
        assert not getattr(grad, name).any()
    truth = TrueGradients((x, w, bias), t, {}, {"z_loss": 0.5})
    _, grad = gradients_of((x, w, bias), t, z_loss=0.5)
    assert_close(grad, truth, gradient_errors(truth, (x, w, bias), {}))


def test_a_single_row(dtype):
    (x, w, bias), target = problem(1, 1, 70, 9, dtype)
    loss, grad = gradients_of((x, w, bias), target)
    alone, single = gradients_of((x[0], w, bias), target[0])
    assert single.x.shape == (9,)
    assert alone.shape == ()
    assert_same(alone, loss)
    assert_same(single.x, grad.x[0])
    assert_same(single.weight, grad.weight)
    alone, single = gradients_of((x[0], w, bias), target[0], reduction="none", grad_output=2.0)
    assert alone.shape == ()
    assert_same_bits(single.x, 2 * grad.x[0])


@given(losses(30), st.sampled_from(["fortran", "strided", "reversed", "swapped", "lead"]))
def test_layouts(case, layout):
    (x, w, bias), target, of_head, options = case
    options = {**options, "reduction": "sum"}

    def lay(a, lead=True):
        if layout == "fortran":
            return np.asfortranarray(a)
        if layout == "swapped":
            return a.astype(a.dtype.newbyteorder())
        if layout == "reversed":
            return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]
        if layout == "lead":
            return a.reshape((len(a), 1, *a.shape[1:])) if lead else a
        wide = np.zeros(tuple(2 * length for length in a.shape), a.dtype)
        wide[(slice(None, None, 2),) * a.ndim] = a
        return wide[(slice(None, None, 2),) * a.ndim]

    plain_loss, plain = gradients_of((x, w, bias), target, of_head, **options)
    if "sample_weight" in options:
        options["sample_weight"] = lay(options["sample_weight"])
    laid_bias = None if bias is None else lay(bias, False)
    laid_x, laid_target = lay(x), lay(target)
    for pack in False, True:
        head = ll.LinearHead(lay(w, False), laid_bias, pack=pack, **of_head)
        loss, grad = head.value_and_grad(laid_x, laid_target, **options)
        assert grad.x.shape == laid_x.shape
        assert grad.x.dtype == x.dtype
        assert_same(loss, plain_loss)
        ours = ll.Gradients(grad.x.reshape(x.shape), grad.weight, grad.bias)
        few = 256 * float(np.finfo(x.dtype).eps)
        for name in NAMES:
            a, b = getattr(ours, name), getattr(plain, name)
            if oracle.COMPILED:
                assert_same_bits(a, b, name)
            else:
                np.testing.assert_allclose(
                    a, b, rtol=few, atol=few * (1 + np.abs(b).max(initial=0)))


@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
@pytest.mark.parametrize("shift", [0, 1])
def test_leading_axes_that_are_no_single_axis(soft, shift, rng, dtype):
    """Of an array with its axes exchanged there is no view as rows."""
    x, t = rng.standard_normal((5, 6, 9)).astype(dtype), rng.integers(0, 70, (5, 6))
    w = rng.standard_normal((70, 9)).astype(dtype)
    t = rng.dirichlet(np.ones(70), (5, 6)) if soft else t
    s = rng.random((5, 6))
    options = {"reduction": "none", "class_weight": np.arange(70), "shift": shift}
    head = ll.LinearHead(w)
    turned = (a.swapaxes(0, 1) for a in (x, t, s, s[:, shift:]))
    turned_x, turned_t, turned_s, v = (np.ascontiguousarray(a).swapaxes(0, 1) for a in turned)
    loss, grad = head.value_and_grad(x, t, sample_weight=s, grad_output=s[:, shift:], **options)
    assert loss.shape == (5, 6 - shift)
    ours, turned = head.value_and_grad(
        turned_x, turned_t, sample_weight=turned_s, grad_output=v, **options)
    assert_same(ours, loss)
    assert_same_gradients(turned, grad)
    head_loss = {name: value for name, value in options.items() if name != "reduction"}
    assert_same(head.loss(turned_x, turned_t, sample_weight=turned_s, **head_loss), loss)


@pytest.mark.parametrize(("x_type", "w_type", "expected"), [
    ("f4", "f8", "f8"), ("f8", "f4", "f8"), ("f2", "f4", "f4"), ("f4", "f2", "f4"),
    ("f2", "f2", "f4"), ("i1", "f4", "f4"), ("f4", "i8", "f8"), ("?", "u2", "f4"),
    (">f4", "f4", "f4"), ("f8", ">f8", "f8"),
])
def test_types(x_type, w_type, expected):
    (x, w, bias), target = problem(1, 6, 70, 9, np.float64, 4.0)
    x, w = (a if np.dtype(kind).kind == "f" else np.abs(np.round(a))
            for a, kind in ((x, x_type), (w, w_type)))
    x, w, bias = x.astype(x_type), w.astype(w_type), bias.astype(expected)
    loss, grad = gradients_of((x, w, bias), target, class_weight=np.arange(70))
    wide, same = gradients_of((x.astype(expected), w.astype(expected), bias), target,
                              class_weight=np.arange(70))
    assert loss.dtype == expected
    assert_same(loss, wide)
    for name in NAMES:
        assert getattr(grad, name).dtype == np.dtype(expected)
    assert_same_gradients(grad, same)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    (x, w, bias), target = problem(1, 6, 70, 9, np.float32)
    x, w, bias = (a.astype(ml_dtypes.bfloat16) for a in (x, w, bias))
    _, grad = gradients_of((x, w, bias), target)
    _, wide = gradients_of(tuple(a.astype(np.float32) for a in (x, w, bias)), target)
    assert_same_gradients(grad, wide)
    assert grad.weight.dtype == np.float32


def test_inputs_are_left_alone(dtype):
    (x, w, bias), target = problem(1, 6, 70, 9, dtype)
    arrays = [x, w, bias, target, np.ones(70), np.ones(6), np.full((6, 70), 0.5), np.arange(6.0)]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    for t in target, arrays[6]:
        gradients_of((x, w, bias), t, reduction="none", grad_output=arrays[7], shift=0,
                     class_weight=arrays[4], sample_weight=arrays[5])
        gradients_of((x, w, bias), t, reduction="sum", shift=1)
    for a, b in zip(arrays, before, strict=True):
        assert_same_bits(a, b)


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


@pytest.mark.parametrize("workspace_bytes", [1, 5000, 100_000, 1 << 40])
def test_workspace_changes_no_value(workspace_bytes, dtype):
    inputs, target = problem(1, 100, 700, 20, dtype)
    options = with_weights(OPTIONS["all"], 100, 700, dtype)
    truth = TrueGradients(inputs, target, {}, options)
    _, grad = gradients_of(inputs, target, workspace_bytes=workspace_bytes, **options)
    assert_close(grad, truth, gradient_errors(truth, inputs, {}))


# Small tiles left out


def peaked(m, n, k, dtype):
    """Rows that are sure of a wrong class, which like the right one is among the first 40."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((n, k)).astype(dtype)
    w *= 6 / np.linalg.norm(w, axis=1, keepdims=True)
    best = rng.integers(0, 40, m)
    x = w[best] + (0.05 * rng.standard_normal((m, k))).astype(dtype)
    return (x, w, (rng.standard_normal(n) / 8).astype(dtype)), (best + 1) % 40


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("options", [
    {"reduction": "mean"},
    {"reduction": "sum", "sample_weight": np.linspace(-1, 2, 50)},
    {"reduction": "none", "grad_output": np.linspace(-1, 2, 50), "class_weight": np.ones(2000)},
    {"reduction": "mean", "z_loss": 1e-4},
], ids=["mean", "sum", "none", "z-loss"])
def test_filter_leaves_out_what_is_small(eps, options, dtype):
    inputs, target = peaked(50, 2000, 60, dtype)
    x, w, _ = inputs
    of_head = {"temperature": 0.8}
    _, exact = gradients_of(inputs, target, of_head, **options)
    _, grad = gradients_of(inputs, target, of_head, filter_eps=eps, **options)
    # No entry of softmax - target that is left out is larger than eps.
    row = np.abs(options.get("sample_weight", options.get("grad_output", np.ones(50))))
    left_out = eps * row / 0.8 / (50 if options["reduction"] == "mean" else 1)
    few = 64 * np.finfo(dtype).eps
    for name, most in (
        ("x", np.outer(left_out, np.abs(w).sum(axis=0))),
        ("weight", np.broadcast_to(left_out @ np.abs(x), w.shape)),
        ("bias", np.full(2000, left_out.sum())),
    ):
        ours, full = getattr(grad, name), getattr(exact, name)
        assert (np.abs(ours - full) <= most * (1 + 1e-6) + few * (1 + np.abs(full).max())).all()
    # Where all tiles of some classes are left out these have no gradient at all.
    assert (exact.bias != 0).all()
    none = (grad.bias == 0) & ~grad.weight.any(axis=1)
    assert none[256:].all()
    assert not none[:256].any()


def test_filter_zero_is_exact(dtype):
    inputs, target = peaked(50, 2000, 60, dtype)
    _, exact = gradients_of(inputs, target)
    _, grad = gradients_of(inputs, target, filter_eps=0)
    assert_same_gradients(grad, exact, same=assert_same_bits)
    # A limit that nothing is below leaves nothing out either.
    _, grad = gradients_of(inputs, target, filter_eps=1e-38)
    assert_same_gradients(grad, exact, same=assert_same_bits)


def test_filter_keeps_tiles_with_one_large_entry(dtype):
    """Twelve rows by 256 classes stay together: one of them is enough."""
    n = 768
    z = np.full((12, n), -50, dtype)
    z[:, 0] = 0
    z[3, 700] = -1  # the one entry that counts beyond the first tile
    _, grad = gradients_of((z, np.eye(n, dtype=dtype), None), np.zeros(12, int), filter_eps=1e-3,
                           reduction="sum")
    tiles = (grad.x.reshape(12, 3, 256) != 0).any(axis=(0, 2))
    assert tiles.tolist() == [True, False, True]
    assert (grad.x[:, 512:] != 0).all()
    _, grad = gradients_of((z, np.eye(n, dtype=dtype), None), np.zeros(12, int), filter_eps=0.5,
                           reduction="sum")
    assert not grad.x.any()


def test_filter_does_not_change_the_loss(dtype):
    inputs, target = peaked(50, 2000, 60, dtype)
    a, _ = gradients_of(inputs, target, reduction="none")
    b, _ = gradients_of(inputs, target, reduction="none", filter_eps=0.5)
    assert_same_bits(a, b)


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
