"""Coefficients that minimise a penalised loss, by L-BFGS on features that are as if standardised.

The gradient by the coefficients themselves decides when it ends. Rows in float32 are gone through
in float32 as far as that leads, and from there in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays.sparse_x import SparseX
from ._fitting import F64, Trainee

BLOCK_VALUES = 1 << 16  # of rows at a time, copied
# A step that lowers the objective by no more than this share is lost in its rounding. float32
# need not get to the last of it: float64 comes after.
NO_PROGRESS = {np.dtype(np.float32): 1e-9, F64: 0.0}
# Where rounding the coefficients alone brings the gradient above `tol`: the share of `tol` down to
# which it is worth going on for some that round better.
HOPELESS = 0.1
CANCELLED = 1e-12  # of a mean square is what may be left of a variance of 0

Report = Callable[[int, float, Trainee], object]


@dataclass(frozen=True)
class Found:
    """How a minimisation ended.

    Attributes
    ----------
    iterations : int
    largest : float
        Largest entry of the gradient at the coefficients that are kept, as found in float64; or
        what it is at most, where float32 is enough to say that it is down to `tol`.
    stopped : bool
        `report` asked for it.
    """

    iterations: int
    largest: float
    stopped: bool


def minimise(trainee: Trainee, x: np.ndarray | SparseX, index: np.ndarray, weight: np.ndarray,
             decay: float, *, tol: float, max_iter: int, report: Report) -> Found:
    """Minimise ``sum(weight * loss) + decay / 2 * sum(coef ** 2)``, beginning where `trainee` is.

    `weight` sums to 1. `report` is called after each iteration with its number, the objective and
    a Trainee with the coefficients; what it gives back is whether to stop.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # of steps too long, which are taken back
        return _Search(trainee, x, index, weight, decay, tol, max_iter, report).run()


class _Search:
    """A problem, and how far its solution has come."""

    def __init__(self, trainee: Trainee, x: np.ndarray | SparseX, index: np.ndarray,
                 weight: np.ndarray, decay: float, tol: float, max_iter: int, report: Report):
        self._kept = trainee
        self._wide = trainee if trainee.dtype == F64 else trainee.in_float64()
        self._rounds = self._wide is not self._kept
        self._rows, self._decay = (x, index, weight), decay
        self._tol, self._max_iter, self._report = tol, max_iter, report
        self._features = Features(x, weight, decay, trainee)
        self._at = self._features.flat(trainee)
        self._largest: float | None = None  # at `_at`, rounded
        self._iterations, self._stopped = 0, False

    def run(self) -> Found:
        self._descend(self._kept)
        if self._rounds and not (self._stopped or self._at_kept() <= self._tol):
            self._descend(self._wide)
        largest = self._at_kept()
        self._features.put(self._at, self._kept)
        return Found(self._iterations, largest, self._stopped)

    def _descend(self, trainee: Trainee) -> None:
        """Go on in the precision of `trainee`, as far as is wanted or as that leads."""
        from scipy.optimize import minimize

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            self._features.put(flat, trainee)
            return self._evaluate(trainee), self._features.slope(trainee)

        def after_iteration(intermediate_result: Any) -> None:
            value = float(intermediate_result.fun)
            if not np.isfinite(value):
                raise StopIteration
            self._at, self._largest = intermediate_result.x.copy(), None
            self._iterations += 1
            self._stopped = bool(self._report(self._iterations, value, trainee))
            if self._done(trainee) or self._stopped:
                raise StopIteration

        start = [objective(self._at)]
        if self._iterations < self._max_iter and not self._done(trainee):
            # SciPy's `gtol` would be of the standardised features. `maxls` is scikit-learn's.
            minimize(lambda flat: start.pop() if start else objective(flat), self._at,
                     method="L-BFGS-B", jac=True, callback=after_iteration,
                     options={"maxiter": self._max_iter - self._iterations, "gtol": 0.0,
                              "maxls": 50, "ftol": NO_PROGRESS[trainee.dtype]})

    def _done(self, trainee: Trainee) -> bool:
        """Whether the gradient is down, with `trainee` where the search is."""
        found = trainee.largest_gradient
        if not self._rounds:
            self._largest = found
        elif trainee is self._kept:
            most = found + self._features.noise(trainee)
            if most <= self._tol:
                self._largest = most
        elif found > HOPELESS * self._tol:  # not what it is after rounding
            return found <= self._tol and self._at_kept() <= self._tol
        return found <= self._tol

    def _at_kept(self) -> float:
        """Largest entry of the gradient where the coefficients are rounded to those kept."""
        if self._largest is None:
            self._features.put(self._at, self._kept)
            self._wide.coef[...], self._wide.intercept[...] = self._kept.coef, self._kept.intercept
            self._evaluate(self._wide)
            self._largest = self._wide.largest_gradient
        return self._largest

    def _evaluate(self, trainee: Trainee) -> float:
        return trainee.find_gradients(*self._rows, self._decay)


