"""Divergences from a teacher of whom a few probabilities are known, all other classes being one."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.divergence import NAMES, pair
from support.memory import MIB, peak_again
from support.oracle import COMPILED, assert_same, assert_same_bits, logits, says

import logitless as ll

BETAS = (0.0, 1.0, 0.5, 0.1)


def teacher_of(rng, m, n, j, pads=True):
    """Classes and probabilities of each row: j of n classes, a few of them none."""
    index = np.stack([rng.permutation(n)[:j] for _ in range(m)]).reshape(m, j)
    prob = rng.dirichlet(np.ones(j + 1), m)[:, :j]
    if pads:
        none = rng.random((m, j)) < 0.2
        index[none], prob[none] = -1, rng.random(none.sum())  # whatever stands there
    return index, prob


def truth(student, index, prob, beta, of_head=None, factor=1.0):
    """The divergence of the distributions of j + 1 classes, and gradients; in long double."""
    x, w, b = (a.astype(np.longdouble) for a in student)
    of_head = of_head or {}
    z = logits(x, w, b, dtype=np.longdouble, **of_head)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    values, slopes = [], np.zeros_like(p)
    for i in range(len(x)):
        named = index[i][index[i] >= 0]
        rest = np.setdiff1d(np.arange(len(w)), named)
        q = prob[i][index[i] >= 0].astype(np.longdouble)
        q, own = np.append(q, 1 - q.sum()), np.append(p[i, named], p[i, rest].sum())
        if not len(rest):
            q, own = q[:-1], own[:-1]
        m = beta * q + (1 - beta) * own if 0 < beta < 1 else own if beta == 0 else q
        forward, reverse = (q * np.log(q / m)).sum(), (own * np.log(own / m)).sum()
        by = -q / own if beta == 0 else np.log(own / m) * (1 if beta == 1 else 1 - beta)
        values.append(forward if beta == 0 else reverse if beta == 1
                      else beta * forward + (1 - beta) * reverse)
        each = np.full(len(w), by[-1])
        each[named] = by[: len(named)]
        slopes[i] = p[i] * (each - (own * by).sum())
    cap, t = of_head.get("softcap"), np.longdouble(of_head.get("temperature", 1.0))
    if cap is not None:
        slopes *= 1 - (np.tanh(logits(x, w, b, dtype=np.longdouble) / cap)) ** 2
    g = slopes / t * (np.asarray(factor) * np.ones(len(x)))[:, None]
    return np.array(values), {"x": g @ w, "weight": g.T @ x, "bias": g.sum(axis=0)}


def close(ours, exact, dtype, what=""):
    allowed = 2000 * np.finfo(dtype).eps * max(np.abs(exact).max(initial=0), 1e-2)
    assert ours.shape == exact.shape, what
    assert np.abs(ours - exact).max(initial=0) <= allowed, what


@given(st.integers(0, 1000), st.integers(1, 20), st.sampled_from([2, 5, 16, 17, 40, 257, 513]),
       st.sampled_from([1, 3, 20]), st.sampled_from(BETAS),
       st.sampled_from([{}, {"softcap": 3.0}, {"softcap": 20.0, "temperature": 2.0}]),
       st.sampled_from([np.float32, np.float64]))
def test_value_and_gradients_by_the_formula(seed, m, n, j, beta, of_head, dtype):
    student, _ = pair(seed, m, n, 6, 1, dtype)
    index, prob = teacher_of(np.random.default_rng(seed), m, n, min(j, n - 1))
    expected, exact = truth(student, index, prob, beta, of_head)
    x, w, b = student
    head = ll.LinearHead(w, b, **of_head)
    close(head.topk_kl_div(x, index, prob, beta=beta), expected, dtype)
    value, grad = head.topk_kl_div_value_and_grad(x, index, prob, beta=beta, reduction="none")
    close(value, expected, dtype)
    for name in NAMES:
        close(getattr(grad, name), exact[name], dtype, name)


@pytest.mark.parametrize("beta", BETAS)
def test_all_classes_but_one_are_all(dtype, beta):
    """Nothing is lumped together then: it is the divergence of two heads."""
    (x, w, b), (y, v, a) = pair(1, 5, 8, 4, 3, dtype)
    student, teacher = ll.LinearHead(w, b), ll.LinearHead(v, a)
    expected = student.kl_div(x, teacher, y, beta=beta)
    prob = teacher.predict_proba(y)
    for named in (7, 8):
        index = np.tile(np.arange(named), (5, 1))
        found = student.topk_kl_div(x, index, prob[:, :named], beta=beta)
        np.testing.assert_allclose(found, expected, rtol=2e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_gradients_where_all_classes_are_there(dtype, beta, n):
    student, _ = pair(5, 4, n, 6, 1, dtype)
    index = np.tile(np.arange(n), (4, 1))
    prob = np.random.default_rng(5).dirichlet(np.ones(n), 4)
    expected, exact = truth(student, index, prob, beta)
    x, w, b = student
    value, grad = ll.linear_topk_kl_div_value_and_grad(
        x, w, index, prob, b, beta=beta, reduction="none")
    close(value, expected, dtype)
    for name in NAMES:
        close(getattr(grad, name), exact[name], dtype, name)


@pytest.mark.parametrize("beta", BETAS)
def test_classes_that_neither_has(dtype, beta):
    x, bias = np.zeros((1, 3), dtype), np.array([0, -np.inf, -np.inf], dtype)
    for index, prob in ([[0]], [[1.0]]), ([[0, 2]], [[1.0, 0.0]]):
        value, grad = ll.linear_topk_kl_div_value_and_grad(
            x, np.eye(3, dtype=dtype), index, prob, bias, beta=beta)
        assert value == 0
        assert not any(getattr(grad, name).any() for name in NAMES)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_rows_without_a_class_that_can_happen_have_no_divergence(dtype, beta, n):
    x, index, prob = np.zeros((2, 3), dtype), np.full((2, 1), -1), np.zeros((2, 1))
    bias = np.full(n, -np.inf, dtype)
    found = ll.linear_topk_kl_div(x, np.ones((n, 3), dtype), index, prob, bias, beta=beta)
    assert np.isnan(found).all()


@pytest.mark.parametrize("gap", [1.0, 10.0, 28.0])
def test_what_is_left_of_sure_rows_keeps_its_digits(dtype, gap):
    x = np.array([[0, -gap, -gap - 1, -gap - 2, -gap - 2.5]], dtype)
    index, prob = np.array([[0, 2]]), np.array([[1 - 2.0**-20, 2.0**-21]])
    found = ll.linear_topk_kl_div(x, np.eye(5, dtype=dtype), index, prob)[0]
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(float(z))) for z in x[0]]
        p = [e[0] / sum(e), e[2] / sum(e), (e[1] + e[3] + e[4]) / sum(e)]
        q = [*map(mpmath.mpf, prob[0]), 1 - mpmath.mpf(prob[0, 0]) - mpmath.mpf(prob[0, 1])]
        exact = sum(b * mpmath.log(b / a) for a, b in zip(p, q, strict=True))
    assert abs(float((found - exact) / exact)) < 100 * (1 + gap) * np.finfo(dtype).eps


def shared(dtype, gap):
    """Two classes share out what there is but for a little that two others have."""
    x = np.array([[0.5, -gap, -gap - 1, 0.25]], dtype)
    return x, np.array([[3, 0]]), np.array([[0.25, 0.5]])


def exact_of_shared(x):
    with mpmath.workdps(50):
        e = [mpmath.exp(mpmath.mpf(float(z))) for z in x[0]]
        p = [z / sum(e) for z in (e[0], e[3], e[1] + e[2])]
        q = [mpmath.mpf(0.5), mpmath.mpf(0.25), mpmath.mpf(0.25)]
        by = [-b / a for a, b in zip(p, q, strict=True)]
        mean = sum(a * b for a, b in zip(p, by, strict=True))
        slopes = [e[c] / sum(e) * (by[b] - mean) for c, b in ((0, 0), (1, 2), (2, 2), (3, 1))]
        return (float(sum(b * mpmath.log(b / a) for a, b in zip(p, q, strict=True))),
                [float(slope) for slope in slopes])


@pytest.mark.parametrize("gap", [3.0, 8.0, 17.0, 30.0, 60.0, 150.0, 900.0, 1e20])
def test_what_is_left_by_classes_that_share_keeps_its_digits(dtype, gap):
    """A difference of sums would have none of them."""
    x, index, prob = shared(dtype, gap)
    exact, slopes = exact_of_shared(x)
    found = ll.linear_topk_kl_div(x, np.eye(4, dtype=dtype), index, prob)[0]
    assert abs(found / exact - 1) < 20 * np.finfo(dtype).eps ** 0.5 / max(1, gap)
    if gap > 20:  # computed again, not as a difference
        assert abs(found / exact - 1) < 20 * np.finfo(dtype).eps
    if gap < 80:  # float32 can say what the probabilities are
        _, grad = ll.linear_topk_kl_div_value_and_grad(x, np.eye(4, dtype=dtype), index, prob)
        np.testing.assert_allclose(grad.x[0], slopes, rtol=20 * np.finfo(dtype).eps ** 0.5,
                                   atol=4 * np.finfo(dtype).eps)


def test_rows_that_are_scored_again_come_in_any_form(dtype, tmp_path):
    """Some of many, sparse, in a file, in strides that no view of rows has, by threads."""
    sparse, h5py = pytest.importorskip("scipy.sparse"), pytest.importorskip("h5py")
    rng = np.random.default_rng(8)
    m, n = 60, 300
    x = np.where(rng.random((m, n)) < 0.1, rng.standard_normal((m, n)), 0)
    sure = rng.random(m) < 0.5
    x[sure, :2] += 45.0  # but for a little, these have all
    x = x.astype(dtype)
    w = np.eye(n, dtype=dtype)
    index, prob = np.tile([0, 1], (m, 1)), np.full((m, 2), 0.375)
    z = x.astype(np.longdouble)
    top, others = np.logaddexp(z[:, 0], z[:, 1]), np.logaddexp.reduce(z[:, 2:], axis=1)
    lse = np.logaddexp(top, others)
    exact = (0.375 * (2 * np.log(0.375) + 2 * lse - z[:, 0] - z[:, 1])
             + 0.25 * (np.log(0.25) + lse - others))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
        forms = [x, x[::-1].copy()[::-1], sparse.csr_array(x), file["x"],
                 np.moveaxis(np.moveaxis(x.reshape(6, 10, n), 0, 1).copy(), 0, 1)]
        for n_threads in (1, 2):
            head = ll.LinearHead(w, n_threads=n_threads)
            found = [head.topk_kl_div(form, *(a.reshape(*form.shape[:-1], 2)
                                              for a in (index, prob))) for form in forms]
            np.testing.assert_allclose(found[0], exact, rtol=400 * np.finfo(dtype).eps)
            value, grad = head.topk_kl_div_value_and_grad(
                x, index, prob, reduction="none", workspace_bytes=1)
            assert_same(value, found[0])
            assert np.isfinite(grad.x).all()
            for other in found:
                assert_same(other.reshape(m), found[0])


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("gap", [5.0, 14.0, 28.0, 60.0])
def test_gradients_of_sure_rows_keep_their_digits(dtype, beta, gap):
    """Where the student thinks little of all other classes, and the teacher does not."""
    x = np.array([[0, -gap, -gap - 1, -gap - 2, -gap - 2.5]], dtype)
    _, grad = ll.linear_topk_kl_div_value_and_grad(
        x, np.eye(5, dtype=dtype), [[0, 2, -1]], [[0.75, 0.125, 0]], beta=beta, wrt="x")
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(z))) for z in x[0]]
        p = [z / sum(e) for z in e]
        own, q = [p[0], p[2], p[1] + p[3] + p[4]], [0.75, 0.125, 0.125]
        m = [beta * b + (1 - beta) * a for a, b in zip(own, q, strict=True)]
        by = ([-b / a for a, b in zip(own, q, strict=True)] if beta == 0 else
              [(1 - beta % 1) * mpmath.log(a / b) for a, b in zip(own, m, strict=True)])
        mean = sum(a * b for a, b in zip(own, by, strict=True))
        exact = [a * (by[c] - mean) for a, c in zip(p, (0, 2, 1, 2, 2), strict=True)]
    for ours, truth in zip(grad.x[0], exact, strict=True):
        allowed = 40 * (1 + gap) * np.finfo(dtype).eps * abs(truth) + 4 * np.finfo(np.float64).eps
        assert abs(float(ours - truth)) < allowed


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_are_finite_where_other_classes_have_nothing_left(dtype, beta):
    for gap in (80, 95, 200, 1e4):
        x = np.array([[0, -gap, -gap - 1, -gap - 2]], dtype)
        _, grad = ll.linear_topk_kl_div_value_and_grad(
            x, np.eye(4, dtype=dtype), [[0, 2]], [[0.75, 0.125]], beta=beta, wrt="x")
        assert np.isfinite(grad.x).all()
        if beta == 0:
            np.testing.assert_allclose(grad.x[0, [0, 2]], [0.25, -0.125], rtol=1e-6)


def test_weights_reductions_and_leading_shapes(dtype):
    student, _ = pair(2, 6, 30, 4, 1, dtype)
    index, prob = teacher_of(np.random.default_rng(2), 6, 30, 3)
    weight = np.array([1, 0, 2, 0.5, 1, 3.0])
    expected, exact = truth(student, index, prob, 0.0, factor=weight / weight.sum())
    x, w, b = student
    x[1] = np.nan
    value, grad = ll.linear_topk_kl_div_value_and_grad(
        x.reshape(2, 3, 4), w, index.reshape(2, 3, 3), prob.reshape(2, 3, 3), b,
        sample_weight=weight.reshape(2, 3))
    assert value == pytest.approx(float((weight * expected).sum() / weight.sum()), rel=1e-4)
    assert grad.x.shape == (2, 3, 4)
    assert not grad.x[0, 1].any()
    keep = weight > 0
    close(grad.x.reshape(6, 4)[keep], exact["x"][keep], dtype)
    close(grad.weight, _without(student, index, prob, weight), dtype)
    each = ll.linear_topk_kl_div(x, w, index, prob, b, sample_weight=weight, out=(
        out := np.empty(6, dtype)))
    assert each is out
    assert each[1] == 0
    assert value == pytest.approx(each.sum() / weight.sum(), rel=1e-5)


def _without(student, index, prob, weight):
    keep = weight > 0
    rows = (student[0][keep], *student[1:])
    return truth(rows, index[keep], prob[keep], 0.0,
                 factor=weight[keep] / weight.sum())[1]["weight"]


def test_no_classes_at_all_and_nothing_at_all(dtype):
    student, _ = pair(3, 4, 9, 3, 1, dtype)
    x, w, b = student
    for j in (0, 2):
        index, prob = np.full((4, j), -1), np.ones((4, j))
        value, grad = ll.linear_topk_kl_div_value_and_grad(x, w, index, prob, b, reduction="none")
        np.testing.assert_allclose(value, 0, atol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(grad.weight, 0, atol=16 * np.finfo(dtype).eps)
    none = ll.linear_topk_kl_div(x[:0], w, np.empty((0, 2), int), np.empty((0, 2)))
    assert none.shape == (0,)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_same_however_it_is_computed(dtype, beta, eager):
    student, _ = pair(4, 500, 900, 6, 1, dtype)
    x, w, b = student
    index, prob = teacher_of(np.random.default_rng(4), 500, 900, 5)
    one = ll.LinearHead(w, b, n_threads=1)
    expected = one.topk_kl_div(x, index, prob, beta=beta)
    _, grad = one.topk_kl_div_value_and_grad(x, index, prob, beta=beta, reduction="none")
    for n_threads in (2, 3):
        for pack in (True, False):
            head = ll.LinearHead(w, b, n_threads=n_threads, pack=pack)
            assert_same(head.topk_kl_div(x, index, prob, beta=beta), expected)
            for workspace in (1, 1 << 22, 1 << 28):
                value, found = head.topk_kl_div_value_and_grad(
                    x, index, prob, beta=beta, reduction="none", workspace_bytes=workspace)
                assert_same(value, expected)
                for name in NAMES:
                    if COMPILED:
                        assert_same_bits(getattr(found, name), getattr(grad, name), name)


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"index": [[1, 9]]}, IndexError, ("index", "[0, 4) or -1, got 9", "row")),
    ({"index": [[1, -2]]}, IndexError, ("index", "[0, 4) or -1, got -2")),
    ({"index": [[1, 1]]}, ValueError, ("index", "once", "1 twice", "row 0")),
    ({"index": [[1.0, 2.0]]}, TypeError, ("index", "integers", "float64")),
    ({"index": [1, 2]}, ValueError, ("index", "(1,) + (j,)", "(2,)")),
    ({"prob": [[0.1]]}, ValueError, ("prob", "(1, 2)", "(1, 1)")),
    ({"prob": [[0.1, -0.2]]}, ValueError, ("prob", "between 0 and 1", "-0.2", "row 0")),
    ({"prob": [[0.1, np.nan]]}, ValueError, ("prob", "nan")),
    ({"prob": [[0.7, 0.7]]}, ValueError, ("prob", "sum up to at most 1", "1.4", "row 0")),
    ({"prob": [["a", "b"]]}, TypeError, ("prob",)),
    ({"beta": -0.5}, ValueError, ("beta", "-0.5")),
    ({"sample_weight": [1.0, 2.0]}, ValueError, ("sample_weight", "(1,)", "(2,)")),
    ({"reduction": "all"}, ValueError, ("reduction", "all")),
    ({"softcap": -1.0}, ValueError, ("softcap", "-1")),
])
def test_errors_say_what_was_expected(change, error, words):
    arguments = {"x": np.ones((1, 3)), "weight": np.ones((4, 3)), "index": [[1, 2]],
                 "prob": [[0.5, 0.25]]} | change
    for function in ll.linear_topk_kl_div, ll.linear_topk_kl_div_value_and_grad:
        with says(error, *words):
            function(**arguments)


@pytest.mark.parametrize("prob", [[0.7, 0.3008], [0.7, 0.2977]], ids=["more", "less"])
def test_probabilities_of_16_bits_may_add_up_to_a_little_more_or_less(dtype, prob):
    x, w, prob = np.zeros((1, 2), dtype), np.eye(2, dtype=dtype), np.array([prob], np.float16)
    assert np.isfinite(ll.linear_topk_kl_div(x, w, [[0, 1]], prob)).all()
    _, grad = ll.linear_topk_kl_div_value_and_grad(x, w, [[0, 1]], prob)
    np.testing.assert_allclose(grad.bias, [-0.2, 0.2], atol=2e-3)


@pytest.mark.skipif(not COMPILED, reason="plain NumPy keeps logits of more rows")
def test_memory():
    """Little more than the checked teacher, some 40 bytes for each of 600,000 probabilities."""
    m, n, j = 300, 4000, 2000
    index = np.argsort(np.random.default_rng(6).random((m, n)), axis=1)[:, :j]
    prob = np.full(index.shape, 0.5 / j)
    head = ll.LinearHead(np.zeros((n, 2), np.float32), n_threads=1)
    x = np.zeros((m, 2), np.float32)
    for call in (lambda: head.topk_kl_div(x, index, prob, beta=0.5),
                 lambda: head.topk_kl_div_value_and_grad(x, index, prob, beta=0.5,
                                                         workspace_bytes=4 << 20)):
        assert peak_again(call) < 32 * MIB
