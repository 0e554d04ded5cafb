"""Infinities, NaN, ties, denormals."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import assert_same, assert_same_bits

import logitless as ll

INF, NAN = np.inf, np.nan


def head_of(n, dtype, bias=None):
    return ll.LinearHead(np.eye(n, dtype=dtype), bias)


def with_bias(logits, dtype, m=1):
    """A head with these logits in every row: any value may stand in a bias."""
    bias = np.array(logits, dtype)
    return ll.LinearHead(np.zeros((len(bias), 2), dtype), bias), np.ones((m, 2), dtype)


@pytest.fixture(params=[5, 40, 700])
def n(request):
    return request.param


def test_what_float32_has_no_room_for_is_infinite_without_a_word():
    x, w = np.ones((1, 2), np.float32), np.zeros((3, 2), np.float32)
    head = ll.LinearHead(w, [0, 1e300, -1e300])
    assert head.logits(x).tolist() == [[0, INF, -INF]]
    screened = ll.LinearHead(np.zeros((700, 2), np.float32), np.linspace(-1e300, 1e300, 700),
                             screen="int8")
    assert screened.topk(x, 1, normalize=False).logit.tolist() == [[INF]]
    assert screened.predict(x).tolist() == [350]  # the first of those without end
    loss, grad = head.kl_div_value_and_grad(x, ll.LinearHead(w), x, wrt="bias", reduction="none",
                                            sample_weight=[1e300], grad_output=[1e300])
    assert np.isnan([*loss, *grad.bias]).all()
    index, prob = [[0, 1]], [[0.5, 0.2]]
    _, grad = ll.LinearHead(w).topk_kl_div_value_and_grad(x, index, prob, wrt="bias",
                                                          sample_weight=[1e300])
    assert np.isfinite(grad.bias).all()
    weights = {"sample_weight": [1e308, 1e308], "class_weight": [100.0, 1, 1]}
    for reduction in ("mean", "sum"):
        assert not np.isfinite(head.loss(x[[0, 0]], [0, 1], reduction=reduction, **weights))
        assert not np.isfinite(head.kl_div(x[[0, 0]], head, x[[0, 0]], reduction=reduction,
                                           sample_weight=[1e308, 1e308]))


def test_weights_whose_sum_is_too_large_or_almost_nothing():
    x, w = np.ones((2, 2)), np.eye(3, 2)
    head = ll.LinearHead(w, temperature=0.5)
    loss, _ = head.value_and_grad(x, [0, 1], class_weight=[1e308, 1, 1e308], label_smoothing=0.5)
    assert not np.isfinite(loss)
    least = {"sample_weight": [5e-324, 0], "wrt": "bias"}  # half of it is 0
    assert np.isfinite(head.value_and_grad(x, [0, 1], **least)[0])
    assert head.kl_div_value_and_grad(x, head, x, **least)[0] == 0
    assert head.topk_kl_div_value_and_grad(x, [[0]] * 2, [[0.5]] * 2, **least)[0] >= 0


def test_minus_infinity_is_a_class_that_cannot_happen(dtype, n, rng):
    """The others are as if it were not there."""
    x = rng.normal(size=(9, 6)).astype(dtype)
    w, bias = rng.normal(size=(n, 6)).astype(dtype), rng.normal(size=n).astype(dtype)
    out = rng.choice(n, n // 2, replace=False)
    bias[out] = -INF
    kept = np.setdiff1d(np.arange(n), out)
    head, small = ll.LinearHead(w, bias), ll.LinearHead(w[kept], bias[kept])
    close = {"rtol": 40 * np.finfo(dtype).eps, "atol": 40 * np.finfo(dtype).eps}
    np.testing.assert_allclose(head.logsumexp(x), small.logsumexp(x), **close)
    np.testing.assert_array_equal(head.predict(x), kept[small.predict(x)])
    p, lp = head.predict_proba(x), head.predict_log_proba(x)
    assert (p[:, out] == 0).all()
    assert (lp[:, out] == -INF).all()
    np.testing.assert_allclose(p[:, kept], small.predict_proba(x), **close)
    np.testing.assert_allclose(
        head.score(x, entropy=True).entropy, small.score(x, entropy=True).entropy, **close
    )
    t = np.arange(9) % len(kept)
    np.testing.assert_allclose(head.loss(x, kept[t]), small.loss(x, t), **close)


def test_loss_of_a_class_that_cannot_happen_is_infinite(dtype, n):
    logits = np.zeros(n)
    logits[3] = -INF
    head, x = with_bias(logits, dtype, m=2)
    loss = head.loss(x, np.array([3, 0]))
    assert loss[0] == INF
    assert loss[1] == pytest.approx(np.log(n - 1), rel=1e-5)
    assert head.target_log_prob(x, np.array([3, 0]))[0] == -INF
    assert head.score(x, np.array([3, 3])).target_logit.tolist() == [-INF, -INF]
    z = head.logits(x)
    assert ll.cross_entropy(z, np.array([3, 0])).tolist() == loss.tolist()


def test_soft_target_on_a_class_that_cannot_happen(dtype, n):
    logits = np.zeros(n)
    logits[2] = -INF
    head, x = with_bias(logits, dtype, m=3)
    t = np.zeros((3, n), dtype)
    t[0, 0], t[0, 1] = 0.25, 0.5  # nothing on class 2: contributes nothing
    t[1, 0], t[1, 2] = 0.5, 0.5
    loss = head.loss(x, t)
    assert loss[0] == pytest.approx(0.75 * np.log(n - 1), rel=1e-5)
    assert loss[1] == INF
    assert loss[2] == 0  # a row of no mass at all
    assert_same(ll.cross_entropy(head.logits(x), t), loss)


def test_zero_probability_with_zero_target_contributes_nothing(dtype):
    p = np.array([[0.5, 0, 0.5], [0.5, 0, 0.5]], dtype)
    t = np.array([[1, 0, 0], [0.5, 0.5, 0]], dtype)
    assert ll.nll(p, t).tolist() == [pytest.approx(np.log(2), rel=1e-6), INF]
    assert ll.nll(p, np.array([0, 1])).tolist() == [pytest.approx(np.log(2), rel=1e-6), INF]


def test_a_nan_touches_no_other_row(dtype, n, rng):
    x = rng.normal(size=(31, 20)).astype(dtype)
    w = rng.normal(size=(n, 20)).astype(dtype)
    t, soft = rng.integers(0, n, 31), rng.dirichlet(np.ones(n), 31).astype(dtype)
    head = ll.LinearHead(w)
    bad_rows = [0, 7, 8, 30]
    bad = x.copy()
    bad[bad_rows, [0, 19, 3, 11]] = [NAN, NAN, INF, NAN]
    good = np.setdiff1d(np.arange(31), bad_rows)

    def results(x):
        s = head.score(x, t, k=3, entropy=True)
        return {
            "loss": head.loss(x, t),
            "soft": head.loss(x, soft),
            "logsumexp": head.logsumexp(x),
            "predict_proba": head.predict_proba(x),
            "predict_log_proba": head.predict_log_proba(x),
            "target_log_prob": head.target_log_prob(x, t),
            "entropy": s.entropy,
            "lse": s.lse,
            "score.loss": s.loss,
            "top.log_prob": s.top.log_prob,
            "softmax": ll.softmax(head.logits(x)),
            "cross_entropy": ll.cross_entropy(head.logits(x), t),
        }

    clean, dirty = results(x), results(bad)
    for name, a in dirty.items():
        assert np.isnan(a[bad_rows]).all(), name
        assert_same_bits(a[good], clean[name][good], name)
    np.testing.assert_array_equal(head.predict(bad)[good], head.predict(x)[good])


def test_one_nan_logit_makes_the_row_nan(dtype, n):
    for where in (0, 1, n // 2, n - 1):
        logits = np.linspace(-1, 1, n)
        logits[where] = NAN
        head, x = with_bias(logits, dtype)
        other = np.array([(where + 1) % n])
        assert np.isnan(head.loss(x, other)).all()
        assert np.isnan(head.logsumexp(x)).all()
        assert np.isnan(head.predict_proba(x)).all()
        assert np.isnan(head.predict_log_proba(x)).all()
        score = head.score(x, other, entropy=True)
        assert np.isnan(score.entropy).all()
        assert np.isnan(score.max_logit).all()
        assert np.isnan(ll.cross_entropy(head.logits(x), other)).all()


@pytest.mark.parametrize("mixed", [False, True])
def test_predict_gives_the_first_nan(dtype, n, mixed):
    """As NumPy's argmax does."""
    logits = np.linspace(-1, 1, n)
    logits[[2, n - 1]] = NAN
    if mixed:
        logits[0] = INF
    head, x = with_bias(logits, dtype, m=3)
    assert np.argmax(logits) == 2
    assert head.predict(x).tolist() == [2, 2, 2]
    assert head.score(x).predicted.tolist() == [2, 2, 2]
    assert head.topk(x, 1).index.tolist() == [[2]] * 3


