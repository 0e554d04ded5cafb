"""Tens of millions of classes: sums over them keep the digits of a float32."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import Truth

import logitless as ll

N = 20_000_000
FEW = 2 * 2.0**-23


# One of them is enough for a first look, they take their time.
SHAPES = ["level", *(pytest.param(name, marks=pytest.mark.slow) for name in
                     ("rising", "falling", "steps"))]


@pytest.fixture(scope="module", params=SHAPES)
def logits(request):
    """One row, float32."""
    z = np.zeros(N, np.float32)
    if request.param == "level":
        z[123_456] = 12.5
    elif request.param == "rising":  # each span has a larger logit than all before
        z = np.linspace(0, 3, N, dtype=np.float32)
    elif request.param == "falling":
        z = np.linspace(3, 0, N, dtype=np.float32)
    else:
        z[::3] = 2.7
        z[N // 2 :] += 0.3
    return z[None]


def relative(value, truth):
    return abs(np.asarray(value, np.float64) - truth) / abs(truth)


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2])
def test_losses_and_entropy(logits, n_threads):
    truth = Truth(logits.astype(np.float64))
    with ll.threads(n_threads):
        assert relative(ll.logsumexp(logits), truth.lse) < FEW
        for t in (0, N // 2, N - 1):
            assert relative(ll.cross_entropy(logits, [t]), truth.loss([t])) < FEW
        smoothed = ll.cross_entropy(logits, [0], label_smoothing=1.0)
        assert relative(smoothed, truth.minus_log_proba.mean()) < FEW
        weights = np.tile(np.array([0.3, 1.7, 0.1], np.float32), -(-N // 3))[:N]
        weighted = ll.cross_entropy(logits, [0], label_smoothing=1.0, class_weight=weights)
        assert relative(weighted, (truth.minus_log_proba * weights).mean()) < 2 * FEW
        soft = np.broadcast_to(np.float32(0.37), (1, N))
        assert relative(ll.cross_entropy(logits, soft),
                        np.float64(np.float32(0.37)) * truth.minus_log_proba.sum()) < 2 * FEW


def test_a_head(logits):
    """The same from a product, with its entropy."""
    truth = Truth(logits.astype(np.float64))
    head = ll.LinearHead(logits.T, pack=False)
    s = head.score(np.ones((1, 1), np.float32), [7], entropy=True)
    assert relative(s.lse, truth.lse) < FEW
    assert relative(s.loss, truth.loss([7])) < FEW
    assert relative(s.entropy, truth.entropy) < 2 * FEW
