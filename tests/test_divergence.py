"""Two heads: divergences and their gradients against the formula, their digits, special values."""

from __future__ import annotations

import math
from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.divergence import NAMES, TrueDivergence, kl_div, pair, value_and_grad
from support.layouts import LAYOUTS, as_layout
from support.memory import MIB, peak
from support.oracle import COMPILED, assert_same, assert_same_bits, says

import logitless as ll

BETAS = (0.0, 1.0, 0.5, 0.1)
CLASSES = (1, 2, 3, 8, 15, 16, 17, 33, 255, 256, 257, 511, 512, 513, 1025, 4097)


def close(ours, truth, dtype, what=""):
    """As far apart as rounding of logits may make them, on the scale of the largest."""
    truth = np.asarray(truth, np.float64)
    allowed = 400 * np.finfo(dtype).eps * max(np.abs(truth).max(initial=0), 1e-3)
    assert ours.shape == truth.shape, what
    assert np.abs(ours - truth).max(initial=0) <= allowed, what


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 700)))
    m, k, k_teacher = (draw(st.integers(1, most)) for most in (30, 40, 40))
    return (draw(st.integers(0, 1000)), m, n, k, k_teacher,
            draw(st.sampled_from([np.float32, np.float64])))


@given(problems(), st.sampled_from([*BETAS, 1e-3]), st.sampled_from([None, 2.0, 30.0]),
       st.sampled_from([1.0, 0.5, 3.0]))
def test_value_and_gradients_by_the_formula(problem, beta, cap, temperature):
    student, teacher = pair(*problem)
    dtype = problem[-1]
    heads = {"softcap": cap, "temperature": temperature}, {"softcap": 5.0, "temperature": 2.0}
    truth = TrueDivergence(student, teacher, beta, *heads)
    close(kl_div(student, teacher, *heads, beta=beta), truth.value, dtype)
    value, grad = value_and_grad(student, teacher, *heads, beta=beta, reduction="sum")
    close(value, truth.value.sum(), dtype)
    for name in NAMES:
        close(getattr(grad, name), getattr(truth, name), dtype, name)


@pytest.mark.parametrize("beta", BETAS)
def test_gradients_by_differences(beta):
    """By values alone: whatever the formula."""
    student, teacher = pair(3, 4, 9, 3, 5, np.float64)
    _, grad = value_and_grad(student, teacher, {"softcap": 2.0}, beta=beta, reduction="mean")
    for which, name in enumerate(NAMES):
        found = getattr(grad, name)
        for at in np.ndindex(found.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in student]
                moved[which][at] += step
                sides.append(kl_div(moved, teacher, {"softcap": 2.0}, beta=beta, reduction="mean"))
            assert found[at] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=2e-9)


@pytest.mark.parametrize("beta", BETAS)
def test_functions_are_the_heads(dtype, beta):
    (x, w, b), (y, v, a) = student, teacher = pair(5, 12, 40, 7, 9, dtype)
    options = {"beta": beta, "sample_weight": np.arange(12.0)}
    heads = {"softcap": 4.0, "temperature": 2.0}, {"temperature": 2.0}
    expected = kl_div(student, teacher, *heads, **options)
    ours = ll.linear_kl_div(x, w, y, v, b, a, temperature=2.0, softcap=4.0, **options)
    assert_same_bits(ours, expected)
    heads = {}, {"softcap": 4.0, "temperature": 3.0}
    value, grad = value_and_grad(student, teacher, *heads, **options)
    ours, found = ll.linear_kl_div_value_and_grad(
        x, w, y, v, b, a, teacher_softcap=4.0, teacher_temperature=3.0, **options)
    assert_same_bits(ours, value)
    for name in NAMES:
        assert_same_bits(getattr(found, name), getattr(grad, name))


# Digits


def softmaxes(x, y, beta):
    """Of two lists of logits, and what lies between, in the precision of mpmath."""
    def softmax(z):
        e = [mpmath.exp(mpmath.mpf(float(a))) for a in z]
        return [a / sum(e) for a in e]

    p, q, b = softmax(x), softmax(y), mpmath.mpf(beta)
    return p, q, [b * j + (1 - b) * i for i, j in zip(p, q, strict=True)]


def exactly(x, y, beta):
    """The divergence of the softmaxes of two lists of logits."""
    with mpmath.workdps(60):
        p, q, m = softmaxes(x, y, beta)
        b = mpmath.mpf(beta)
        forward = sum(j * mpmath.log(j / k) for j, k in zip(q, m, strict=True))
        reverse = sum(i * mpmath.log(i / k) for i, k in zip(p, m, strict=True))
        return forward if beta == 0 else reverse if beta == 1 else b * forward + (1 - b) * reverse


