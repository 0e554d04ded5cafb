"""Screened heads: the same bits as without a screen, whatever the data."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitless as ll

compiled_only = pytest.mark.compiled_only


def same(a, b):
    """Equal to the last bit, signs of zeros included; a NaN is a NaN."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(a, b)
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(a)[~np.isnan(a)], np.signbit(b)[~np.isnan(b)])


def agree(weight, bias, x, ks=(1, 2, 10), **options):
    """Hold a screened head against one that is not; returns the screened head."""
    with np.errstate(all="ignore"):
        plain = ll.LinearHead(weight, bias, **options)
        head = ll.LinearHead(weight, bias, screen="int8", **options)
        for k in ks:
            if k <= len(weight):
                a, b = (h.topk(x, k, normalize=False) for h in (head, plain))
                same(a.index, b.index)
                same(a.logit, b.logit)
                assert a.log_prob is None
        same(head.predict(x), plain.predict(x))
    return head


def normal(rng, *shape, dtype=np.float32, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(dtype)


SIZES_N = [512, 513, 767, 768, 769, 1023, 1025, 4095, 4096, 4097, 5000]
SIZES_K = [1, 3, 4, 5, 16, 63, 64, 65, 255, 256, 257]


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES_N)
@pytest.mark.parametrize("m", [1, 2, 13, 24, 25, 49])
def test_classes_and_rows_around_blocks(m, n, dtype, rng):
    k = 40
    head = agree(normal(rng, n, k, dtype=dtype), None, normal(rng, m, k, dtype=dtype))
    if ll.active_isa() != "numpy":
        assert head.screen_stats.rows == m
        assert head.screen_stats.fell_back == 0


@pytest.mark.parametrize("k", SIZES_K)
@pytest.mark.parametrize("biased", [False, True])
def test_features_around_steps(k, biased, dtype, rng):
    bias = normal(rng, 600, dtype=dtype) if biased else None
    agree(normal(rng, 600, k, dtype=dtype), bias, normal(rng, 20, k, dtype=dtype))


@pytest.mark.parametrize("top", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 8192])
def test_any_number_of_best_classes(top, dtype, rng):
    head = agree(normal(rng, 8192, 24, dtype=dtype), None, normal(rng, 9, 24, dtype=dtype), (top,))
    head.topk(normal(rng, 9, 24, dtype=dtype), top, normalize=False)
    if ll.active_isa() != "numpy":
        assert head.screen_stats.rows == (9 if top <= 64 else 0)


@pytest.mark.parametrize("n", [17, 100, 256, 511])
def test_few_classes_go_without(n, rng):
    head = agree(normal(rng, n, 8), None, normal(rng, 5, 8))
    assert head.screen_stats == ll.LinearHead(np.eye(3), screen="int8").screen_stats


@pytest.mark.parametrize("options", [
    {"softcap": 30.0}, {"softcap": 2.0}, {"softcap": 0.01}, {"temperature": 0.3},
    {"temperature": 1e30}, {"softcap": 5.0, "temperature": 7.0},
], ids=str)
def test_cap_and_temperature(options, dtype, rng):
    agree(normal(rng, 1500, 30, dtype=dtype), normal(rng, 1500, dtype=dtype),
          normal(rng, 15, 30, dtype=dtype), **options)


def test_ties_go_to_the_lowest_index(dtype, rng):
    weight = np.repeat(normal(rng, 300, 20, dtype=dtype), 4, axis=0)
    head = agree(weight[rng.permutation(1200)], None, normal(rng, 30, 20, dtype=dtype), (1, 3, 9))
    if ll.active_isa() != "numpy":
        assert head.screen_stats.fell_back == 0


def test_near_ties(dtype, rng):
    weight = np.repeat(normal(rng, 2, 20, dtype=dtype), 600, axis=0)
    weight *= 1 + np.finfo(dtype).eps * rng.integers(0, 3, weight.shape).astype(dtype)
    agree(weight, None, normal(rng, 30, 20, dtype=dtype))


@compiled_only
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_all_logits_equal(value, dtype, rng):
    weight = np.broadcast_to(np.asarray(value, dtype), (3000, 12))
    head = agree(weight, None, normal(rng, 30, 12, dtype=dtype))
    assert head.screen_stats.rows == head.screen_stats.fell_back == 30
    assert np.isnan(head.screen_stats.rescored)


def test_rows_of_zeros(dtype, rng):
    x = normal(rng, 10, 20, dtype=dtype)
    x[::2] = 0
    weight = normal(rng, 1000, 20, dtype=dtype)
    weight[5] = 0
    agree(weight, None, x)
    agree(weight, normal(rng, 1000, dtype=dtype), x)


@pytest.mark.parametrize("of", ["x", "weight", "both", "features"])
def test_norms_over_twenty_orders(of, dtype, rng):
    weight, x = normal(rng, 1000, 20, dtype=dtype), normal(rng, 40, 20, dtype=dtype)
    if of in ("weight", "both"):
        weight *= np.logspace(-10, 10, 1000).astype(dtype)[:, None]
    if of in ("x", "both"):
        x *= np.logspace(-10, 10, 40).astype(dtype)[:, None]
    if of == "features":
        x *= np.logspace(-10, 10, 20).astype(dtype)
        weight *= np.logspace(10, -10, 20).astype(dtype)
    agree(weight, None, x)


