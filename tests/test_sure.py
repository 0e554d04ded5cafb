"""Losses keep every digit where the model is sure, and under a large common offset."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import assert_relative

import logitless as ll

LIMIT = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-14}


def exact_loss(z, target):
    """The loss of one row of logits to 60 digits, as a float."""
    with mpmath.workdps(60):
        others = (mpmath.e ** (mpmath.mpf(v) - z[target]) for c, v in enumerate(z) if c != target)
        return float(mpmath.log1p(mpmath.fsum(others)))


def exact_losses(z, target):
    return np.array([exact_loss(r, t) for r, t in zip(z.tolist(), target.tolist(), strict=True)])


def head_of(n, dtype, bias=None, **options):
    """A head whose logits are its input: an identity has no rounding."""
    return ll.LinearHead(np.eye(n, dtype=dtype), bias, **options)


def all_losses(z, target):
    """The loss of the same logits by every call that has one."""
    n = z.shape[1]
    head, one_hot = head_of(n, z.dtype), np.eye(n, dtype=z.dtype)[target]
    rows = np.arange(len(z))
    return {
        "loss": head.loss(z, target),
        "loss of one-hot": head.loss(z, one_hot),
        "score": head.score(z, target).loss,
        "target_log_prob": -head.target_log_prob(z, target),
        "predict_log_proba": -head.predict_log_proba(z)[rows, target],
        "log_softmax": -ll.log_softmax(z)[rows, target],
        "cross_entropy": ll.cross_entropy(z, target),
        "linear_cross_entropy": ll.linear_cross_entropy(z, np.eye(n, dtype=z.dtype), target),
        "topk": -head.topk(z, 1).log_prob[:, 0],
    }


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 10, 64, 300])
def test_losses_from_one_to_1e_30(n, dtype):
    gaps = np.arange(0, 75.5, 0.5).astype(dtype)
    z = np.repeat(-gaps[:, None], n, axis=1)
    target = np.arange(len(z)) % n
    z[np.arange(len(z)), target] = 0
    truth = exact_losses(z, target)
    assert truth.min() < 1e-30
    assert truth.max() > 0.5
    for name, loss in all_losses(z, target).items():
        if name == "topk":
            # A gap of zero makes all classes equal, and the best the first of them.
            loss, want = loss[1:], truth[1:]
        else:
            want = truth
        assert loss.dtype == dtype, name
        assert_relative(loss, want, LIMIT[dtype])


def test_a_loss_of_1e_12_comes_out_as_1e_12(dtype):
    z = np.array([[0, -27.631021115928547]], dtype)
    loss = ll.cross_entropy(z, np.array([0]))[0]
    truth = exact_loss(z[0].tolist(), 0)
    assert truth == pytest.approx(1e-12, rel=2e-6)
    assert abs(loss / truth - 1) < LIMIT[dtype]


@given(st.data())
def test_sure_rows(data):
    """Whole eighths, so that no difference of two logits is rounded."""
    dtype = np.dtype(data.draw(st.sampled_from([np.float32, np.float64])))
    n = data.draw(st.integers(2, 40))
    eighths = st.integers(-8 * 60, 8 * 9)
    z = np.array([data.draw(st.lists(eighths, min_size=n, max_size=n))], dtype) / 8
    target = np.array([data.draw(st.integers(0, n - 1))])
    truth = exact_losses(z, target)
    for name, loss in all_losses(z, target).items():
        if name != "topk" and truth[0] > 1e-35:
            assert_relative(loss, truth, 2 * LIMIT[dtype])


@pytest.mark.parametrize("offset", [-1e6, 1e6, 12345.0])
def test_common_offset(offset, dtype, rng):
    """Logits of whole eighths are exact at 1e6 in float32: the loss must not notice."""
    n = 17
    z = np.round(rng.uniform(-40, 0, (60, n)) * 8) / 8
    target = rng.integers(0, n, 60)
    z[np.arange(0, 60, 2), target[::2]] = 1
    z = z.astype(dtype)
    truth = exact_losses(z, target)
    assert truth.min() < 1e-3
    head = head_of(n, dtype, np.full(n, offset, dtype))
    at_zero = head_of(n, dtype)
    for ours in head.loss(z, target), -head.target_log_prob(z, target):
        assert_relative(ours, truth, LIMIT[dtype])
        assert_relative(ours, at_zero.loss(z, target), LIMIT[dtype])
    assert_relative(ll.cross_entropy(z + dtype.type(offset), target), truth, LIMIT[dtype])
    entropy = head.score(z, entropy=True).entropy
    np.testing.assert_allclose(entropy, at_zero.score(z, entropy=True).entropy, rtol=LIMIT[dtype])
    np.testing.assert_allclose(head.predict_proba(z), at_zero.predict_proba(z), rtol=LIMIT[dtype])


def test_many_classes_that_hardly_matter(dtype):
    """50,000 classes at a probability of 1e-20 each add up to a loss of 5e-16."""
    n = 50_001
    x, w = np.ones((2, 1), dtype), np.full((n, 1), -46.0, dtype)
    w[n // 2] = 0
    target = np.array([n // 2, 3])
    with mpmath.workdps(60):
        sure = float(mpmath.log1p((n - 1) * mpmath.e ** mpmath.mpf(-46)))
    loss = ll.LinearHead(w).loss(x, target)
    assert_relative(loss, np.array([sure, 46 + sure]), 2 * LIMIT[dtype])


def test_ties_at_the_top(dtype):
    """Two, three, ... equal largest logits: the loss is the log of how many."""
    z = np.full((6, 8), -80, dtype)
    for i in range(6):
        z[i, -(i + 1) :] = 3
    target = np.full(6, 7)
    truth = exact_losses(z, target)
    for name, loss in all_losses(z, target).items():
        assert_relative(loss, truth, LIMIT[dtype])
        assert loss.dtype == dtype, name


def test_entropy_of_sure_and_uniform_rows(dtype):
    n = 33
    gaps = np.array([0.0, 0.5, 2, 8, 16, 30, 60], dtype)
    z = np.repeat(-gaps[:, None], n, axis=1)
    z[:, 5] = 0
    with mpmath.workdps(60):
        truth = []
        for g in gaps.tolist():
            e = mpmath.e ** mpmath.mpf(-g)
            lse = mpmath.log1p((n - 1) * e)
            p, rest = 1 / (1 + (n - 1) * e), e / (1 + (n - 1) * e)
            truth.append(float(p * lse + (n - 1) * rest * (lse + g)))
    entropy = head_of(n, dtype).score(z, entropy=True).entropy
    assert entropy[0] == pytest.approx(np.log(n), rel=8 * float(np.finfo(dtype).eps))
    assert_relative(entropy, np.array(truth), 4 * LIMIT[dtype])


def test_soft_targets_of_a_sure_row_keep_their_digits(dtype):
    z = np.array([[0, -30, -40]], dtype)
    t = np.array([[1, 2.0**-40, 0]], dtype)
    with mpmath.workdps(60):
        lse = mpmath.log1p(mpmath.e ** mpmath.mpf(-30) + mpmath.e ** mpmath.mpf(-40))
        truth = float(lse + mpmath.mpf(2) ** -40 * (lse + 30))
    assert_relative(head_of(3, dtype).loss(z, t), np.array([truth]), 2 * LIMIT[dtype])


@pytest.mark.parametrize("n", [2, 9])
def test_exp_in_ulps(n, dtype, rng):
    """Where the sum rounds to one, a probability is exp of the logit, and nothing else."""
    low, high = (-87, -18) if dtype == np.float32 else (-708, -38)
    z = np.zeros((600, n), dtype)
    z[:, 1] = rng.uniform(low, high, 600).astype(dtype)
    z[:, 2:] = -np.inf
    with mpmath.workdps(50):
        exact = [mpmath.e ** mpmath.mpf(v) for v in z[:, 1].tolist()]
    ours = ll.softmax(z)[:, 1]
    spacing = np.spacing(np.array([float(e) for e in exact]).astype(dtype))
    error = [
        abs(float((mpmath.mpf(a) - e) / s))
        for a, e, s in zip(ours.tolist(), exact, spacing.tolist(), strict=True)
    ]
    # NumPy's own exp promises less than the compiled one.
    assert max(error) <= (1 if ll.active_isa() != "numpy" else 4)
