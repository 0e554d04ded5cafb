"""SoftmaxRegression over arrays and frames of Dask: the results of NumPy and pandas, lazily."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("dask.dataframe")
pytest.importorskip("dask.array")

import dask.array as da
import dask.dataframe as dd
import pandas as pd
from sklearn.exceptions import NotFittedError

from logitless._parallel.pool import resolve, threads
from logitless.sklearn import SoftmaxRegression

METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]
RNG = np.random.default_rng(3)
X = RNG.standard_normal((60, 5))
FRAME = pd.DataFrame(X, columns=list("vwxyz"), index=np.arange(60)[::-1] * 2)
WEIGHT = RNG.random(60)
LABELS = {"words": np.array(["a", "b", "c"])[RNG.integers(0, 3, 60)], "two": RNG.integers(0, 2, 60)}


@pytest.fixture(params=LABELS)
def y(request):
    return LABELS[request.param]


def frame_of(frame):
    """In partitions, one of which has no rows."""
    parts = np.array([20, 0, 40])
    bounds = np.cumsum([0, *parts])
    return dd.concat([dd.from_pandas(frame.iloc[lo:hi], npartitions=1, sort=False)
                      for lo, hi in pairwise(bounds)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunks", [(60, 5), ((20, 0, 40), (3, 2)), (7, 5)], ids=str)
def test_of_arrays(y, method, chunks):
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(X, y)
    lazy = getattr(model, method)(da.from_array(X, chunks=chunks))
    expected = getattr(model, method)(X)
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(lazy.compute(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_of_sparse_rows(y, method):
    sparse = pytest.importorskip("scipy.sparse")
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(X, y)
    rows = da.from_array(X, chunks=((20, 0, 40), 5)).map_blocks(sparse.csr_array)
    assert np.array_equal(getattr(model, method)(rows).compute(), getattr(model, method)(X))


@pytest.mark.parametrize("method", METHODS)
def test_of_frames(y, method):
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(FRAME, y)
    lazy = getattr(model, method)(frame_of(FRAME))
    found, expected = lazy.compute(), getattr(model, method)(FRAME)
    assert found.index.equals(FRAME.index)
    assert found.shape == expected.shape
    assert np.array_equal(found.to_numpy().astype(expected.dtype), expected)
    if expected.ndim == 2:
        assert list(lazy.columns) == list(found.columns) == list(model.classes_)
    assert frame_of(FRAME).assign(new=model.predict(frame_of(FRAME))).compute().shape == (60, 6)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_score(y, weight):
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(X, y)
    expected = pytest.approx(model.score(X, y, weight), rel=1e-14)
    rows = da.from_array(X, chunks=(25, 5))
    lazy_y, lazy_weight = (None if a is None else da.from_array(a, chunks=17) for a in (y, weight))
    assert model.score(rows, y, weight) == expected
    assert model.score(rows, lazy_y, lazy_weight) == expected
    unknown = rows[rows[:, 0] > -np.inf]
    assert model.score(unknown, lazy_y, lazy_weight) == expected

    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(FRAME, y)
    labels = frame_of(pd.DataFrame({"y": y}, index=FRAME.index))["y"]
    assert model.score(frame_of(FRAME), labels, weight) == expected
    assert model.score(frame_of(FRAME), y, lazy_weight) == expected
    assert model.score(frame_of(FRAME), labels.repartition(npartitions=1), weight) == expected


def test_what_is_wrong_is_said_before_anything_is_computed(y):
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(FRAME, y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame_of(FRAME)[list("zyxwv")])
    with pytest.raises(NotFittedError):
        SoftmaxRegression().predict(frame_of(FRAME))
    model = SoftmaxRegression(max_iter=20, tol=1.0).fit(X, y)
    with pytest.raises(ValueError, match="is expecting 5 features"):
        model.predict_proba(da.ones((4, 6)))
    with pytest.raises(ValueError, match="got an array of 1 dimensions"):
        model.predict(da.ones(5))
    with pytest.raises(ValueError, match=r"`y` must have shape \(60,\), got \(59,\)"):
        model.score(da.from_array(X), y[1:])
    with pytest.raises(ValueError, match=r"`y` must have shape \(60,\), got \(60, 1\)"):
        model.score(da.from_array(X), y[:, None])


def test_a_task_is_a_block_on_one_thread(y, monkeypatch):
    """Threads are those of Dask's workers, unless the estimator has `n_jobs`."""
    found = []
    head = SoftmaxRegression._head
    monkeypatch.setattr(SoftmaxRegression, "_head",
                        lambda self: found.append(resolve()) or head(self))
    rows = da.from_array(X, chunks=(10, 5))
    for n_jobs, expected in (None, 1), (3, 3):
        lazy = SoftmaxRegression(max_iter=20, tol=1.0, n_jobs=n_jobs).fit(X, y).predict(rows)
        assert len(lazy.dask) - len(rows.dask) == rows.numblocks[0]
        found.clear()
        with threads(2):
            lazy.compute()
        assert found == 6 * [expected]
