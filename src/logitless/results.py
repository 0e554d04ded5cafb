"""What calls give back, and how the losses of rows become one."""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

_PACKAGE = __name__.partition(".")[0]
_ALWAYS_THERE: Any = None  # default of fields that scores of every pass have


@dataclass(frozen=True, slots=True)
class TopK:
    """The k best classes of each row: best first, the lowest index among equals.

    Attributes
    ----------
    index : ndarray of intp, shape (m, k)
        The classes. A class whose logit is NaN comes before every number.
    logit : ndarray, shape (m, k)
        Their logits.
    log_prob : ndarray, shape (m, k), or None
        Their log-probabilities in nats; None with ``normalize=False``.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> best = ll.linear_topk([[1.0, 3.0, 3.0]], np.eye(3), 2)
    >>> best.index
    array([[1, 2]])
    >>> best.log_prob.round(4)
    array([[-0.7586, -0.7586]])
    """

    index: np.ndarray
    logit: np.ndarray
    log_prob: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of a loss; None for what was not asked for.

    Attributes
    ----------
    x : ndarray, shape (m, k), or None
        With the leading shape of `x`.
    weight : ndarray, shape (n, k), or None
    bias : ndarray, shape (n,), or None

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> _, grad = ll.linear_cross_entropy_value_and_grad([[1.0, 2.0]], np.eye(2), [1])
    >>> grad.bias.round(4)
    array([ 0.2689, -0.2689])
    """

    x: np.ndarray | None = None
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class ScreenStats:
    """What the screen of a head spared in its last call.

    Attributes
    ----------
    rows : int
        Rows that were screened.
    fell_back : int
        How many of them had too many classes left to choose from, and were
        computed as without a screen.
    rescored : float
        Classes computed exactly, on average of the other rows; NaN without any.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> weight = np.random.default_rng(0).standard_normal((2000, 64), dtype=np.float32)
    >>> head = ll.LinearHead(weight, screen="int8")
    >>> head.predict(weight[:100]).tolist() == list(range(100))
    True
    >>> head.screen_stats.fell_back
    0
    """

    rows: int
    fell_back: int
    rescored: float


@dataclass(frozen=True, slots=True)
class Scores:
    """What one pass found out about each row; None where it was not asked for.

    Arrays have the leading shape of `x`, written (m,) here, and the dtype of
    the computation; losses are in nats.

    Attributes
    ----------
    loss : ndarray, shape (m,), or None
        ``-log softmax(logits)[target]``; 0 for ignored rows.
    lse : ndarray, shape (m,)
        ``log(sum(exp(logits)))``.
    target_logit : ndarray, shape (m,), or None
        Logit of the target class; NaN for ignored rows. None where the targets
        are class probabilities that are not all one-hot.
    target_rank : ndarray of int64, shape (m,), or None
        How many classes come before the target, 0 where it is the prediction;
        -1 for ignored rows and for rows without a softmax (whose `lse` is NaN).
        None where `target_logit` is, and where a `RowState` could not count them.
    predicted : ndarray of intp, shape (m,)
        Class of the largest logit, the lowest of equals.
    max_logit : ndarray, shape (m,)
        The largest logit.
    entropy : ndarray, shape (m,), or None
        ``-sum(p * log(p))`` of the softmax.
    top : TopK or None
        The best classes.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> scores = ll.linear_score([[1.0, 2.0], [3.0, 0.0]], np.eye(2), [1, 1])
    >>> scores.target_rank
    array([0, 1])
    >>> scores.accuracy
    0.5
    """

    loss: np.ndarray | None = None
    lse: np.ndarray = _ALWAYS_THERE
    target_logit: np.ndarray | None = None
    target_rank: np.ndarray | None = None
    predicted: np.ndarray = _ALWAYS_THERE
    max_logit: np.ndarray = _ALWAYS_THERE
    entropy: np.ndarray | None = None
    top: TopK | None = None

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the prediction, to the rounding of `lse`; NaN without a softmax."""
        return np.exp(np.subtract(self.max_logit, self.lse))

    @property
    def perplexity(self) -> float:
        """``exp`` of the mean loss over the rows that count; NaN where none does.

        Raises
        ------
        ValueError
            The pass had no target.
        """
        if self.loss is None:
            raise ValueError("`perplexity` needs scores made with a target, got none")
        with np.errstate(over="ignore"):
            return float(np.exp(_mean(self.loss, self._counted())))

    @property
    def accuracy(self) -> float:
        """Fraction of the rows that count whose target is the prediction; NaN where none does.

        A row without a softmax counts as any other, and its target is not the prediction.

        Raises
        ------
        ValueError
            The pass had no target, or class probabilities that are not one-hot.
        """
        if self.target_rank is None:
            raise ValueError("`accuracy` needs scores made with one target class a row, got none")
        return _mean(np.asarray(self.target_rank) == 0, self._counted())

    def _counted(self) -> int:
        """Rows that count: all that are not ignored, as their target and their loss tell."""
        loss = np.asarray(self.loss)
        if self.target_rank is not None:
            counts = np.asarray(self.target_rank) >= 0
        elif self.target_logit is not None:
            counts = ~np.isnan(self.target_logit)
        else:
            return loss.size
        return int(np.count_nonzero(counts | np.isnan(loss)))


def warn_of_no_rows(what: str) -> None:
    """Warn whoever called the package that a mean is over nothing."""
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    message = f"the {what} of no rows that count is NaN"
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _mean(values: np.ndarray, count: int) -> float:
    if count == 0:
        warn_of_no_rows("mean")
        return math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sum(values, dtype=np.float64) / count)
