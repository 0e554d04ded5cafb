"""A fit that fails or is interrupted leaves the model as it was."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

from support.iris import IRIS, SPECIES, call

from logitless.sklearn import SoftmaxRegression
from logitless.sklearn._fitting import Trainee

pytestmark = pytest.mark.usefixtures("one_blas_thread")


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