@compiled_only
def test_a_class_too_large_for_bounds(dtype, rng):
    """It is a candidate always: a row of whole bytes would not tell how large it is."""
    weight = (2.0**55 * (1 + rng.random((1000, 4)))).astype(dtype)
    weight[77] = 2.0**62
    head = agree(weight, None, np.full((3, 4), 127, dtype))
    assert (head.predict(np.ones((3, 4), dtype)) == 77).all()
    assert head.screen_stats.fell_back == 0


@pytest.mark.parametrize("scale", [-1.0, -0.5, 0.5, 0.9, 1.0])
def test_ends_of_the_range(scale, dtype, rng):
    """Denormals, and products that overflow."""
    size = float(np.finfo(dtype).max if scale > 0 else np.finfo(dtype).tiny) ** abs(scale)
    with np.errstate(all="ignore"):
        weight, x = normal(rng, 700, 9, dtype=dtype), normal(rng, 20, 9, dtype=dtype)
        agree(weight * dtype.type(size), None, x)
        agree(weight, None, x * dtype.type(size))
        agree(weight * dtype.type(size), None, x * dtype.type(size))
        agree(weight * dtype.type(size), normal(rng, 700, dtype=dtype, scale=size), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "weight", "bias", "all"])
def test_not_finite(bad, where, dtype, rng):
    weight, x = normal(rng, 900, 18, dtype=dtype), normal(rng, 20, 18, dtype=dtype)
    bias = normal(rng, 900, dtype=dtype)
    if where in ("x", "all"):
        x[3, 2] = x[7, 0] = bad
    if where in ("weight", "all"):
        weight[17, 3] = weight[18, 17] = weight[899, 0] = bad
    if where in ("bias", "all"):
        bias[[0, 255, 256, 640]] = bad
    agree(weight, bias, x)


def test_classes_that_cannot_happen(dtype, rng):
    weight, x = normal(rng, 900, 18, dtype=dtype), normal(rng, 20, 18, dtype=dtype)
    bias = np.full(900, -np.inf, dtype)
    bias[[3, 4, 700]] = 0
    agree(weight, bias, x)  # more are asked for than there are
    bias[:] = -np.inf
    agree(weight, bias, x)


@pytest.mark.parametrize("kind", ["float16", "int8", "float64", "int32", "strided", "fortran",
                                  "swapped", "one row", "three axes", "no rows"])
def test_rows_of_any_kind(kind, dtype, rng):
    x = normal(rng, 24, 16, scale=4)
    x = {
        "strided": lambda: normal(rng, 48, 32)[::2, ::2],
        "fortran": lambda: np.asfortranarray(x),
        "swapped": lambda: x.astype(x.dtype.newbyteorder()),
        "one row": lambda: x[0],
        "three axes": lambda: x.reshape(2, 12, 16),
        "no rows": lambda: x[:0],
    }.get(kind, lambda: x.astype(kind))()
    agree(normal(rng, 800, 16, dtype=dtype), None, x)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("m", [1, 40, 900])
def test_threads(m, threads, rng):
    """Blocks of rows, or of classes where rows are few, are shared out."""
    weight, x = normal(rng, 9000, 64), normal(rng, m, 64)
    agree(weight, None, x, (10,), n_threads=threads)


@compiled_only
def test_many_candidates_on_the_way(rng, monkeypatch):
    """Rows whose candidates become too many are kept by exact logits, or given up."""
    from logitless._engines.compiled import screening

    monkeypatch.setattr(screening, "ROOM", (40, 40))
    weight, x = normal(rng, 9000, 600), normal(rng, 30, 600)
    fell_back = [agree(weight, None, x, (k,)).screen_stats.fell_back for k in (1, 3)]
    head = ll.LinearHead(weight, screen="int8")
    head.topk(x, 4, normalize=False)
    assert head.screen_stats.fell_back > 0
    assert fell_back[0] < 30
    agree(weight, None, x, (1, 4), n_threads=2)
    monkeypatch.setattr(screening, "MAX_ROWS", 3)  # those given up are copied so many at a time
    agree(weight, None, x, (4,), n_threads=1)


@compiled_only
def test_bounds_of_helpers_that_know_exact_logits(rng, monkeypatch):
    """What has kept classes out of one share keeps them out of all."""
    from logitless._engines.compiled import screening

    monkeypatch.setattr(screening, "ROOM", (40, 40))
    agree(normal(rng, 9000, 600), None, normal(rng, 2, 600), (1, 3), n_threads=2)