def test_topk_puts_nan_first_then_order(dtype):
    # A NaN has a sign, which means nothing.
    logits = [1.0, NAN, -INF, 5.0, np.copysign(NAN, -1), INF, 5.0, -INF]
    head, x = with_bias(logits, dtype)
    top = head.topk(x, 8)
    assert top.index.tolist() == [[1, 4, 5, 3, 6, 0, 2, 7]]
    np.testing.assert_array_equal(
        top.logit, np.array([[NAN, NAN, INF, 5, 5, 1, -INF, -INF]], dtype)
    )
    assert np.isnan(top.log_prob).all()
    order = top.index[0].tolist()
    assert sorted(order) == list(range(8))


def test_topk_of_fewer_possible_classes_than_asked_for(dtype, n):
    logits = np.full(n, -INF)
    logits[[1, 3]] = [2, 4]
    head, x = with_bias(logits, dtype, m=2)
    top = head.topk(x, 5)
    assert top.index.tolist() == [[3, 1, 0, 2, 4]] * 2
    assert top.logit.tolist() == [[4, 2, -INF, -INF, -INF]] * 2
    assert top.log_prob[0, 2:].tolist() == [-INF] * 3
    np.testing.assert_allclose(top.log_prob[0, :2], [-0.126928, -2.126928], rtol=1e-5)


