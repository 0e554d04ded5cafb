"""Classes drawn from the softmax."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from support.oracle import assert_same_bits, says

import logitless as ll


@pytest.fixture
def head(rng, dtype):
    return ll.LinearHead(rng.normal(size=(6, 4)).astype(dtype), rng.normal(size=6).astype(dtype))


@pytest.fixture
def x(rng, dtype):
    return rng.normal(size=(30, 4)).astype(dtype)


def test_shape_and_type(head, x):
    for size in (0, 1, 3):
        drawn = head.sample(x, np.random.default_rng(0), size=size)
        assert drawn.shape == (30, size)
        assert drawn.dtype == np.intp
        assert ((drawn >= 0) & (drawn < 6)).all()
    assert head.sample(x, np.random.default_rng(0)).shape == (30, 1)


def test_same_seed_same_draw(head, x):
    a, b, c = (head.sample(x, np.random.default_rng(seed), size=5) for seed in (3, 3, 4))
    assert_same_bits(a, b)
    assert not np.array_equal(a, c)


def test_the_generator_moves_on(head, x):
    rng = np.random.default_rng(3)
    assert not np.array_equal(head.sample(x, rng, size=5), head.sample(x, rng, size=5))


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_distribution(dtype, temperature):
    """20,000 draws of one row against its probabilities."""
    bias = np.array([0, 1, -1, 2, 0.5, -np.inf], dtype)
    head = ll.LinearHead(np.zeros((6, 1), dtype), bias, temperature=temperature)
    p = head.predict_proba(np.ones((1, 1)))[0].astype(np.float64)
    for x, size in [(np.ones((20_000, 1), dtype), 1), (np.ones((2, 1), dtype), 10_000)]:
        drawn = head.sample(x, np.random.default_rng(11), size=size)
        count = np.bincount(drawn.ravel(), minlength=6)
        assert count[5] == 0  # probability zero
        assert scipy.stats.chisquare(count[:5], p[:5] / p[:5].sum() * 20_000).pvalue > 1e-3


def test_rows_and_draws_are_independent():
    """Pairs of neighbouring draws, in a row and across rows, of a fair coin."""
    head = ll.LinearHead(np.zeros((2, 1)))
    drawn = head.sample(np.ones((100, 1)), np.random.default_rng(5), size=100)
    for a, b in [(drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])]:
        pairs = np.bincount((2 * a + b).ravel(), minlength=4)
        assert scipy.stats.chisquare(pairs).pvalue > 1e-3


def test_rows_draw_from_their_own_distribution(dtype):
    head = ll.LinearHead(np.eye(5, dtype=dtype) * 200)
    rows = np.arange(300) % 5
    drawn = head.sample(np.eye(5, dtype=dtype)[rows], np.random.default_rng(0), size=4)
    np.testing.assert_array_equal(drawn, np.repeat(rows[:, None], 4, axis=1))


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("cut", [1, 7, 29])
def test_a_batch_draws_what_its_parts_drawn_in_order_would(head, x, size, cut):
    whole = head.sample(x, np.random.default_rng(8), size=size)
    rng = np.random.default_rng(8)
    parts = [head.sample(x[:cut], rng, size=size), head.sample(x[cut:], rng, size=size)]
    assert_same_bits(whole, np.concatenate(parts))


def test_many_classes(rng, dtype):
    """More draws of noise than one block can hold."""
    n = 40_000
    bias = np.full(n, -30, dtype)
    bias[[5, n - 1]] = 0
    head = ll.LinearHead(np.zeros((n, 1), dtype), bias)
    drawn = head.sample(np.ones((50, 1), dtype), np.random.default_rng(2), size=4)
    assert set(drawn.ravel()) == {5, n - 1}


@pytest.mark.parametrize("kind", ["m8[s]", "M8[D]"])
def test_a_time_is_no_seed(head, x, kind):
    with says(TypeError, "rng", "Generator", "timedelta" if kind[0] == "m" else "datetime"):
        head.sample(x, np.array([3], kind))