@pytest.mark.parametrize("beta", [*BETAS, 1e-6, 1 - 2.0**-30])
@pytest.mark.parametrize("gap", [0.5, 5.0, 20.0, 28.0, 60.0])
@pytest.mark.parametrize("sides", ["both", "one", "opposite"])
def test_rows_that_are_sure_keep_their_digits(dtype, beta, gap, sides):
    """1e-12 comes out as 1e-12: logits are exact here, so that every digit can be asked for."""
    x = np.array([[1000, 1000 - gap, 999.5 - gap, 998.25 - gap]], dtype)
    y = {"both": [[1000, 999 - gap, 998 - gap, 999.5 - gap]], "one": [[1000, 1000, 999, 999]],
         "opposite": [[1000 - gap, 1000, 999, 997]]}[sides]
    y = np.array(y, dtype)
    eye = np.eye(4, dtype=dtype)
    found = ll.linear_kl_div(x, eye, y, eye, beta=beta)[0]
    truth = exactly(x[0], y[0], beta)
    assert abs(float((found - truth) / truth)) < 60 * (1 + gap / 8) * np.finfo(dtype).eps


@pytest.mark.parametrize("beta", BETAS)
def test_heads_that_are_nearly_equal_keep_their_digits(dtype, beta):
    """The sum of p log(p / q) has none left here."""
    step = 2.0**-9 if dtype == np.float32 else 2.0**-24
    y = np.arange(24, dtype=dtype).reshape(2, 12) / 4
    x = y + np.resize([step, -step, 0, 2 * step, 0], 12).astype(dtype)
    eye = np.eye(12, dtype=dtype)
    found = ll.linear_kl_div(x, eye, y, eye, beta=beta)
    for i in range(2):
        truth = exactly(x[i], y[i], beta)
        assert abs(float((found[i] - truth) / truth)) < 40 * np.finfo(dtype).eps / step


@pytest.mark.parametrize("beta", BETAS)
def test_equal_heads_do_not_diverge(dtype, beta):
    student, _ = pair(7, 20, 300, 9, 9, dtype)
    value, grad = value_and_grad(student, student, beta=beta, reduction="none")
    assert not value.any()
    assert not any(getattr(grad, name).any() for name in NAMES)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.1])
def test_gradients_of_heads_that_are_nearly_equal_keep_their_digits(dtype, beta):
    """What the norms are off by is the same for all classes: it cancels."""
    step = 2.0**-9 if dtype == np.float32 else 2.0**-24
    y = np.arange(12, dtype=dtype)[None] / 4
    x = y + np.resize([step, -step, 0, 2 * step, 0], 12).astype(dtype)
    eye = np.eye(12, dtype=dtype)
    _, grad = ll.linear_kl_div_value_and_grad(x, eye, y, eye, beta=beta, wrt="x")
    with mpmath.workdps(60):
        p, _, m = softmaxes(x[0], y[0], beta)
        lean = [i * mpmath.log(i / k) for i, k in zip(p, m, strict=True)]
        exact = [a - i * sum(lean) for a, i in zip(lean, p, strict=True)]
        exact = np.array([float(g * (1 if beta == 1 else 1 - beta)) for g in exact])
    assert np.abs(grad.x[0] - exact).max() < 4 * np.finfo(dtype).eps * step


@pytest.mark.parametrize("beta", BETAS)
def test_an_offset_that_all_logits_of_a_head_share_changes_nothing(dtype, beta):
    """Those that have one are exact with it and without, the others have more digits."""
    rng = np.random.default_rng(20)
    x, y = rng.integers(-40, 40, (9, 600)).astype(dtype) / 16, rng.standard_normal((9, 600), dtype)
    eye = np.eye(600, dtype=dtype)
    for offset in (4096, -4096):
        for ours, other, moved, beside in ((x, y, x + offset, y), (y, x, y, x + offset)):
            expected, grad = ll.linear_kl_div_value_and_grad(
                ours, eye, other, eye, beta=beta, wrt="x")
            value, found = ll.linear_kl_div_value_and_grad(
                moved, eye, beside, eye, beta=beta, wrt="x")
            assert_same(value, expected)
            assert_same(found.x, grad.x)


def test_no_divergence_is_negative(dtype):
    student, teacher = pair(8, 200, 50, 4, 4, dtype, scale=1e-3)
    for beta in BETAS:
        assert (kl_div(student, teacher, beta=beta) >= 0).all()