class Features:
    """Coefficients, as those of features with mean 0 and all of one curvature.

    A logit is ``w @ x + b = (w * s) @ ((x - mean) / s) + (b + w @ mean)``: by ``w * s`` and
    ``b + w @ mean`` rows of whatever scale and offset are as good as standardised ones, and no
    copy of them is made. ``s ** 2`` is the curvature of the objective by ``w`` where all classes
    are alike.
    """

    def __init__(self, x: np.ndarray | SparseX, weight: np.ndarray, decay: float, trainee: Trainee):
        n, self._decay = trainee.n_classes, decay
        curvature = (n - 1) / n**2
        mean, variance = _moments(x, weight)
        self._power = variance + mean**2
        self._mean = mean if trainee.fit_intercept else np.zeros_like(mean)
        scale = np.sqrt(curvature * (self._power - self._mean**2) + decay)
        self._scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
        self._unit = np.sqrt(curvature)
        self._shape, self._fit_intercept = trainee.coef.shape, trainee.fit_intercept

    def flat(self, trainee: Trainee) -> np.ndarray:
        """All that is fitted as one new float64 vector."""
        coef = trainee.coef.astype(F64)
        return self._joined(coef * self._scale,
                            self._unit * (trainee.intercept + self._shift(coef)))

    def put(self, flat: np.ndarray, trainee: Trainee) -> None:
        """Bring it back; the intercept makes up for what the coefficients lose in rounding."""
        size = trainee.coef.size
        trainee.coef[...] = flat[:size].reshape(self._shape) / self._scale
        if self._fit_intercept:
            trainee.intercept[...] = flat[size:] / self._unit - self._shift(trainee.coef)

    def slope(self, trainee: Trainee) -> np.ndarray:
        """Gradients of `trainee` by the flat vector."""
        of_intercept = trainee.intercept_gradient.astype(F64)
        coef = trainee.coef_gradient.astype(F64)
        if self._fit_intercept:
            coef -= of_intercept[:, None] * self._mean
        return self._joined(coef / self._scale, of_intercept / self._unit)

    def noise(self, trainee: Trainee) -> float:
        """What rounding may have done to the gradients of `trainee`, by an estimate from above.

        A logit is off by half an epsilon of its parts times the root of their number, its
        probability by at most half of that; a gradient by what that makes of the features, by its
        own sum and by the penalty.
        """
        coef = trainee.coef.astype(F64)
        parts = np.einsum("nk,k->n", np.square(coef), self._power) + trainee.intercept**2.0
        off = 2 + 0.25 * np.sqrt(self._shape[1] * parts.max())
        return float(np.finfo(trainee.dtype).eps * (off * np.sqrt(max(1.0, self._power.max()))
                                                    + 2 * self._decay * np.abs(coef).max()))

    def _shift(self, coef: np.ndarray) -> np.ndarray:
        return np.einsum("nk,k->n", coef, self._mean)  # no BLAS, whose threads would show in bits

    def _joined(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        return np.concatenate([coef.ravel(), intercept] if self._fit_intercept else [coef.ravel()])


def _moments(x: np.ndarray | SparseX, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the features, in float64, to about the precision of the rows."""
    if isinstance(x, SparseX):
        share = np.repeat(weight, np.diff(x.start)) * x.value
        of_feature = np.bincount(x.index, share, x.n)
        squares = np.bincount(x.index, share * x.value, x.n)
        variance = squares - of_feature**2
        return of_feature, np.where(variance > CANCELLED * squares, variance, 0)
    block = max(1, BLOCK_VALUES // x.shape[1])
    near = x[:block].mean(axis=0)  # so that squares of what is left do not cancel
    mean, square = np.zeros((2, x.shape[1]))
    for lo in range(0, len(x), block):
        share = weight[lo : lo + block].astype(x.dtype)
        away = x[lo : lo + block] - near
        mean += np.einsum("m,mk->k", share, away)
        square += np.einsum("m,mk,mk->k", share, away, away)
    return near + mean, square - mean**2
