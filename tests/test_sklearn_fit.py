"""What a fit of SoftmaxRegression comes to: how close, with which weights, told to whom."""

import inspect
import pathlib
import pickle
import tracemalloc
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
from threadpoolctl import threadpool_limits

from logitless.sklearn import SoftmaxRegression, _lbfgs
from logitless.sklearn._fitting import Trainee

IRIS, SPECIES = load_iris(return_X_y=True)
TOL = 1e-4


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """Threads of BLAS that wait by spinning make small products slow on a busy machine."""
    with threadpool_limits(1):
        yield


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
    tracemalloc.start()
    try:
        SoftmaxRegression().fit(x, y)
        extra = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert extra < 0.7 * x.nbytes


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


# Weights


@pytest.mark.parametrize("value", [-1, -0.5, np.nan, np.inf, -np.inf, None, "2", 10**400])
@pytest.mark.parametrize("label", [0, 7])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_class_weights_are_named(method, label, value):
    class_weight = {0: 1, 1: 1, 2: 1} | {label: value}
    with pytest.raises(ValueError, match=r"`class_weight` must be finite and not negative, got "
                                         rf"{value!r} for class {label}"):
        call(SoftmaxRegression(class_weight=class_weight), method)


def call(model, method, x=IRIS, y=SPECIES, **weights):
    classes = {"classes": np.unique(y)} if method == "partial_fit" else {}
    return getattr(model, method)(x, y, **classes, **weights)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("weight", "message"), [
    (np.full(150, 1e308), "finite sum, got more than 1.8e"),
    (np.where(np.arange(150) == 4, -2.0, 1), r"`sample_weight` must not be negative, got -2\.0 in"
                                             " row 4"),
    (np.full(150, np.nan), "sample_weight contains NaN"),
    (np.full(150, np.inf), "sample_weight contains infinity"),
    (np.ones(149), r"`sample_weight` must have shape \(150,\), got \(149,\)"),
    (np.ones((150, 1)), r"shape \(150,\), got \(150, 1\)"),
])
def test_bad_sample_weights(method, weight, message):
    with pytest.raises(ValueError, match=message):
        call(SoftmaxRegression(), method, sample_weight=weight)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("class_weight", [{0: 1e200, 1: 1, 2: 1}, {2: 1e300}])
def test_weights_whose_product_overflows(method, class_weight):
    with pytest.raises(ValueError, match=r"finite sum.*`sample_weight` or `class_weight`"):
        call(SoftmaxRegression(class_weight=class_weight), method,
             sample_weight=np.full(150, 1e200))


def test_weights_that_are_all_zero():
    zero = np.zeros(150)
    for options, weight in (({}, zero), ({"class_weight": "balanced"}, zero),
                            ({"class_weight": {0: 0}}, 1.0 * (SPECIES == 0))):
        with pytest.raises(ValueError, match="positive sum, got zero"):
            SoftmaxRegression(**options).fit(IRIS, SPECIES, sample_weight=weight)
    model = call(SoftmaxRegression(), "partial_fit", sample_weight=zero)
    assert not model.coef_.any()
    assert model.n_samples_seen_ == 150


@pytest.mark.parametrize(("method", "options"), [
    ("fit", {"C": 1e-310}), ("partial_fit", {"C": 1e-310}),
    ("fit", {"C": 1e-200, "class_weight": dict.fromkeys(range(3), 1e-200)}),
])
def test_penalty_beyond_all_numbers(method, options):
    with pytest.raises(ValueError, match="`C` times the sum of the weights must be at least"):
        call(SoftmaxRegression(**options), method)


def test_huge_weights_are_as_good_as_others():
    """Only their ratios count, and C times their sum."""
    plain = SoftmaxRegression(C=1.0).fit(IRIS, SPECIES)
    huge = SoftmaxRegression(C=1e-300).fit(IRIS, SPECIES, sample_weight=np.full(150, 1e300))
    np.testing.assert_allclose(huge.coef_, plain.coef_, rtol=1e-6)


