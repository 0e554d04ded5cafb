"""Rows and classes that do not count in the loss, whatever they hold, and means of nothing."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import assert_relative, assert_same, assert_same_bits

import logitless as ll


def test_rows_of_weight_zero_have_loss_zero(rng, dtype):
    x = rng.standard_normal((5, 3)).astype(dtype)
    x[1], x[3] = np.nan, np.inf
    head = ll.LinearHead(rng.standard_normal((4, 3)).astype(dtype))
    s, t = [1.0, 0.0, 2.0, -0.0, 1.0], np.array([0, 1, 2, 3, 3])
    good = [0, 2, 4]
    soft = rng.dirichlet(np.ones(4), 5)
    for target in t, soft:
        for options in ({}, {"z_loss": 0.1}, {"entropy_weight": 0.1},
                        {"label_smoothing": 0.1, "class_weight": [1, 2, 0, 3]}):
            loss = head.loss(x, target, sample_weight=s, **options)
            assert loss[[1, 3]].tolist() == [0, 0]
            assert not np.signbit(loss[[1, 3]]).any()
            assert np.isfinite(loss).all()
            for reduction in "sum", "mean":
                ours = head.loss(x, target, sample_weight=s, reduction=reduction, **options)
                left = head.loss(x[good], target[good], sample_weight=[1.0, 2.0, 1.0],
                                 reduction=reduction, **options)
                assert_same(ours, left, reduction)
    assert head.score(x, t, sample_weight=s, z_loss=1.0).loss[[1, 3]].tolist() == [0, 0]


def test_ignored_rows_have_loss_zero(rng, dtype):
    z = rng.standard_normal((3, 4)).astype(dtype)
    z[1] = np.nan
    options = {"class_weight": [1, 2, 3, 4], "sample_weight": [1, 5, 1], "label_smoothing": 0.5,
               "z_loss": 1.0}
    loss = ll.cross_entropy(z, [0, 7, 3], ignore_index=7, **options)
    assert loss[1] == 0
    assert (loss[[0, 2]] > 0).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_ignored_rows_of_probabilities_have_loss_zero(dtype, reduction):
    proba = np.array([[0.5, 0.5], [0.25, 0.75], [np.nan, 2]], dtype)
    target = [0, -100, -100]
    expected = [np.log(2), 0, 0] if reduction == "none" else np.log(2)
    np.testing.assert_allclose(ll.nll(proba, target, reduction=reduction), expected, rtol=1e-6)


def test_a_nan_row_that_counts_is_nan(rng, dtype):
    z = rng.standard_normal((3, 4)).astype(dtype)
    z[1, 2] = np.nan
    for options in ({"class_weight": np.ones(4)}, {"sample_weight": [1, 2, 3]},
                    {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"entropy_weight": -0.1}):
        loss = ll.cross_entropy(z, [0, 0, 0], **options)
        assert np.isnan(loss).tolist() == [False, True, False]


def impossible(dtype):
    """A head and rows for which class 2 cannot happen."""
    head = ll.LinearHead(np.eye(4, dtype=dtype), np.array([0, 0, -np.inf, 0], dtype))
    return head, np.array([[1, 2, 3, 4], [0, 0, 0, 0]], dtype)


def test_impossible_classes(dtype):
    head, x = impossible(dtype)
    kept = ll.LinearHead(np.eye(4, dtype=dtype)[[0, 1, 3]])
    few = 8 * np.finfo(dtype).eps
    options = {"class_weight": [1.0, 2.0, 0.0, 3.0], "label_smoothing": 0.4, "z_loss": 0.1}
    # The smoothing goes over 4 classes, of which one has no weight.
    same = kept.loss(x, [1, 2], class_weight=[1.0, 2.0, 3.0], label_smoothing=0.0)
    spread = kept.loss(x, np.ones((2, 3)), class_weight=[1.0, 2.0, 3.0])
    expected = 0.6 * same + 0.1 * spread + 0.1 * kept.logsumexp(x) ** 2
    assert_relative(head.loss(x, [1, 3], **options), expected, few)
    # As a target it costs everything, unless it has no weight.
    assert head.loss(x, [2, 2]).tolist() == [np.inf, np.inf]
    assert head.loss(x, [2, 2], class_weight=[1, 1, 0.5, 1]).tolist() == [np.inf, np.inf]
    assert head.loss(x, [2, 2], class_weight=[1, 1, 0, 1]).tolist() == [0, 0]
    assert head.loss(x, [2, 2], sample_weight=[0, 1]).tolist() == [0, np.inf]
    assert head.loss(x, [0, 0], label_smoothing=0.1).tolist() == [np.inf, np.inf]
    ours = head.loss(x, [2, 2], class_weight=[1, 1, 0, 1], label_smoothing=0.5)
    spread = kept.loss(x, np.ones((2, 3)))
    assert_relative(ours, spread / 8, few)


def test_impossible_classes_and_probabilities(dtype):
    head, x = impossible(dtype)
    kept = ll.LinearHead(np.eye(4, dtype=dtype)[[0, 1, 3]])
    few = 8 * float(np.finfo(dtype).eps)
    t = np.array([[0.5, 0.25, 0.0, 0.25], [0.0, 0.5, 0.0, 0.5]], dtype)
    assert_relative(head.loss(x, t), kept.loss(x, t[:, [0, 1, 3]]), few)
    t[:, 2] = 0.5
    assert head.loss(x, t).tolist() == [np.inf, np.inf]
    w = [1.0, 2.0, 0.0, 1.0]
    expected = kept.loss(x, t[:, [0, 1, 3]], class_weight=[1.0, 2.0, 1.0])
    assert_relative(head.loss(x, t, class_weight=w), expected, few)
    spread = kept.loss(x, np.ones((2, 3)), class_weight=[1.0, 2.0, 1.0])
    assert_relative(head.loss(x, t, label_smoothing=1.0, class_weight=w), spread / 4, few)


def test_smoothing_to_the_end_forgets_the_target(rng, dtype):
    """Even one that is impossible."""
    head, x = impossible(dtype)
    w = [1.0, 1.0, 0.0, 1.0]
    a = head.loss(x, [0, 1], class_weight=w, label_smoothing=1.0)
    b = head.loss(x, [2, 2], class_weight=w, label_smoothing=1.0)
    assert_same_bits(a, b)


def test_mean_of_nothing_that_counts(dtype):
    z = np.zeros((2, 3), dtype)
    head = ll.LinearHead(np.eye(3, dtype=dtype))
    cases = [
        ([-100, -100], {}),
        ([-100, -100], {"class_weight": [1, 2, 3], "z_loss": 1.0}),
        ([0, 1], {"sample_weight": [0, 0]}),
        ([0, 1], {"class_weight": [0, 0, 5]}),
        ([-100, 1], {"sample_weight": [3, 0]}),
        ([[0.5, 0.5, 0.0]] * 2, {"sample_weight": [0, 0]}),
    ]
    for target, options in cases:
        for call in (
            lambda t, o: head.loss(z, t, reduction="mean", **o),
            lambda t, o: ll.cross_entropy(z, t, reduction="mean", **o),
            lambda t, o: ll.linear_cross_entropy(
                z, np.eye(3, dtype=dtype), t, reduction="mean", **o),
            lambda t, o: head.value_and_grad(z, t, **o)[0],
        ):
            with pytest.warns(RuntimeWarning, match="no rows that count"):
                loss = call(target, options)
            assert np.isnan(loss)
            assert loss.dtype == dtype
        # The others have an answer.
        for reduction in "sum", "batch_mean":
            loss = head.loss(z, target, reduction=reduction, **options)
            assert np.isfinite(loss)
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        assert np.isnan(head.loss(z[:0], [], reduction="mean"))
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        assert np.isnan(head.loss(z[:0], [], reduction="batch_mean"))
    assert head.loss(z[:0], [], reduction="sum") == 0


def test_the_warning_names_the_line_of_the_caller():
    z, eye = np.zeros((1, 3)), np.eye(3)
    head = ll.LinearHead(eye)
    for call in (
        lambda: head.loss(z, [-100], reduction="mean"),
        lambda: head.value_and_grad(z, [-100]),
        lambda: ll.linear_cross_entropy(z, eye, [-100], reduction="mean"),
        lambda: ll.linear_cross_entropy_value_and_grad(z, eye, [-100]),
        lambda: ll.cross_entropy(z, [-100], reduction="mean"),
        lambda: ll.nll(z, [-100], reduction="mean"),
    ):
        with pytest.warns(RuntimeWarning, match="no rows that count") as caught:
            call()
        line = call.__code__.co_firstlineno
        assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]
