"""Few classes: many rows are finished at once, with lanes that are rows. A row alone is not, and
has the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import assert_same_bits

import logitless as ll

pytestmark = pytest.mark.compiled_only

ROWS = 37  # two vectors of rows in float32, four in float64, and some


def results(head, x, target, k):
    with np.errstate(all="ignore"):
        scores = head.score(x, target, k=k, entropy=True)
        top = head.topk(x, k, normalize=False)
        found = {name: getattr(scores, name) for name in (
            "loss", "lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy")}
        return found | {
            "index": scores.top.index, "logit": scores.top.logit, "log_prob": scores.top.log_prob,
            "index alone": top.index, "logit alone": top.logit,
            "logits": head.logits(x), "proba": head.predict_proba(x),
            "log_proba": head.predict_log_proba(x),
        }


@given(n=st.integers(1, 17), place=st.integers(1, 17), spread=st.sampled_from([1, 3, 40, 400]),
       dtype=st.sampled_from([np.float32, np.float64]), impossible=st.booleans(),
       spoil=st.lists(st.tuples(st.integers(0, ROWS - 1),
                                st.sampled_from([np.nan, np.inf, -np.inf])), max_size=2),
       seed=st.integers(0, 1000))
def test_rows_together_and_alone(n, place, spread, dtype, impossible, spoil, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-spread, spread + 1, (ROWS, 2)).astype(dtype)  # many equal logits
    for row, value in spoil:
        x[row, 0] = value
    weight = rng.integers(-2, 3, (n, 2)).astype(dtype) / 4
    bias = rng.integers(-1, 2, n).astype(dtype)
    bias[rng.integers(n)] = -np.inf if impossible else 0
    target = rng.integers(n, size=ROWS)
    target[rng.integers(ROWS)] = -100
    head = ll.LinearHead(weight, bias)
    k = min(place, n)
    whole = results(head, x, target, k)
    for i in range(ROWS):
        alone = results(head, x[i : i + 1], target[i : i + 1], k)
        for name, values in alone.items():
            assert_same_bits(whole[name][i : i + 1], values, f"{name} of row {i}")


@given(n=st.integers(1, 16), features=st.integers(1, 180), turned=st.booleans(),
       dtype=st.sampled_from([np.float32, np.float64]), layout=st.sampled_from("CFS"),
       spoil=st.lists(st.integers(0, 2 * ROWS - 1), max_size=2), seed=st.integers(0, 1000))
def test_features_do_not_decide_the_bits(n, features, turned, dtype, layout, spoil, seed):
    # Up to ten times as many features as classes take one way, more of them another.
    features = min(features, 10 * n) if turned else max(features, 10 * n + 1)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2 * ROWS, features + 5)).astype(dtype)[:, :features]
    x[spoil, rng.integers(features)] = np.nan
    weight = rng.standard_normal((n, 2 * features)).astype(dtype)
    weight = {"C": np.ascontiguousarray, "F": np.asfortranarray, "S": np.asarray}[layout](
        weight[:, ::2])
    target = rng.integers(-1, n, size=len(x))
    target[target < 0] = -100
    head = ll.LinearHead(weight, rng.standard_normal(n).astype(dtype))
    whole = results(head, x, target, n)
    for i in [0, 15, 16, ROWS, 2 * ROWS - 1, *spoil]:
        alone = results(head, x[i : i + 1], target[i : i + 1], n)
        for name, values in alone.items():
            assert_same_bits(whole[name][i : i + 1], values, f"{name} of row {i}")


@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 100])
@pytest.mark.parametrize("spoil", [np.nan, -np.inf, 0])
def test_best_classes_in_order(k, spoil, dtype):
    rng = np.random.default_rng(k)
    z = rng.integers(0, 40, (50, 100)).astype(dtype)
    bias = np.zeros(100, dtype)
    bias[[5, 70]] = spoil
    top = ll.LinearHead(np.eye(100, dtype=dtype), bias).topk(z, k)
    z += bias
    key = -np.where(np.isnan(z), np.inf, z)
    order = np.argsort(key, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(top.index, order)
    np.testing.assert_array_equal(top.logit, np.take_along_axis(z, order, 1))


@pytest.mark.parametrize("n", [2, 9, 16])
def test_zeros_of_both_signs(n, dtype):
    tiny = dtype.type(np.finfo(dtype).smallest_subnormal)
    x, weight = np.full((32, 32), tiny), np.full((n, 32), -tiny)  # products round to -0
    for seed in range(20):
        bias = np.random.default_rng(seed).choice(np.array([0.0, -0.0], dtype), n)
        head = ll.LinearHead(weight, bias)
        assert_same_bits(head.logits(x)[0], bias)
        whole, alone = head.score(x), head.score(x[:1])
        assert_same_bits(whole.max_logit[:1], alone.max_logit)
