"""Heads of some classes of another."""

import ml_dtypes
import numpy as np
import pytest

import logitless as ll

N, K = 200, 24


@pytest.fixture
def x(rng):
    return rng.standard_normal((6, K), np.float32)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("kind", ["f4", "f8", "f2", ml_dtypes.bfloat16, "i1", ">f4"], ids=str)
@pytest.mark.parametrize("classes", [[3], [199, 0, 0, 17], np.arange(N)[::-1], np.arange(20, 60)],
                         ids=["one", "few", "all", "some"])
def test_the_bits_of_a_head_of_these_rows(rng, x, classes, kind, pack):
    weight = (rng.standard_normal((N, K)) * 9).astype(kind)
    bias = rng.standard_normal(N)
    options = {"softcap": 30.0, "temperature": 2.0, "n_threads": 2}
    taken = ll.LinearHead(weight, bias, pack=pack, **options).take(classes)
    fresh = ll.LinearHead(weight[classes], bias[classes], pack=pack, **options)
    np.testing.assert_array_equal(taken.logits(x), fresh.logits(x))
    t = np.arange(6) % len(classes)
    np.testing.assert_array_equal(taken.loss(x, t), fresh.loss(x, t))
    assert repr(taken) == repr(fresh)
    assert taken.weight_dtype == fresh.weight_dtype


def test_of_few_classes_and_of_what_was_taken(x):
    head = ll.LinearHead(np.eye(10, K), n_threads=1).take([4, 2, 9]).take([2, 0])
    np.testing.assert_array_equal(head.logits(x), x[:, [9, 4]])


def test_a_copy_of_what_was_there(x):
    weight = np.eye(30, K)
    head = ll.LinearHead(weight, pack=False).take([1, 2])
    weight[:] = 0
    np.testing.assert_array_equal(head.logits(x), x[:, [1, 2]])


def test_a_screened_head_stays_one(rng):
    weight, x = rng.standard_normal((2000, K), np.float32), rng.standard_normal((9, K), np.float32)
    head = ll.LinearHead(weight, screen="int8").take(np.arange(1000, 2000))
    np.testing.assert_array_equal(head.predict(x), ll.LinearHead(weight[1000:]).predict(x))
    assert head.screen_stats is not None


@pytest.mark.parametrize(("classes", "error", "message"), [
    ([], ValueError, r"at least one class, got shape \(0,\)"),
    (3, ValueError, r"must have shape \(j,\).* got shape \(\)"),
    ([[1, 2]], ValueError, r"got shape \(1, 2\)"),
    ([1.0], TypeError, "must be integers, got float64"),
    (np.ones(N, bool), TypeError, "must be integers, got bool"),
    ([0, 1, -1, -2], IndexError, r"in \[0, 200\), got -1 at position 2"),
    (np.array([5, 200], np.uint64), IndexError, r"got 200 at position 1"),
])
def test_classes_that_are_none(classes, error, message):
    with pytest.raises(error, match=f"`classes` .*{message}"):
        ll.LinearHead(np.eye(N, K)).take(classes)
