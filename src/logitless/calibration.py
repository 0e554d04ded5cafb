"""How far probabilities are true: the temperature that makes them so, and what they are off by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays.checks import as_array, check_integer, compute_dtype
from ._arrays.sparse_x import SparseX
from ._calls.objective import Objective
from ._calls.options import LossOptions
from ._calls.temperature import fitted
from .head import LinearHead

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from ._arrays.checks import TargetLike
    from ._engines.interface import State

_MOST_BINS = 1 << 52  # which float64 can still tell apart
_ROUNDING = 1e-6  # what a probability of float32 may be above 1


def fit_temperature(
    head: LinearHead,
    x: ArrayLike,
    target: TargetLike,
    *,
    ignore_index: int = -100,
    sample_weight: ArrayLike | None = None,
    shift: int = 0,
) -> float:
    """Find the temperature at which the mean loss is least: temperature scaling.

    ::

        argmin over t of mean(-log(softmax(z / t)[target]))

    with `z` the logits of the head before its own temperature, after its cap. Predictions and
    ranks stay what they are; probabilities come to mean what they say.

    Parameters
    ----------
    head : LinearHead
    x : array_like, shape (m, k)
        Rows that the head was not fitted to: a model is surer of those than of others.
    target : array_like
        As for `LinearHead.loss`: class indices (m,), or class probabilities (m, n).
    ignore_index, sample_weight, shift
        As for `LinearHead.loss`; no sample weight may be negative.

    Returns
    -------
    float
        The temperature to give to a head, in place of its own and not on top of it:
        ``head.with_temperature(fit_temperature(head, x, target))``, or ``LinearHead(weight,
        bias, temperature=...)``. Where every temperature is as good, as with a single class,
        it is the head's own.

    Raises
    ------
    ValueError
        No temperature within a factor of 2^20 of the head's own is best: the target of every
        row has the largest logit, and the loss falls as the temperature goes to 0; or targets
        have as little to do with the logits as if drawn at random, and it falls towards
        infinity. Or no row counts; a row that does has an infinite loss, or none; a sample
        weight is negative; and as `LinearHead.loss`.
    IndexError, TypeError
        As `LinearHead.loss`.

    Notes
    -----
    The loss is convex in ``1 / t``. Its derivative by ``log(t)`` is the target's logit less the
    mean of the logits under the softmax; how fast that changes, their variance. One pass finds
    the sums of both, for a step of Newton's method on a logarithmic scale; where these would
    leave what is known to hold the best temperature, that is halved. Three to ten passes from
    the head's own temperature lead to the rounding of the sums. Memory is that of `loss`.

    The method is that of C. Guo et al., "On calibration of modern neural networks", 2017,
    arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> head = ll.LinearHead(4 * np.eye(2))
    >>> x, target = np.repeat([[1.0, 0.0]], 4, axis=0), [0, 0, 0, 1]  # right 3 times of 4
    >>> head.predict_proba(x[0]).round(3)
    array([0.982, 0.018])
    >>> best = ll.fit_temperature(head, x, target)
    >>> round(best, 3), head.with_temperature(best).predict_proba(x[0]).round(3)
    (3.641, array([0.75, 0.25]))
    """
    if not isinstance(head, LinearHead):
        raise TypeError(f"`head` must be a LinearHead, got {type(head).__name__}")
    options = LossOptions(ignore_index, sample_weight=sample_weight, shift=shift)
    batch, target, options = head._paired(x, target, options)
    rows: Any = batch.rows if isinstance(batch.rows, SparseX) else batch.rows.array
    objective = Objective(target, batch.rows.lead, batch.n, batch.dtype, "mean", options)
    weight = objective.options.sample_weight
    if weight is not None and (weight < 0).any():
        row = int((weight < 0).argmax())
        raise ValueError(f"`sample_weight` must not be negative, got {weight[row]} in row {row}")
    if objective.divisor() == 0:
        raise ValueError("`target` must have a row that counts, got none")
    own = head._layer.temperature
    request = objective.request(entropy=True, square=True)

    def scored(u: float) -> Iterator[tuple[slice, State]]:
        return head.with_temperature(own * math.exp(-u))._batch(rows).parts(request)

    return float(own * math.exp(-fitted(objective, scored)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often predictions were right, by how sure of them a model was.

    Attributes
    ----------
    edges : ndarray of float64, shape (bins + 1,)
        Bin `b` holds the confidences above ``edges[b]``, up to ``edges[b + 1]``; the first one 0.
    count : ndarray of int64, shape (bins,)
        Predictions in each.
    confidence, accuracy : ndarray of float64, shape (bins,)
        Their mean confidence, and the part of them that was right; NaN in an empty bin.

    Examples
    --------
    >>> import logitless as ll
    >>> found = ll.calibration_error([0.9, 0.8, 0.7, 0.2], [True, True, False, False], bins=2)
    >>> found.count, found.confidence.round(2), found.accuracy.round(2)
    (array([1, 3]), array([0.2, 0.8]), array([0.  , 0.67]))
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of ``|accuracy - confidence|`` over predictions.

        NaN of no predictions.
        """
        total = int(self.count.sum())
        return float(np.nansum(self.count * self._gap) / total) if total else math.nan

    @property
    def mce(self) -> float:
        """Maximum calibration error: the largest of these differences of a bin."""
        return float(np.nanmax(self._gap)) if self.count.any() else math.nan

    @property
    def _gap(self) -> np.ndarray:
        return np.abs(self.accuracy - self.confidence)


