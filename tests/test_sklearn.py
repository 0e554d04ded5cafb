"""SoftmaxRegression as scikit-learn wants it."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

import logitless as ll
from logitless import sklearn as adapter
from logitless.sklearn import SoftmaxRegression

X, Y = load_digits(return_X_y=True)
X /= 16
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
BINARY = Y < 2

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def task(n):
    """Digits of two classes, or of all."""
    return (X[BINARY], NAMES[Y[BINARY]]) if n == 2 else (X, Y)


def objective(model, x, y, weight, C):
    """Mean loss plus penalty in float64."""
    z = x @ model.coef_.T.astype(float) + model.intercept_
    if z.shape[1] == 1:
        z = np.hstack([np.zeros_like(z), z])
    loss = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(z)), np.searchsorted(model.classes_, y)]
    return (weight @ loss + 0.5 * (model.coef_.astype(float) ** 2).sum() / C) / weight.sum()


@parametrize_with_checks([SoftmaxRegression()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("options", [
    {}, {"C": 0.05}, {"fit_intercept": False}, {"class_weight": "balanced"}, {"weighted": True},
    {"weighted": True, "class_weight": "balanced"}, {"class_weight": "dict"},
], ids=str)
def test_coefficients_are_those_of_logistic_regression(rng, n, options):
    x, y = task(n)
    options = dict(options)
    weight = rng.exponential(size=len(x)) if options.pop("weighted", False) else None
    if options.get("class_weight") == "dict":
        options["class_weight"] = {np.unique(y)[0]: 3.0}
    options |= {"tol": 1e-7, "max_iter": 2000}
    ours = SoftmaxRegression(**options).fit(x, y, sample_weight=weight)
    theirs = LogisticRegression(**options).fit(x, y, sample_weight=weight)
    assert ours.coef_.shape == theirs.coef_.shape
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=2e-3)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-3)
    np.testing.assert_allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), atol=1e-2)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 10])
def test_same_tolerance_same_objective(n, dtype):
    x, y = task(n)
    x = x.astype(dtype)
    ours, theirs = SoftmaxRegression().fit(x, y), LogisticRegression().fit(x, y)
    found = [objective(model, x.astype(float), y, np.ones(len(x)), 1) for model in (ours, theirs)]
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert ours.n_iter_[0] <= 1.3 * theirs.n_iter_[0]
    assert (ours.n_iter_.shape, ours.n_iter_.dtype) == (theirs.n_iter_.shape, theirs.n_iter_.dtype)
    for array in (ours.coef_, ours.intercept_, ours.predict_proba(x), ours.decision_function(x)):
        assert array.dtype == dtype
    assert ours.coef_.flags.owndata


def test_without_penalty(rng):
    x = rng.standard_normal((300, 3))
    y = (x @ rng.standard_normal((3, 4)) + 3 * rng.gumbel(size=(300, 4))).argmax(axis=1)
    ours, theirs = (model(C=np.inf, tol=1e-7).fit(x, y)
                    for model in (SoftmaxRegression, LogisticRegression))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)


def test_warm_start_goes_on_where_it_was():
    x, y = task(10)
    model = SoftmaxRegression(warm_start=True).fit(x, y)
    first, coef = model.n_iter_, model.coef_.copy()
    assert model.fit(x, y).n_iter_ == 0 < first
    np.testing.assert_allclose(model.coef_, coef, atol=1e-2)
    with pytest.raises(ValueError, match=r"warm_start.*classes"):
        model.fit(x[BINARY], y[BINARY])
    with pytest.raises(ValueError, match=r"warm_start.*64 features.*got 63"):
        model.fit(x[:, 1:], y)


def test_too_few_iterations_warn():
    with pytest.warns(ConvergenceWarning, match=r"after 2 iterations.*max_iter"):
        model = SoftmaxRegression(max_iter=2).fit(*task(10))
    assert model.n_iter_ == 2


@pytest.mark.parametrize("n", [2, 10])
def test_partial_fit_comes_near_fit(n):
    x, y = task(n)
    fitted = SoftmaxRegression().fit(x, y)
    model = SoftmaxRegression(batch_size=100, learning_rate=0.3)
    for _ in range(20):
        model.partial_fit(x, y, classes=np.unique(y))
    assert model.coef_.shape == fitted.coef_.shape
    assert model.n_samples_seen_ == 20 * len(x)
    assert model.score(x, y) > fitted.score(x, y) - 0.01


def test_partial_fit_in_parts_is_the_same():
    whole = SoftmaxRegression(batch_size=50).partial_fit(X[:300], Y[:300], classes=range(10))
    parts = SoftmaxRegression(batch_size=50)
    for rows in (slice(0, 100), slice(100, 300)):
        parts.partial_fit(X[rows], Y[rows], classes=range(10))
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-12)
    np.testing.assert_allclose(parts.intercept_, whole.intercept_, rtol=1e-12)


def test_partial_fit_step(rng):
    """A step by hand: gradient of a mean loss and its share of the penalty, scaled to one size."""
    x, y = rng.standard_normal((6, 3)), np.array([0, 1, 2, 0, 1, 2])
    model = SoftmaxRegression(C=2.0, batch_size=6, learning_rate=0.5)
    coef, squares = np.zeros((3, 3)), np.zeros((3, 3))
    for seen in (6, 12):
        z = x @ coef.T + (0 if seen == 6 else model.intercept_)
        p = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))
        gradient = (p - np.eye(3)[y]).T @ x / 6 + coef / (2.0 * seen)
        squares += gradient**2
        coef = coef - 0.5 * gradient / np.sqrt(squares)
        model.partial_fit(x, y, classes=[0, 1, 2])
        np.testing.assert_allclose(model.coef_, coef, rtol=1e-9)


def test_partial_fit_after_fit_keeps_what_was_learnt():
    x, y = X[:1200], Y[:1200]
    model = SoftmaxRegression().fit(x, y)
    before = model.score(X[1200:], Y[1200:])
    model.partial_fit(x[:10], y[:10])
    assert model.n_samples_seen_ == 1210
    assert model.score(X[1200:], Y[1200:]) > before - 0.02
    model.fit(x, y)
    assert model.n_samples_seen_ == 1200


def test_partial_fit_in_float32_goes_on_in_float64():
    model = SoftmaxRegression(fit_intercept=False)
    model.partial_fit(X[:99].astype("f4"), Y[:99], classes=range(10))
    assert model.coef_.dtype == np.float32
    assert model.partial_fit(X, Y).coef_.dtype == np.float64
    assert not model.intercept_.any()


@pytest.mark.parametrize(("options", "call", "message"), [
    ({}, {}, "classes must be passed on the first call"),
    ({}, {"classes": [0, 1, 2]}, r"among the classes \[0 1 2\], got \[3, 4, 5, 6, 7, 8, 9\]"),
    ({}, {"classes": [3]}, "at least two classes"),
    ({"class_weight": "balanced"}, {"classes": range(10)}, "class_weight.*balanced"),
    ({"batch_size": 0}, {"classes": range(10)}, "batch_size"),
])
def test_partial_fit_refuses(options, call, message):
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression(**options).partial_fit(X, Y, **call)


@pytest.mark.parametrize(("options", "call", "error", "message"), [
    ({"C": 0.0}, {}, ValueError, "'C' parameter"),
    ({"n_jobs": 0}, {}, ValueError, "'n_jobs' parameter"),
    ({}, {"y": np.full(len(Y), 4)}, ValueError, "got only 1 class: .*4"),
    ({}, {"y": X[:, 30]}, ValueError, "Unknown label type"),
    ({}, {"sample_weight": -np.ones(len(Y))}, ValueError, "not be negative, got -1.0 in row 0"),
    ({"class_weight": dict.fromkeys(range(10), 0)}, {}, ValueError, "positive sum, got zero"),
])
def test_fit_refuses(options, call, error, message):
    with pytest.raises(error, match=message):
        SoftmaxRegression(**options).fit(**({"X": X, "y": Y} | call))


def test_threads_change_no_bit():
    models = [SoftmaxRegression(n_jobs=n, max_iter=200).fit(X, Y) for n in (1, 2, 5)]
    for other in models[1:]:
        assert other.coef_.tobytes() == models[0].coef_.tobytes()
        assert other.intercept_.tobytes() == models[0].intercept_.tobytes()


@pytest.mark.parametrize(("n_jobs", "n"), [(3, 3), (-1, 8), (-3, 6), (-9, 1)])
def test_number_of_threads(monkeypatch, n_jobs, n):
    asked = []
    monkeypatch.setattr(adapter, "usable_cores", lambda: 8)
    monkeypatch.setattr(adapter, "threads", lambda n: asked.append(n) or ll.threads(n))
    SoftmaxRegression(n_jobs=n_jobs).fit(*task(2)).predict(X)
    assert asked == [n, n]


def test_progress_is_a_line_each_iteration(capsys):
    model = SoftmaxRegression(verbose=1).fit(*task(10))
    out, lines = capsys.readouterr()
    assert out == ""
    assert lines.count("\n") == lines.count("mean loss + penalty") == model.n_iter_
    assert lines.startswith("iteration 1 ")


def test_progress_is_one_line_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    model = SoftmaxRegression(verbose=1).fit(*task(2))
    lines = capsys.readouterr().err
    assert (lines.count("\r"), lines.count("\n")) == (model.n_iter_, 1)


def test_progress_goes_to_a_callable():
    x, y = task(10)
    told = []
    model = SoftmaxRegression(verbose=lambda *what: told.append(what)).fit(x, y)
    assert [iteration for iteration, _ in told] == list(range(1, model.n_iter_[0] + 1))
    assert told[0][1] > told[-1][1]
    assert told[-1][1] == pytest.approx(objective(model, x, y, np.ones(len(x)), 1.0), rel=1e-12)


def test_cloned_and_pickled():
    x, y = task(2)
    model = SoftmaxRegression(C=0.1, n_jobs=1).partial_fit(x, y, np.unique(y))
    assert clone(model).get_params() == model.get_params()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.partial_fit(x, y).coef_, model.partial_fit(x, y).coef_)
