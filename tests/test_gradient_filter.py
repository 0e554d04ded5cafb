"""Small tiles of a gradient may be left out: which, and that no other changes."""

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


# Rows that do not count: they add nothing, and keep no tile that the filter drops.

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
def test_it_keeps_no_tile(rng, dtype, way):
    """All derivatives are below the limit but those of the targets' tile."""
    m, n, row = 12, 600, 5
    x, w = rng.standard_normal((m, 4)).astype(dtype), rng.standard_normal((n, 4)).astype(dtype) / 9
    target = rng.integers(1, 200, m)
    x[row] *= 1e3  # alone it would be sure, in whatever tile
    grad = gradients_without(way, x, w, None, target, row, softcap=None, pack=True, filter_eps=0.1)
    assert grad.weight[:200].any()
    assert not grad.weight[256:].any()
    assert not grad.bias[256:].any()
