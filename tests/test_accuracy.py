"""Errors against the formulas in a wider precision.

The rule: no row is further from the truth than the worst row of the same thing written
in NumPy in the same precision, and two units in the last place. Which rounding errors a
product makes depends on the order of the features, which means nothing: the naive code
runs with several.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.oracle import Truth, assert_no_worse, assert_relative, naive

import logitless as ll

long_double = pytest.mark.skipif(
    not oracle.LONG_IS_WIDER, reason="no type wider than float64 on this platform"
)


def problem(seed, m, n, k, dtype, scale, spread=1.0):
    """Inputs whose logits have a standard deviation of about `scale`."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (scale / np.sqrt(max(k, 1)))).astype(dtype)
    bias = (rng.standard_normal(n) * spread).astype(dtype)
    return x, w, bias, rng.integers(0, n, m)


def naive_in_several_orders(x, w, bias, target, orders=4):
    """Lists of results by name, the features as given and permuted."""
    runs = [naive(x, w, bias, target)]
    for seed in range(1, orders):
        order = np.random.default_rng(seed).permutation(x.shape[1])
        again = np.ascontiguousarray(x[:, order]), np.ascontiguousarray(w[:, order])
        runs.append(naive(*again, bias, target))
    return {name: [run[name] for run in runs] for name in runs[0]}


def check_head(x, w, bias, target):
    truth = Truth(oracle.logits(x, w, bias, dtype=oracle.wider(x.dtype)))
    head = ll.LinearHead(w, bias)
    plain = naive_in_several_orders(x, w, bias, target)
    score = head.score(x, target, entropy=True)
    assert_no_worse(head.logsumexp(x), plain["logsumexp"], truth.lse, "logsumexp")
    assert_no_worse(head.loss(x, target), plain["loss"], truth.loss(target), "loss")
    assert_no_worse(score.loss, plain["loss"], truth.loss(target), "score.loss")
    assert_no_worse(score.lse, plain["logsumexp"], truth.lse, "score.lse")
    # Where two classes compete, the entropy magnifies one rounding error of one logit; and the
    # worst of a hundred thousand entries is rare luck, good or bad: one bit for that.
    assert_no_worse(score.entropy, plain["entropy"], truth.entropy, "entropy", factor=2)
    for name, exact in [
        ("logits", truth.z),
        ("predict_proba", truth.proba),
        ("predict_log_proba", -truth.minus_log_proba),
    ]:
        assert_no_worse(getattr(head, name)(x), plain[name], exact, name, factor=2)


FLOAT32 = [
    (400, 10, 64, 1.0),
    (400, 10, 64, 30.0),
    (300, 7, 1600, 3.0),
    (300, 257, 257, 3.0),
    (200, 1000, 513, 10.0),
    (100, 1000, 4096, 1.0),
    (100, 1000, 4096, 40.0),
    (12, 50_000, 768, 3.0),
    (4, 50_000, 64, 90.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n", "k", "scale"), FLOAT32)
def test_float32(m, n, k, scale):
    check_head(*problem(m + n + k, m, n, k, np.float32, scale))


@long_double
@pytest.mark.parametrize(
    ("m", "n", "k", "scale"), [(300, 10, 64, 3.0), (60, 257, 513, 30.0), (40, 300, 1031, 1.0)]
)
def test_float64(m, n, k, scale):
    check_head(*problem(m + n + k, m, n, k, np.float64, scale))


@pytest.mark.parametrize("reach", [90.0, 300.0, 3000.0])
def test_logits_an_unshifted_exp_would_overflow_on(reach):
    rng = np.random.default_rng(7)
    m, n, k = 200, 300, 16
    w = rng.standard_normal((n, k)).astype(np.float32)
    x = rng.standard_normal((m, k)).astype(np.float32)
    z = np.abs(x @ w.T).max()
    check_head(x * np.float32(reach / z), w, None, rng.integers(0, n, m))


def test_all_logits_near_the_overflow_of_exp(dtype):
    """Every logit in [90, 100] (or [710, 720]), where exp overflows."""
    low = 90 if dtype == np.float32 else 710
    if dtype == np.float64 and not oracle.LONG_IS_WIDER:
        pytest.skip("no type wider than float64 on this platform")
    x, w, _, target = problem(3, 100, 200, 20, dtype, 1.0)
    bias = np.random.default_rng(4).uniform(low, low + 10, 200).astype(dtype)
    check_head(x, w, bias, target)
    check_head(x, w, bias - dtype.type(2 * low), target)


@st.composite
def any_problem(draw):
    m = draw(st.integers(1, 20))
    n = draw(st.one_of(st.integers(1, 40), st.integers(1, 2000)))
    k = draw(st.one_of(st.integers(0, 40), st.integers(0, 600)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    scale = draw(st.sampled_from([0.01, 1.0, 10.0, 100.0]))
    options = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "softcap": st.sampled_from([0.5, 5.0, 50.0]),
                "temperature": st.sampled_from([0.3, 1.0, 2.5]),
            },
        )
    )
    return problem(draw(st.integers(0, 10**6)), m, n, k, dtype, scale), options


@given(any_problem(), st.booleans(), st.booleans())
def test_any_shape_and_options(case, with_bias, pack):
    """A wide net: every result close to the truth, the discrete ones right or a near tie."""
    (x, w, bias, target), options = case
    bias = bias if with_bias else None
    dtype, (m, n) = x.dtype, (len(x), len(w))
    truth = Truth(oracle.logits(x, w, bias, dtype=oracle.wider(dtype), **options))
    head = ll.LinearHead(w, bias, pack=pack, **options)

    # The rounding error of a dot product of k terms, and of what is done to it.
    reach = np.abs(x) @ np.abs(w).T + (0 if bias is None else np.abs(bias))
    eps, t = np.finfo(dtype).eps, options.get("temperature", 1.0)
    slack = float((x.shape[1] + 8) * eps * (reach.max() + 1) * (1 / t) + 20 * eps)

    def close(ours, exact, tolerance=slack):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, exact.astype(np.float64), rtol=slack, atol=tolerance)

    z = head.logits(x)
    close(z, truth.z)
    close(head.logsumexp(x), truth.lse)
    close(head.loss(x, target), truth.loss(target), 2 * slack)
    close(head.target_log_prob(x, target), -truth.loss(target), 2 * slack)
    assert (np.abs(head.predict_proba(x) - truth.proba) <= 3 * slack + 1e-30).all()
    close(head.predict_log_proba(x), -truth.minus_log_proba, 2 * slack)
    soft = np.random.default_rng(0).dirichlet(np.ones(n), m)
    close(head.loss(x, soft), truth.loss(soft), 3 * slack)

    k = min(4, n)
    score = head.score(x, target, k=k, entropy=True)
    close(score.entropy, truth.entropy, (3 + 2 * np.log(n)) * slack)
    close(score.max_logit, truth.max)
    close(score.top.logit, np.take_along_axis(truth.z, truth.order(k), 1))
    # Discrete results are checked on the logits the head itself reports.
    if oracle.COMPILED:
        own = Truth(z)
        np.testing.assert_array_equal(score.predicted, own.argmax)
        np.testing.assert_array_equal(score.target_rank, own.rank(target))
        np.testing.assert_array_equal(score.top.index, own.order(k))
    assert (truth.max - truth.z[np.arange(m), score.predicted] <= 2 * slack).all()


