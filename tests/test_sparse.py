"""Class probabilities as SciPy's sparse arrays and matrices: the same as the dense ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.losses import CLASSES, OPTIONS, with_weights
from support.oracle import assert_same, assert_same_bits, says

import logitless as ll

sparse = pytest.importorskip("scipy.sparse")

NAMES = ("x", "weight", "bias")
FORMATS = ["csr", "csc", "coo", "dok", "lil", "bsr"]
KINDS = [f"{form}_{kind}" for form in FORMATS for kind in ("array", "matrix")]


def as_sparse(dense, kind):
    return getattr(sparse, kind)(dense)


def few_classes(rng, m, n, dtype, most=4):
    """Rows of up to `most` classes, some of none; every third one-hot."""
    t = np.zeros((m, n), dtype)
    for i in range(m):
        classes = rng.choice(n, min(n, rng.integers(0, most + 1)), replace=False)
        t[i, classes] = rng.random(len(classes))
    one_hot = np.arange(0, m, 3)
    t[one_hot] = 0
    t[one_hot, rng.integers(0, n, len(one_hot))] = 1
    return t


def problem(rng, m, n, k, dtype):
    x, w = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((n, k)).astype(dtype)
    return x, w, rng.standard_normal(n).astype(dtype), few_classes(rng, m, n, dtype)


def everything(inputs, target, options, of_head=None):
    """All that takes class probabilities, by name."""
    x, w, bias = inputs
    head = ll.LinearHead(w, bias, **(of_head or {}))
    z = head.logits(x)
    loss, grad = head.value_and_grad(x, target, reduction="sum", **options)
    out = {
        "loss": head.loss(x, target, **options),
        "mean": head.loss(x, target, reduction="mean", **options),
        "score": head.score(x, target, **options).loss,
        "linear_cross_entropy": ll.linear_cross_entropy(
            x, w, target, bias, **((of_head or {}) | options)),
        "cross_entropy": ll.cross_entropy(z, target, **options),
        "nll": ll.nll(ll.softmax(z), target),
        "value": loss,
    }
    return out | {f"grad.{name}": getattr(grad, name) for name in NAMES}


def assert_all_same(a, b, what=""):
    for name in a:
        assert_same(a[name], b[name], f"{what} {name}")


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from([c for c in CLASSES if c > 1]), st.integers(1, 300)))
    m = draw(st.one_of(st.sampled_from([1, 11, 12, 13, 24, 25, 49]), st.integers(1, 20)))
    m = max(1, min(m, 100_000 // n))
    k = draw(st.integers(1, 20))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    *inputs, t = problem(rng, m, n, k, dtype)
    if draw(st.booleans()):
        t[::2] = rng.random(t[::2].shape)  # rows without a zero
    options = with_weights(OPTIONS[draw(st.sampled_from([*OPTIONS]))], m, n, dtype)
    of_head = draw(st.sampled_from([{}, {"softcap": 3.0}, {"temperature": 0.5}]))
    return inputs, t, draw(st.sampled_from([{}, options])), of_head


@given(problems(), st.sampled_from(KINDS))
def test_as_the_dense(case, kind):
    inputs, t, options, of_head = case
    dense = everything(inputs, t, options, of_head)
    assert_all_same(dense, everything(inputs, as_sparse(t, kind), options, of_head), kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_formats(kind, rng, dtype):
    *inputs, t = problem(rng, 14, 40, 7, dtype)
    for name in OPTIONS:
        options = with_weights(OPTIONS[name], 14, 40, dtype)
        dense = everything(inputs, t, options)
        assert_all_same(dense, everything(inputs, as_sparse(t, kind), options), name)


def messy(t, rng):
    """The same matrix with entries in any order, some in parts, and zeros that are stored."""
    row, column = np.nonzero(t)
    value = t[row, column]
    zero_row, zero_column = np.nonzero(t == 0)
    some = rng.choice(len(zero_row), min(30, len(zero_row)), replace=False)
    row = np.concatenate([row, row, zero_row[some]])
    column = np.concatenate([column, column, zero_column[some]])
    # A power of two and its complement: the parts add up to the whole in any order.
    value = np.concatenate([value / 4, value - value / 4, np.zeros(len(some), value.dtype)])
    order = rng.permutation(len(row))
    row, column, value = row[order], column[order], value[order]
    order = np.argsort(row, kind="stable")
    start = np.searchsorted(row[order], np.arange(len(t) + 1))
    return sparse.csr_array((value[order], column[order], start), shape=t.shape)


def test_duplicates_disorder_and_stored_zeros(rng, dtype):
    *inputs, t = problem(rng, 14, 40, 7, dtype)
    t = np.round(t * 64).astype(dtype) / 64
    messy_t = messy(t, rng)
    assert not messy_t.has_canonical_format
    assert messy_t.nnz > np.count_nonzero(t)
    for name in OPTIONS:
        options = with_weights(OPTIONS[name], 14, 40, dtype)
        dense = everything(inputs, t, options)
        assert_all_same(dense, everything(inputs, messy_t, options), name)
    coo = sparse.coo_array(([0.25, 0.75, 1.0], ([0, 0, 1], [3, 3, 5])), shape=(2, 40))
    x = inputs[0][:2]
    assert_same(ll.LinearHead(inputs[1]).loss(x, coo), ll.LinearHead(inputs[1]).loss(x, [3, 5]))


def test_sorted_but_twice(rng, dtype):
    """In order, so that only the neighbours are equal."""
    t = sparse.csr_array(([0.5, 0.5, 1.0], [2, 2, 1], [0, 2, 3]), shape=(2, 4))
    z = rng.standard_normal((2, 4)).astype(dtype)
    assert_same(ll.cross_entropy(z, t), ll.cross_entropy(z, [2, 1]))


@pytest.mark.parametrize("kind", [
    bool, np.int8, np.uint8, np.int16, np.int64, np.uint64, np.float32, np.float64
])
def test_types(kind, rng, dtype):
    """Whole numbers are masses here, as there is nothing else they could be."""
    x, w, bias, _ = problem(rng, 9, 30, 5, dtype)
    t = rng.integers(0, 2, (9, 30)) * rng.integers(0, 4, (9, 30))
    t = t.astype(bool) if kind is bool else t
    dense = everything((x, w, bias), t.astype(dtype), {})
    assert_all_same(dense, everything((x, w, bias), sparse.csr_array(t.astype(kind)), {}))


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_index_types(index_type, rng, dtype):
    *inputs, t = problem(rng, 9, 30, 5, dtype)
    csr = sparse.csr_array(t)
    csr.indices, csr.indptr = csr.indices.astype(index_type), csr.indptr.astype(index_type)
    assert_all_same(everything(inputs, t, {}), everything(inputs, csr, {}))


def test_other_precisions_are_rounded(rng):
    """float64 masses in a float32 computation, and the other way round."""
    x, w, bias, _ = problem(rng, 9, 30, 5, np.float32)
    t = rng.random((9, 30)) * (rng.random((9, 30)) < 0.2)
    t[0] = 0
    t[0, 3] = 1 - 2.0**-40  # 1 in float32: one-hot
    dense = everything((x, w, bias), t, {})
    ours = everything((x, w, bias), sparse.csr_array(t), {})
    assert_all_same(dense, ours)
    assert_same_bits(ours["loss"][:1], ll.LinearHead(w, bias).loss(x, [3] * 9)[:1])


# One-hot rows and empty ones


def test_one_hot_rows_are_indices(rng, dtype):
    x, w, bias, _ = problem(rng, 13, 30, 5, dtype)
    index = rng.integers(0, 30, 13)
    one_hot = sparse.csr_array((np.ones(13), (np.arange(13), index)), shape=(13, 30))
    head = ll.LinearHead(w, bias)
    for name in OPTIONS:
        options = with_weights(OPTIONS[name], 13, 30, dtype)
        loss = head.loss(x, index, **options)
        assert_same_bits(head.loss(x, one_hot, **options), loss)
        _, grad = head.value_and_grad(x, index, reduction="sum", **options)
        _, ours = head.value_and_grad(x, one_hot, reduction="sum", **options)
        for which in NAMES:
            assert_same_bits(getattr(ours, which), getattr(grad, which))
    score = head.score(x, one_hot)
    assert_same_bits(score.target_rank, head.score(x, index).target_rank)
    assert score.accuracy == head.score(x, index).accuracy
    # The same where other rows are not one-hot, or have stored zeros.
    mixed = sparse.lil_array(one_hot)
    mixed[4, (index[4] + 1) % 30] = 0.5
    mixed = sparse.csr_array(mixed)
    stored = sparse.csr_array(
        (np.append(mixed.data, 0.0), np.append(mixed.indices, (index[12] + 1) % 30),
         np.append(mixed.indptr[:-1], mixed.indptr[-1] + 1)), shape=(13, 30))
    assert stored.nnz == mixed.nnz + 1
    loss, others = head.loss(x, index), np.arange(13) != 4
    for t in mixed, stored:
        assert_same_bits(head.loss(x, t)[others], loss[others])
    assert head.score(x, mixed).target_rank is None


def test_stored_zeros_do_not_hide_one_hot_rows(dtype):
    t = sparse.csr_array(([0.0, 1.0, 1.0, 0.0], [0, 2, 1, 2], [0, 2, 4]), shape=(2, 3))
    score = ll.LinearHead(np.eye(3, dtype=dtype)).score(np.zeros((2, 3), dtype), t)
    assert score.target_rank.tolist() == [2, 1]


def test_rows_without_mass(rng, dtype):
    x, w, bias, _ = problem(rng, 3, 30, 5, dtype)
    t = sparse.csr_array((3, 30))
    head = ll.LinearHead(w, bias)
    assert head.loss(x, t).tolist() == [0, 0, 0]
    _, grad = head.value_and_grad(x, t)
    for name in NAMES:
        assert not getattr(grad, name).any()
    assert_same(head.loss(x, t, z_loss=0.5), head.loss(x, np.zeros((3, 30)), z_loss=0.5))
    ours = head.loss(x, t, label_smoothing=0.25)
    assert_same(ours, head.loss(x, np.zeros((3, 30)), label_smoothing=0.25))
    assert (ours > 0).all()


def test_no_rows(dtype):
    head = ll.LinearHead(np.eye(3, dtype=dtype))
    assert head.loss(np.zeros((0, 3), dtype), sparse.csr_array((0, 3))).shape == (0,)


def test_impossible_classes(dtype):
    """What has no mass costs nothing, whatever its logit."""
    head = ll.LinearHead(np.eye(3, dtype=dtype), np.array([0, -np.inf, 0], dtype))
    x = np.zeros((3, 3), dtype)
    t = sparse.csr_array(np.array([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 1, 0]]))
    assert head.loss(x, t).tolist() == [pytest.approx(np.log(2)), np.inf, np.inf]
    assert_same(head.loss(x, t, class_weight=[1, 0, 1]), head.loss(
        x, t.toarray(), class_weight=[1, 0, 1]))
    stored = sparse.csr_array(([0.5, 0.0, 0.5], [0, 1, 2], [0, 3]), shape=(1, 3))
    assert head.loss(x[:1], stored) == pytest.approx(np.log(2))


def test_rows_of_weight_zero(rng, dtype):
    x, w, bias, t = problem(rng, 6, 30, 5, dtype)
    x[2] = np.nan
    s = np.array([1, 2, 0, 1, 1, 1.0])
    head, csr = ll.LinearHead(w, bias), sparse.csr_array(t)
    loss = head.loss(x, csr, sample_weight=s)
    assert loss[2] == 0
    assert np.isfinite(loss).all()
    _, grad = head.value_and_grad(x, csr, sample_weight=s)
    assert all(np.isfinite(getattr(grad, name)).all() for name in NAMES)
    assert not grad.x[2].any()


# Rows and leading shapes


def test_large_and_in_blocks(rng):
    """Many rows, many classes, few of them with mass: beyond any block."""
    m, n, k = 1100, 5000, 3
    x, w = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((n, k))
    w = w.astype(np.float32)
    row, column = np.repeat(np.arange(m), 5), rng.integers(0, n, 5 * m)
    csr = sparse.csr_array((rng.random(5 * m).astype(np.float32), (row, column)), shape=(m, n))
    head = ll.LinearHead(w)
    z = head.logits(x).astype(np.float64)
    lse = ll.logsumexp(z)
    csr.sum_duplicates()
    mass = csr.sum(axis=1)
    truth = mass * lse - (csr * z).sum(axis=1)
    np.testing.assert_allclose(head.loss(x, csr), truth, rtol=2e-6)
    _, grad = head.value_and_grad(x, csr, reduction="sum")
    g = (np.asarray(mass)[:, None] * np.exp(z - lse[:, None])) - csr.toarray()
    np.testing.assert_allclose(grad.x, g @ w.astype(np.float64), rtol=0, atol=2e-5)
    np.testing.assert_allclose(grad.bias, g.sum(axis=0), rtol=0, atol=2e-4)


def test_rows_of_a_leading_shape_in_order(rng, dtype):
    *inputs, t = problem(rng, 12, 30, 5, dtype)
    x, w, bias = inputs
    head, csr = ll.LinearHead(w, bias), sparse.csr_array(t)
    ours = head.loss(x.reshape(3, 4, 5), csr)
    assert ours.shape == (3, 4)
    assert_same(ours.ravel(), head.loss(x, csr))
    one = head.loss(x[5], csr[[5]])
    assert one.shape == ()
    assert_same(np.asarray(one), head.loss(x[5:6], t[5:6])[0])


@pytest.mark.parametrize("kind", ["csr_array", "coo_array", "csc_matrix"])
def test_shift(kind, rng, dtype):
    *inputs, t = problem(rng, 12, 30, 5, dtype)
    x, w, bias = inputs
    head = ll.LinearHead(w, bias)
    assert_same(head.loss(x, as_sparse(t, kind), shift=2), head.loss(x, t, shift=2))
    _, ours = head.value_and_grad(x, as_sparse(t, kind), shift=2)
    _, grad = head.value_and_grad(x, t, shift=2)
    for name in NAMES:
        assert_same(getattr(ours, name), getattr(grad, name))


def test_nll_of_zero_probabilities(dtype):
    p = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], dtype)
    t = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    assert_same(ll.nll(p, sparse.csr_array(t)), ll.nll(p, t))
    assert ll.nll(p, sparse.csr_array(t)).tolist() == [pytest.approx(np.log(2)), np.inf]
    assert_same(
        ll.nll(p, sparse.csr_array(t[:1].repeat(2, 0)), reduction="mean"),
        ll.nll(p, t[:1].repeat(2, 0), reduction="mean"))


# What must not happen


@pytest.mark.parametrize("kind", ["csr_array", "csc_array", "coo_array", "dok_array"])
def test_inputs_are_left_alone(kind, rng, dtype):
    *inputs, t = problem(rng, 12, 30, 5, dtype)
    target = as_sparse(t, kind)
    before = target.copy()
    everything(inputs, target, with_weights(OPTIONS["all"], 12, 30, dtype))
    assert type(target) is type(before)
    assert (target != before).nnz == 0
    target = messy(t, rng)
    parts = [a.copy() for a in (target.data, target.indices, target.indptr)]
    everything(inputs, target, {})
    for a, b in zip((target.data, target.indices, target.indptr), parts, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("shape", [(5, 30), (7, 30), (6, 29), (6, 31), (30, 6)])
def test_another_shape(shape, rng):
    x, w, bias, _ = problem(rng, 6, 30, 5, np.float64)
    head, t = ll.LinearHead(w, bias), sparse.csr_array(shape)
    for call in (
        lambda: head.loss(x, t),
        lambda: head.score(x, t),
        lambda: head.value_and_grad(x, t),
        lambda: ll.cross_entropy(head.logits(x), t),
        lambda: ll.nll(head.predict_proba(x), t),
    ):
        with says(ValueError, "target", (6, 30), shape):
            call()


def test_another_shape_and_shift(rng):
    x, w, bias, _ = problem(rng, 6, 30, 5, np.float64)
    head = ll.LinearHead(w, bias)
    with says(ValueError, "target", (5, 30)):
        head.loss(x, sparse.csr_array((5, 30)), shift=1)
    with says(ValueError, "target", 6, (5, 30)):
        head.loss(x.reshape(2, 3, 5), sparse.csr_array((5, 30)), shift=1)


@pytest.mark.parametrize("shift", [1, 3])
def test_shift_of_several_sequences(shift, rng):
    x, w, bias, _ = problem(rng, 6, 30, 5, np.float64)
    x, head = x.reshape(2, 3, 5), ll.LinearHead(w, bias)
    t = rng.random((6, 30)) * (rng.random((6, 30)) < 0.2)
    options = {"shift": shift, "reduction": "sum"}
    ours = head.value_and_grad(x, sparse.csr_array(t), **options)
    theirs = head.value_and_grad(x, t.reshape(2, 3, 30), **options)
    assert_same_bits(ours[0], theirs[0])
    for name in ("x", "weight", "bias"):
        assert_same_bits(getattr(ours[1], name), getattr(theirs[1], name))


@pytest.mark.parametrize("bad", [-0.25, np.nan, np.inf, -np.inf])
def test_masses_are_finite_and_not_negative(bad, rng):
    x, w, bias, _ = problem(rng, 6, 30, 5, np.float64)
    t = np.zeros((6, 30))
    t[1, 2] = 0.5
    t[3, 7] = bad
    t[5, 0] = np.nan
    head = ll.LinearHead(w, bias)
    for kind in "csr_array", "csc_matrix", "coo_array":
        target = as_sparse(t, kind)
        for call in (
            lambda target: head.loss(x, target),
            lambda target: head.score(x, target),
            lambda target: head.value_and_grad(x, target),
            lambda target: ll.cross_entropy(head.logits(x), target),
            lambda target: ll.nll(head.predict_proba(x), target),
        ):
            with says(ValueError, "target", "row 3", 7, bad):
                call(target)


def test_too_large_for_the_precision(rng):
    x, w, bias, _ = problem(rng, 2, 30, 5, np.float32)
    t = sparse.csr_array(([1e300], [3], [0, 1, 1]), shape=(2, 30))
    with says(ValueError, "target", "float32", "row 0"):
        ll.LinearHead(w, bias).loss(x, t)


@pytest.mark.parametrize("kind", [np.complex128, np.longdouble])
def test_types_that_cannot_be_used(kind, rng):
    if np.dtype(kind) == np.float64:
        pytest.skip("long double is float64 here")
    x, w, bias, _ = problem(rng, 2, 30, 5, np.float64)
    with says(TypeError, "target", np.dtype(kind)):
        ll.LinearHead(w, bias).loss(x, sparse.csr_array((2, 30), dtype=kind))


def test_inputs_that_must_be_dense_say_so(rng):
    x, w, bias, _ = problem(rng, 6, 30, 5, np.float64)
    head = ll.LinearHead(w, bias)
    with says(TypeError, "weight", "toarray"):
        ll.LinearHead(sparse.csr_array(w))
    with says(TypeError, "class_weight", "toarray"):
        head.loss(x, np.zeros(6, int), class_weight=sparse.csr_array((1, 30)))