@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 2.0}])
def test_class_without_weight(class_weight):
    """As if its rows were not there, to those of the others."""
    weight = 1.0 * (SPECIES > 0)
    options = {"class_weight": class_weight, "tol": 1e-6}
    model = SoftmaxRegression(**options).fit(IRIS, SPECIES, sample_weight=weight)
    assert model.coef_.shape == (3, 4)
    assert (model.predict(IRIS[SPECIES > 0]) > 0).all()
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize(("class_weight", "same_as"), [
    ({}, None),
    ({0: 3.0}, {0: 3.0, 1: 1.0, 2: 1.0}),
    ({0: 3.0, 1: 1.0, 2: 1.0, 9: 5.0}, {0: 3.0}),
    ({0: True, 1: np.float32(2)}, {1: 2}),
])
def test_class_weight_dict_is_that_of_logistic_regression(class_weight, same_as):
    ours, theirs, same = (
        model(class_weight=weight, tol=1e-8, max_iter=2000).fit(IRIS, SPECIES)
        for model, weight in ((SoftmaxRegression, class_weight), (LogisticRegression, class_weight),
                              (SoftmaxRegression, same_as)))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_array_equal(ours.coef_, same.coef_)


@pytest.mark.parametrize("class_weight", [{9: 1.0}, {0: 1.0, 1: 1.0, 9: 1.0}])
@pytest.mark.parametrize("model", [SoftmaxRegression, LogisticRegression])
def test_class_weight_of_others_and_not_of_all(model, class_weight):
    with pytest.raises(ValueError, match="not in class_weight"):
        model(class_weight=class_weight).fit(IRIS, SPECIES)


LABELS = [
    np.array(["setosa", "versicolor", "virginica"]),
    np.array(["setosa", "versicolor", "virginica"], object),
    np.array(["0", "10", "9"]),
    np.array([-3, 5, 100]),
    np.array([0.0, 1.0, 2.0]),
    np.array([False, True, True]),
    np.array([2, 1, 0], np.int8),
]


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_labels_of_any_kind(labels):
    y = labels[SPECIES]
    expected = LogisticRegression(max_iter=1000).fit(IRIS, y)
    first = labels.tolist()[0]
    model = SoftmaxRegression().fit(IRIS, y)
    assert model.classes_.dtype == expected.classes_.dtype
    np.testing.assert_array_equal(model.classes_, expected.classes_)
    np.testing.assert_array_equal(model.predict(IRIS), expected.predict(IRIS))
    # A dict finds them as they are.
    heavy = SoftmaxRegression(class_weight={first: 50.0}).fit(IRIS, y)
    same = SoftmaxRegression().fit(IRIS, y, sample_weight=np.where(y == labels[0], 50.0, 1.0))
    np.testing.assert_allclose(heavy.coef_, same.coef_, rtol=1e-12)
    part = SoftmaxRegression(class_weight={first: 2.0}).partial_fit(IRIS, y, classes=np.unique(y))
    np.testing.assert_array_equal(part.partial_fit(IRIS, y).classes_, model.classes_)


# Nothing is half-written


def state(model):
    """All that a model knows, as bytes."""
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


class Interrupted(KeyboardInterrupt):
    pass


