"""SoftmaxRegression on sparse rows comes to what it comes to on dense ones."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import logitless as ll
from logitless.sklearn import SoftmaxRegression

pytestmark = pytest.mark.usefixtures("one_blas_thread")

X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400]  # half of it zeros, some features always


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "coo_array"])
def test_a_fit_comes_to_the_same(dtype, classes, form):
    x, y = X.astype(dtype), Y % classes
    weight = np.linspace(0, 2, len(y))
    given = getattr(sparse, form)(x)
    found = SoftmaxRegression(tol=1e-5).fit(given, y, weight)
    dense = SoftmaxRegression(tol=1e-5).fit(x, y, weight)
    assert found.coef_.dtype == dtype
    np.testing.assert_allclose(found.coef_, dense.coef_, atol=4e-3)
    np.testing.assert_allclose(found.intercept_, dense.intercept_, atol=4e-3)
    for call in ("predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_allclose(getattr(dense, call)(given), getattr(dense, call)(x), rtol=1e-4,
                                   atol=1e-5)
    assert (dense.predict(given) == dense.predict(x)).all()
    assert found.score(given, y) > 0.95
    assert found.n_samples_seen_ == len(y)


def test_it_is_scikit_learns():
    found = SoftmaxRegression(tol=1e-6).fit(sparse.csr_array(X), Y)
    other = LogisticRegression(tol=1e-6, max_iter=1000).fit(sparse.csr_array(X), Y)
    np.testing.assert_allclose(found.coef_, other.coef_, atol=1e-3)
    head = ll.LinearHead.from_estimator(other)
    np.testing.assert_allclose(head.predict_proba(sparse.csr_array(X)), other.predict_proba(X),
                               atol=1e-6)


def test_steps_of_partial_fit():
    found, dense = (SoftmaxRegression(batch_size=50) for _ in range(2))
    for _ in range(3):
        found.partial_fit(sparse.csr_array(X), Y, np.arange(10))
        dense.partial_fit(X, Y, np.arange(10))
    np.testing.assert_allclose(found.coef_, dense.coef_, rtol=1e-7, atol=1e-9)
    found, dense = (SoftmaxRegression(max_iter=20, tol=1e-2).fit(X, Y) for _ in range(2))
    np.testing.assert_allclose(found.partial_fit(sparse.csr_array(X), Y).coef_,
                               dense.partial_fit(X, Y).coef_, rtol=1e-7, atol=1e-9)


def test_threads_change_no_bit():
    models = [SoftmaxRegression(n_jobs=n).fit(sparse.csr_array(X), Y) for n in (1, 3)]
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)


def test_a_feature_that_never_varies_and_one_that_is_never_there():
    x = np.hstack([X, np.full((len(X), 1), 0.3), np.zeros((len(X), 1))])
    found = SoftmaxRegression(C=np.inf, tol=1e-2).fit(sparse.csr_array(x), Y)
    assert np.isfinite(found.coef_).all()
    assert found.score(x, Y) > 0.95


def test_damaged_rows_are_refused():
    x = sparse.csr_array(X)
    x.indices = x.indices.copy()
    x.indices[5] = 900
    model = SoftmaxRegression()
    with pytest.raises(IndexError, match="X"):
        model.fit(x, Y)
    assert not hasattr(model, "coef_")