# Special values


def of_logits(z, y, **options):
    z, y = (np.asarray([a], np.float64) for a in (z, y))
    eye = np.eye(z.shape[1])
    with np.errstate(invalid="ignore"):  # inf * 0 in products with the identity
        bias, other = z[0], y[0]
    row = np.zeros((1, z.shape[1]))
    return ll.linear_kl_div_value_and_grad(row, eye, row, eye, bias, other, **options)


INF = math.inf


@pytest.mark.parametrize(("z", "y", "values"), [
    ([0.0, 0, -INF], [0, 0, -INF], (0, 0, 0)),
    ([0.0, 0, -INF], [0, 0, 0], (INF, math.log(1.5), None)),
    ([0.0, 0, 0], [0, 0, -INF], (math.log(1.5), INF, None)),
    ([0.0, -INF], [-INF, 0.0], (INF, INF, math.log(2))),
    ([math.nan, 0], [0, 0], (math.nan,) * 3),
    ([0, 0], [INF, 0], (math.nan,) * 3),
    ([-INF, -INF], [0, 0], (math.nan,) * 3),
])
def test_classes_that_cannot_happen(z, y, values):
    for beta, value in zip((0.0, 1.0, 0.5), values, strict=True):
        found, grad = of_logits(z, y, beta=beta, reduction="sum")
        if value is None:
            p, q = (np.exp(np.array(a)) / np.exp(np.array(a)).sum() for a in (z, y))
            m = (p + q) / 2
            with np.errstate(all="ignore"):
                value = sum(np.where(a > 0, a * np.log(a / m), 0).sum() for a in (p, q)) / 2
            assert np.isfinite(grad.bias).all()
        np.testing.assert_allclose(found, value, rtol=1e-14)


def test_a_bad_row_leaves_the_others_alone(dtype):
    student, teacher = pair(9, 7, 600, 5, 4, dtype)
    good = kl_div(student, teacher)
    student[0][3, 0], teacher[0][5, 1] = np.nan, np.inf
    found = kl_div(student, teacher)
    assert np.isnan(found[[3, 5]]).all()
    keep = [0, 1, 2, 4, 6]
    assert_same_bits(found[keep], good[keep])


@pytest.mark.parametrize("beta", BETAS)
def test_rows_of_no_weight_add_nothing_whatever_they_hold(dtype, beta):
    student, teacher = pair(10, 9, 70, 5, 4, dtype)
    weight = np.array([1, 2, 0, 1, 0.5, 0, 1, -1, 3.0])
    truth = TrueDivergence(student, teacher, beta, factor=weight)
    student[0][2], teacher[0][5] = np.nan, np.inf
    value, grad = value_and_grad(student, teacher, beta=beta, reduction="none",
                                 sample_weight=weight)
    close(value, np.where(weight == 0, 0, weight * truth.value), dtype)
    for name in NAMES:
        close(getattr(grad, name), getattr(truth, name), dtype, name)


# Reductions, shapes, layouts


def test_reductions(dtype):
    student, teacher = pair(11, 6, 20, 5, 4, dtype)
    each = kl_div(student, teacher).astype(np.float64)
    weight = np.array([1, 2, 0, 1, 3, 1.0])
    for reduction, expected, of_weights in (
            ("sum", each.sum(), (each * weight).sum()),
            ("mean", each.mean(), (each * weight).sum() / 8),
            ("batch_mean", each.mean(), (each * weight).sum() / 6)):
        for options, value in ({}, expected), ({"sample_weight": weight}, of_weights):
            options |= {"reduction": reduction}
            assert kl_div(student, teacher, **options) == pytest.approx(value, rel=1e-6)
            found, grad = value_and_grad(student, teacher, **options)
            assert found == pytest.approx(value, rel=1e-6)
            _, twice = value_and_grad(student, teacher, grad_output=2.0, **options)
            np.testing.assert_allclose(twice.weight, 2 * grad.weight, rtol=1e-5)
    with pytest.warns(RuntimeWarning, match="mean"):
        assert np.isnan(kl_div(student, teacher, reduction="mean", sample_weight=weight * 0))