NEGATIVE = {"sample_weight": -np.ones(150)}
BAD = {
    "label": (IRIS, np.where(SPECIES == 0, 7, SPECIES), NEGATIVE),
    "one class": (IRIS, np.zeros(150, int), NEGATIVE),
    "float labels": (IRIS, SPECIES + 0.5, {}),
    "features": (IRIS[:, :3], SPECIES, NEGATIVE),
    "not finite": (IRIS * np.nan, SPECIES, {}),
    "overflow": (IRIS, SPECIES, {"sample_weight": np.full(150, 1e308)}),
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("bad", BAD)
def test_a_failure_leaves_the_model_as_it_was(method, bad):
    model = call(SoftmaxRegression(batch_size=10), method)
    before, expected = state(model), model.predict_proba(IRIS)
    x, y, weights = BAD[bad]
    with pytest.raises(ValueError):  # noqa: PT011 (whichever comes first)
        getattr(model, method)(x, y, **weights)
    assert state(model) == before
    np.testing.assert_array_equal(model.predict_proba(IRIS), expected)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failure_leaves_the_names_of_features(method):
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(IRIS, columns=list("abcd"))
    model = call(SoftmaxRegression(), method, x)
    before = state(model)
    for wrong in (x.rename(columns={"a": "z"}), x[["a", "b"]]):
        with pytest.raises(ValueError, match=r"feature|negative"):
            getattr(model, method)(wrong, SPECIES, **NEGATIVE)
    assert state(model) == before


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("calls", [0, 1, 5])
def test_an_interrupt_leaves_the_model_as_it_was(monkeypatch, method, calls, warm_start):
    model = call(SoftmaxRegression(batch_size=10), method)
    model.set_params(warm_start=warm_start, tol=1e-8)
    before = state(model)
    left = iter(range(calls))
    find = Trainee.find_gradients

    def interrupted(self, *rows):
        if next(left, None) is None:
            raise Interrupted
        return find(self, *rows)

    monkeypatch.setattr(Trainee, "find_gradients", interrupted)
    y = 2 - SPECIES
    with pytest.raises(Interrupted):
        getattr(model, method)(IRIS[:, ::-1], y)
    assert state(model) == before
    with pytest.raises(Interrupted):
        call(SoftmaxRegression(), method)


@pytest.mark.parametrize("name", ["n_features_in_", "n_samples_seen_", "_squares"])
def test_an_interrupt_while_it_is_written(monkeypatch, name):
    """Between one attribute and the next, as Ctrl-C may come."""
    model = SoftmaxRegression().fit(IRIS, SPECIES)
    before = state(model)

    def interrupting(self, key, value):
        object.__setattr__(self, key, value)
        if key == name:
            raise Interrupted

    monkeypatch.setattr(SoftmaxRegression, "__setattr__", interrupting, raising=False)
    with pytest.raises(Interrupted):
        model.fit(IRIS[:, ::-1], 2 - SPECIES)
    assert state(model) == before


def test_failure_of_a_first_fit_leaves_nothing():
    model = SoftmaxRegression()
    with pytest.raises(ValueError, match="negative"):
        model.partial_fit(IRIS, SPECIES, classes=[0, 1, 2], sample_weight=-np.ones(150))
    with pytest.raises(ValueError, match="negative"):
        model.fit(IRIS, SPECIES, sample_weight=-np.ones(150))
    assert vars(model) == model.get_params()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_coefficients_that_are_not_finite_are_refused(method):
    """Rows in float32 whose gradients are beyond it."""
    x = np.where(np.eye(150, 4, dtype=bool), 1e38, 1e37).astype("f4")
    options = {"learning_rate": 1e39} if method == "partial_fit" else {}
    model = SoftmaxRegression(**options)
    with pytest.raises(ValueError, match="must stay finite"):
        call(model, method, x)
    assert not hasattr(model, "coef_")


# Callbacks of scikit-learn 1.9 and newer


class Recorder:
    """A callback that notes what it is told."""

    def __init__(self, stop_after=None, fail=False):
        self.told, self.stop_after, self.fail = [], stop_after, fail

    def setup(self, estimator, context):
        self.told.append("setup")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None,
                          fitted_estimator=None):
        self.told.append(("begin", context.task_name, context.task_id, context.max_subtasks,
                          None if metadata is None else sorted(metadata), fitted_estimator))

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None,
                        fitted_estimator=None):
        self.told.append(("end", context.task_name, context.task_id, context.max_subtasks,
                          None if metadata is None else sorted(metadata), fitted_estimator))
        if self.fail:
            raise ValueError("a callback fails")
        return context.task_id == self.stop_after and context.task_name == "lbfgs-iter"

    def teardown(self, estimator, context):
        self.told.append("teardown")


