"""Sparse rows: the results of dense ones, whatever the form; nothing damaged is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.memory import MIB, peak_again
from support.oracle import says

import logitless as ll
from logitless._arrays.checks import plain
from logitless._arrays.sparse_x import read_x

sparse = pytest.importorskip("scipy.sparse")

COMPILED = ll.active_isa() != "numpy"
CLASSES = [1, 2, 3, 8, 9, 15, 16, 17, 31, 33, 48, 65, 129, 255, 257, 511, 513, 1030, 2049, 4100]
FEATURES = [0, 1, 2, 15, 16, 17, 255, 256, 257, 511, 513, 800]
ROWS = [0, 1, 2, 15, 17, 48, 100, 241, 490]


def same(a, b):
    """The same bits where kernels promise them, but for the sign of zero."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if COMPILED:
        np.testing.assert_array_equal(a + a.dtype.type(0), b + b.dtype.type(0))
    else:
        loose = 2e-4 if a.dtype == np.float32 else 1e-10
        np.testing.assert_allclose(a, b, rtol=loose, atol=loose)


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 60)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(1, 60)))
    m = draw(st.sampled_from([r for r in ROWS if r * n * max(k, 1) <= 1 << 22]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype, wide = (draw(st.sampled_from([np.float32, np.float64])) for _ in range(2))
    x = np.where(rng.random((m, k)) < draw(st.sampled_from([0.01, 0.1, 0.6, 1])),
                 rng.standard_normal((m, k)), 0).astype(dtype)
    weight = rng.standard_normal((n, k)).astype(
        draw(st.sampled_from([wide, wide, np.float16])))
    if draw(st.booleans()):
        weight = np.asfortranarray(weight)
    bias = draw(st.sampled_from([None, rng.standard_normal(n).astype(wide)]))
    options = draw(st.sampled_from([{}, {"softcap": 3.0}, {"temperature": 0.7}]))
    head = ll.LinearHead(weight, bias, pack=draw(st.booleans()),
                         n_threads=draw(st.sampled_from([1, 3])), **options)
    return x, head, rng.integers(0, n, m)


@settings(max_examples=60)
@given(problems())
def test_scores_are_those_of_dense_rows(problem):
    x, head, t = problem
    s = sparse.csr_array(x)
    found, dense = (head.score(rows, t, k=min(3, head.n_classes), entropy=True)
                    for rows in (s, x))
    for name in ("loss", "lse", "target_logit", "max_logit", "entropy"):
        same(getattr(found, name), getattr(dense, name))
    same(head.logits(s), head.logits(x))
    if COMPILED:
        for a, b in ((found.predicted, dense.predicted), (found.target_rank, dense.target_rank),
                     (found.top.index, dense.top.index)):
            np.testing.assert_array_equal(a, b)


@settings(max_examples=60)
@given(problems(), st.sampled_from([0.0, 0.05]), st.sampled_from([1, 300_000, 64 * MIB]),
       st.booleans())
def test_gradients_are_those_of_dense_rows(problem, eps, workspace, accumulate):
    x, head, t = problem
    if eps and not COMPILED:
        return  # what lies at the limit may be kept by one and not the other
    dtype = np.result_type(x, head.dtype)
    weight = np.linspace(-1, 2, max(len(x), 1))[: len(x)]
    if len(x) > 2:
        weight[1] = 0
    found = []
    for rows in (sparse.csr_array(x), x):
        out = ll.Gradients(None, np.full((head.n_classes, head.n_features), 0.5, dtype),
                           np.full(head.n_classes, 0.5, dtype))
        loss, grad = head.value_and_grad(
            rows, t, wrt=("weight", "bias"), reduction="sum", sample_weight=weight, filter_eps=eps,
            workspace_bytes=workspace, out=out, accumulate=accumulate)
        found.append((loss, grad.weight, grad.bias))
    for a, b in zip(*found, strict=True):
        same(a, b)


def small(m=30, n=20, k=40, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((m, k)) < 0.2, rng.standard_normal((m, k)), 0).astype(dtype)
    return x, rng.standard_normal((n, k)).astype(dtype), rng.integers(0, n, m)


W, T = small()[1:]
HEAD = ll.LinearHead(W)
OTHER = ll.LinearHead(W[::-1])
SOFT = np.full((30, 20), 0.05)
CALLS = {
    "loss": lambda x: HEAD.loss(x, T),
    "loss, reduced": lambda x: HEAD.loss(x, T, reduction="mean", label_smoothing=0.1, z_loss=0.1,
                                         entropy_weight=0.2, class_weight=np.arange(20.0)),
    "loss, soft": lambda x: HEAD.loss(x, SOFT.astype("f4"), temperature=np.linspace(1, 2, 30)),
    "loss, sparse target": lambda x: HEAD.loss(x, sparse.csr_array(SOFT)),
    "loss, shifted": lambda x: HEAD.loss(x, T, shift=2),
    "predict": lambda x: HEAD.predict(x),
    "screened": lambda x: ll.LinearHead(W, screen="int8").predict(x),
    "predict_proba": lambda x: HEAD.predict_proba(x),
    "predict_log_proba": lambda x: HEAD.predict_log_proba(x, out=np.empty((30, 20))),
    "topk": lambda x: HEAD.topk(x, 3).log_prob,
    "logsumexp": lambda x: HEAD.logsumexp(x),
    "target_log_prob": lambda x: HEAD.target_log_prob(x, np.stack([T, T[::-1]], 1)),
    "sample": lambda x: HEAD.sample(x, 0, size=2),
    "kl_div": lambda x: HEAD.kl_div(x, OTHER, x, beta=0.5),
    "kl_div_value_and_grad": lambda x: HEAD.kl_div_value_and_grad(
        x, OTHER, x, wrt="weight", workspace_bytes=1)[1].weight,
    "topk_kl_div": lambda x: HEAD.topk_kl_div(x, T[:, None], np.full((30, 1), 0.3)),
    "topk_kl_div_value_and_grad": lambda x: HEAD.topk_kl_div_value_and_grad(
        x, T[:, None], np.full((30, 1), 0.3), wrt="weight")[1].weight,
    "soft gradient": lambda x: HEAD.value_and_grad(
        x, SOFT.astype("f4"), wrt="weight", entropy_weight=0.1)[1].weight,
    "linear_cross_entropy": lambda x: ll.linear_cross_entropy(x, W, T),
    "linear_value_and_grad": lambda x: ll.linear_cross_entropy_value_and_grad(
        x, W, T, wrt="bias")[1].bias,
    "linear_score": lambda x: ll.linear_score(x, W, T).loss,
    "linear_topk": lambda x: ll.linear_topk(x, W, 2).logit,
    "linear_softmax": lambda x: ll.linear_softmax(x, W),
    "linear_log_softmax": lambda x: ll.linear_log_softmax(x, W),
    "linear_logsumexp": lambda x: ll.linear_logsumexp(x, W),
    "linear_argmax": lambda x: ll.linear_argmax(x, W),
    "linear_kl_div": lambda x: ll.linear_kl_div(x, W, x, W[::-1]),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_takes_them(call):
    x = small()[0]
    same(CALLS[call](sparse.csr_matrix(x)), CALLS[call](x))


def unordered(x):
    csr = sparse.csr_array(x)
    for lo, hi in zip(csr.indptr, csr.indptr[1:], strict=False):
        csr.indices[lo:hi], csr.data[lo:hi] = csr.indices[lo:hi][::-1], csr.data[lo:hi][::-1]
    csr.has_sorted_indices = True  # as anybody may say
    return csr


def twice(x):
    coo = sparse.coo_array(x)
    halves = np.r_[coo.data / 2, coo.data / 2]
    return sparse.coo_array((halves, (np.r_[coo.row, coo.row], np.r_[coo.col, coo.col])), x.shape)


def with_zeros(x):
    return sparse.csr_array((np.ravel(x), np.tile(np.arange(x.shape[1]), len(x)),
                             np.arange(len(x) + 1) * x.shape[1]), shape=x.shape)


def wide_index(x):
    csr = sparse.csr_array(x)
    csr.indices, csr.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    return csr


def oversized(x):
    csr = sparse.csr_array(x)
    csr.data, csr.indices = np.r_[csr.data, np.nan], np.r_[csr.indices, [10**6]].astype(np.int32)
    return csr


FORMS = {form: lambda x, form=form: sparse.coo_matrix(x).asformat(form)
         for form in ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")}
FORMS |= {"array": sparse.csr_array, "unordered": unordered, "twice": twice, "zeros": with_zeros,
          "int64": wide_index, "oversized": oversized}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form):
    x, w, t = small()
    given = FORMS[form](x)
    before = given.copy()
    same(ll.LinearHead(w).loss(given, t), ll.LinearHead(w).loss(x, t))
    same(*(ll.LinearHead(w).value_and_grad(rows, t, wrt="weight")[1].weight
           for rows in (given, x)))
    if form in ("unordered", "int64"):
        np.testing.assert_array_equal(given.indices, before.indices)


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "f4", "f8"])
def test_every_type(dtype):
    x, w, _ = small(dtype=np.float32)
    x = np.round(3 * x).astype(dtype)
    same(ll.LinearHead(w).logits(sparse.csr_array(x)), ll.LinearHead(w).logits(x))


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (4, 5)])
@pytest.mark.parametrize("n", [3, 20])
def test_nothing_at_all(shape, n):
    x = sparse.csr_array(shape)
    w, bias, t = np.ones((n, shape[1])), np.arange(float(n)), np.zeros(shape[0], int)
    head = ll.LinearHead(w, bias)
    np.testing.assert_array_equal(head.logits(x), np.tile(bias, (shape[0], 1)))
    _, grad = head.value_and_grad(x, t, reduction="sum")
    np.testing.assert_array_equal(grad.weight, np.zeros((n, shape[1])))
    assert grad.x is None


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("pack", [True, False])
def test_what_is_not_finite_is_met_by_entries_alone(n, pack):
    x = sparse.csr_array(np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, np.nan]]))
    w = np.ones((n, 3))
    w[0, 1], w[1, 1] = np.inf, np.nan
    z = ll.LinearHead(w, pack=pack).logits(x)
    assert np.isfinite(z[0]).all()
    assert np.isposinf(z[1, 0])
    assert np.isnan(z[1, 1])
    assert np.isnan(z[2]).all()
    _, grad = ll.LinearHead(np.ones((n, 3)), pack=pack).value_and_grad(
        x, [0, 1, -100], reduction="sum", wrt="weight")
    assert np.isfinite(grad.weight).all()


