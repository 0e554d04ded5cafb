"""Heads made of scikit-learn's classifiers."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Perceptron,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

import logitless as ll
from logitless.sklearn import SoftmaxRegression

X, Y = load_digits(return_X_y=True)
X /= 16
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
BINARY = Y < 2

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def task(n):
    """Digits of two classes, or of all."""
    return (X[BINARY], NAMES[Y[BINARY]]) if n == 2 else (X, Y)


LINEAR = [
    LogisticRegression(),
    SoftmaxRegression(),
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="hinge", random_state=0),
    LinearSVC(C=0.1),
    LinearSVC(C=0.1, fit_intercept=False),
    RidgeClassifier(),
    RidgeClassifier(fit_intercept=False),
    Perceptron(random_state=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("estimator", LINEAR, ids=str)
def test_head_of_an_estimator(estimator, n):
    x, y = task(n)
    fitted = clone(estimator).fit(x, y)
    head = ll.LinearHead.from_estimator(fitted)
    assert (head.n_classes, head.n_features, head.dtype) == (n, 64, np.float64)
    logits, scores = head.logits(x), fitted.decision_function(x)
    if n == 2:
        assert not logits[:, 0].any()
        logits = logits[:, 1]
    np.testing.assert_allclose(logits, scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(fitted.classes_[head.predict(x)], fitted.predict(x))


@pytest.mark.parametrize(("estimator", "n"), [(e, n) for e in LINEAR[:3] for n in (2, 10)]
                         + [(LINEAR[3], 2)], ids=str)
def test_probabilities_of_such_a_head(estimator, n):
    x, y = task(n)
    fitted = clone(estimator).fit(x, y)
    head = ll.LinearHead.from_estimator(fitted)
    np.testing.assert_allclose(head.predict_proba(x), fitted.predict_proba(x), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [2, 10])
def test_head_of_naive_bayes(n):
    x, y = task(n)
    x = np.abs(x)
    fitted = MultinomialNB(alpha=0.5).fit(x, y)
    head = ll.LinearHead.from_estimator(fitted)
    np.testing.assert_allclose(head.logits(x), fitted.predict_joint_log_proba(x), rtol=1e-9)
    np.testing.assert_allclose(head.predict_proba(x), fitted.predict_proba(x), rtol=1e-6,
                               atol=1e-12)
    np.testing.assert_array_equal(fitted.classes_[head.predict(x)], fitted.predict(x))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("hidden", [(5,), (7, 4)])
def test_head_of_the_last_layer_of_a_network(n, hidden):
    x, y = task(n)
    fitted = MLPClassifier(hidden, activation="tanh", max_iter=3, random_state=0).fit(x, y)
    head = ll.LinearHead.from_estimator(fitted)
    assert (head.n_classes, head.n_features) == (n, hidden[-1])
    before = x
    for weight, bias in zip(fitted.coefs_[:-1], fitted.intercepts_[:-1], strict=True):
        before = np.tanh(before @ weight + bias)
    np.testing.assert_allclose(head.predict_proba(before), fitted.predict_proba(x), rtol=1e-6)
    np.testing.assert_array_equal(fitted.classes_[head.predict(before)], fitted.predict(x))


@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize("estimator", [LogisticRegression(), LinearSVC(C=0.1)], ids=str)
def test_head_of_one_against_the_rest(estimator, n):
    x, y = task(n)
    fitted = OneVsRestClassifier(estimator).fit(x, y)
    head = ll.LinearHead.from_estimator(fitted)
    scores = fitted.decision_function(x)
    np.testing.assert_allclose(head.logits(x)[:, -1] if n == 2 else head.logits(x), scores,
                               rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(fitted.classes_[head.predict(x)], fitted.predict(x))
    if n == 2 and hasattr(fitted, "predict_proba"):
        np.testing.assert_allclose(head.predict_proba(x), fitted.predict_proba(x), rtol=1e-6)


@pytest.mark.parametrize("wrap", [
    lambda last: make_pipeline(StandardScaler(), last),
    lambda last: GridSearchCV(make_pipeline(StandardScaler(), last), {}, cv=2),
    lambda last: make_pipeline(StandardScaler(), GridSearchCV(last, {}, cv=2)),
], ids=["pipeline", "search", "search at the end"])
def test_head_of_what_a_pipeline_or_a_search_ends_in(wrap):
    fitted = wrap(LogisticRegression(C=0.01)).fit(X, Y)
    head = ll.LinearHead.from_estimator(fitted)
    pipeline = getattr(fitted, "best_estimator_", fitted)
    np.testing.assert_allclose(head.predict_proba(pipeline[:-1].transform(X)),
                               fitted.predict_proba(X), rtol=1e-6)


def test_head_of_sparse_coefficients_and_with_options():
    fitted = LogisticRegression(C=0.01).fit(X, Y)
    dense = ll.LinearHead.from_estimator(fitted, temperature=2.0, pack=False)
    sparse = ll.LinearHead.from_estimator(fitted.sparsify(), temperature=2.0, pack=False)
    np.testing.assert_array_equal(sparse.logits(X), dense.logits(X))
    np.testing.assert_allclose(dense.logits(X), fitted.decision_function(X) / 2, rtol=1e-9)
    with pytest.raises(ValueError, match="temperature"):
        ll.LinearHead.from_estimator(fitted, temperature=0)


def test_head_of_a_support_vector_machine_of_two_classes():
    fitted = SVC(kernel="linear").fit(*task(2))
    head = ll.LinearHead.from_estimator(fitted)
    np.testing.assert_allclose(head.logits(X)[:, 1], fitted.decision_function(X), rtol=1e-8)


@pytest.mark.parametrize("estimator", [
    *LINEAR, MultinomialNB(), MLPClassifier(), OneVsRestClassifier(LinearSVC()),
    make_pipeline(StandardScaler(), LinearSVC()), GridSearchCV(LinearSVC(), {}),
], ids=str)
def test_head_of_an_unfitted_estimator(estimator):
    with pytest.raises(NotFittedError, match="not fitted"):
        ll.LinearHead.from_estimator(clone(estimator))


LABELS = make_multilabel_classification(random_state=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("fitted", "got"), [
    (lambda: LinearRegression().fit(X, Y), "LinearRegression: one without"),
    (lambda: GaussianNB().fit(X, Y), "GaussianNB: one without"),
    (lambda: BernoulliNB().fit(X, Y), "BernoulliNB: one without"),
    (lambda: ComplementNB().fit(X, Y), "ComplementNB: one without"),
    (lambda: make_pipeline(RidgeClassifier(), "passthrough"), "str: one without"),
    (lambda: make_pipeline(StandardScaler(), GaussianNB()).fit(X, Y), "GaussianNB: one without"),
    (lambda: GridSearchCV(RidgeClassifier(), {}, cv=2, refit=False, scoring="accuracy").fit(X, Y),
     "GridSearchCV: .*`refit`"),
    (lambda: OneVsRestClassifier(GaussianNB()).fit(X, Y), "GaussianNB: one without"),
    (lambda: OneVsRestClassifier(make_pipeline(RidgeClassifier())).fit(X, Y),
     "Pipeline: one without"),
    (lambda: OneVsRestClassifier(RidgeClassifier()).fit(*LABELS),
     "OneVsRestClassifier: one with several labels"),
    (lambda: MLPClassifier(2, max_iter=1).fit(*LABELS), "MLPClassifier: one with several labels"),
    (lambda: SVC(kernel="linear").fit(X[Y < 3], Y[Y < 3]), "SVC: .*two by two"),
    (lambda: SVC(kernel="linear").fit(X[Y < 4], Y[Y < 4]), r"SVC: .*shape \(6, 64\) for 4"),
    (lambda: RidgeClassifier().fit(*LABELS),
     "RidgeClassifier: one with several labels"),
    (lambda: X, "ndarray: one without"),
    (lambda: SimpleNamespace(coef_=np.ones(3), classes_=[0, 1, 2]), r"shape \(1, 3\) for 3"),
    (lambda: SimpleNamespace(coef_=np.ones((1, 3)), classes_=[0]), r"shape \(1, 3\) for 1"),
    (lambda: SimpleNamespace(coef_=np.ones((2, 3)), classes_=None), r"shape \(2, 3\) for 1"),
    (lambda: SimpleNamespace(coef_=np.ones((2, 3)), classes_=[[0, 1, 2], [0, 1, 2]]),
     r"shape \(2, 3\) for 6"),
    (lambda: SimpleNamespace(coef_=np.ones((3, 2)), classes_=range(3), intercept_=np.ones(1)),
     r"`intercept_` of shape \(1,\) beside `coef_` of shape \(3, 2\)"),
    (lambda: SimpleNamespace(coef_=np.ones((3, 2)), classes_=range(3), intercept_=np.ones((3, 1))),
     r"`intercept_` of shape \(3, 1\)"),
])
def test_head_of_what_is_no_linear_classifier(fitted, got):
    with pytest.raises(TypeError, match=f"coef_.*classes_.*, got .*{got}"):
        ll.LinearHead.from_estimator(fitted())


def test_head_keeps_the_intercepts_beside_whole_coefficients():
    fitted = SimpleNamespace(coef_=np.array([[1, 0], [0, 2]]), classes_=[0, 1],
                             intercept_=[0.5, -0.25])
    np.testing.assert_array_equal(ll.LinearHead.from_estimator(fitted).logits([[1, 1]]),
                                  [[1.5, 1.75]])


def test_head_of_coefficients_that_are_not_numbers_gives_none():
    """As `LinearHead` does: a NaN is a special value, not an error."""
    fitted = SimpleNamespace(coef_=np.array([[1.0, np.nan], [0, 2], [0, 0]]), classes_=range(3))
    assert np.isnan(ll.LinearHead.from_estimator(fitted).loss([[1.0, 1.0]], [1])).all()


def test_head_of_anything_with_the_attributes_needs_no_scikit_learn(run_python):
    assert run_python("""
import sys, types
import numpy as np, logitless as ll
fitted = types.SimpleNamespace(coef_=np.eye(3, dtype="f4"), classes_=["a", "b", "c"])
head = ll.LinearHead.from_estimator(fitted)
print(head.predict([[1, 2, 0]]), head.dtype, "sklearn" in sys.modules, "scipy" in sys.modules)
""") == "[1] float32 False False\n"