@pytest.fixture
def callbacks():
    pytest.importorskip("sklearn.callback")


@pytest.mark.parametrize("weighted", [False, True])
def test_callbacks_are_told_what_logistic_regression_tells_them(callbacks, weighted):
    told = {}
    weight = np.ones(150) if weighted else None
    for model in (SoftmaxRegression(max_iter=4, tol=0), LogisticRegression(max_iter=4, tol=0)):
        recorder = Recorder()
        with pytest.warns(ConvergenceWarning):
            model.set_callbacks(recorder).fit(IRIS, SPECIES, sample_weight=weight)
        told[type(model)] = [t if isinstance(t, str) else (*t[:-1], t[-1] is None)
                             for t in recorder.told]
    assert told[SoftmaxRegression] == told[LogisticRegression]
    assert told[SoftmaxRegression].count(("end", "lbfgs-iter", 3, 0,
                                          ["sample_weight"] if weighted else None, False)) == 1


def test_callbacks_get_an_estimator_that_predicts(callbacks):
    recorder = Recorder()
    x = IRIS.astype("f4")
    model = SoftmaxRegression(tol=1e-6).set_callbacks(recorder).fit(x, SPECIES)
    assert all(told[-1].coef_.dtype == np.float32 for told in recorder.told
               if told[1] == "lbfgs-iter" and told[-1] is not None)
    scores = [told[-1].score(IRIS, SPECIES) for told in recorder.told
              if told[0] == "end" and told[-1] is not None]
    assert len(scores) == model.n_iter_[0] + 1
    assert scores[0] < scores[-1] == model.score(IRIS, SPECIES)
    assert not any(name.startswith("_callback") for name in vars(model))


def test_a_callback_stops_a_fit(callbacks):
    recorder = Recorder(stop_after=2)
    model = SoftmaxRegression().set_callbacks(recorder).fit(IRIS, SPECIES)
    assert model.n_iter_ == 3
    assert recorder.told[-1] == "teardown"


def test_a_callback_that_fails_leaves_the_model_as_it_was(callbacks):
    model = SoftmaxRegression().fit(IRIS, SPECIES)
    model.set_callbacks(recorder := Recorder(fail=True))
    known = {name: id(value) for name, value in vars(model).items()}
    with pytest.raises(ValueError, match="a callback fails"):
        model.fit(IRIS[:, :2], SPECIES)
    assert {name: id(value) for name, value in vars(model).items()} == known
    assert recorder.told[-1] == "teardown"


def test_callbacks_of_scikit_learn(callbacks):
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="accuracy")
    model = SoftmaxRegression().set_callbacks(monitor).fit(IRIS, SPECIES)
    log = monitor.get_logs().data
    assert len(log) == model.n_iter_[0] + 1
    assert log[-1]["accuracy"] > 0.9


# The page


def test_page_names_every_parameter_that_is_different():
    path = pathlib.Path(__file__).parents[1] / "docs" / "coming-from.md"
    if not path.exists():
        pytest.skip("no documentation beside these tests")
    page = path.read_text(encoding="utf-8")
    section = page[page.index("## scikit-learn") : page.index("## optax")]
    named = {name.strip("`") for row in section.splitlines() if row.startswith("| `")
             for name in row.split("|")[1].replace(" (before 1.8)", "").strip().split(", ")}
    ours, theirs = (
        {name: p.default for name, p in inspect.signature(model).parameters.items()}
        for model in (SoftmaxRegression, LogisticRegression))
    different = {name for name in ours.keys() | theirs.keys()
                 if ours.get(name, ()) != theirs.get(name, ())}
    assert different <= named
    assert named & ours.keys() & theirs.keys() <= different | {
        "n_jobs", "verbose", "class_weight", "warm_start"}