def test_a_row_does_not_see_the_batch():
    x, w, t = small(m=300, n=600, k=300)
    s, head = sparse.csr_array(x), ll.LinearHead(w)
    whole = head.loss(s, t)
    same(np.concatenate([head.loss(s[i : i + 7], t[i : i + 7]) for i in range(0, 300, 7)]), whole)
    one = ll.LinearHead(w, n_threads=1).value_and_grad(s, t)[1].weight
    same(ll.LinearHead(w, n_threads=4).value_and_grad(s, t, workspace_bytes=1 << 20)[1].weight, one)


def test_blocks_of_rows_widen_no_others(monkeypatch):
    monkeypatch.setattr("logitless._calls.sampling._VALUES", 100)
    x, widened = small()[0].astype(np.float32), []
    head = ll.LinearHead(W.astype(np.float64), n_threads=1)

    def counted(array, dtype):
        widened.append(len(array))
        return plain(array, dtype)

    dense = head.sample(x, 0, 2)
    rows = sparse.csr_array(x)
    monkeypatch.setattr("logitless._arrays.sparse_x.plain", counted)
    same(head.sample(rows, 0, 2), dense)
    of_rows = widened[3:]  # the first are of the matrix
    assert len(of_rows) > 1
    assert sum(of_rows) == rows.nnz


