"""Weights of 16 bits stay 16 bits wide; results have the bits of the widened weights."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.battery import everything, gradients
from support.exact import distributions, exact, labels
from support.layouts import LAYOUTS, as_layout, unaligned
from support.narrow import kind, narrow
from support.oracle import assert_same, assert_same_bits

import logitless as ll
from logitless._arrays.bfloat16 import BFLOAT16

NARROW = ("float16", "bfloat16")


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from([1, 5, 15, 16, 17, 31, 32, 33, 511, 512, 513, 4097]),
                       st.integers(1, 300)))
    k = draw(st.one_of(st.sampled_from([0, 1, 2, 3, 15, 31, 32, 33, 255, 256, 257, 258, 513]),
                       st.integers(1, 300)))
    rows = [1, 2, 3, 5, 6, 7, 11, 12, 13, 47, 48, 49, 144, 145, 300]
    m = draw(st.sampled_from([r for r in rows if r * n * max(k, 1) <= 300_000] or [1]))
    seed = draw(st.integers(0, 1000))
    bias = draw(st.sampled_from([None, exact((n,), seed + 2, np.float32, 8.0)]))
    w = narrow((n, k), seed + 1, draw(st.sampled_from(NARROW)), 2.0)
    return exact((m, k), seed), w, bias, draw(st.booleans())


def assert_all_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert_same(a[name], b[name], name)


@given(problems())
def test_float32_rows(problem):
    x, w, bias, pack = problem
    t, soft = labels(len(x), len(w), 3), distributions(len(x), len(w), 4)
    head, wide = (ll.LinearHead(a, bias, pack=pack) for a in (w, w.astype(np.float32)))
    assert_all_same(everything(head, x, t, soft=soft), everything(wide, x, t, soft=soft))
    assert_all_same(gradients(head, x, t), gradients(wide, x, t))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("layout", [*LAYOUTS, "unaligned"])
@pytest.mark.parametrize("n", [9, 70])
def test_layouts(n, layout, pack, name):
    if layout == "swapped" and name == "bfloat16":
        pytest.skip("ml_dtypes has no byte-swapped numbers")
    x, w, t = exact((30, 45), 0), narrow((n, 45), 1, name), labels(30, n, 2)
    moved = unaligned(w) if layout == "unaligned" else as_layout(w, layout)
    head, plain = ll.LinearHead(moved, pack=pack), ll.LinearHead(w.astype(np.float32), pack=pack)
    assert_all_same(everything(head, x, t), everything(plain, x, t))
    assert_all_same(gradients(head, x, t), gradients(plain, x, t))
    assert head.weight_dtype == w.dtype


@pytest.mark.parametrize("name", NARROW)
def test_other_rows(name):
    """Rows of a wider type in theirs, of other narrow types in float32."""
    w, t = narrow((70, 45), 1, name), labels(30, 70, 2)
    for rows in (np.float64, np.float16, np.int8):
        x = exact((30, 45), 0, np.float64, 8.0).astype(rows)
        wide = np.float64 if rows is np.float64 else np.float32
        for pack in (True, False):
            assert_all_same(everything(ll.LinearHead(w, pack=pack), x, t),
                            everything(ll.LinearHead(w.astype(wide)), x, t))


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("m", [1, 64])
def test_every_number_there_is(m, pack, name):
    """All 65,536, but what is no number: they come out as they are widened."""
    every = np.arange(1 << 16, dtype=np.uint16).view(kind(name)).reshape(1024, 64).copy()
    every[~np.isfinite(every.astype(np.float32))] = 0
    every[5, 3] = np.inf
    head = ll.LinearHead(every, pack=pack)
    x = np.eye(64, dtype=np.float32)[:m]
    assert_same_bits(np.delete(head.logits(x), 5, axis=1),
                     np.delete(0 + every[:, :m].T.astype(np.float32), 5, axis=1))
    if m == 64:
        assert head.logits(x)[3, 5] == np.inf


@pytest.mark.parametrize("name", NARROW)
def test_memory_held(name):
    w = narrow((4096, 512), 0, name)
    assert ll.LinearHead(w).nbytes <= 1.02 * w.nbytes
    assert ll.LinearHead(w, screen="int8").nbytes <= 1.79 * w.nbytes
    assert ll.LinearHead(w, pack=False).nbytes == 0
    assert ll.LinearHead(narrow((16, 512), 0, name)).nbytes <= 1.02 * 16 * 512 * 2


@pytest.mark.parametrize("pack", [True, False])
def test_weight_dtype(pack):
    for name in NARROW:
        w = narrow((20, 4), 0, name)
        head = ll.LinearHead(w, pack=pack)
        assert head.weight_dtype == w.dtype == kind(name)
        assert head.dtype == np.float32
    for dtype in (np.float32, np.float64):
        assert ll.LinearHead(np.ones((20, 4), dtype), pack=pack).weight_dtype == dtype
    assert ll.LinearHead(np.ones((20, 4), np.int8)).weight_dtype == np.float32


def test_without_ml_dtypes(monkeypatch):
    """What comes from files or torch needs nothing but NumPy."""
    w = narrow((40, 10), 0, "bfloat16")
    x = narrow((5, 10), 1, "bfloat16")
    plain = ll.LinearHead(w).logits(x)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    head = ll.LinearHead(w.view(BFLOAT16))
    assert head.weight_dtype == BFLOAT16
    assert_same(head.logits(x.view(BFLOAT16)), plain)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("n", [9, 70])
@pytest.mark.parametrize("pack", [True, False])
def test_pickles_and_copies(pack, n, name):
    x, head = exact((30, 45), 0), ll.LinearHead(narrow((n, 45), 1, name), np.ones(n), pack=pack)
    for twin in (pickle.loads(pickle.dumps(head)), copy.deepcopy(head)):
        assert twin.weight_dtype == head.weight_dtype
        assert twin.nbytes == head.nbytes or not pack
        assert_same_bits(twin.logits(x), head.logits(x))


@pytest.mark.compiled_only
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("m", [1, 40])
def test_screen(m, name):
    x, w = exact((m, 131), 0), narrow((3000, 131), 1, name)
    head, plain = ll.LinearHead(w, screen="int8"), ll.LinearHead(w)
    assert_same_bits(head.predict(x), plain.predict(x))
    assert head.screen_stats.fell_back == 0
    assert head.screen_stats.rescored < 300
    top, dense = head.topk(x, 10, normalize=False), plain.topk(x, 10, normalize=False)
    assert_same_bits(top.index, dense.index)
    assert_same_bits(top.logit, dense.logit)
