"""What softmax and softmax loss are, by hand."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from support.oracle import assert_relative, assert_same_bits

import logitless as ll

P = [0.2, 0.3, 0.4, 0.6, 0.5]


def high_precision_softmax(z):
    with mpmath.workdps(50):
        e = [mpmath.e**v for v in z]
        return np.array([float(v / mpmath.fsum(e)) for v in e])


def test_softmax_of_1_2_3():
    p = ll.softmax([1.0, 2.0, 3.0])
    assert [round(float(v), 2) for v in p] == [0.09, 0.24, 0.67]
    np.testing.assert_array_max_ulp(p, high_precision_softmax([1, 2, 3]), maxulp=2)


def test_softmax_of_1_2_3_in_float32():
    p = ll.softmax(np.array([1, 2, 3], np.float32))
    assert p.dtype == np.float32
    np.testing.assert_array_max_ulp(
        p, high_precision_softmax([1, 2, 3]).astype(np.float32), maxulp=2
    )


def test_a_head_gives_the_same_softmax(dtype):
    head = ll.LinearHead(np.array([[1], [2], [3]], dtype))
    p = head.predict_proba(np.ones((1, 1), dtype))
    np.testing.assert_array_max_ulp(p[0], high_precision_softmax([1, 2, 3]).astype(dtype), maxulp=2)
    assert head.predict(np.ones((1, 1), dtype)).tolist() == [2]


def test_softmax_is_in_the_unit_interval_and_sums_to_one(rng, dtype):
    p = ll.softmax(rng.normal(scale=3, size=(50, 30)).astype(dtype))
    assert (p > 0).all()
    assert (p < 1).all()
    np.testing.assert_allclose(p.sum(axis=1, dtype=np.float64), 1, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("given", [0.6, 0.1, 0.3])
def test_loss_is_minus_log_of_the_probability_of_the_true_label(given):
    p = np.array([P])
    p[0, 3] = given
    with mpmath.workdps(50):
        truth = float(-mpmath.log(mpmath.mpf(given)))
    assert_relative(ll.nll(p, np.array([3])), np.array([truth]), 3e-16)
    one_hot = np.array([[0.0, 0, 0, 1, 0]])
    assert_same_bits(ll.nll(p, one_hot), ll.nll(p, np.array([3])))


def test_the_surer_of_the_truth_the_smaller_the_loss():
    p = np.array([P, P, P])
    p[:, 3] = [0.6, 0.3, 0.1]
    loss = ll.nll(p, np.array([3, 3, 3]))
    assert loss[0] < loss[1] < loss[2]


def test_nll_takes_p_as_given():
    # These do not sum to one, and are not made to.
    assert sum(P) == 2.0
    assert ll.nll(np.array([P]), np.array([3]))[0] == pytest.approx(0.5108256237659907, rel=1e-15)


def test_cross_entropy_of_any_distribution(rng):
    p, t = rng.random((20, 7)), rng.random((20, 7))
    t /= t.sum(axis=1, keepdims=True)
    with mpmath.workdps(50):
        truth = [
            float(-mpmath.fsum(mpmath.mpf(a) * mpmath.log(b) for a, b in zip(tr, pr, strict=True)))
            for tr, pr in zip(t.tolist(), p.tolist(), strict=True)
        ]
    assert_relative(ll.nll(p, t), np.array(truth), 4e-15)


def test_cross_entropy_against_a_softmax_is_the_softmax_loss(rng):
    x, w, b = rng.normal(size=(20, 11)), rng.normal(size=(7, 11)), rng.normal(size=7)
    head = ll.LinearHead(w, b)
    target = rng.integers(0, 7, 20)
    one_hot = np.eye(7)[target]
    any_t = rng.random((20, 7))
    p = head.predict_proba(x)
    for t in target, one_hot, any_t:
        np.testing.assert_allclose(ll.nll(p, t), head.loss(x, t), rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(
            ll.cross_entropy(head.logits(x), t), head.loss(x, t), rtol=1e-13, atol=1e-15
        )


def test_one_hot_targets_give_the_bits_of_the_index_form(rng, dtype):
    x, w = rng.normal(size=(40, 33)).astype(dtype), rng.normal(size=(19, 33)).astype(dtype)
    target = rng.integers(0, 19, 40)
    head = ll.LinearHead(w)
    index = head.loss(x, target)
    for one_hot in np.eye(19, dtype=np.float32)[target], np.eye(19)[target]:
        assert_same_bits(head.loss(x, one_hot), index)
        # Other rows being distributions changes nothing for those that are one-hot.
        mixed = one_hot.copy()
        mixed[::2] = 1 / 19
        assert_same_bits(head.loss(x, mixed)[1::2], index[1::2])
        z = head.logits(x)
        assert_same_bits(ll.cross_entropy(z, one_hot), ll.cross_entropy(z, target))


def test_feature_maps_through_a_fully_connected_layer(rng, dtype):
    """100 feature maps of 4 x 4 flatten to 1600 features; W is (T, 1600)."""
    maps = rng.normal(size=(6, 100, 4, 4)).astype(dtype)
    w = (rng.normal(size=(5, 1600)) / 40).astype(dtype)
    x = maps.reshape(6, 1600)
    head = ll.LinearHead(w)
    assert (head.n_classes, head.n_features) == (5, 1600)
    z = head.logits(x)
    assert z.shape == (6, 5)
    wide = x.astype(np.longdouble) @ w.T.astype(np.longdouble)
    np.testing.assert_allclose(z, wide.astype(np.float64), atol=200 * np.finfo(dtype).eps)
    e = np.exp(wide)
    np.testing.assert_allclose(
        head.predict_proba(x),
        (e / e.sum(axis=1, keepdims=True)).astype(np.float64),
        rtol=400 * np.finfo(dtype).eps,
    )
    assert head.predict(x).tolist() == wide.argmax(axis=1).tolist()
