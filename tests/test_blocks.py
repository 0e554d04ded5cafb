"""Rows and classes by the thousand: results put together from many blocks."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import Truth, says

import logitless as ll

# Each more than one block of rows or of classes, for either engine.
SHAPES = [(3, 150_000), (20, 30_000), (700, 1500), (2500, 600)]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def rising(n, dtype):
    """Logits that rise (x = 1) or fall (x = -1) from class to class."""
    return np.linspace(-40, 40, n).astype(dtype)[:, None]


def check(head, x, z, dtype, k=5):
    """Everything a pass finds out, against logits that are exact."""
    m, n = z.shape
    rng, rows = np.random.default_rng(m), np.arange(m)
    truth = Truth(z.astype(np.longdouble))
    target = rng.integers(0, n, m)
    target[::4] = truth.argmax[::4]
    target = np.where(np.isinf(z[rows, target]), truth.argmax, target)
    soft = rng.random((m, n), np.float32)
    soft[soft < 0.5] = 0
    soft[np.isinf(z)] = 0
    soft /= soft.sum(axis=1, keepdims=True)
    rtol = 60 * np.finfo(dtype).eps

    s = head.score(x, target, k=k, entropy=True)
    for ours, exact in [
        (s.loss, truth.loss(target)),
        (s.lse, truth.lse),
        (s.max_logit, truth.max),
        (head.loss(x, soft), np.nansum(soft * np.where(soft, truth.minus_log_proba, 0), axis=1)),
        (s.entropy, np.nansum(truth.proba * truth.minus_log_proba, axis=1)),
    ]:
        np.testing.assert_allclose(ours, exact.astype(np.float64), rtol=rtol)
    np.testing.assert_array_equal(s.predicted, truth.argmax)
    np.testing.assert_array_equal(s.target_rank, truth.rank(target))
    np.testing.assert_array_equal(s.top.index, truth.order(k))
    np.testing.assert_array_equal(s.top.logit, np.take_along_axis(z, truth.order(k), 1))


@pytest.mark.slow
def test_the_largest_moves_on_or_stays(shape, dtype):
    m, n = shape
    w = rising(n, dtype)
    x = np.where(np.arange(m) % 3, 1, -1).astype(dtype)[:, None]
    check(ll.LinearHead(w), x, x * w.T, dtype)
    check(ll.LinearHead(w, pack=False), x, x * w.T, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["front", "back", "both"])
def test_blocks_of_nothing_but_impossible_classes(shape, where, dtype):
    m, n = shape
    w = rising(n, dtype)
    bias = np.zeros(n, dtype)
    if where != "back":
        bias[: n // 3] = -np.inf
    if where != "front":
        bias[n - n // 3 :] = -np.inf
    x = np.where(np.arange(m) % 3, 1, -1).astype(dtype)[:, None]
    with np.errstate(invalid="ignore"):  # in the entropy of the oracle: 0 * inf
        check(ll.LinearHead(w, bias), x, x * w.T + bias, dtype)


def test_one_possible_class_among_many(shape, dtype):
    m, n = shape
    for at in (0, 1, n // 2, n - 1):
        bias = np.full(n, -np.inf, dtype)
        bias[at] = 5
        head = ll.LinearHead(np.zeros((n, 1), dtype), bias)
        x = np.zeros((m, 1), dtype)
        s = head.score(x, np.full(m, at), k=2, entropy=True)
        assert (s.loss == 0).all()
        assert (s.lse == 5).all()
        assert (s.entropy == 0).all()
        assert (s.predicted == at).all()
        assert (s.target_rank == 0).all()
        assert (s.top.index == [at, at == 0]).all()


def test_a_nan_in_one_block_of_classes(shape, dtype):
    m, n = shape
    for at in (0, n // 2, n - 1):
        bias = np.zeros(n, dtype)
        bias[at] = np.nan
        x = np.zeros((m, 1), dtype)
        s = ll.LinearHead(np.zeros((n, 1), dtype), bias).score(
            x, np.full(m, n // 3), k=2, entropy=True
        )
        for a in (s.loss, s.lse, s.entropy, s.max_logit, s.top.logit[:, 0]):
            assert np.isnan(a).all()
        assert (s.predicted == at).all()
        assert (s.top.index == [at, at == 0]).all()
        assert (s.target_rank == -1).all()


def test_equals_in_different_blocks(shape, dtype):
    m, n = shape
    level = (np.arange(n) % 7 == 3).astype(dtype)
    head = ll.LinearHead(level[:, None])
    first = np.flatnonzero(level)
    last = first[-1]
    s = head.score(np.ones((m, 1), dtype), np.full(m, last), k=90)
    assert (s.predicted == 3).all()
    assert (s.top.index == np.concatenate([first, np.flatnonzero(level == 0)])[:90]).all()
    assert (s.target_rank == len(first) - 1).all()


@pytest.mark.compiled_only
@pytest.mark.parametrize("layout", ["packed", "C", "F", "strided"])
@pytest.mark.parametrize("k", [1, 15, 16, 255, 300, 515])
def test_rank_where_all_logits_are_equal(layout, k, dtype):
    # The target's logit is needed before its block comes: no digit may differ from the others'.
    rng, n, m = np.random.default_rng(k), 1100, 35
    weight = np.repeat(rng.standard_normal((1, k)), n, axis=0).astype(dtype)
    if layout == "F":
        weight = np.asfortranarray(weight)
    elif layout == "strided":
        weight = np.repeat(weight, 2, axis=1)[:, ::2]
    bias = np.full(n, rng.standard_normal(), dtype)
    target = rng.integers(n, size=m)
    target[[3, 34]] = -100
    head = ll.LinearHead(weight, bias, softcap=30.0, temperature=0.7, pack=layout == "packed")
    s = head.score(rng.standard_normal((m, k)).astype(dtype), target)
    np.testing.assert_array_equal(s.target_rank, np.where(target < 0, -1, target))


def test_distributions_over_more_classes_than_are_checked_at_a_time(dtype):
    n = 300_007
    head = ll.LinearHead(rising(n, dtype))
    x = np.ones((3, 1), dtype)
    soft = np.zeros((3, n), np.float32)
    soft[0, n - 5] = 1
    soft[1, [7, n - 5]] = 1
    soft[2, [3, 4]] = 0.5
    one = head.loss(x, np.array([n - 5, 7, 3]))
    other = head.loss(x, np.array([n - 5, n - 5, 4]))
    loss = head.loss(x, soft)
    assert loss[0] == one[0]
    np.testing.assert_allclose(loss[1], one[1] + other[1], rtol=20 * np.finfo(dtype).eps)
    np.testing.assert_allclose(loss[2], (one[2] + other[2]) / 2, rtol=20 * np.finfo(dtype).eps)
    for bad in (-0.5, np.nan, np.inf):
        soft[1, n - 3] = bad
        with says(ValueError, "target", 1, bad):
            head.loss(x, soft)


def test_one_is_one_hot_only_where_it_is_alone(dtype):
    head = ll.LinearHead(np.arange(4, dtype=dtype)[:, None])
    soft = np.eye(4, dtype=dtype)[[2, 1, 0, 3]]
    soft[1, 3], soft[2, 1] = 0.25, 2
    x = np.ones((4, 1), dtype)
    each = -head.predict_log_proba(x)
    np.testing.assert_allclose(
        head.loss(x, soft), (soft * each).sum(axis=1), rtol=8 * np.finfo(dtype).eps
    )
    rank = head.score(x, np.eye(4)[[2, 1, 0, 3]]).target_rank
    assert rank.tolist() == [1, 2, 3, 0]
