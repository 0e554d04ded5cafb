"""SoftmaxRegression: a classifier for scikit-learn, fitted without its logits in memory.

Needs scikit-learn 1.6 or newer: ``pip install "logitless[sklearn]"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
except ModuleNotFoundError as error:
    raise ImportError(
        f'logitless.sklearn needs {error.name}: pip install "logitless[sklearn]"') from error

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .._arrays.sliced import is_sliced
from .._arrays.sparse_x import SparseX
from .._parallel.cores import usable_cores
from .._parallel.pool import threads
from ..head import LinearHead
from ..results import Gradients
from ._callbacks import CallbackSupportMixin, reporting, tasks
from ._class_weight import row_weights
from ._fitting import F64, Trainee, rows_of, squares
from ._lazy import accuracy, by_blocks, is_lazy
from ._lbfgs import Found, minimise
from ._sliced import FiniteRows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["SoftmaxRegression"]


def _all_or_nothing(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method that fails, or is interrupted, leave the estimator as it was."""

    @wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **kwargs)
        except BaseException:
            self.__dict__ = before
            raise

    return guarded


class SoftmaxRegression(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
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
        Weights of the classes by label, finite and not negative, 1 for those not named.
        Labels that do not occur may be named beside all that do. "balanced": inversely
        proportional to the sum of the sample weights of each class.
    tol : float, default 1e-4
        `fit` ends when no entry of the gradient of ``objective / (C * sum(s))``, which
        is the mean loss plus penalty, is larger, at the coefficients as they are kept.
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
    n_iter_ : ndarray of int32, shape (1,)
        Iterations of the last `fit`.
    n_samples_seen_ : int
        Rows of the last `fit` and of every `partial_fit` since.
    n_features_in_ : int
    feature_names_in_ : ndarray of str, shape (k,)
        Only where the rows came with names of columns.

    Notes
    -----
    Rows are float32 or float64; other dtypes become float64. They may be SciPy sparse
    matrices or arrays, read as CSR: an iteration then takes 4 n flops for each of their
    entries, which are held once more, feature by feature. L-BFGS sees each feature as if it
    had mean 0 and the same curvature as the others, so that features of different scales
    need no scaler; coefficients, penalty and `tol` are those of the features as given.
    float32 rows are computed in float32 as far as that leads; where its rounding leaves
    open whether the gradient is down to `tol`, `fit` goes on in float64, a block of rows at
    a time (sparse ones are copied).

    Beyond its input (copied if it is not in C order) a fit holds some 30 times the
    coefficients in float64, a few numbers for each row, and the workspace of
    `logitless.LinearHead.value_and_grad`, at most 64 MiB, where the logits of all rows would take
    m * n numbers. An iteration takes 4 m n k flops, a few of them twice that.

    A `fit` or `partial_fit` that fails or is interrupted leaves the model as it was.

    With scikit-learn 1.9 or newer there is ``set_callbacks(*callbacks)``; `fit` calls
    them as LogisticRegression does, and ends after an iteration whose
    ``on_fit_task_end`` gives True.

    `logitless.LinearHead.from_estimator` makes a head of the fitted model, for losses, top-k and
    all else.

    A fitted model takes arrays and frames of Dask, too: `predict`, `predict_proba`,
    `predict_log_proba` and `decision_function` give an array as lazy as the one given,
    or for a frame a series or a frame (with `classes_` as columns) of the same index;
    `score` computes. A task is a block of rows, on one thread unless there is `n_jobs`.

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

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        tol: float = 1e-4,
        max_iter: int = 1000,
        warm_start: bool = False,
        batch_size: int = 256,
        learning_rate: float = 0.1,
        n_jobs: int | None = None,
        verbose: int | Callable[[int, float], object] = 0,
    ):
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

    @_all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None
    ) -> SoftmaxRegression:
        """Find the coefficients that minimise the penalised loss.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)
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
            parameters or weights out of range, weights whose sum is 0 or not finite,
            coefficients beyond the dtype of the rows, or with `warm_start` other
            classes or features.

        Warns
        -----
        ConvergenceWarning
            The gradient is not down to `tol`: `max_iter` iterations were not enough, or
            it is out of reach with coefficients of this precision.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[0.0], [1.0], [2.0], [3.0]], ["a", "a", "b", "b"])
        >>> model.coef_.round(2), model.intercept_.round(2)
        (array([[0.96]]), array([-1.44]))
        """
        X, y = validate_data(self, X, y, dtype=[F64, np.float32], order="C",
                             accept_sparse="csr")
        check_classification_targets(y)
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(f"`y` must have labels of at least two classes, got only 1 class: "
                             f"{classes[0]!r}")
        index = np.searchsorted(classes, y)
        weight = row_weights(self.class_weight, sample_weight, classes, index)
        total = float(weight.sum())
        if not total > 0:
            raise ValueError("the weights of rows must have a positive sum, got zero: a class "
                             "weight times a sample weight must be positive")
        decay = self._decay(total)
        trainee = self._trainee(X, classes, self.warm_start)
        told = tasks(self, X, y, sample_weight, self.max_iter)
        X = rows_of(X)
        told.begin(partial(_attributes, classes, trainee, X.dtype))
        with self._threads(), reporting(self.verbose) as show:

            def report(iteration: int, objective: float, trainee: Trainee) -> bool:
                show(iteration, objective)
                return told.next(partial(_attributes, classes, trainee, X.dtype))

            found = minimise(trainee, X, index, weight / total, decay, tol=self.tol,
                             max_iter=self.max_iter, report=report)
        _check_finite(trainee)
        if not (found.stopped or found.largest <= self.tol):
            _warn(found, self.tol, self.max_iter, trainee.dtype)
        self.__dict__.update(_attributes(classes, trainee, X.dtype))
        self.n_iter_ = np.array([found.iterations], np.int32)
        self.n_samples_seen_ = X.shape[0]
        self._squares: Gradients | None = None
        told.end()
        return self

    @_all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> SoftmaxRegression:
        """Go a step for each batch of rows, in the order given.

        A step of AdaGrad on the mean loss of `batch_size` rows and their share of the
        penalty, ``0.5 * sum(W ** 2) / (C * n_samples_seen_)``: an entry of the
        coefficients moves by ``learning_rate * g / sqrt(sum of g**2 so far)``, with
        ``g`` its gradient.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)
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
            As `fit`, but weights may all be 0; no `classes` in the first call, or others
            than in that; labels that are not among them; ``class_weight="balanced"``,
            which needs all rows.

        Notes
        -----
        Rows shown in several calls count, against the penalty, each time. After a `fit`
        steps are as small as if its rows had come here, with gradients as large as any.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression()
        >>> for _ in range(20):
        ...     model = model.partial_fit([[0.0], [3.0]], ["a", "b"], classes=["a", "b"])
        >>> model.predict([[0.0], [3.0]]), model.n_samples_seen_
        (array(['a', 'b'], dtype='<U1'), 40)
        """
        if self.class_weight == "balanced":
            raise ValueError('`class_weight` must be a dict or None for `partial_fit`, got '
                             '"balanced": the weights need all rows')
        first = not hasattr(self, "coef_")
        X, y = validate_data(self, X, y, dtype=[F64, np.float32], order="C", reset=first,
                             accept_sparse="csr")
        check_classification_targets(y)
        _check_partial_fit_first_call(self, classes)
        if len(self.classes_) < 2:
            raise ValueError(f"`classes` must have at least two classes, got {self.classes_!r}")
        unknown = set(np.unique(y).tolist()) - set(self.classes_.tolist())
        if unknown:
            raise ValueError(f"`y` must have labels that are among the classes {self.classes_}, "
                             f"got {sorted(unknown)} too")
        index = np.searchsorted(self.classes_, y)
        weight = row_weights(self.class_weight, sample_weight, self.classes_, index)
        X = rows_of(X)
        trainee = self._trainee(X, self.classes_, not first)
        seen = 0 if first else self.n_samples_seen_
        with self._threads(), np.errstate(over="ignore", invalid="ignore"):
            squares = self._squares_so_far(trainee, X, seen)
            for lo in range(0, len(X), self.batch_size):
                rows = slice(lo, min(lo + self.batch_size, len(X)))
                share = 1 / (rows.stop - lo)
                seen += rows.stop - lo
                trainee.step(X[rows], index[rows], weight[rows] * share, self._decay(seen),
                             squares, self.learning_rate)
        _check_finite(trainee, squares)
        self.__dict__.update(_attributes(self.classes_, trainee, X.dtype))
        self.n_samples_seen_ = seen
        self._squares = squares
        return self

    @by_blocks
    def decision_function(self, X: ArrayLike) -> np.ndarray:
        """``X @ coef_.T + intercept_``.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n), or (m,) for two classes
            Logits; for two classes that of ``classes_[1]``, the other's being 0.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[-1.0], [1.0]], [0, 1])
        >>> model.decision_function([[1.0], [2.0]]).round(2)
        array([0.67, 1.35])
        """
        X = self._checked(X)
        with self._threads():
            scores = LinearHead(self.coef_, self.intercept_, pack=False).logits(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    @by_blocks
    def predict(self, X: ArrayLike) -> np.ndarray:
        """Label of the class with the largest logit, the first of equals.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)
            What only slices, as data sets of h5py do, is read a block at a time; so is that
            of the other predictions.

        Returns
        -------
        ndarray, shape (m,)
            Of the dtype of `classes_`.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[-1.0], [1.0]], ["no", "yes"])
        >>> model.predict([[-3.0], [2.0]]).tolist()
        ['no', 'yes']
        """
        X = self._checked(X)
        with self._threads():
            return self.classes_[self._head().predict(X)]

    @by_blocks
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Softmax of the logits, in the order of `classes_`.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
            Probabilities, in the precision of `X`.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[-1.0], [1.0]], [0, 1])
        >>> model.predict_proba([[0.0], [2.0]]).round(2)
        array([[0.5 , 0.5 ],
               [0.21, 0.79]])
        """
        X = self._checked(X)
        with self._threads():
            return self._head().predict_proba(X)

    @by_blocks
    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        """Logarithm of `predict_proba`, precise also where that is next to 0 or 1.

        Parameters
        ----------
        X : array_like or sparse, shape (m, k)

        Returns
        -------
        ndarray, shape (m, n)
            In nats.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[-1.0], [1.0]], [0, 1])
        >>> bool(0 < -model.predict_log_proba([[60.0]])[0, 1] < 1e-16)  # and not 0
        True
        """
        X = self._checked(X)
        with self._threads():
            return self._head().predict_log_proba(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Share of the rows whose label is predicted.

        Parameters
        ----------
        X : array_like, shape (m, k)
        y : array_like, shape (m,)
            With arrays or frames of Dask as `X`, of Dask or not.
        sample_weight : array_like, shape (m,), optional

        Returns
        -------
        float
            Also for `X` of Dask, whose blocks are then computed.

        Examples
        --------
        >>> from logitless.sklearn import SoftmaxRegression
        >>> model = SoftmaxRegression().fit([[-1.0], [1.0]], [0, 1])
        >>> model.score([[-2.0], [2.0], [3.0], [4.0]], [0, 1, 1, 0])
        0.75
        """
        if is_lazy(X):
            return accuracy(self.predict(X), y, sample_weight)
        return super().score(X, y, sample_weight)

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self, "coef_")
        if is_sliced(X) and len(X.shape) == 2 and X.shape[0]:
            validate_data(self, np.asarray(X[:1]), dtype=[F64, np.float32], reset=False)
            return FiniteRows(X)
        return validate_data(self, X, dtype=[F64, np.float32], reset=False, accept_sparse="csr")

    def _head(self) -> LinearHead:
        return LinearHead.from_estimator(self, pack=False)

    def _threads(self) -> AbstractContextManager[None]:
        if self.n_jobs is None:
            return nullcontext()
        wanted = self.n_jobs if self.n_jobs > 0 else usable_cores() + 1 + self.n_jobs
        return threads(max(1, wanted))

    def _decay(self, total: float) -> float:
        """Factor of the penalty beside a mean loss."""
        counts = self.C * total
        if not counts >= np.finfo(F64).tiny:
            raise ValueError(f"`C` times the sum of the weights must be at least "
                             f"{np.finfo(F64).tiny:.2g}, got {self.C} times {total}")
        return 1 / counts

    def _trainee(self, X: np.ndarray | SparseX, classes: np.ndarray, go_on: bool) -> Trainee:
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

    def _squares_so_far(self, trainee: Trainee, X: np.ndarray | SparseX, seen: int) -> Gradients:
        """Sums of the squares of the gradients of all steps before."""
        known = getattr(self, "_squares", None)
        if known is not None:
            return Gradients(None, known.weight.astype(X.dtype), known.bias.astype(X.dtype))
        steps = seen / self.batch_size
        coef = np.empty_like(trainee.coef)
        coef[...] = steps / len(X) * squares(X)
        return Gradients(None, coef, np.full_like(trainee.intercept, steps))