@given(any_problem())
def test_reported_order_is_the_order_of_exact_logits(case):
    """On small whole numbers no logit is rounded, so ties are ties everywhere."""
    (x, w, bias, target), _ = case
    x, w, bias = (np.clip(np.round(a), -3, 3) for a in (x, w, bias))
    own = Truth((x @ w.T + bias).astype(np.float64))
    head, k = ll.LinearHead(w, bias), min(7, len(w))
    score = head.score(x, target, k=k)
    np.testing.assert_array_equal(head.predict(x), own.argmax)
    np.testing.assert_array_equal(score.predicted, own.argmax)
    np.testing.assert_array_equal(score.target_rank, own.rank(target))
    np.testing.assert_array_equal(score.top.index, own.order(k))
    np.testing.assert_array_equal(head.topk(x, k, normalize=False).index, own.order(k))


@pytest.mark.parametrize(("n", "scale"), [(5, 1.0), (10, 20.0), (1000, 1.0), (50_000, 30.0)])
def test_probabilities_sum_to_one(n, scale, dtype):
    x, w, bias, _ = problem(n, 5, n, 16, dtype, scale)
    total = ll.LinearHead(w, bias).predict_proba(x).sum(axis=1, dtype=np.longdouble)
    np.testing.assert_allclose(total.astype(np.float64), 1, rtol=16 * np.finfo(dtype).eps)
    total = ll.softmax(x @ w.T).sum(axis=1, dtype=np.longdouble)
    np.testing.assert_allclose(total.astype(np.float64), 1, rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("call", ["softmax", "log_softmax", "logsumexp", "cross_entropy"])
def test_logits_at_hand(call, rng):
    z = rng.normal(scale=20, size=(200, 333)).astype(np.float32)
    target = rng.integers(0, 333, 200)
    truth = Truth(z.astype(np.float64))
    plain = {name: [a] for name, a in naive(z, np.eye(333, dtype=np.float32), None, target).items()}
    if call == "softmax":
        assert_no_worse(ll.softmax(z), plain["predict_proba"], truth.proba)
    elif call == "log_softmax":
        assert_no_worse(ll.log_softmax(z), plain["predict_log_proba"], -truth.minus_log_proba)
    elif call == "logsumexp":
        assert_no_worse(ll.logsumexp(z), plain["logsumexp"], truth.lse)
    else:
        assert_no_worse(ll.cross_entropy(z, target), plain["loss"], truth.loss(target))


def test_nll_of_probabilities(rng, dtype):
    p = rng.random((3000, 1)).astype(dtype)
    p[:40, 0] = 10.0 ** -np.arange(40)
    p[40:80, 0] = 1 - np.arange(1, 41) * np.finfo(dtype).epsneg
    ours = ll.nll(p, np.zeros(3000, np.int64))
    truth = -np.log(p[:, 0].astype(oracle.wider(dtype)))
    assert ours.dtype == dtype
    # Zero is -log 1, exactly.
    assert ours[truth == 0].tolist() == [0.0] * int((truth == 0).sum())
    some = truth != 0
    assert_relative(ours[some], truth[some], 2 * np.finfo(dtype).eps)
