"""Leading shapes, nothing at all, and more than 31 bits can count."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.oracle import assert_same

import logitless as ll

N, K = 37, 23


def test_no_rows(dtype):
    head = ll.LinearHead(np.ones((5, 3), dtype))
    x, t = np.empty((0, 3), dtype), np.empty(0, int)
    assert head.loss(x, t).shape == (0,)
    assert head.loss(x, t, reduction="sum") == 0
    assert head.predict(x).shape == (0,)
    assert head.predict(x).dtype == np.intp
    assert head.predict_proba(x).shape == head.logits(x).shape == (0, 5)
    assert head.topk(x, 2).index.shape == (0, 2)
    assert head.sample(x, np.random.default_rng(0)).shape == (0, 1)
    assert head.score(x, t, entropy=True).entropy.shape == (0,)
    assert head.loss(x, np.empty((0, 5), dtype)).shape == (0,)
    assert ll.softmax(np.empty((0, 5), dtype)).shape == (0, 5)
    assert ll.logsumexp(np.empty((0, 5), dtype)).shape == (0,)
    assert ll.cross_entropy(np.empty((0, 5), dtype), t).shape == (0,)
    assert ll.nll(np.empty((0, 5), dtype), t).shape == (0,)


@pytest.mark.parametrize("pack", [True, False])
def test_no_features(dtype, pack):
    """The logits are the bias."""
    bias = np.array([1, 3, 2], dtype)
    x = np.empty((4, 0), dtype)
    head = ll.LinearHead(np.empty((3, 0), dtype), bias, pack=pack)
    np.testing.assert_array_equal(head.logits(x), np.tile(bias, (4, 1)))
    assert head.predict(x).tolist() == [1] * 4
    np.testing.assert_allclose(head.predict_proba(x)[0], [0.090031, 0.665241, 0.244728], rtol=1e-5)
    head = ll.LinearHead(np.empty((3, 0), dtype), pack=pack)
    np.testing.assert_allclose(head.loss(x, np.zeros(4, int)), np.log(3), rtol=1e-6)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 0), (2, 3, 4)])
def test_leading_shapes(lead, rng, dtype):
    x, w = rng.normal(size=(*lead, K)).astype(dtype), rng.normal(size=(N, K)).astype(dtype)
    t = rng.integers(0, N, lead)
    soft = rng.dirichlet(np.ones(N), lead).astype(dtype)
    head = ll.LinearHead(w)
    flat, ft, fs = x.reshape(-1, K), np.reshape(t, -1), soft.reshape(-1, N)

    def check(ours, plain, tail=()):
        assert np.shape(ours) == (*lead, *tail)
        assert_same(np.reshape(ours, plain.shape), plain)

    check(head.loss(x, t), head.loss(flat, ft))
    check(head.loss(x, soft), head.loss(flat, fs))
    check(head.predict(x), head.predict(flat))
    check(head.predict_proba(x), head.predict_proba(flat), (N,))
    check(head.predict_log_proba(x), head.predict_log_proba(flat), (N,))
    check(head.logits(x), head.logits(flat), (N,))
    check(head.topk(x, 3).index, head.topk(flat, 3).index, (3,))
    check(head.logsumexp(x), head.logsumexp(flat))
    check(head.target_log_prob(x, t), head.target_log_prob(flat, ft))
    candidates = rng.integers(0, N, (*lead, 2))
    check(
        head.target_log_prob(x, candidates),
        head.target_log_prob(flat, candidates.reshape(-1, 2)),
        (2,),
    )
    check(head.score(x, t, k=2).top.log_prob, head.score(flat, ft, k=2).top.log_prob, (2,))
    check(head.score(x, t).target_rank, head.score(flat, ft).target_rank)
    draws = head.sample(x, np.random.default_rng(1), size=2)
    check(draws, head.sample(flat, np.random.default_rng(1), size=2), (2,))
    check(ll.linear_cross_entropy(x, w, t), head.loss(flat, ft))
    z = head.logits(x)
    check(ll.cross_entropy(z, t), head.loss(flat, ft))
    check(ll.nll(ll.softmax(z), t), ll.nll(ll.softmax(head.logits(flat)), ft))


def test_leading_shapes_of_any_layout(rng, dtype):
    x, w = rng.normal(size=(4, 5, 6, K)).astype(dtype), rng.normal(size=(N, K)).astype(dtype)
    head = ll.LinearHead(w)
    for view in x.transpose(1, 2, 0, 3), x[::-1, ::2], np.asfortranarray(x), x[:, :, :1]:
        assert_same(head.logsumexp(view), head.logsumexp(view.copy()))
        t = rng.integers(0, N, view.shape[:-1])
        assert_same(head.loss(view, np.asfortranarray(t)), head.loss(view.copy(), t))


@pytest.mark.skipif(
    ll.active_isa() == "scalar", reason="two thousand million products would take it half a minute"
)
def test_more_logits_than_31_bits_count(rng):
    m, n = 70_001, 31_003
    assert m * n > 2**31
    w = rng.normal(size=(n, 1)).astype(np.float32)
    x = np.broadcast_to(np.ones((1, 1), np.float32), (m, 1))
    predicted = ll.linear_argmax(x, w)
    assert predicted.shape == (m,)
    assert (predicted == w[:, 0].argmax()).all()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a sparse file")
def test_strides_beyond_31_bits(tmp_path, rng):
    """Rows and columns 2**30 elements apart, in a file that is nearly all holes."""
    far = 2**30
    big = np.memmap(tmp_path / "sparse", np.float32, "w+", shape=(4 * far,))
    rows = np.lib.stride_tricks.as_strided(big, (4, 5), (4 * far, 4))
    x = rng.normal(size=(4, 5)).astype(np.float32)
    rows[...] = x
    w = rng.normal(size=(6, 5)).astype(np.float32)
    t = np.array([0, 5, 2, 3])
    head = ll.LinearHead(w)
    assert_same(head.loss(rows, t), head.loss(x, t))
    assert_same(head.loss(rows[::-1], t), head.loss(x[::-1].copy(), t))
    for pack in True, False:
        heavy = ll.LinearHead(rows, pack=pack)
        assert_same(heavy.logits(w), ll.LinearHead(x, pack=pack).logits(w))
        # The transpose: four columns far apart.
        heavy = ll.LinearHead(w[:, :4], pack=pack)
        assert_same(heavy.logits(rows.T), heavy.logits(x.T.copy()))
    for axis in 0, 1:
        assert_same(ll.softmax(rows, axis=axis), ll.softmax(x, axis=axis))
    assert_same(ll.cross_entropy(rows, t % 5), ll.cross_entropy(x, t % 5))


def test_no_rows_of_many_classes(dtype):
    x, t = np.empty((0, 3), dtype), np.empty(0, int)
    head = ll.LinearHead(np.ones((9000, 3), dtype))
    assert head.loss(x, t).shape == (0,)
    assert head.score(x, t, k=4, entropy=True).top.index.shape == (0, 4)
    assert head.predict_proba(x).shape == (0, 9000)
    assert ll.logsumexp(np.empty((0, 9000), dtype)).shape == (0,)
