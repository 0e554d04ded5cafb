"""Sparse matrices whose index structure is damaged are refused before anything reads by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import assert_same, says

import logitless as ll

sparse = pytest.importorskip("scipy.sparse")

M, N, K = 6, 5000, 4
ONES = np.ones(3)


def problem(n=N, m=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((m, K)), rng.standard_normal((n, K))


def calls(target, n=N, m=3):
    """Everything that takes class probabilities."""
    x, w = problem(n, m)
    head = ll.LinearHead(w)
    z = head.logits(x)
    out = ll.Gradients(np.full(x.shape, 7.0), np.full(w.shape, 7.0), np.full(n, 7.0))
    return {
        "loss": lambda: head.loss(x, target),
        "score": lambda: head.score(x, target),
        "value_and_grad": lambda: head.value_and_grad(x, target, out=out),
        "one-shot": lambda: ll.linear_cross_entropy(x, w, target),
        "cross_entropy": lambda: ll.cross_entropy(z, target),
        "nll": lambda: ll.nll(ll.softmax(z), target),
        "shift": lambda: head.loss(x, target, shift=1),
        "target_log_prob": lambda: head.target_log_prob(x, target),
    }


def of_form(form, **changes):
    """A good matrix of one class a row whose attributes are then changed."""
    n = changes.pop("n", N)
    good = sparse.csr_array((ONES, [4, 1, 2], [0, 1, 2, 3]), shape=(3, n)).asformat(form)
    for name, value in changes.items():
        setattr(good, name, value)
    return good


def csr(indices, indptr=(0, 1, 2, 3), data=ONES, n=N):
    """Without the checks of SciPy's constructor."""
    return of_form("csr", n=n, data=np.asarray(data), indices=np.asarray(indices),
                   indptr=np.asarray(indptr))