def changed(**attributes):
    csr = sparse.csr_array(small()[0])
    for name, value in attributes.items():
        setattr(csr, name, value(getattr(csr, name)))
    return csr


def at(place, value):
    def change(a):
        a = a.copy()
        a[place] = value
        return a
    return change


DAMAGED = {
    "a feature too large": (lambda: changed(indices=at(3, 40)), IndexError),
    "a negative one": (lambda: changed(indices=at(3, -1)), IndexError),
    "far away": (lambda: changed(indices=at(0, 2**31 - 1)), IndexError),
    "starts that fall": (lambda: changed(indptr=at(4, 0)), ValueError),
    "starts beyond the end": (lambda: changed(indptr=at(-1, 10**6)), ValueError),
    "a first start": (lambda: changed(indptr=at(0, 1)), ValueError),
    "starts too few": (lambda: changed(indptr=lambda a: a[:-1]), ValueError),
    "indices too few": (lambda: changed(indices=lambda a: a[:-1]), ValueError),
    "values too few": (lambda: changed(data=lambda a: a[:-1]), ValueError),
    "values of none": (lambda: changed(data=lambda a: a[:, None][:, :0]), ValueError),
    "values of two": (lambda: changed(data=lambda a: np.stack([a, a], axis=1)), ValueError),
    "indices of reals": (lambda: changed(indices=lambda a: a.astype(float)), ValueError),
    "complex": (lambda: sparse.csr_array(small()[0] + 1j), TypeError),
    "features": (lambda: sparse.csr_array(small()[0][:, :-1]), ValueError),
    "one axis": (lambda: sparse.coo_array(small()[0][0]), ValueError),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_damaged_is_refused(damage):
    make, error = DAMAGED[damage]
    out = ll.Gradients(None, np.full(W.shape, 7.0))
    for call in (lambda: HEAD.loss(make(), T), lambda: HEAD.predict(make()),
                 lambda: ll.linear_softmax(make(), W),
                 lambda: HEAD.value_and_grad(make(), T, wrt="weight", out=out)):
        with pytest.raises(error, match=r"x|weight"):
            call()
    assert (out.weight == 7).all()


def test_gradients_of_the_rows_are_not_offered():
    x = sparse.csr_array(small()[0])
    for wrt in ("x", ["weight", "x"], ["x", "weight", "bias"]):
        with says(ValueError, "`wrt` must name some of ('weight', 'bias') where `x` is sparse"):
            HEAD.value_and_grad(x, T, wrt=wrt)
    with pytest.raises(ValueError, match="wrt"):
        HEAD.kl_div_value_and_grad(x, OTHER, x, wrt="x")
    for _, grad in (HEAD.value_and_grad(x, T), HEAD.kl_div_value_and_grad(x, OTHER, x)):
        assert grad.x is None
        assert grad.weight.shape == W.shape
        assert grad.bias.shape == (20,)


def test_outputs_that_overlap_are_refused():
    x = sparse.csr_array(np.eye(20))
    weight = np.zeros((20, 20))
    x.data = weight.reshape(-1)[:20]
    with pytest.raises(ValueError, match="overlap"):
        ll.LinearHead(np.eye(20)).value_and_grad(
            x, np.arange(20), wrt="weight", out=ll.Gradients(None, weight))


@pytest.mark.compiled_only
@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("n", [10, 900])
def test_memory(n, pack):
    """The rows' beginnings, and a panel of weights that is packed on the way, beside a few MiB."""
    m, k = 20_000, 20_000
    rng = np.random.default_rng(0)
    x = sparse.csr_array((np.ones(5 * m, np.float32), rng.integers(0, k, 5 * m),
                          5 * np.arange(m + 1)), shape=(m, k))
    x.sum_duplicates()
    x.indices, x.indptr = x.indices.astype(np.int32), x.indptr.astype(np.int32)
    head = ll.LinearHead(np.ones((n, k), np.float32), pack=pack, n_threads=2)
    t = np.zeros(m, int)
    limit = 28 * MIB
    assert peak_again(lambda: head.loss(x, t)) < limit
    assert peak_again(lambda: head.predict(x)) < limit
    assert m * n * 4 > 2 * limit or n == 10


def test_as_many_features_as_an_index_can_count():
    nothing = np.empty(0), (np.empty(0, int), np.empty(0, int))
    assert read_x(sparse.coo_array(nothing, shape=(1, 2**31 - 1))).n == 2**31 - 1
    with says(ValueError, "sparse `x` must have at most 2147483647", 2**31):
        read_x(sparse.coo_array(nothing, shape=(1, 2**31)))
