"""What a fit of SoftmaxRegression comes to: how close, in which precision, with what warning."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from support.memory import peak

from logitless.sklearn import SoftmaxRegression, _lbfgs
from logitless.sklearn._fitting import Trainee

TOL = 1e-4

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def made(m, k, n, scales=1.0, offset=0.0):
    """Rows whose labels are drawn from a softmax of them, before they are scaled."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k))
    y = (x @ rng.standard_normal((k, n)) * (3 / np.sqrt(k)) + rng.gumbel(size=(m, n))).argmax(1)
    return x * scales + offset, y


def real(load, scaled=False):
    x, y = load(return_X_y=True)
    return (StandardScaler().fit_transform(x) if scaled else x), y


DATA = {
    "breast cancer": lambda: real(load_breast_cancer),
    "breast cancer, scaled": lambda: real(load_breast_cancer, True),
    "digits": lambda: real(load_digits),
    "iris": lambda: real(load_iris),
    "wine": lambda: real(load_wine),
    "wine, scaled": lambda: real(load_wine, True),
    "scales, 2 classes": lambda: made(500, 20, 2, np.logspace(-3, 3, 20)),
    "scales, 5 classes": lambda: made(500, 20, 5, np.logspace(-3, 3, 20)),
    "offset": lambda: made(500, 20, 3, offset=30),
    "wide": lambda: made(20, 5000, 3),
    "many classes": lambda: made(1000, 20, 100),
}


def exactly(model, x, y, C):
    """Mean loss plus penalty and its largest gradient, in float64."""
    x, coef = x.astype(float), model.coef_.astype(float)
    z = x @ coef.T + model.intercept_
    if len(coef) == 1:
        z = np.hstack([np.zeros_like(z), z])
    y = np.searchsorted(model.classes_, y)
    rows, lse = np.arange(len(x)), np.logaddexp.reduce(z, axis=1)
    off = np.exp(z - lse[:, None])
    off[rows, y] -= 1
    off = off[:, -len(coef):] / len(x)
    objective = (lse - z[rows, y]).mean() + 0.5 * (coef**2).sum() / (C * len(x))
    return objective, max(np.abs(off.T @ x + coef / (C * len(x))).max(), np.abs(off.sum(0)).max())


@pytest.mark.slow
@pytest.mark.parametrize("C", [1e-3, 1.0, 1e3, np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", DATA)
def test_gradient_is_down_to_tol(name, dtype, C):
    """By the coefficients as kept; there is no warning, which would be an error here."""
    x, y = DATA[name]()
    x = x.astype(dtype)
    model = SoftmaxRegression(C=C).fit(x, y)
    assert model.coef_.dtype == x.dtype
    assert exactly(model, x, y, C)[1] <= TOL * (1 + 1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["breast cancer", "iris", "wine", "scales, 5 classes", "offset"])
def test_objective_is_the_least_there_is(name, dtype):
    x, y = DATA[name]()
    x = x.astype(dtype)
    ours = SoftmaxRegression().fit(x, y)
    theirs = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(x.astype(float), y)
    assert exactly(ours, x, y, 1.0)[0] == pytest.approx(exactly(theirs, x, y, 1.0)[0], rel=1e-5)


@given(st.sampled_from(["iris", "wine", "breast cancer", "offset"]), st.sampled_from(["f4", "f8"]),
       st.integers(1, 40), st.floats(-12, -1))
def test_warns_exactly_where_the_gradient_is_not_down(name, dtype, max_iter, log_tol):
    x, y = DATA[name]()
    x, tol = x.astype(dtype), 10**log_tol
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SoftmaxRegression(tol=tol, max_iter=max_iter).fit(x, y)
    largest = exactly(model, x, y, 1.0)[1]
    noise = 1e-10 + 1e-13 * float(np.abs(x).max()) ** 2  # of the formula here
    if caught:
        (warning,) = caught
        assert warning.category is ConvergenceWarning
        assert warning.filename == __file__
        assert largest > tol - noise
        told = float(str(warning.message).partition("largest entry is ")[2].partition(":")[0])
        assert told == pytest.approx(largest, rel=6e-3, abs=noise)
    else:
        assert largest <= tol + noise


def test_advice_of_the_warning():
    x, y = DATA["breast cancer"]()
    for dtype, options, advice in (("f8", {"max_iter": 3}, "give `max_iter` more"),
                                   ("f4", {"tol": 1e-9}, "float64 rows"),
                                   ("f8", {"tol": 0.0}, "a larger `tol` may be")):
        with pytest.warns(ConvergenceWarning, match=advice):
            SoftmaxRegression(**options).fit(x.astype(dtype), y)


@pytest.mark.parametrize(("dtype", "computed"), [("f4", {"f4"}), ("f8", {"f8"})])
def test_well_behaved_rows_are_computed_in_their_precision(monkeypatch, dtype, computed):
    used = set()
    find = Trainee.find_gradients
    monkeypatch.setattr(Trainee, "find_gradients",
                        lambda self, *rows: used.add(self.dtype.str[1:]) or find(self, *rows))
    x, y = made(2000, 16, 4)
    SoftmaxRegression().fit(x.astype(dtype), y)
    assert used == computed


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_rounding_is_not_underestimated(name):
    x, y = DATA[name]()
    x, y = x.astype("f4"), np.unique(y, return_inverse=True)[1]
    weight = np.full(len(x), 1 / len(x))
    for C in (0.1, 1.0, 1e3):
        model = SoftmaxRegression(C=C).fit(x, y)
        narrow = Trainee(len(model.classes_), x.shape[1], np.float32, True)
        wide = narrow.in_float64()
        for trainee in (narrow, wide):
            trainee.coef[...], trainee.intercept[...] = model.coef_, model.intercept_
            trainee.find_gradients(x, y, weight, 1 / (C * len(x)))
        noise = _lbfgs.Features(x, weight, 1 / (C * len(x)), narrow).noise(narrow)
        assert abs(narrow.largest_gradient - wide.largest_gradient) <= noise


@pytest.mark.compiled_only
@pytest.mark.parametrize("offset", [0, 100])
def test_rows_are_never_copied_whole(offset):
    """Also where float32 ones are computed in float64, as those far from 0 are."""
    x, y = made(20_000, 200, 3, offset=offset)
    x = x.astype("f4")
    assert peak(lambda: SoftmaxRegression().fit(x, y)) < 0.7 * x.nbytes


def test_threads_change_no_bit_in_either_precision():
    x, y = DATA["wine"]()
    models = [SoftmaxRegression(n_jobs=n).fit(x.astype("f4"), y) for n in (1, 3)]
    assert models[0].coef_.tobytes() == models[1].coef_.tobytes()


def test_scale_and_offset_of_features_cost_no_iterations():
    x, y = made(500, 10, 3)
    plain = SoftmaxRegression(C=np.inf, tol=1e-6).fit(x, y)
    for scales, offset in ((np.logspace(-3, 3, 10), 0.0), (1.0, 50.0)):
        # The gradient grows with the features, and `tol` is of the gradient.
        tol = 1e-6 * max(np.max(scales), offset, 1)
        moved = SoftmaxRegression(C=np.inf, tol=tol).fit(x * scales + offset, y)
        assert moved.n_iter_ <= plain.n_iter_ + 5
        np.testing.assert_allclose(moved.coef_ * scales, plain.coef_, atol=1e-2)
