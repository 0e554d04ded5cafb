"""bfloat16 rows against bfloat16 weights: products are exact, sums have an order of their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.battery import everything, gradients
from support.exact import distributions, exact, labels
from support.layouts import unaligned
from support.narrow import bf16_logits, bfloat16, narrow
from support.oracle import COMPILED, assert_same, assert_same_bits, says

import logitless as ll

CLASSES = [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 49, 511, 512, 513, 4097]
FEATURES = [0, 1, 2, 3, 4, 5, 31, 32, 33, 34, 63, 64, 65, 96, 255, 256, 257, 288, 511, 513]
ROWS = [1, 2, 3, 5, 6, 7, 12, 13, 24, 47, 48, 49, 96, 143, 144, 145, 300]
MOST_PRODUCTS = 300_000


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 300)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(1, 300)))
    m = draw(st.sampled_from([r for r in ROWS if r * n * max(k, 1) <= MOST_PRODUCTS] or [1]))
    seed = draw(st.integers(0, 1000))
    scale = draw(st.sampled_from([2.0**-63, 2.0**-56, 0.125, 16.0]))
    bias = draw(st.sampled_from([None, exact((n,), seed + 2, np.float32, 8.0)]))
    return (narrow((m, k), seed, "bfloat16", scale), narrow((n, k), seed + 1, "bfloat16", scale),
            bias, draw(st.booleans()))


@pytest.mark.compiled_only
@given(problems())
def test_logits_are_those_of_the_definition(problem):
    x, w, bias, pack = problem
    assert_same_bits(ll.LinearHead(w, bias, pack=pack).logits(x), bf16_logits(x, w, bias))


@pytest.mark.compiled_only
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("k", [1, 33, 64, 300])
def test_subnormals_count_as_zero(k, pack, rng):
    """Inputs, products and sums around the smallest normal number, zeros of both signs."""
    at = np.array([2.0**-133, 2.0**-127, 2.0**-126, 2.0**-64, 2.0**-63, 1.5 * 2.0**-63, 0.0, 1.0])

    def numbers(*shape):
        a = rng.choice(at, shape) * rng.choice([-1, 1, 1.5], shape)
        return a.astype(bfloat16())
    x, w = numbers(29, k), numbers(37, k)
    bias = (rng.choice(at, 37) * rng.choice([-1, 1], 37)).astype(np.float32)
    z = ll.LinearHead(w, bias, pack=pack).logits(x)
    assert_same_bits(z, bf16_logits(x, w, bias))
    wide = ll.LinearHead(w.astype(np.float32), bias).logits(x)
    assert (z != wide).any() or k == 1  # where nothing is flushed


@pytest.mark.compiled_only
@given(problems(), st.data())
def test_nothing_around_a_row_changes_its_bits(problem, data):
    x, w, bias, pack = problem
    t, soft = labels(len(x), len(w), 3), distributions(len(x), len(w), 4)
    whole = everything(ll.LinearHead(w, bias, pack=pack), x, t, soft=soft)
    lo = data.draw(st.integers(0, len(x) - 1))
    hi = data.draw(st.integers(lo + 1, len(x)))
    part = everything(ll.LinearHead(w, bias, pack=not pack), x[lo:hi], t[lo:hi], soft=soft[lo:hi])
    for name, values in part.items():
        assert_same_bits(values, whole[name][lo:hi], name)


@pytest.mark.compiled_only
@pytest.mark.parametrize(("m", "n"), [(3, 20_011), (60, 20_011), (300, 700)])
def test_threads(m, n):
    x, w = narrow((m, 70), 0, "bfloat16", 2.0), narrow((n, 70), 1, "bfloat16", 2.0)
    t = labels(m, n, 2)
    alone = everything(ll.LinearHead(w, n_threads=1), x, t)
    for name, values in everything(ll.LinearHead(w, n_threads=4), x, t).items():
        assert_same_bits(values, alone[name], name)
    alone = gradients(ll.LinearHead(w, n_threads=1), x, t)
    shared = gradients(ll.LinearHead(w, n_threads=4), x, t, workspace_bytes=1 << 20)
    for name, values in shared.items():
        assert_same_bits(values, alone[name], name)


@pytest.mark.compiled_only
@pytest.mark.parametrize("m", [1, 3, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_screen(m, bias):
    n, k = 3000, 130
    x, w = narrow((m, k), 0, "bfloat16", 1.0), narrow((n, k), 1, "bfloat16", 1.0)
    w[7, :5] = 2.0**-130  # subnormal
    b = exact((n,), 2, np.float32, 4.0) if bias else None
    plain = ll.LinearHead(w, b, softcap=30.0)
    head = ll.LinearHead(w, b, screen="int8", softcap=30.0)
    assert_same_bits(head.predict(x), plain.predict(x))
    assert head.screen_stats.fell_back == 0
    assert head.screen_stats.rescored < 300
    for k in (1, 10):
        top, dense = head.topk(x, k, normalize=False), plain.topk(x, k, normalize=False)
        assert_same_bits(top.index, dense.index)
        assert_same_bits(top.logit, dense.logit)


@pytest.mark.parametrize("layout", ["strided", "fortran", "reversed", "unaligned", "leading"])
def test_layouts(layout):
    x, w = narrow((24, 70), 0, "bfloat16"), narrow((50, 70), 1, "bfloat16")
    t = labels(24, 50, 2)
    plain = ll.LinearHead(w).loss(x, t)
    other = {
        "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray,
        "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        "unaligned": unaligned,
        "leading": lambda a: a,
    }[layout]
    for pack in (True, False):
        head = ll.LinearHead(other(w), pack=pack)
        assert_same(head.loss(other(x), t), plain)
        cube, targets = other(x).reshape(2, 12, 70), t.reshape(2, 12)
        assert_same(head.loss(np.broadcast_to(cube, (3, 2, 12, 70)),
                              np.broadcast_to(targets, (3, 2, 12)))[1].reshape(24), plain)


def test_sums_are_as_exact_as_those_of_float32():
    x, w = narrow((64, 700), 0, "bfloat16", 2.0), narrow((1000, 700), 1, "bfloat16", 0.25)
    t = labels(64, 1000, 2)
    wide = ll.LinearHead(w.astype(np.float64)).loss(x.astype(np.float64), t)
    error = np.abs(ll.LinearHead(w).loss(x, t) - wide).max()
    assert error <= 2 * np.abs(ll.LinearHead(w.astype(np.float32)).loss(x, t) - wide).max()
    assert error < 2e-5


def test_gradients():
    x, w = narrow((90, 70), 0, "bfloat16", 2.0), narrow((40, 70), 1, "bfloat16")
    t = labels(90, 40, 2)
    ours = gradients(ll.LinearHead(w), x, t)
    truth = gradients(ll.LinearHead(w.astype(np.float64)), x.astype(np.float64), t)
    for name in ("x", "weight", "bias"):
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], truth[name], atol=2e-6, err_msg=name,
                                   rtol=1e-7 if COMPILED else 1e-6)  # others' products
    assert_same(ours["loss"], ll.LinearHead(w).loss(x, t))


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_a_row_with_no_number_touches_no_other(special):
    x, w = narrow((30, 40), 0, "bfloat16"), narrow((20, 40), 1, "bfloat16")
    plain = ll.LinearHead(w).logsumexp(x)
    x[3, 5] = special
    lse = ll.LinearHead(w).logsumexp(x)
    assert np.isnan(lse[3])
    assert_same(np.delete(lse, 3), np.delete(plain, 3))


@pytest.mark.parametrize("k", [0, 1, 33])
def test_sums_begin_at_zero(k):
    """Those of targets that come before a pass, too: of equal logits the earlier ranks higher."""
    x, w = np.zeros((5, k)).astype(bfloat16()), narrow((9000, k), 1, "bfloat16")
    t = np.array([0, 1, 5000, 8191, 8999])
    scores = ll.LinearHead(w).score(x, t)
    assert_same_bits(scores.target_logit, np.zeros(5, np.float32))
    np.testing.assert_array_equal(scores.target_rank, t)


def test_largest_numbers():
    most = np.float32(3.3895314e38)
    x, w = np.full((3, 2), most).astype(bfloat16()), np.ones((20, 2)).astype(bfloat16())
    w[:, 1] = -1
    assert (ll.LinearHead(w).logits(x) == 0).all()


def test_other_narrow_types_are_refused():
    float8 = np.dtype(pytest.importorskip("ml_dtypes").float8_e4m3fn)
    w = np.ones((20, 4))
    with says(TypeError, "`weight` must be float16, bfloat16, float32", "float8_e4m3fn"):
        ll.LinearHead(w.astype(float8))
    with says(TypeError, "`x` must be float16, bfloat16, float32", "float8_e4m3fn"):
        ll.LinearHead(w).loss(np.ones((3, 4)).astype(float8), [0, 1, 2])