heads = st.fixed_dictionaries({
    "n": st.integers(512, 2600), "k": st.integers(1, 70), "m": st.integers(1, 30),
    "seed": st.integers(0, 2**32 - 1), "dtype": st.sampled_from(["float32", "float64"]),
    "biased": st.booleans(), "peaked": st.booleans(), "spread": st.sampled_from([0, 1, 5]),
    "copies": st.sampled_from([1, 1, 2, 7]), "sparse": st.sampled_from([0.0, 0.5, 0.95]),
    "outliers": st.booleans(), "softcap": st.sampled_from([None, None, 3.0]),
    "temperature": st.sampled_from([1.0, 1.0, 0.7]), "top": st.integers(1, 20),
})


@given(heads)
def test_any_head(p):
    rng = np.random.default_rng(p["seed"])
    weight, x = normal(rng, p["n"], p["k"]), normal(rng, p["m"], p["k"])
    if p["peaked"]:
        x += 3 * weight[rng.integers(p["n"], size=p["m"])]
    weight *= np.exp(p["spread"] * rng.standard_normal((p["n"], 1)))
    weight[rng.random(weight.shape) < p["sparse"]] = 0
    x[rng.random(x.shape) < p["sparse"]] = 0
    if p["outliers"]:
        x[:, rng.integers(p["k"])] *= 50
        weight[rng.integers(p["n"], size=20)] *= 30
    if p["copies"] > 1:
        weight = weight[rng.integers(p["n"] // p["copies"], size=p["n"])]
    bias = normal(rng, p["n"]).astype(p["dtype"]) if p["biased"] else None
    agree(weight.astype(p["dtype"]), bias, x.astype(p["dtype"]), (1, p["top"]),
          softcap=p["softcap"], temperature=p["temperature"])


@compiled_only
def test_what_it_spares(rng):
    weight = normal(rng, 20_000, 64)
    head = ll.LinearHead(weight, screen="int8")
    none = head.screen_stats
    assert (none.rows, none.fell_back) == (0, 0)
    assert np.isnan(none.rescored)
    np.testing.assert_array_equal(head.predict(weight[:500]), np.arange(500))
    assert head.screen_stats.rows == 500
    assert head.screen_stats.fell_back == 0
    assert 1 <= head.screen_stats.rescored < 1.1
    head.topk(weight[:500], 10, normalize=False)
    assert 10 <= head.screen_stats.rescored < 40
    with pytest.raises(AttributeError):
        head.screen_stats = none


@compiled_only
@pytest.mark.parametrize(("n", "k"), [(5000, 64), (1000, 768), (600, 4096)])
def test_memory_held(n, k, rng):
    weight = normal(rng, n, k)
    assert ll.LinearHead(weight, screen="int8").nbytes <= 1.45 * weight.nbytes
    assert ll.LinearHead(weight, screen="int8").nbytes > 1.37 * weight.nbytes


def test_without_a_screen_there_are_no_stats(rng):
    head = ll.LinearHead(normal(rng, 600, 4))
    head.predict(normal(rng, 2, 4))
    assert head.screen_stats is None


def test_everything_else_is_as_without(rng, dtype):
    weight, x = normal(rng, 700, 12, dtype=dtype), normal(rng, 6, 12, dtype=dtype)
    plain, head = ll.LinearHead(weight), ll.LinearHead(weight, screen="int8")
    target = rng.integers(700, size=6)
    same(head.loss(x, target), plain.loss(x, target))
    same(head.predict_proba(x), plain.predict_proba(x))
    same(head.topk(x, 5).log_prob, plain.topk(x, 5).log_prob)
    a, b = (h.score(x, target, k=3, entropy=True) for h in (head, plain))
    same(a.entropy, b.entropy)
    same(a.top.index, b.top.index)
    for left, right in zip(head.value_and_grad(x, target), plain.value_and_grad(x, target),
                           strict=True):
        if isinstance(left, ll.Gradients):
            same(left.weight, right.weight)
        else:
            same(np.asarray(left), np.asarray(right))


def test_copies_and_pickles(rng):
    weight, x = normal(rng, 700, 12), normal(rng, 6, 12)
    head = ll.LinearHead(weight, screen="int8")
    assert "screen=int8" in repr(head)
    for twin in copy.copy(head), copy.deepcopy(head), pickle.loads(pickle.dumps(head)):
        same(twin.predict(x), head.predict(x))
        assert twin.nbytes == head.nbytes
        assert twin.screen_stats == head.screen_stats


def test_of_an_estimator(rng):
    class Fitted:
        coef_, intercept_, classes_ = normal(rng, 600, 8), normal(rng, 600), np.arange(600)

    x = normal(rng, 9, 8)
    head = ll.LinearHead.from_estimator(Fitted, screen="int8")
    same(head.predict(x), ll.LinearHead.from_estimator(Fitted).predict(x))
    assert head.screen_stats is not None


def test_only_the_best_are_screened():
    """Whatever else is asked for, whenever it was invented, needs all classes."""
    from logitless._engines.interface import Request

    assert Request(np.dtype("f4"), sums=False, k=3).only_best
    for field in dataclasses.fields(Request):
        if field.name not in ("dtype", "k", "exclude"):
            asked = {"sums": False, field.name: True}
            assert not Request(np.dtype("f4"), **asked).only_best, field.name