def test_plus_infinity_makes_nan(dtype, n):
    """exp(inf - inf), like the formula; the logits and their order are still known."""
    logits = np.zeros(n)
    logits[n // 2] = INF
    head, x = with_bias(logits, dtype)
    for t in 0, n // 2:
        assert np.isnan(head.loss(x, np.array([t]))).all()
    assert np.isnan(head.logsumexp(x)).all()
    assert np.isnan(head.predict_proba(x)).all()
    assert np.isnan(head.predict_log_proba(x)).all()
    score = head.score(x, np.array([0]), k=2, entropy=True)
    assert np.isnan(score.entropy).all()
    assert np.isnan(score.lse).all()
    assert np.isnan(score.top.log_prob).all()
    assert score.top.index.tolist() == [[n // 2, 0]]
    assert score.max_logit.tolist() == [INF]
    assert score.predicted.tolist() == [n // 2]
    assert np.isnan(ll.softmax(head.logits(x))).all()


def test_nothing_but_minus_infinity_is_nan(dtype, n):
    head, x = with_bias(np.full(n, -INF), dtype, m=2)
    assert np.isnan(head.loss(x, np.array([0, n - 1]))).all()
    assert np.isnan(head.logsumexp(x)).all()
    assert np.isnan(head.predict_proba(x)).all()
    assert np.isnan(head.predict_log_proba(x)).all()
    assert np.isnan(head.score(x, entropy=True).entropy).all()
    assert np.isnan(ll.log_softmax(head.logits(x))).all()
    assert np.isnan(ll.cross_entropy(head.logits(x), np.array([0, 0]))).all()
    assert head.predict(x).tolist() == [0, 0]
    assert head.topk(x, 2).index.tolist() == [[0, 1]] * 2


def test_minus_infinity_at_either_end_of_the_classes(dtype, n):
    """Blocks and lanes that begin with, end with or hold only -inf leak no NaN."""
    for keep in range(0, n, max(1, n // 9)):
        logits = np.full(n, -INF)
        logits[keep] = -3
        head, x = with_bias(logits, dtype)
        assert head.loss(x, np.array([keep])).tolist() == [0]
        assert head.logsumexp(x).tolist() == [-3]
        assert head.predict(x).tolist() == [keep]
        score = head.score(x, np.array([keep]), entropy=True)
        assert score.entropy.tolist() == [0]
        assert score.target_rank.tolist() == [0]
        assert head.predict_proba(x).sum() == 1


@pytest.mark.parametrize("n", [7, 64, 5000])
def test_lowest_index_among_equals(dtype, n, rng):
    w = rng.integers(-1, 2, size=(n, 3)).astype(dtype)
    x = rng.integers(-1, 2, size=(50, 3)).astype(dtype)
    z = x @ w.T
    head = ll.LinearHead(w)
    order = np.argsort(-z, axis=1, kind="stable")
    np.testing.assert_array_equal(head.predict(x), z.argmax(axis=1))
    k = min(n, 40)
    for top in head.topk(x, k), head.topk(x, k, normalize=False), head.score(x, k=k).top:
        np.testing.assert_array_equal(top.index, order[:, :k])
    for t in (0, n // 2, n - 1):
        rank = head.score(x, np.full(50, t)).target_rank
        np.testing.assert_array_equal(rank, (order == t).argmax(axis=1))


def test_topk_of_all_classes(dtype, rng):
    x, w = rng.normal(size=(7, 5)).astype(dtype), rng.normal(size=(300, 5)).astype(dtype)
    head = ll.LinearHead(w)
    top, z = head.topk(x, 300), head.logits(x)
    np.testing.assert_array_equal(np.sort(top.index, axis=1), np.tile(np.arange(300), (7, 1)))
    assert (np.diff(top.logit, axis=1) <= 0).all()
    assert_same(top.logit, np.take_along_axis(z, top.index, 1))
    np.testing.assert_allclose(np.exp(top.log_prob.astype(np.float64)).sum(axis=1), 1, rtol=1e-5)


def test_zeros_of_either_sign_are_equal(dtype):
    z = np.array([[-0.0, 0.0, -0.0]], dtype)
    head = head_of(3, dtype)
    assert head.predict(z).tolist() == [0]
    assert head.topk(z, 3).index.tolist() == [[0, 1, 2]]
    assert head.predict(-z).tolist() == [0]
    # Products too small for the type are zeros of either sign.
    tiny = np.finfo(dtype).smallest_subnormal
    w = np.array([[-tiny], [tiny], [-tiny]], dtype)
    for value, temperature in [(tiny, 1.0), (1, 4.0)]:
        head = ll.LinearHead(w, temperature=temperature)
        x = np.array([[value]], dtype)
        assert head.predict(x).tolist() == [0]
        assert head.topk(x, 3).index.tolist() == [[0, 1, 2]]
        assert head.score(x, np.array([2])).target_rank.tolist() == [2]


def test_denormals_are_not_flushed(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([[tiny, 0, 3 * tiny]], dtype)
    head = head_of(3, dtype)
    assert_same_bits(head.logits(x), x)
    assert head.predict(x).tolist() == [2]
    assert head.topk(x, 3).index.tolist() == [[2, 0, 1]]
    # A probability below the smallest normal number.
    gap = -95.0 if dtype == np.float32 else -735.0
    p = ll.softmax(np.array([[0, gap]], dtype))
    assert 0 < p[0, 1] < np.finfo(dtype).tiny
    assert p[0, 1] == pytest.approx(np.exp(gap), rel=1e-2)


def test_largest_finite_numbers(dtype):
    big = np.finfo(dtype).max
    z = np.array([[big, -big, 0]], dtype)
    assert ll.softmax(z).tolist() == [[1, 0, 0]]
    assert ll.logsumexp(z).tolist() == [big]
    assert ll.cross_entropy(z, np.array([0])).tolist() == [0]
    assert ll.cross_entropy(z, np.array([2])).tolist() == [big]
    assert ll.cross_entropy(z, np.array([1])).tolist() == [INF]  # twice the largest number


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_special_values_in_the_weights_of_one_class(dtype, value):
    w = np.ones((20, 4), dtype)
    w[13, 2] = value
    head = ll.LinearHead(w)
    x = np.ones((3, 4), dtype)
    x[1, 2] = -1
    z = x @ w.T
    np.testing.assert_array_equal(head.logits(x), z)
    assert head.predict(x).tolist() == z.argmax(axis=1).tolist()
    bad = np.isnan(z).any(axis=1) | (z == INF).any(axis=1)
    assert np.isnan(head.loss(x, np.zeros(3, int))).tolist() == bad.tolist()


def test_a_single_class(dtype):
    head = ll.LinearHead(np.ones((1, 3), dtype))
    x = np.arange(6, dtype=dtype).reshape(2, 3)
    assert head.loss(x, np.array([0, 0])).tolist() == [0, 0]
    assert head.predict_proba(x).tolist() == [[1], [1]]
    assert head.logsumexp(x).tolist() == [3, 12]
    assert head.score(x, entropy=True).entropy.tolist() == [0, 0]
    assert head.topk(x, 1).index.tolist() == [[0], [0]]


@pytest.mark.parametrize("options", [
    {"softcap": 3.0}, {"softcap": 0.5, "temperature": 0.25}, {"softcap": 1e4},
], ids=str)
@pytest.mark.parametrize("m", [1, 5, 40])
def test_the_cap_brings_no_class_back(dtype, n, m, options, rng):
    """A class that cannot happen has no part in anything that is capped, either."""
    x, w = rng.normal(size=(m, 6)).astype(dtype), rng.normal(size=(n, 6)).astype(dtype)
    bias = rng.normal(size=n).astype(dtype)
    out = rng.choice(n, n // 2, replace=False)
    bias[out] = -INF
    kept = np.setdiff1d(np.arange(n), out)
    t = rng.integers(0, len(kept), m)
    close = {"rtol": 60 * np.finfo(dtype).eps, "atol": 60 * np.finfo(dtype).eps}
    small = ll.LinearHead(w[kept], bias[kept], **options)
    for pack in (True, False):
        head = ll.LinearHead(w, bias, pack=pack, **options)
        assert (head.logits(x)[:, out] == -INF).all()
        assert (head.predict_proba(x)[:, out] == 0).all()
        np.testing.assert_allclose(head.logsumexp(x), small.logsumexp(x), **close)
        np.testing.assert_allclose(head.loss(x, kept[t]), small.loss(x, t), **close)
        s = head.score(x, kept[t], k=n, entropy=True)
        np.testing.assert_allclose(s.entropy, small.score(x, entropy=True).entropy, **close)
        assert (np.sort(s.top.index[:, len(kept):]) == np.sort(out)).all()
        assert (head.loss(x, np.full(m, out[0])) == INF).all()
        assert np.isin(head.sample(x, 0, size=50), kept).all()
        loss, grad = head.value_and_grad(x, kept[t])
        expected, of_kept = small.value_and_grad(x, t)
        np.testing.assert_allclose(loss, expected, **close)
        np.testing.assert_allclose(grad.x, of_kept.x, **close)
        np.testing.assert_allclose(grad.weight[kept], of_kept.weight, **close)
        assert (grad.weight[out] == 0).all()
        assert (grad.bias[out] == 0).all()


def test_a_screen_sees_the_cap_bring_no_class_back(dtype, rng):
    w, bias = rng.normal(size=(3000, 32)).astype(dtype), np.zeros(3000, dtype)
    bias[::2] = -INF
    x = 50 * rng.normal(size=(40, 32)).astype(dtype)  # many logits are at the cap
    screened = ll.LinearHead(w, bias, softcap=2.0, screen="int8")
    plain = ll.LinearHead(w, bias, softcap=2.0)
    for k in (1, 5, 20):
        a, b = screened.topk(x, k, normalize=False), plain.topk(x, k, normalize=False)
        assert_same(a.index, b.index)
        assert_same(a.logit, b.logit)
        assert (a.index % 2 == 1).all()


@pytest.mark.parametrize("m", [1, 3, 70])
def test_rows_without_a_softmax_are_no_hits(dtype, n, m, rng):
    """Whatever their target is, among it the class that is said to be predicted."""
    w = rng.normal(size=(n, 4)).astype(dtype)
    x = rng.normal(size=(m, 4)).astype(dtype)
    head = ll.LinearHead(w)
    target = head.predict(x)
    assert head.score(x, target).accuracy == 1
    bad = np.arange(0, m, 2)
    for value in (NAN, INF, -INF):
        spoilt = x.copy()
        spoilt[bad] = value
        spoilt[bad, 1:] = 0
        for t in (0, n - 1):
            labels = target.copy()
            labels[bad] = t
            s = head.score(spoilt, labels, k=2)
            assert np.isnan(s.lse[bad]).all()
            assert (s.target_rank[bad] == -1).all()
            assert (np.delete(s.target_rank, bad) == 0).all()
            assert s.accuracy == (m - len(bad)) / m
            assert np.isnan(s.perplexity)
            labels[bad] = -100
            s = head.score(spoilt, labels)
            assert (s.target_rank[bad] == -1).all()
            if m > len(bad):
                assert s.accuracy == 1
                assert np.isfinite(s.perplexity)
