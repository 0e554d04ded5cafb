"""Losses and gradients over chunks of rows are those of all rows, whoever computes which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("dask.array")
pytest.importorskip("distributed")

import dask
import dask.array as da
from dask.highlevelgraph import HighLevelGraph

import logitless as ll
import logitless.dask as ll_dask
from logitless.dask import _gradients
from logitless.dask._gradients import _Part
from logitless.dask._graph import MERGED_AT_ONCE
from logitless.dask._worker import Setting

RNG = np.random.default_rng(5)
M, N, K = 60, 23, 7
X = RNG.standard_normal((M, K))
WEIGHT = RNG.standard_normal((N, K))
BIAS = RNG.standard_normal(N)
TARGET = np.where(RNG.random(M) < 0.2, -100, RNG.integers(0, N, M))
PROBS = RNG.dirichlet(np.ones(N), M)
OPTIONS = [
    {},
    {"sample_weight": RNG.random(M), "class_weight": RNG.random(N)},
    {"label_smoothing": 0.1, "z_loss": 0.01, "entropy_weight": -0.1},
    {"temperature": RNG.random(M) + 0.5, "softcap": 3.0},
]


@st.composite
def row_chunks(draw, m=M):
    cuts = draw(st.lists(st.integers(0, m), max_size=20))
    return tuple(int(size) for size in np.diff([0, *sorted(cuts), m]))


def relative(found, expected):
    return np.abs(found - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)


@pytest.mark.slow
@settings(max_examples=40)
@given(chunks=row_chunks(), features=st.integers(1, K), reduction=st.sampled_from(
    ["mean", "sum", "batch_mean"]), options=st.sampled_from(OPTIONS), soft=st.booleans(),
    double=st.booleans(), bias=st.booleans())
def test_gradients_over_chunks(chunks, features, reduction, options, soft, double, bias):
    dtype = np.dtype(np.float64 if double else np.float32)
    x, weight = X.astype(dtype), WEIGHT.astype(dtype)
    target, bias = PROBS if soft else TARGET, BIAS.astype(dtype) if bias else None
    lazy = [da.from_array(x, chunks=(chunks, features)), da.from_array(weight, chunks=(5, 3)),
            da.from_array(target, chunks=11), bias if bias is None else da.from_array(bias)]
    found = dask.compute(ll_dask.value_and_grad(*lazy, reduction=reduction, **options),
                         scheduler="sync")[0]
    expected = ll.linear_cross_entropy_value_and_grad(x, weight, target, bias,
                                                      reduction=reduction, **options)
    eps = 8 * np.finfo(dtype).eps
    assert found[0].dtype == dtype
    assert relative(found[0], expected[0]) < eps
    for name in "x", "weight", "bias":
        one, other = getattr(found[1], name), getattr(expected[1], name)
        assert (one.dtype, one.shape) == (dtype, other.shape)
        assert relative(one, other) < eps


@pytest.mark.compiled_only
def test_gradients_by_rows_have_the_same_bits():
    expected = ll.linear_cross_entropy_value_and_grad(X, WEIGHT, TARGET, BIAS)[1]
    x = da.from_array(X, chunks=(13, K))
    found = ll_dask.value_and_grad(x, WEIGHT, TARGET, BIAS, wrt="x")[1]
    assert found.weight is found.bias is None
    assert found.x.chunks == x.chunks
    assert np.array_equal(found.x.compute(), expected.x)


def test_chunks_of_unknown_length():
    """As rows of a frame or a selection have."""
    chosen = X[:, 0] > 0
    x, target, mask = (da.from_array(a, chunks=10) for a in (X, TARGET, chosen))
    x = x.rechunk({1: -1})
    found = dask.compute(ll_dask.value_and_grad(x[mask], WEIGHT, target[mask]))[0]
    expected = ll.linear_cross_entropy_value_and_grad(X[chosen], WEIGHT, TARGET[chosen])
    assert relative(found[0], expected[0]) < 1e-15
    assert relative(found[1].x, expected[1].x) < 1e-15
    with pytest.raises(ValueError, match="must have the 6 chunks of rows that `x` has"):
        ll_dask.value_and_grad(x[mask], WEIGHT, TARGET)


def test_sparse_rows():
    sparse = pytest.importorskip("scipy.sparse")
    rows = sparse.csr_array(np.where(X > 0, X, 0))
    chunks = da.from_array(rows.toarray(), chunks=(25, 3)).map_blocks(sparse.csr_array)
    loss, grad = ll_dask.value_and_grad(chunks, WEIGHT, TARGET, BIAS)
    expected = ll.linear_cross_entropy_value_and_grad(rows, WEIGHT, TARGET, BIAS)
    assert grad.x is None
    found = dask.compute(loss, grad.weight, grad.bias, scheduler="sync")
    for one, other in zip(found, (expected[0], expected[1].weight, expected[1].bias), strict=True):
        assert relative(one, other) < 1e-15
    with pytest.raises(ValueError, match="where `x` is sparse"):
        ll_dask.value_and_grad(chunks, WEIGHT, TARGET, wrt="x")


def test_no_row_counts():
    loss, grad = ll_dask.value_and_grad(da.from_array(X, chunks=(25, K)), WEIGHT,
                                        np.full(M, -100))
    with pytest.warns(RuntimeWarning, match="the mean of no rows that count is NaN"):
        loss, grad = dask.compute(loss, grad, scheduler="sync")
    assert np.isnan(loss)
    assert not grad.x.any()
    assert not grad.weight.any()


def test_a_task_a_chunk_and_a_few_to_add_up():
    chunks = 100
    x = da.zeros((chunks, K), chunks=(1, K))
    target = da.zeros(chunks, dtype=np.int64, chunks=1)
    merged = -(-chunks // MERGED_AT_ONCE)
    merged += -(-merged // MERGED_AT_ONCE) + 1
    for reduction, twice in ("sum", 1), ("mean", 2):  # what divides a mean is added up first
        loss, grad = ll_dask.value_and_grad(x, WEIGHT, target, reduction=reduction)
        lazy = [loss, grad.weight, grad.bias]
        tasks = len(HighLevelGraph.merge(*(array.dask for array in lazy)))
        given = len(x.dask) + len(target.dask) + 1
        assert tasks - given - len(lazy) <= twice * (chunks + merged)


def test_what_is_added_is_not_changed():
    """Dask may add a part again, after the death of who had the sum."""
    parts = [_Part(np.float64(1), ll.Gradients(weight=np.ones((2, 2)), bias=np.ones(2)))
             for _ in range(3)]
    tasks = _gradients.Tasks(Setting.of(None), (), N, X.dtype, "sum", {}, {}, {})
    for _ in range(2):
        assert np.array_equal(tasks.add(parts).grad.weight, np.full((2, 2), 3))


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"reduction": "none"}, ValueError, "'mean', 'sum', 'batch_mean'.*'none'"),
    ({"wrt": "z"}, ValueError, "`wrt` must name some of"),
    ({"filter_eps": 2}, ValueError, r"`filter_eps` must be in \[0, 1\)"),
    ({"workspace_bytes": 0}, ValueError, "`workspace_bytes` must be at least 1"),
    ({"softcap": -1.0}, ValueError, "`softcap` must be positive"),
    ({"label_smoothing": 2.0}, ValueError, "`label_smoothing` must be between"),
    ({"shift": 1}, TypeError, "unexpected keyword argument 'shift'"),
    ({"screen": "int8"}, TypeError, "unexpected keyword argument 'screen'"),
    ({"n_threads": 0}, ValueError, "`n_threads` must be at least 1, got 0"),
    ({"x": X[:, :3]}, ValueError, r"must equal `x.shape\[1\]` \(3\), got 7"),
    ({"x": X[0]}, ValueError, r"`x` must have two dimensions, got shape \(7,\)"),
    ({"x": X.astype(complex)}, TypeError, "complex"),
    ({"weight": WEIGHT[:0]}, ValueError, "at least one, got shape"),
    ({"bias": BIAS[1:]}, ValueError, r"`bias` must have shape \(23,\), got \(22,\)"),
    ({"target": TARGET[1:]}, ValueError, r"`target` must have shape \(60,\), got \(59,\)"),
    ({"target": PROBS[:, 1:]}, ValueError, r"class probabilities \(m, 23\), got float64"),
    ({"target": BIAS}, ValueError, "must be integers"),
    ({"sample_weight": BIAS}, ValueError, r"`sample_weight` must have shape \(60,\), got \(23,\)"),
    ({"class_weight": X}, ValueError, r"`class_weight` must have shape \(23,\), got \(60, 7\)"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_what_is_wrong_is_said_at_once(change, error, message):
    arguments = {"x": X, "weight": WEIGHT, "target": TARGET, **change}
    with pytest.raises(error, match=message):
        ll_dask.value_and_grad(**arguments)


def test_a_wrong_target_is_found_in_its_chunk():
    target = TARGET.copy()
    target[47] = 99
    loss, _ = ll_dask.value_and_grad(da.from_array(X, chunks=(20, K)), WEIGHT, target)
    with pytest.raises(IndexError, match=r"99.*row 7.*rows counted from 40 on"):
        loss.compute()