@pytest.mark.parametrize("n", [5, N])
@pytest.mark.parametrize("bad", [7000, -1, -3, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_class_out_of_range_names_row_and_value(n, bad, row):
    index = np.array([0, 1, 2], np.int32)
    index[row] = bad
    for call in calls(csr(index, n=n), n).values():
        with says(IndexError, "target", f"[0, {n})", str(bad), f"row {row}"):
            call()


@pytest.mark.parametrize(
    ("indptr", "words"),
    [
        ([0, 1, 2], ["indptr", "4 entries", "got 3"]),
        ([0, 1, 2, 3, 3], ["indptr", "4 entries", "got 5"]),
        ([1, 1, 2, 3], ["indptr", "begin with 0", "got 1"]),
        ([0, 2, 1, 3], ["indptr", "fall", "2 before 1"]),
        ([0, 1, 2, 9000], ["indices", "9000", "got 3"]),
        ([0, -1, 2, 3], ["indptr", "fall"]),
        ([0, 1, 2, 2**40], ["indices", str(2**40), "got 3"]),
        ([0.0, 1.0, 2.0, 3.0], ["indptr", "integers", "float64"]),
        ([[0, 1], [2, 3]], ["indptr", "one-dimensional"]),
    ],
)
def test_a_broken_indptr(indptr, words):
    for call in calls(csr([0, 1, 2], indptr)).values():
        with says(ValueError, "target", *words):
            call()


def test_fewer_values_than_classes():
    with says(ValueError, "target.data", "3 entries", "got 2"):
        ll.linear_cross_entropy(*problem(), csr([0, 1, 2], data=ONES[:2]))


BROKEN = {
    "csc row": (IndexError, of_form("csc", indices=np.array([0, 1, 7000])),
                ["rows [0, 3)", "7000"]),
    "csc indptr": (ValueError, of_form("csc", indptr=np.zeros(4, np.int32)), ["5001", "got 4"]),
    "bsr column": (IndexError, of_form("bsr", indices=np.array([0, 1, 7000])), ["7000", "row 2"]),
    "csr axes": (ValueError, of_form("csr", data=np.ones((3, 0))), ["target.data", "(3, 0)"]),
    "csc axes": (ValueError, of_form("csc", data=np.ones((3, 2))), ["target.data", "(3, 2)"]),
    "bsr blocks": (ValueError, of_form("bsr", data=np.ones((3, 2, 1))), ["blocks", "(3, 2, 1)"]),
    "coo row": (IndexError, of_form("coo", coords=(np.array([0, 1, 9]), np.array([4, 1, 2]))),
                ["rows [0, 3)", "got 9", "column 2"]),
    "coo column": (IndexError, of_form("coo", coords=(np.array([0, 1, 2]), np.array([4, -1, 2]))),
                   ["columns [0, 5000)", "got -1", "row 1"]),
    "coo lengths": (ValueError, of_form("coo", data=np.ones(2)), ["target.row", "(2)", "got 3"]),
    "dia offsets": (ValueError, of_form("dia", offsets=np.array([0])), ["target.data"]),
    "dia far away": (ValueError, of_form("dia", offsets=np.array([0, 2**40])),
                     ["target.offsets", "2147483647", "got 1099511627776"]),
    "dia unsigned": (ValueError, of_form("dia", offsets=np.array([0, 2**64 - 4], np.uint64)),
                     ["target.offsets", "got 18446744073709551612"]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_other_formats_are_checked_before_scipy_converts_them(kind):
    error, matrix, words = BROKEN[kind]
    for call in calls(matrix).values():
        with says(error, *words):
            call()


def test_entries_that_are_no_numbers():
    for call in calls(csr([0, 1, 2], data=np.array([1, {}, 2], object))).values():
        with says(TypeError, "`target` must be", "float64", "got object"):
            call()


def test_types_that_scipy_does_not_convert():
    exclude = of_form("bsr", data=np.array([[[1]], [[{}]], [[2]]], object))
    with says(TypeError, "`exclude` cannot be read as CSR"):
        ll.linear_topk(*problem(), 2, exclude=exclude)
    narrow = sparse.dia_array((np.ones((1, 129)), [0]), shape=(3, 129))
    narrow.offsets = narrow.offsets.astype(np.int8)
    with says(ValueError, "`target` cannot be read as CSR", "int8"):
        ll.cross_entropy(np.zeros((3, 129)), narrow)


def test_unsigned_numbers_of_no_entries():
    empty = sparse.csr_array((3, 5))
    empty.indptr, empty.indices = np.zeros(4, np.uint64), np.arange(5, dtype=np.uint64)
    z = np.zeros((3, 5))
    assert_same(ll.cross_entropy(z, empty), np.zeros(3))


def test_lists_and_keys():
    lil = of_form("lil")
    lil.rows[1] = 1
    with says(ValueError, "list of columns", "got int and list in row 1"):
        ll.linear_cross_entropy(*problem(), lil)
    lil.rows[1] = [1, 2]
    with says(ValueError, "as many values as columns", "1 and 2 in row 1"):
        ll.linear_cross_entropy(*problem(), lil)
    lil.data[1] = [0.5, 0.5]
    lil.rows[1] = [1, 7000]
    with says(IndexError, "7000", "row 1"):
        ll.linear_cross_entropy(*problem(), lil)
    dok = of_form("dok")
    dok._dict[1, 7000] = 1.0
    with says(IndexError, "columns [0, 5000)", "7000", "row 1"):
        ll.linear_cross_entropy(*problem(), dok)


def test_nothing_is_written_when_the_structure_is_broken():
    x, w = problem()
    out = ll.Gradients(np.full(x.shape, 7.0), np.full(w.shape, 7.0), np.full(N, 7.0))
    with pytest.raises(IndexError):
        ll.linear_cross_entropy_value_and_grad(x, w, csr([7000, 1, 2]), out=out)
    assert (out.x == 7).all()
    assert (out.weight == 7).all()
    assert (out.bias == 7).all()


def test_what_a_matrix_says_of_its_own_order_is_not_believed():
    """Classes of a row in any order, some twice, though the flags deny it."""
    dense = np.zeros((3, N))
    dense[0, [3, 4999, 17]] = 0.25, 0.5, 0.25
    dense[1, 9] = 1
    dense[2, 4] = 0.75
    told = csr([4999, 3, 17, 9, 4, 4], (0, 3, 4, 6), [0.5, 0.25, 0.25, 1, 0.5, 0.25])
    told.has_sorted_indices = told.has_canonical_format = True
    before = told.indices.copy()
    for name, call in calls(told).items():
        expected = calls(dense)[name]()
        got = call()
        if name == "score":
            got, expected = got.loss, expected.loss
        elif name == "value_and_grad":
            got, expected = got[1].weight, expected[1].weight
        assert_same(got, expected)
    assert (told.indices == before).all()


@given(st.data())
def test_any_structure_is_taken_as_dense_or_refused(data):
    """Small integers anywhere: right or an error, never another number."""
    n, m = 9, 3
    small = st.integers(-2, n + 1)
    indptr = data.draw(st.lists(st.integers(-1, 7), min_size=3, max_size=5))
    indices = data.draw(st.lists(small, min_size=0, max_size=7))
    matrix = csr(np.array(indices, np.int32), np.array(indptr, np.int64),
                 np.full(len(indices), 0.25), n)
    ends = [*indptr]
    sound = (len(ends) == m + 1 and ends[0] == 0 and ends == sorted(ends)
             and ends[-1] <= len(indices) and all(0 <= c < n for c in indices[: ends[-1]]))
    x, w = problem(n, m)
    if not sound:
        with pytest.raises((ValueError, IndexError), match="target"):
            ll.linear_cross_entropy(x, w, matrix)
        return
    dense = np.zeros((m, n))
    for i in range(m):
        np.add.at(dense[i], indices[ends[i] : ends[i + 1]], 0.25)
    assert_same(ll.linear_cross_entropy(x, w, matrix), ll.linear_cross_entropy(x, w, dense))


def test_sparse_coefficients_of_an_estimator():
    fitted = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    fitted.fit(np.eye(4), [0, 1, 2, 3]).sparsify()
    good = ll.LinearHead.from_estimator(fitted).logits(np.eye(4))
    np.testing.assert_allclose(good, fitted.decision_function(np.eye(4)))
    fitted.coef_.indices = fitted.coef_.indices + 4
    with says(IndexError, "coef_", "columns [0, 4)", "row 0"):
        ll.LinearHead.from_estimator(fitted)


def test_sparse_where_dense_is_wanted():
    damaged = csr([0, 1, 2], [[0, 1], [2, 3]])
    with says(TypeError, "weight", "dense", "toarray"):
        ll.linear_logsumexp(np.ones((3, N)), damaged)


@pytest.mark.parametrize("shape", [(3,)])
def test_one_axis(shape):
    x, w = problem()
    target = sparse.coo_array(np.zeros(shape))
    for call in (lambda: ll.LinearHead(w).loss(x, target),
                 lambda: ll.LinearHead(w).score(x, target, shift=1),
                 lambda: ll.LinearHead(w).predict(x, exclude=target)):
        with says(ValueError, "must have shape", shape):
            call()
