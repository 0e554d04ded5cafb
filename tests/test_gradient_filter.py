"""Small derivatives may be left out of a gradient: which, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from support.gradients import NAMES, assert_same_gradients, gradients_of
from support.oracle import assert_same, assert_same_bits

import logitless as ll


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
    {"reduction": "sum", "entropy_weight": -0.01},
], ids=["mean", "sum", "none", "z-loss", "entropy"])
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
    # Classes that nothing has been kept of have no gradient at all.
    assert (exact.bias != 0).all()
    none = (grad.bias == 0) & ~grad.weight.any(axis=1)
    assert none[40:].mean() > 0.5
    assert not none[:40].all()


def test_filter_zero_is_exact(dtype):
    inputs, target = peaked(50, 2000, 60, dtype)
    _, exact = gradients_of(inputs, target)
    _, grad = gradients_of(inputs, target, filter_eps=0)
    assert_same_gradients(grad, exact, same=assert_same_bits)
    # A limit that nothing is below leaves nothing out either.
    _, grad = gradients_of(inputs, target, filter_eps=1e-38)
    assert_same_gradients(grad, exact, same=assert_same_bits)


def sharper_and_sharper(m, n, dtype):
    """Logits of which some rows have many likely classes, others few or one; in any order."""
    rng = np.random.default_rng(8)
    sharp = rng.permutation(np.geomspace(0.2, 50, m))[:, None]
    return (sharp * rng.standard_normal((m, n))).astype(dtype), rng.integers(0, n, m)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1 / 400, 0.02, 0.5])
@pytest.mark.parametrize("softcap", [None, 9.0])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("m", "n"), [(1, 700), (30, 700), (500, 300), (50, 9), (13, 40)])
def test_each_is_left_out_by_itself(dtype, eps, softcap, pack, m, n):
    """With the weights of the identity the gradient of a row is its derivatives."""
    z, target = sharper_and_sharper(m, n, dtype)
    weight = (np.arange(m) % 5 - 1) / 4
    options = {"reduction": "none", "grad_output": weight}
    head = ll.LinearHead(np.eye(n, dtype=dtype), softcap=softcap, pack=pack)
    _, exact = head.value_and_grad(z, target, **options)
    _, grad = head.value_and_grad(z, target, filter_eps=eps, **options)
    limit = (eps * np.abs(weight)).astype(dtype)[:, None]
    kept = np.where(np.abs(exact.x) < limit, 0, exact.x)
    assert_same_bits(grad.x, kept + 0)
    kept = kept.astype(np.float64)
    few = 16 * np.finfo(dtype).eps
    assert (np.abs(grad.weight - kept.T @ z) <= few * np.abs(kept.T) @ np.abs(z)).all()
    assert (np.abs(grad.bias - kept.sum(axis=0)) <= few * np.abs(kept).sum(axis=0)).all()


@pytest.mark.compiled_only
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.02])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("held", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(("n", "k"), [(700, 45), (300, 200), (9, 30)])
def test_no_row_sees_another(eps, pack, held, n, k):
    """Not even in bits: alone, in another place, by threads, in windows."""
    m = 300
    rng = np.random.default_rng(3)
    w = rng.standard_normal((n, k)).astype(held)
    x = (np.geomspace(0.03, 5, m)[rng.permutation(m), None] * rng.standard_normal((m, k))).astype(
        np.float64 if held == np.float64 else np.float32)
    target = rng.integers(0, n, m)
    head = ll.LinearHead(w, n_threads=1, pack=pack)
    options = {"reduction": "sum", "filter_eps": eps}
    _, whole = head.value_and_grad(x, target, **options)
    order = rng.permutation(m)
    for rows in (order, order[:13], order[:1], np.array([7]), slice(5, 250)):
        _, grad = head.value_and_grad(x[rows], target[rows], **options)
        assert_same_bits(grad.x, whole.x[rows])
    more = ll.LinearHead(w, n_threads=3, pack=pack)
    for workspace_bytes in (1, 1 << 26):
        _, grad = more.value_and_grad(x, target, workspace_bytes=workspace_bytes, **options)
        assert_same_gradients(grad, whole, same=assert_same_bits)


@pytest.mark.compiled_only
@pytest.mark.parametrize("k", [3, 40])
def test_what_is_left_out_adds_nothing_to_negative_zero(dtype, k):
    m, n = 3000, 300
    rng = np.random.default_rng(5)
    w = rng.standard_normal((n, k)).astype(dtype)
    target = rng.integers(0, 20, m)  # of other classes there is nothing
    w[:20] += 9
    x = np.ones((m, k), dtype)
    results = []
    for n_threads in (1, 2, 3):
        out = ll.Gradients(*(np.full(shape, -0.0, dtype) for shape in ((m, k), (n, k), (n,))))
        head = ll.LinearHead(w, n_threads=n_threads)
        head.value_and_grad(x, target, reduction="sum", filter_eps=1e-2, out=out, accumulate=True)
        results.append(out)
    for grad in results:
        assert_same_gradients(grad, results[0], same=assert_same_bits)
    nothing = results[0].weight[20:]
    assert not nothing.any()
    assert np.signbit(nothing).all()


@pytest.mark.compiled_only
@pytest.mark.parametrize("row", [0, 1, 3])
@pytest.mark.parametrize(("kept", "added"), [(32, False), (33, True)])
def test_what_is_kept_of_a_group_is_counted_whole(row, kept, added, dtype):
    """An eighth is links alone, which leave -0 as it is; of more, all others add 0 to it."""
    m, n = 4, 64
    w = np.full((n, m), -60, dtype)
    w[5] = 0
    w[:kept, row] = 0  # classes as likely as each other, all of which are kept
    out = ll.Gradients(*(np.full(shape, -0.0, dtype) for shape in ((m, m), (n, m), (n,))))
    ll.LinearHead(w).value_and_grad(np.eye(m, dtype=dtype), [5] * m, reduction="sum",
                                    filter_eps=1e-6, out=out, accumulate=True)
    assert np.count_nonzero(out.weight) == kept
    assert_same(np.signbit(out.weight[kept:]), np.full((n - kept, m), not added))


def test_nan_is_never_left_out(dtype):
    z, target = sharper_and_sharper(30, 700, dtype)
    inputs = z, np.eye(700, dtype=dtype), None
    _, usual = gradients_of(inputs, target, filter_eps=0.01, reduction="sum")
    z[[4, 20], [3, 600]] = np.nan
    _, grad = gradients_of(inputs, target, filter_eps=0.01, reduction="sum")
    spoiled = np.isin(np.arange(30), [4, 20])
    assert np.isnan(grad.x[spoiled]).all()
    assert np.isnan(grad.weight).all()
    assert np.isnan(grad.bias).all()
    assert_same(grad.x[~spoiled], usual.x[~spoiled])


def test_weights_two_apart(dtype):
    """Features of a class are read where they are only if they lie side by side."""
    (x, w, bias), target = peaked(30, 700, 40, dtype)
    apart = np.repeat(w, 2, axis=1)
    apart[:, 1::2] = 7
    grads = [ll.LinearHead(weight, bias, pack=False).value_and_grad(x, target, filter_eps=1e-3)[1]
             for weight in (w, apart[:, ::2])]
    assert_same_gradients(*grads, same=assert_same_bits)


@pytest.mark.compiled_only
def test_weights_of_what_is_left_out_are_not_read(dtype):
    """A class that cannot happen, because of a weight of -inf: 0 times that would be NaN."""
    rng = np.random.default_rng(6)
    x, w = np.abs(rng.standard_normal((20, 5))), rng.standard_normal((600, 5))
    w[300, 2] = -np.inf
    w[:7] += 20  # of these few derivatives are kept, of no others
    head = ll.LinearHead(w.astype(dtype))
    target = rng.integers(0, 7, 20)
    _, grad = head.value_and_grad(x.astype(dtype), target, reduction="sum", filter_eps=1e-3)
    assert all(np.isfinite(getattr(grad, name)).all() for name in NAMES)
    assert grad.x.any()


def test_filter_does_not_change_the_loss(dtype):
    inputs, target = peaked(50, 2000, 60, dtype)
    a, _ = gradients_of(inputs, target, reduction="none")
    b, _ = gradients_of(inputs, target, reduction="none", filter_eps=0.5)
    assert_same_bits(a, b)


# Rows that do not count: they add nothing, whatever the filter makes of the others.

WAYS = ["class weight", "sample weight", "ignored", "factor"]


def gradients_without(way, x, w, b, target, row, **options):
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


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("filter_eps", [0.0, 0.02, 0.5])
@pytest.mark.parametrize(("m", "n"), [(5, 9), (30, 9), (5, 700), (30, 700)])
def test_a_row_that_does_not_count(rng, dtype, way, softcap, pack, filter_eps, m, n):
    x, w = rng.standard_normal((m, 6)).astype(dtype), rng.standard_normal((n, 6)).astype(dtype)
    b, target = rng.standard_normal(n).astype(dtype), rng.integers(0, min(n, 200), m)
    options = {"softcap": softcap, "pack": pack, "filter_eps": filter_eps}
    plain = gradients_without(way, x, w, b, target.copy(), 1, **options)
    for held in (np.nan, np.inf, 0):
        x[1] = held
        ours = gradients_without(way, x, w, b, target.copy(), 1, **options)
        for name in NAMES:
            assert_same(getattr(ours, name), getattr(plain, name), f"{name}, {held}")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_of_it_is_kept(rng, dtype, way):
    """All derivatives are below the limit but those of the targets."""
    m, n, row = 12, 600, 5
    x, w = rng.standard_normal((m, 4)).astype(dtype), rng.standard_normal((n, 4)).astype(dtype) / 9
    target = rng.integers(1, 200, m)
    x[row] *= 1e3  # it would be sure, of whatever class
    grad = gradients_without(way, x, w, None, target, row, softcap=None, pack=True, filter_eps=0.1)
    assert grad.weight[:200].any()
    assert not grad.weight[256:].any()
    assert not grad.bias[256:].any()