def _attributes(classes: np.ndarray, trainee: Trainee, dtype: np.dtype) -> dict[str, Any]:
    """What an estimator with these coefficients knows."""
    return {"classes_": classes, "coef_": trainee.coef.astype(dtype),
            "intercept_": trainee.intercept.astype(dtype)}


def _check_finite(trainee: Trainee, squares: Gradients | None = None) -> None:
    """Coefficients are of use, and `partial_fit` can go on with the sums of squares."""
    arrays = {"coef_": trainee.coef, "intercept_": trainee.intercept}
    if squares is not None and squares.weight is not None:
        arrays["sums of squared gradients"] = squares.weight
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` must stay finite, but left the range of {trainee.dtype}: "
                             "rows, weights or steps are too large, or rows too small")


def _warn(found: Found, tol: float, max_iter: int, dtype: np.dtype) -> None:
    if found.iterations >= max_iter:
        advice = "give `max_iter` more of them"
    elif dtype != F64:
        advice = "a larger `tol` or float64 rows may be what it needs"
    else:
        advice = "a larger `tol` may be what it needs"
    warnings.warn(f"the gradient is not down to `tol` {tol:g} after {found.iterations} iterations, "
                  f"its largest entry is {found.largest:.3g}: {advice}",
                  ConvergenceWarning, stacklevel=5)
