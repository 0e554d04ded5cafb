"""Weights of classes and samples, and labels, as SoftmaxRegression takes them."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression
from support.iris import IRIS, SPECIES, call

from logitless.sklearn import SoftmaxRegression

pytestmark = pytest.mark.usefixtures("one_blas_thread")


@pytest.mark.parametrize("value", [-1, -0.5, np.nan, np.inf, -np.inf, None, "2", 10**400])
@pytest.mark.parametrize("label", [0, 7])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_class_weights_are_named(method, label, value):
    class_weight = {0: 1, 1: 1, 2: 1} | {label: value}
    with pytest.raises(ValueError, match=r"`class_weight` must be finite and not negative, got "
                                         rf"{value!r} for class {label}"):
        call(SoftmaxRegression(class_weight=class_weight), method)


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
