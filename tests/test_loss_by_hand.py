"""The loss with each of its options, as found by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.oracle import assert_relative

import logitless as ll


def test_cats_cars_and_frogs(dtype):
    """Two samples of the lecture notes of Stanford's CS231n."""
    scores = np.array([[-2.85, 0.86, 0.28], [3.2, 5.1, -1.7]], dtype)
    loss = ll.cross_entropy(scores, [2, 0])
    np.testing.assert_allclose(loss, [1.04, 2.04], atol=5e-3)
    np.testing.assert_allclose(
        ll.softmax(scores), [[0.016, 0.631, 0.353], [0.13, 0.87, 0.00]], atol=5e-3
    )


# Logits log 1, log 2, log 3 make probabilities 1/6, 1/3, 1/2, and lse = log 6.
LOG6 = math.log(6)
ENTROPY = LOG6 / 6 + math.log(3) / 3 + math.log(2) / 2
BY_HAND = {
    "plain": ({}, 1, math.log(3)),
    "class weight": ({"class_weight": [5.0, 0.5, 7.0]}, 1, math.log(3) / 2),
    "sample weight": ({"sample_weight": [3.0]}, 1, 3 * math.log(3)),
    "negative sample weight": ({"sample_weight": [-1.0]}, 1, -math.log(3)),
    "smoothing": (
        {"label_smoothing": 0.3}, 1, 0.7 * math.log(3) + 0.1 * math.log(6 * 3 * 2)
    ),
    "smoothing to the end": ({"label_smoothing": 1.0}, 0, math.log(36) / 3),
    "smoothing and class weights": (
        {"label_smoothing": 0.3, "class_weight": [1.0, 0.0, 2.0]},
        1,
        0.1 * (math.log(6) + 2 * math.log(2)),
    ),
    "z-loss": ({"z_loss": 0.25}, 2, math.log(2) + LOG6**2 / 4),
    "z-loss knows no class weight": (
        {"z_loss": 0.25, "class_weight": [0.0, 0.0, 0.0]}, 2, LOG6**2 / 4
    ),
    "entropy": ({"entropy_weight": -0.25}, 2, math.log(2) - ENTROPY / 4),
    "entropy knows no class weight": (
        {"entropy_weight": 0.25, "class_weight": [0.0, 0.0, 0.0]}, 2, ENTROPY / 4
    ),
    "ignored": (
        {"z_loss": 0.25, "entropy_weight": 1.0, "label_smoothing": 0.5, "ignore_index": 2}, 2, 0.0
    ),
    "probabilities": ({}, [0.5, 0.25, 0.25], LOG6 / 2 + math.log(3) / 4 + math.log(2) / 4),
    "masses": ({}, [2.0, 0.0, 4.0], 2 * LOG6 + 4 * math.log(2)),
    "masses and class weights": (
        {"class_weight": [1.0, 9.0, 0.5]}, [2.0, 0.0, 4.0], 2 * LOG6 + 2 * math.log(2)
    ),
    "probabilities, all": (
        {"class_weight": [1.0, 2.0, 0.0], "sample_weight": [2.0], "label_smoothing": 0.3,
         "z_loss": 0.5, "entropy_weight": 2.0},
        [0.5, 0.5, 0.0],
        2 * ((0.35 + 0.1) * LOG6 + 2 * (0.35 + 0.1) * math.log(3) + LOG6**2 / 2 + 2 * ENTROPY),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name, dtype):
    options, target, value = BY_HAND[name]
    z = np.log(np.array([[1, 2, 3]])).astype(dtype)
    head = ll.LinearHead(np.eye(3, dtype=dtype))
    rtol = 1e-14 if dtype == np.float64 else 1e-6
    for loss in (
        head.loss(z, [target], **options),
        head.score(z, [target], **options).loss,
        ll.linear_cross_entropy(z, np.eye(3, dtype=dtype), [target], **options),
        ll.cross_entropy(z, [target], **options),
    ):
        np.testing.assert_allclose(loss, [value], rtol=rtol, atol=1e-30)


def test_softcap_and_temperature_by_hand():
    """softcap 2: 2 tanh(1/2 log 3) = 1, so that the logits 0 and log 3 become 0 and 1."""
    head = ll.LinearHead(np.eye(2), softcap=2.0, temperature=0.5)
    loss = head.loss([[0.0, math.log(3)]], [1], label_smoothing=0.5, class_weight=[2, 1])
    sure, unsure = math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))
    assert_relative(loss, np.array([0.5 * sure + 0.25 * (sure + 2 * unsure)]), 1e-14)


def test_reductions_by_hand():
    """Four rows, of which one is ignored: the losses are log 6, log 3, log 2."""
    z = np.log(np.tile([[1.0, 2.0, 3.0]], (4, 1)))
    t, w, s = [0, 1, -100, 2], [1.0, 2.0, 4.0], [1.0, 3.0, 9.0, 0.5]
    losses = np.array([LOG6, math.log(3), 0, math.log(2)])
    assert_relative(ll.cross_entropy(z, t, reduction="mean"), losses.sum() / 3, 1e-15)
    assert_relative(ll.cross_entropy(z, t, reduction="batch_mean"), losses.sum() / 4, 1e-15)
    weighted = losses @ [1, 2, 0, 4]
    assert_relative(ll.cross_entropy(z, t, class_weight=w, reduction="sum"), weighted, 1e-15)
    assert_relative(ll.cross_entropy(z, t, class_weight=w, reduction="mean"), weighted / 7, 1e-15)
    weighted = losses @ [1, 2 * 3, 0, 4 * 0.5]
    both = {"class_weight": w, "sample_weight": s}
    assert_relative(ll.cross_entropy(z, t, **both, reduction="mean"), weighted / 9, 1e-15)
    assert_relative(ll.cross_entropy(z, t, **both, reduction="batch_mean"), weighted / 4, 1e-15)
    # Class probabilities: only the weights of the samples count.
    one_hot = np.eye(3)[[0, 1, 0, 2]]
    s[2] = 0.0
    assert_relative(ll.cross_entropy(z, one_hot, **both, reduction="mean"), weighted / 4.5, 1e-15)
