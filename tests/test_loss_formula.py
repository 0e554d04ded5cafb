"""The loss with any of its options is that of the formula, as exact as its precision allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.formula import Formula, formula_of, logits_error, loss_error
from support.losses import KINDS, OF_HEAD, OPTIONS, in_force, losses, targets_of, with_weights
from support.oracle import assert_no_worse, assert_relative, assert_same

import logitless as ll

long_double = pytest.mark.skipif(
    not oracle.LONG_IS_WIDER, reason="no type wider than float64 on this platform"
)


@given(losses(), st.booleans())
def test_any_options(case, pack):
    inputs, target, of_head, options = case
    (x, w, bias), dtype = inputs, inputs[0].dtype
    truth = formula_of(inputs, target, of_head, options)
    slack = logits_error(x, w, bias, of_head.get("temperature", 1.0)) / truth.temperature.min()
    allowed = loss_error(truth, slack, np.finfo(dtype).eps)

    head = ll.LinearHead(w, bias, pack=pack, **of_head)
    loss = head.loss(x, target, **options)
    assert loss.dtype == dtype
    error = np.abs(loss - truth.rows).astype(np.float64)
    assert (error <= allowed).all(), f"{(error / allowed).max():.3f} times the error allowed"

    assert_same(head.score(x, target, **options).loss, loss, "score")
    one_shot = ll.linear_cross_entropy(x, w, target, bias, **of_head, **options)
    assert_same(one_shot, loss, "linear_cross_entropy")
    again = ll.linear_score(x, w, target, bias, **of_head, **options)
    assert_same(again.loss, loss, "linear_score")
    assert_same(ll.cross_entropy(head.logits(x), target, **options), loss, "cross_entropy")


@given(losses(), st.sampled_from(["sum", "mean", "batch_mean"]))
def test_any_reduction(case, reduction):
    inputs, target, of_head, options = case
    (x, w, bias), dtype = inputs, inputs[0].dtype
    truth = formula_of(inputs, target, of_head, options)
    head = ll.LinearHead(w, bias, **of_head)
    rows = head.loss(x, target, **options)
    by = {"sum": 1, "batch_mean": len(x), "mean": float(truth.divisor)}[reduction]
    for call in (
        lambda: head.loss(x, target, reduction=reduction, **options),
        lambda: ll.linear_cross_entropy(
            x, w, target, bias, reduction=reduction, **of_head, **options),
        lambda: ll.cross_entropy(head.logits(x), target, reduction=reduction, **options),
    ):
        if truth.divisor == 0 and reduction == "mean":
            with pytest.warns(RuntimeWarning, match="mean"):
                assert np.isnan(call())
            continue
        result = call()
        assert result.dtype == dtype
        assert result.shape == ()
        # Sums are in float64: what is left is one rounding, and weights that cancel.
        exact = rows.sum(dtype=np.float64) / by
        few = 4 * np.finfo(dtype).eps
        size = np.abs(rows).sum(dtype=np.float64) / abs(by)
        slack = few * abs(exact) + 1e-13 * size
        if not oracle.COMPILED:
            slack += 64 * few * (size + 1)  # another shape, another order of sums
        assert abs(result - exact) <= slack


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_head", OF_HEAD, ids=["plain", "capped"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batch_mean"])
def test_each_option(name, kind, of_head, reduction):
    m, n, k = 25, 40, 6
    rng = np.random.default_rng(1)
    x, w, bias = rng.standard_normal((m, k)), rng.standard_normal((n, k)), rng.standard_normal(n)
    target, options = targets_of(kind, m, n, x.dtype), with_weights(OPTIONS[name], m, n, x.dtype)
    of_head = in_force(of_head, options)
    truth = formula_of((x, w, bias), target, of_head, options).reduced(reduction)
    ours = ll.linear_cross_entropy(
        x, w, target, bias, reduction=reduction, **of_head, **options)
    np.testing.assert_allclose(ours, truth.astype(np.float64), rtol=1e-13, atol=1e-14)
    z = ll.LinearHead(w, bias, **of_head).logits(x)
    ours = ll.cross_entropy(z, target, reduction=reduction, **options)
    np.testing.assert_allclose(ours, truth.astype(np.float64), rtol=1e-13, atol=1e-14)


def naive_rows(x, w, bias, target, **options):
    """The textbook: log-probabilities in the precision given, then the formula."""
    z = x @ w.T + bias
    z /= np.asarray(options.get("temperature", np.ones(len(x))), z.dtype)[:, None]
    top = z.max(axis=1, keepdims=True)
    lse = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    formula = Formula(z, target, **{**options, "temperature": None})
    z_term = z.dtype.type(options.get("z_loss", 0)) * lse[:, 0] ** 2
    entropy = (np.exp(z - lse) * (lse - z)).sum(axis=1)
    entropy *= z.dtype.type(options.get("entropy_weight", 0))
    return formula.weight * ((formula.taken * (lse - z)).sum(axis=1) + z_term + entropy)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
@pytest.mark.parametrize(("m", "n", "k"), [(200, 10, 64), (60, 1000, 257), (20, 4097, 128)])
def test_no_worse_than_naive(name, soft, m, n, k, dtype):
    if dtype == np.float64 and not oracle.LONG_IS_WIDER:
        pytest.skip("no type wider than float64 on this platform")
    rng = np.random.default_rng(m + n + k)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (3 / math.sqrt(k))).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    target = rng.dirichlet(np.ones(n), m).astype(dtype) if soft else rng.integers(0, n, m)
    options = with_weights(OPTIONS[name], m, n, dtype)
    naive = []
    for seed in range(4):  # which errors a product makes depends on the order of the features
        order = np.random.default_rng(seed).permutation(k)
        naive.append(naive_rows(x[:, order], w[:, order], bias, target, **options))
    truth = formula_of((x, w, bias), target, {}, options).rows
    # A sum over the classes averages the errors of the logits away, of ours and theirs:
    # what is left is as much the luck of the sums as anything. One bit for that.
    factor = 2 if soft or "label_smoothing" in options else 1
    head = ll.LinearHead(w, bias)
    assert_no_worse(head.loss(x, target, **options), naive, truth, name, factor)
    assert_no_worse(head.score(x, target, **options).loss, naive, truth, name, factor)


@pytest.mark.parametrize("options", [
    {},
    {"class_weight": [1.0, 1.0, 1.0]},
    {"sample_weight": [1.0] * 30},
    {"class_weight": [3.0, 0.1, 7.0]},
    {"sample_weight": [0.3] * 30},
    {"class_weight": [3.0, 0.1, 7.0], "sample_weight": [1.7] * 30},
], ids=str)
def test_sure_models_keep_their_digits(options, dtype):
    """A loss of 1e-12 times a weight has the digits of both."""
    gap = np.arange(10, 70, 2).astype(dtype)
    z = -np.stack([gap, np.zeros_like(gap), gap], axis=1)
    wide = gap.astype(oracle.wider(dtype))
    cw = np.asarray(options.get("class_weight", [1.0] * 3), dtype).astype(wide.dtype)
    s = np.asarray(options.get("sample_weight", [1.0] * 30), wide.dtype)
    minus_log_p = np.log1p(2 * np.exp(-wide))
    truth = s * cw[1] * minus_log_p
    assert truth.min() < 1e-26
    few = 1e-6 if dtype == np.float32 else 1e-14
    head, target = ll.LinearHead(np.eye(3, dtype=dtype)), np.ones(30, int)
    for loss in (
        head.loss(z, target, **options),
        head.loss(z, np.eye(3)[target], **options),
        head.score(z, target, **options).loss,
        ll.cross_entropy(z, target, **options),
    ):
        assert_relative(loss, truth, few)
    # A target that is almost one-hot: what is not is small, and not lost.
    t = np.tile(np.array([2.0**-60, 1, 0], dtype), (30, 1))
    truth += s * cw[0] * 2.0**-60 * (wide + minus_log_p)
    assert_relative(head.loss(z, t, **options), truth, few)


def test_large_weights(dtype):
    big = np.finfo(dtype).max
    z = np.array([[0, 0]], dtype)
    loss = ll.cross_entropy(z, [0], class_weight=np.array([big, 1], dtype))
    assert loss[0] == pytest.approx(float(big) * math.log(2), rel=1e-6)
    if dtype == np.float32:
        # Sample weights are in float64, and only the loss must fit.
        loss = ll.cross_entropy(z, [0], sample_weight=[1e30], class_weight=np.array([1e-30, 1]))
        assert loss[0] == pytest.approx(math.log(2), rel=1e-6)
    assert np.isinf(ll.cross_entropy(z, [0], sample_weight=[1e308], z_loss=1e300)).all()


@long_double
def test_many_classes_smoothed(rng, dtype):
    """The smoothed loss of 50,000 classes, all but one of them far below."""
    n = 50_000
    z = np.full((1, n), -30, dtype)
    z[0, 7] = 10
    truth = Formula(z.astype(oracle.wider(dtype)), np.array([7]), label_smoothing=0.1).rows
    assert_relative(ll.cross_entropy(z, [7], label_smoothing=0.1), truth, 8 * np.finfo(dtype).eps)