def calibration_error(confidence: ArrayLike, hit: ArrayLike, *, bins: int = 15) -> Calibration:
    """Compare how sure a model was of its predictions with how often they were right.

    Parameters
    ----------
    confidence : array_like, shape (m,)
        The probability of each prediction, in [0, 1], such as `Scores.confidence`.
    hit : array_like, shape (m,)
        Whether it was right: bool, or 0 and 1.
    bins : int, default 15
        Equal parts of [0, 1] to compare in. More of them see more, and take noise for more.

    Returns
    -------
    Calibration
        `ece` and `mce` are its errors; `logitless.plot.reliability` draws it.

    Raises
    ------
    ValueError
        A confidence that is not a probability: names the first. Shapes that do not fit.
    TypeError
        A dtype that cannot be used.

    Notes
    -----
    Expected and maximum calibration error of M. Pakdaman Naeini, G. F. Cooper and
    M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", 2015, as in
    C. Guo et al., "On calibration of modern neural networks", 2017, arXiv:1706.04599. Summed in
    float64, in some 16 bytes a prediction.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> head = ll.LinearHead(4 * np.eye(2))
    >>> scores = head.score(np.repeat([[1.0, 0.0]], 4, axis=0), [0, 0, 0, 1])
    >>> found = ll.calibration_error(scores.confidence, scores.target_rank == 0)
    >>> round(found.ece, 3)  # sure by 0.982, right 3 times of 4
    0.232
    """
    bins = check_integer(bins, "bins", 1, _MOST_BINS)
    confidence, hit = as_array(confidence, "confidence"), as_array(hit, "hit")
    compute_dtype(confidence.dtype, "confidence")
    compute_dtype(hit.dtype, "hit")
    if confidence.ndim != 1 or hit.shape != confidence.shape:
        raise ValueError("`confidence` and `hit` must have shape (m,), got "
                         f"{confidence.shape} and {hit.shape}")
    _check_within(confidence, (confidence >= 0) & (confidence <= 1 + _ROUNDING), "confidence",
                  "in [0, 1]")
    _check_within(hit, (hit == 0) | (hit == 1), "hit", "bool, or 0 or 1")
    edges = np.linspace(0, 1, bins + 1)
    sure = np.minimum(confidence, 1, dtype=np.float64)
    place = np.maximum(np.searchsorted(edges, sure), 1) - 1
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # empty bins
        means = [np.bincount(place, values, bins) / count for values in (sure, hit)]
    return Calibration(edges, count, *means)


def _check_within(values: np.ndarray, good: np.ndarray, name: str, what: str) -> None:
    if not good.all():
        row = int(good.argmin())
        raise ValueError(f"`{name}` must be {what}, got {values[row]} in row {row}")
