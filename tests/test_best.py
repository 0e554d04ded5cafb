"""The best classes: those of a stable sort, with ties, infinities and NaN, of any number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitless as ll

N = (1, 2, 10, 15, 16, 17, 31, 32, 33, 100, 300, 512, 513, 1100)


def best_of(z, k):
    """Indices by a stable sort: NaN first, then the largest, the lowest index among equals."""
    rank = np.where(np.isnan(z), -np.inf, np.where(z == np.inf, -1e30, np.where(
        z == -np.inf, 1e30, -z)))
    return np.argsort(rank, axis=1, kind="stable")[:, :k]


@given(n=st.sampled_from(N), k=st.integers(1, 40), m=st.integers(1, 40),
       values=st.sampled_from([1, 2, 5, 1000]), dtype=st.sampled_from([np.float32, np.float64]),
       special=st.lists(st.sampled_from([np.inf, -np.inf, np.nan]), max_size=3),
       rising=st.booleans(), normalize=st.booleans(), seed=st.integers(0, 1000))
def test_a_stable_sort_finds_them(n, k, m, values, dtype, rising, special, normalize, seed):
    rng = np.random.default_rng(seed)
    k = min(k, n)
    bias = rng.integers(0, values, n).astype(dtype)
    if rising:
        bias.sort()
    for value in special:
        bias[rng.integers(n)] = value
    x = rng.integers(-1, 2, (m, 2)).astype(dtype)
    weight = rng.integers(0, 2, (n, 2)).astype(dtype)
    head = ll.LinearHead(weight, bias)
    z = head.logits(x)

    top = head.topk(x, k, normalize=normalize)

    index = best_of(z, k)
    np.testing.assert_array_equal(top.index, index)
    np.testing.assert_array_equal(top.logit, np.take_along_axis(z, index, 1))
    if normalize:
        log_p = np.take_along_axis(head.predict_log_proba(x), index, 1)
        np.testing.assert_array_equal(top.log_prob, log_p)
    else:
        assert top.log_prob is None


@pytest.mark.parametrize("n", [17, 512, 9000])
@pytest.mark.parametrize("k", [1, 10, 16, 17])
def test_equal_logits_have_the_lowest_indices(n, k):
    head = ll.LinearHead(np.zeros((n, 3), np.float32), n_threads=3)
    for m in (1, 200):
        top = head.topk(np.ones((m, 3), np.float32), k)
        np.testing.assert_array_equal(top.index, np.tile(np.arange(k), (m, 1)))