def test_leading_shapes_and_out(dtype):
    student, teacher = pair(12, 12, 20, 5, 4, dtype)
    flat, grad = value_and_grad(student, teacher, reduction="none")
    x, y = student[0].reshape(2, 3, 2, 5), teacher[0].reshape(2, 3, 2, 4)
    value, deep = value_and_grad((x, *student[1:]), (y, *teacher[1:]), reduction="none")
    assert_same_bits(value, flat.reshape(2, 3, 2))
    assert_same_bits(deep.x, grad.x.reshape(x.shape))
    out = np.full((2, 3, 2), np.nan, dtype)
    assert kl_div((x, *student[1:]), (y, *teacher[1:]), out=out) is out
    assert_same_bits(out, value)
    into = ll.Gradients(*(np.ones_like(a) for a in (deep.x, deep.weight, deep.bias)))
    value_and_grad((x, *student[1:]), (y, *teacher[1:]), reduction="none", out=into,
                   accumulate=True)
    np.testing.assert_allclose(into.weight, 1 + deep.weight, rtol=1e-5)
    np.testing.assert_allclose(into.x, 1 + deep.x, rtol=1e-5)


def test_nothing_at_all(dtype):
    student, teacher = pair(13, 0, 20, 5, 4, dtype)
    value, grad = value_and_grad(student, teacher, reduction="sum")
    assert value == 0
    assert grad.x.shape == (0, 5)
    assert not grad.weight.any()
    student, teacher = pair(13, 4, 20, 0, 0, dtype)
    truth = TrueDivergence(student, teacher, 0)
    close(kl_div(student, teacher), truth.value, dtype)
    close(value_and_grad(student, teacher, reduction="sum")[1].bias, truth.bias, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(dtype, layout):
    student, teacher = pair(14, 30, 600, 20, 9, dtype)
    expected, grad = value_and_grad(student, teacher, reduction="none")
    there = [tuple(as_layout(a, layout) for a in head) for head in (student, teacher)]
    value, found = value_and_grad(*there, reduction="none")
    assert_same(value, expected)
    for name in NAMES:
        assert_same(getattr(found, name), getattr(grad, name), name)


def test_precisions_meet_in_the_wider():
    student, teacher = pair(15, 5, 30, 8, 8, np.float32)
    wide = tuple(a.astype(np.float64) for a in teacher)
    value, grad = value_and_grad(student, wide, reduction="none")
    assert value.dtype == grad.x.dtype == grad.weight.dtype == np.float64
    close(value, TrueDivergence(student, wide, 0).value, np.float64)
    narrow = tuple(a.astype(np.float16) for a in teacher)
    assert_same(kl_div(student, narrow),
                kl_div(student, tuple(a.astype(np.float32) for a in narrow)))


# However it is computed


@pytest.mark.compiled_only
@pytest.mark.parametrize("beta", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("shape", [(500, 1300, 6, 9), (700, 12, 9, 5), (13, 5000, 40, 300)])
def test_same_bits_of_threads_workspace_and_packing(dtype, beta, shape, eager):
    student, teacher = pair(16, *shape, dtype)
    options = {"beta": beta, "reduction": "none"}
    expected, grad = value_and_grad(student, teacher, {"n_threads": 1}, **options)
    for n_threads in (1, 2, 3):
        for pack in (False, True):
            of_student = {"n_threads": n_threads}
            assert_same_bits(kl_div(student, teacher, of_student, pack=pack, beta=beta), expected)
            for workspace in (1, 1 << 20, 5 << 20, 1 << 30):
                value, found = value_and_grad(student, teacher, of_student, pack=pack,
                                              workspace_bytes=workspace, **options)
                assert_same_bits(value, expected)
                for name in NAMES:
                    assert_same_bits(getattr(found, name), getattr(grad, name), name)


@pytest.mark.compiled_only
def test_a_row_alone_has_the_bits_it_has_in_a_batch(dtype):
    student, teacher = pair(17, 50, 700, 20, 9, dtype)
    expected = kl_div(student, teacher, beta=0.4)
    for i in (0, 7, 49):
        one, other = ((h[0][i : i + 1], *h[1:]) for h in (student, teacher))
        assert_same_bits(kl_div(one, other, beta=0.4), expected[i : i + 1])


@pytest.mark.compiled_only
def test_logits_that_do_not_fit_are_made_again(dtype, monkeypatch):
    from logitless._calls import divergence

    student, teacher = pair(18, 40, 3000, 20, 9, dtype)
    expected = kl_div(student, teacher, beta=0.4)
    monkeypatch.setattr(divergence, "WORKSPACE_BYTES", 1 << 17)
    assert_same_bits(kl_div(student, teacher, beta=0.4), expected)


@pytest.mark.slow
@pytest.mark.parametrize("m", [16, 600])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_memory(m, n_threads):
    """Logits of a few rows, whatever the number of rows and classes."""
    for n in (2_000, 60_000, 300_000)[: 3 if COMPILED else 2]:
        heads = pair(19, m if n < 10**5 else 16, n, 8, 4, np.float32)
        call = partial(kl_div, *heads, {"n_threads": n_threads})
        assert peak(call) < (72 + 8 * n_threads) * MIB
        out = ll.Gradients(*(np.empty_like(a) for a in heads[0]))
        for workspace in (8 * MIB, 128 * MIB):
            call = partial(value_and_grad, *heads, {"n_threads": n_threads}, out=out,
                           workspace_bytes=workspace)
            assert peak(call) < workspace + (16 + 8 * n_threads) * MIB, (n, workspace)


# What does not fit


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"beta": 1.5}, ValueError, ("beta", "between", "1.5")),
    ({"beta": 1e-40}, ValueError, ("beta", "1e-30", "1e-40")),
    ({"beta": math.nan}, ValueError, ("beta", "nan")),
    ({"beta": "0"}, TypeError, ("beta", "number", "str")),
    ({"beta": True}, TypeError, ("beta", "number", "bool")),
    ({"reduction": "max"}, ValueError, ("reduction", "max")),
    ({"sample_weight": np.ones(3)}, ValueError, ("sample_weight", "(4,)", "(3,)")),
    ({"sample_weight": np.array([1, np.inf, 1, 1])}, ValueError, ("sample_weight", "row 1")),
    ({"temperature": 0.0}, ValueError, ("temperature", "0")),
    ({"teacher_temperature": -1.0}, ValueError, ("`teacher_temperature`", "-1")),
    ({"teacher_temperature": [1.0]}, TypeError, ("`teacher_temperature`", "number", "list")),
    ({"teacher_softcap": 0.0}, ValueError, ("`teacher_softcap`", "0")),
    ({"teacher_softcap": 1e300, "teacher_temperature": 1e-300}, ValueError,
     ("`teacher_softcap / teacher_temperature`",)),
    ({"teacher_bias": np.ones(5)}, ValueError,
     ("`teacher_bias`", "(teacher_weight.shape[0],)", "5")),
    ({"teacher_bias": np.ones(6, complex)}, TypeError, ("`teacher_bias`", "complex")),
    ({"teacher_weight": np.ones(6)}, ValueError, ("`teacher_weight`", "(6,)")),
    ({"teacher_weight": np.ones((6, 2), complex)}, TypeError, ("`teacher_weight`", "complex")),
    ({"bias": np.ones(5)}, ValueError, ("`bias`", "(weight.shape[0],)", "5")),
    ({"teacher_x": np.ones((3, 2))}, ValueError, ("teacher_x", "(4,)", "(3, 2)")),
    ({"teacher_x": np.ones((4, 5))}, ValueError, ("teacher_weight.shape[1]", "5", "2")),
    ({"teacher_weight": np.ones((7, 2))}, ValueError, ("`teacher_weight`", "classes", "6", "7")),
    ({"x": np.ones((4, 5))}, ValueError, ("weight.shape[1]", "5", "3")),
    ({"teacher_x": np.ones((4, 2), complex)}, TypeError, ("teacher_x", "complex")),
])
def test_errors_say_what_was_expected(change, error, words):
    arguments = {"x": np.ones((4, 3)), "weight": np.ones((6, 3)), "teacher_x": np.ones((4, 2)),
                 "teacher_weight": np.ones((6, 2))} | change
    for function in ll.linear_kl_div, ll.linear_kl_div_value_and_grad:
        with says(error, *words):
            function(**arguments)


def test_errors_of_heads():
    head = ll.LinearHead(np.ones((6, 3)))
    with says(ValueError, "`teacher`", "classes", "6", "2"):
        head.kl_div(np.ones((4, 3)), ll.LinearHead(np.ones((2, 3))), np.ones((4, 3)))
    with says(TypeError, "teacher", "LinearHead", "ndarray"):
        head.kl_div(np.ones((4, 3)), np.ones((6, 3)), np.ones((4, 3)))
    out = np.full(4, 7.0, np.float32)
    with says(TypeError, "out", "float64", "float32"):
        head.kl_div(np.ones((4, 3)), head, np.ones((4, 3)), out=out)
    assert (out == 7).all()
    x = np.ones((4, 3))
    with says(ValueError, "overlap"):
        head.kl_div_value_and_grad(x, head, x, wrt="x", out=ll.Gradients(x=x))
    with says(ValueError, "workspace_bytes", "0"):
        head.kl_div_value_and_grad(x, head, x, workspace_bytes=0)
    with says(ValueError, "grad_output", "()", "(4,)"):
        head.kl_div_value_and_grad(x, head, x, grad_output=np.ones(4))
