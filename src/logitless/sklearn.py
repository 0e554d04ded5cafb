"""SoftmaxRegression: a classifier for scikit-learn, fitted without its logits in memory.

Needs scikit-learn 1.6 or newer: ``pip install "logitless[sklearn]"``.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ._estimators import Trainee
from ._parallel import threads, usable_cores
from ._results import Gradients
from .head import LinearHead

__all__ = ["SoftmaxRegression"]

F64 = np.dtype(np.float64)


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression, fitted by L-BFGS or batch by batch.

    Minimises, with ``s`` the sample weights times the class weights::

        C * sum_i s_i * loss(W @ x_i + b, y_i) + 0.5 * sum(W ** 2)

    where ``loss(z, y) = -log(softmax(z)[y])``, as scikit-learn's LogisticRegression
    does: both reach the same coefficients. Two classes have a single row of them,
    ``w``, with the logits ``[0, w @ x + b]``.

    Parameters
    ----------
    C : float, default 1.0
        Positive; the larger, the less the coefficients are held back. ``np.inf``: not
        at all.
    fit_intercept : bool, default True
        Have a bias ``b``, which is not penalised.
    class_weight : dict, "balanced" or None
        Weights of the classes by label, 1 for those not named. "balanced": inversely
        proportional to the sum of the sample weights of each class.
    tol : float, default 1e-4
        `fit` ends when no entry of the gradient of ``objective / (C * sum(s))``, which
        is the mean loss plus penalty, is larger.
    max_iter : int, default 1000
        Most iterations of a `fit`.
    warm_start : bool, default False
        `fit` starts from the coefficients at hand instead of zeros.
    batch_size : int, default 256
        Rows of a step of `partial_fit`.
    learning_rate : float, default 0.1
        Size of the first step of `partial_fit`.
    n_jobs : int, optional
        Threads; -1 for all cores, -2 for all but one. By default what
        `logitless.threads`, ``LOGITLESS_NUM_THREADS`` or the machine says.
    verbose : int or callable, default 0
        1: `fit` shows its iteration, mean loss plus penalty, and time on stderr, in a
        line that is written over on a terminal. A callable gets the first two
        after each iteration.

    Attributes
    ----------
    coef_ : ndarray, shape (n, k), or (1, k) for two classes
        In the dtype of the rows it was fitted to.
    intercept_ : ndarray, shape (n,), or (1,) for two classes
        Zeros without `fit_intercept`.
    classes_ : ndarray, shape (n,)
        Labels in ascending order.
    n_iter_ : int
        Iterations of the last `fit`.
    n_samples_seen_ : int
        Rows of the last `fit` and of every `partial_fit` since.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (k,)
        Only where the rows came with names of columns.

    Notes
    -----
    Rows are float32 or float64, and computed in that precision (L-BFGS itself holds its
    parameters in float64); other dtypes become float64. They are dense: sparse ones are
    refused. Beyond its input (copied if it is not in C order) a fit holds some 30 times
    the coefficients in float64, a few numbers for each row, and the workspace of
    `LinearHead.value_and_grad`, at most 64 MiB, where the logits of all rows would take
    m * n numbers. An iteration takes 4 m n k flops, a few of them twice that.

    `LinearHead.from_estimator` makes a head of the fitted model, for losses, top-k and
    all else.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from logitless.sklearn import SoftmaxRegression
    >>> x, y = load_digits(return_X_y=True)
    >>> model = SoftmaxRegression().fit(x[:1200] / 16, y[:1200])
    >>> model.coef_.shape
    (10, 64)
    >>> round(model.score(x[1200:] / 16, y[1200:]), 3)
    0.921
    """

    _parameter_constraints = {  # noqa: RUF012 (as scikit-learn reads it)
        "C": [Interval(Real, 0, None, closed="right")],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_jobs": [None, Interval(Integral, None, -1, closed="right"),
                   Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose", callable],
    }

    def __init__(self, *, C=1.0, fit_intercept=True, class_weight=None, tol=1e-4, max_iter=1000,
                 warm_start=False, batch_size=256, learning_rate=0.1, n_jobs=None, verbose=0):
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_jobs = n_jobs
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Find the coefficients that minimise the penalised loss.

        Parameters
        ----------
        X : array_like, shape (m, k)
        y : array_like, shape (m,)
            Labels, of at least two classes.
        sample_weight : array_like, shape (m,), optional
            Not negative. A row of weight 0 counts for nothing, one of weight 2 as two.

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        ValueError
            Shapes that do not fit, entries that are not finite, a single class,
            parameters out of range, or with `warm_start` other classes or features.
        TypeError
            Sparse rows.

        Warns
        -----
        ConvergenceWarning
            `max_iter` iterations were not enough for `tol`, or it is out of reach in
            this precision.
        """
        X, y = validate_data(self, X, y, dtype=[F64, np.float32], order="C")
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"`y` must have labels of at least two classes, got only 1 class: "
                             f"{classes[0]!r}")
        index, weight = self._index_and_weight(X, y, sample_weight, classes)
        total = float(weight.sum())
        if not total > 0:
            raise ValueError(f"the weights of all rows must have a positive sum, got {total}")
        trainee = self._trainee(X, classes, self.warm_start)
        with self._threads(), _reporting(self.verbose) as report:
            found = trainee.minimise(X, index, weight / total, 1 / (self.C * total),
                                     tol=self.tol, max_iter=self.max_iter, report=report)
        if found.status != 0:
            _warn(found, self.max_iter)
        self.classes_ = classes
        self.coef_, self.intercept_ = trainee.coef.copy(), trainee.intercept.copy()
        self.n_iter_ = int(found.nit)
        self.n_samples_seen_ = len(X)
        self._squares = None
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Go a step for each batch of rows, in the order given.

        A step of AdaGrad on the mean loss of `batch_size` rows and their share of the
        penalty, ``0.5 * sum(W ** 2) / (C * n_samples_seen_)``: an entry of the
        coefficients moves by ``learning_rate * g / sqrt(sum of g**2 so far)``, with
        ``g`` its gradient.

        Parameters
        ----------
        X : array_like, shape (m, k)
        y : array_like, shape (m,)
        classes : array_like, shape (n,), optional
            All labels there are; needed in the first call, unless it follows a `fit`.
        sample_weight : array_like, shape (m,), optional
            Not negative.

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        ValueError
            As `fit`; no `classes` in the first call, or others than in that; labels
            that are not among them; ``class_weight="balanced"``, which needs all rows.
        TypeError
            Sparse rows.

        Notes
        -----
        Rows shown in several calls count, against the penalty, each time. After a `fit`
        steps are as small as if its rows had come here, with gradients as large as any.
        """
        if self.class_weight == "balanced":
            raise ValueError('`class_weight` must be a dict or None for `partial_fit`, got '
                             '"balanced": the weights need all rows')
        first = not hasattr(self, "coef_")
        X, y = validate_data(self, X, y, dtype=[F64, np.float32], order="C", reset=first)
        check_classification_targets(y)
        _check_partial_fit_first_call(self, classes)
        if len(self.classes_) < 2:
            raise ValueError(f"`classes` must have at least two classes, got {self.classes_!r}")
        index, weight = self._index_and_weight(X, y, sample_weight, self.classes_)
        trainee = self._trainee(X, self.classes_, not first)
        seen = 0 if first else self.n_samples_seen_
        squares = self._squares_so_far(trainee, X, seen)
        with self._threads():
            for lo in range(0, len(X), self.batch_size):
                rows = slice(lo, min(lo + self.batch_size, len(X)))
                share = 1 / (rows.stop - lo)
                seen += rows.stop - lo
                trainee.step(X[rows], index[rows], weight[rows] * share, 1 / (self.C * seen),
                             squares, self.learning_rate)
        self.coef_, self.intercept_ = trainee.coef.copy(), trainee.intercept.copy()
        self.n_samples_seen_ = seen
        self._squares = squares
        return self

    def decision_function(self, X):
        """``X @ coef_.T + intercept_``.

        Parameters
        ----------
        X : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n), or (m,) for two classes
            Logits; for two classes that of ``classes_[1]``, the other's being 0.
        """
        X = self._checked(X)
        with self._threads():
            scores = LinearHead(self.coef_, self.intercept_, pack=False).logits(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X):
        """Label of the class with the largest logit, the first of equals.

        Parameters
        ----------
        X : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m,)
        """
        X = self._checked(X)
        with self._threads():
            return self.classes_[self._head().predict(X)]

    def predict_proba(self, X):
        """Softmax of the logits, in the order of `classes_`.

        Parameters
        ----------
        X : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
        """
        X = self._checked(X)
        with self._threads():
            return self._head().predict_proba(X)

    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`, precise also where that is next to 0 or 1.

        Parameters
        ----------
        X : array_like, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
            In nats.
        """
        X = self._checked(X)
        with self._threads():
            return self._head().predict_log_proba(X)

    def _checked(self, X) -> np.ndarray:
        check_is_fitted(self, "coef_")
        return validate_data(self, X, dtype=[F64, np.float32], reset=False)

    def _head(self) -> LinearHead:
        return LinearHead.from_estimator(self, pack=False)

    def _threads(self):
        if self.n_jobs is None:
            return nullcontext()
        wanted = self.n_jobs if self.n_jobs > 0 else usable_cores() + 1 + self.n_jobs
        return threads(max(1, wanted))

    def _index_and_weight(self, X, y, sample_weight, classes) -> tuple[np.ndarray, np.ndarray]:
        """Class position of each row, and its weight in float64."""
        weight = _check_sample_weight(sample_weight, X, dtype=F64, ensure_non_negative=True)
        balanced = self.class_weight == "balanced"
        of_class = compute_class_weight(None if balanced else self.class_weight, classes=classes,
                                        y=y)
        index = np.searchsorted(classes, y)
        if balanced:
            sums = np.bincount(index, weight)
            of_class = sums.sum() / (len(sums) * np.where(sums > 0, sums, 1))
        return index, weight * of_class[index]

    def _trainee(self, X, classes, go_on: bool) -> Trainee:
        """Coefficients to fit: zeros, or those at hand."""
        trainee = Trainee(len(classes), X.shape[1], X.dtype, self.fit_intercept)
        if go_on and hasattr(self, "coef_"):
            if not np.array_equal(classes, self.classes_):
                raise ValueError(f"`warm_start` needs labels of the classes of the last fit, "
                                 f"{self.classes_}, got {classes}")
            if self.coef_.shape != trainee.coef.shape:
                raise ValueError(f"`warm_start` needs the {self.coef_.shape[1]} features of the "
                                 f"last fit, got {X.shape[1]}")
            trainee.coef[...] = self.coef_
            if self.fit_intercept:
                trainee.intercept[...] = self.intercept_
        return trainee

    def _squares_so_far(self, trainee: Trainee, X, seen: int) -> Gradients:
        """Sums of the squares of the gradients of all steps before."""
        known = getattr(self, "_squares", None)
        if known is not None:
            return Gradients(None, known.weight.astype(X.dtype), known.bias.astype(X.dtype))
        steps = seen / self.batch_size
        coef = np.empty_like(trainee.coef)
        coef[...] = steps / len(X) * np.einsum("ij,ij->j", X, X)
        return Gradients(None, coef, np.full_like(trainee.intercept, steps))


@contextmanager
def _reporting(verbose) -> Iterator[Callable]:
    """Give what is to be called after each iteration."""
    if callable(verbose) or not verbose:
        yield verbose or (lambda *_: None)
        return
    start = time.perf_counter()
    end = "\r" if sys.stderr.isatty() else "\n"

    def line(iteration: int, objective: float) -> None:
        print(f"iteration {iteration}   mean loss + penalty {objective:.6f}   "
              f"{time.perf_counter() - start:.1f} s", end=end, file=sys.stderr, flush=True)

    try:
        yield line
    finally:
        if end == "\r":
            print(file=sys.stderr)


def _warn(found, max_iter: int) -> None:
    advice = ("give `max_iter` more of them" if found.nit >= max_iter else
              "a larger `tol` or float64 rows may be what it needs")
    warnings.warn(f"the gradient is not down to `tol` after {found.nit} iterations "
                  f"({found.message}): {advice}; features of similar scale help",
                  ConvergenceWarning, stacklevel=4)
