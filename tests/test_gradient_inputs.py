"""Gradients of any shape, shift, layout and type of inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.gradients import (
    NAMES,
    TrueGradients,
    assert_close,
    assert_same_gradients,
    gradient_errors,
    gradients_of,
    problem,
)
from support.layouts import LAYOUTS, as_layout
from support.losses import losses
from support.oracle import assert_same, assert_same_bits

import logitless as ll


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


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("n", [5, 3000])
def test_shift_of_many_rows(n, accumulate, rng):
    """Threads share out blocks, or the classes of a block; each goes where its rows are."""
    x, t = rng.standard_normal((40, 31, 16)), rng.integers(0, n, (40, 31))
    w = rng.standard_normal((n, 16))
    options = {"reduction": "sum", "workspace_bytes": 1 << 20}
    ours, cut = (ll.LinearHead(w, n_threads=threads) for threads in (4, 1))
    out = ll.Gradients(np.ones_like(x), np.ones_like(w), np.ones(n))
    ours.value_and_grad(x, t, shift=1, out=out, accumulate=accumulate, **options)
    expected = ll.Gradients(np.ones((40, 30, 16)), np.ones_like(w), np.ones(n))
    cut.value_and_grad(x[:, :-1].copy(), t[:, 1:], out=expected, accumulate=accumulate, **options)
    assert_same_bits(out.x[:, :-1].copy(), expected.x)
    assert (out.x[:, -1] == accumulate).all()
    assert_same_bits(out.weight, expected.weight)
    assert_same_bits(out.bias, expected.bias)


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


@given(losses(30), st.sampled_from([*LAYOUTS, "lead"]))
def test_layouts(case, layout):
    (x, w, bias), target, of_head, options = case
    options = {**options, "reduction": "sum"}

    def lay(a, lead=True):
        if layout == "lead":
            return a.reshape((len(a), 1, *a.shape[1:])) if lead else a
        return as_layout(a, layout)

    plain_loss, plain = gradients_of((x, w, bias), target, of_head, **options)
    for name in {"sample_weight", "temperature"} & options.keys():
        options[name] = lay(options[name])
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
    x, bias = (a.astype(ml_dtypes.bfloat16) for a in (x, bias))
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
