"""Callbacks of scikit-learn 1.9 and newer are told what LogisticRegression tells them."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from support.iris import IRIS, SPECIES

from logitless.sklearn import SoftmaxRegression

pytestmark = pytest.mark.usefixtures("one_blas_thread")


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
