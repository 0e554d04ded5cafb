"""What a scoring pass is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .._arrays.sparse import SparseRows


@dataclass(slots=True)
class Request:
    """What one pass over the classes should find out about each row.

    Everything here has been checked. The largest logit and its class are
    always found; the rest costs only where asked for.

    Attributes
    ----------
    sums : bool
        Find the softmax denominator. Whatever needs it (`lse`, `loss`,
        `entropy`, log-probabilities, a `write` other than "logits") sets it.
    targets : ndarray of int64, shape (m, j), or None
        Classes whose logits are wanted; -1 stands for an ignored row.
    rank : bool
        Count the classes ranked before ``targets[:, 0]``.
    probs : ndarray of float, shape (m, n), or SparseRows, or None
        Target distributions; any float dtype and layout.
    class_weight : ndarray, shape (n,), or None
        In the dtype of the computation; multiplies `probs`, and is what `smooth`
        sums.
    smooth : bool
        Find ``sum(class_weight * -log p)``.
    k : int
        Keep the k best classes.
    entropy : bool
        Entropy of the softmax.
    write : {None, "logits", "log_proba", "proba"}
        What to put in `out`.
    out : ndarray, shape (m, n), or None
        In the dtype of the computation, rows contiguous.
    """

    sums: bool = True
    targets: np.ndarray | None = None
    rank: bool = False
    probs: np.ndarray | SparseRows | None = None
    class_weight: np.ndarray | None = None
    smooth: bool = False
    k: int = 0
    entropy: bool = False
    write: str | None = None
    out: np.ndarray | None = None


@dataclass(slots=True)
class State:
    """What a pass found out: arrays over the rows, None where not asked for.

    The softmax is held relative to the largest logit, and the class that has
    it is left out of the running sum: with ``rest = sum(exp(z - max))`` over
    all the other classes, ``-log p[c] = (max - z[c]) + log1p(rest)`` is a sum
    of two numbers that are not negative, so no digit cancels however sure the
    model is and however large an offset the logits share.

    Attributes
    ----------
    max : (m,)
        Largest logit; NaN in a row with a NaN.
    argmax : (m,) intp
        Its class: the lowest of equals, the first NaN where there is one.
    rest : (m,)
        See above; NaN or not where `log_norm` is NaN.
    log_norm : (m,)
        ``log1p(rest)``, that is ``lse - max``. NaN where the row has a NaN or
        +inf, or nothing but -inf.
    entropy : (m,)
    target_logit, target_loss : (m, j)
        NaN and 0 for target -1.
    target_rank : (m,) int64
        Classes with a larger logit, or an equal one and a lower index; a NaN
        ranks before every number. -1 for target -1, and in a row without a softmax.
    prob_sum, prob_loss : (m,)
        Sum of ``t``, the target distribution times the class weights, and
        ``sum(t * -log p)``; classes with ``t = 0`` contribute nothing.
    smooth_loss : (m,)
        ``sum(class_weight * -log p)``; likewise.
    top_index : (m, k) int64
    top_logit : (m, k)
        Best first, the lowest index among equals, a NaN before every number.
    rescored : (m,) int32
        Classes computed exactly after screening, -1 where all were; None where
        nothing was screened.
    """

    max: np.ndarray | None = None
    argmax: np.ndarray | None = None
    rest: np.ndarray | None = None
    log_norm: np.ndarray | None = None
    entropy: np.ndarray | None = None
    target_logit: np.ndarray | None = None
    target_loss: np.ndarray | None = None
    target_rank: np.ndarray | None = None
    prob_sum: np.ndarray | None = None
    prob_loss: np.ndarray | None = None
    smooth_loss: np.ndarray | None = None
    top_index: np.ndarray | None = None
    top_logit: np.ndarray | None = None
    rescored: np.ndarray | None = None

    @property
    def lse(self) -> np.ndarray:
        """Log of the sum of exp(z), (m,)."""
        return self.max + self.log_norm


def gathered(m: int, parts: Iterable[tuple[slice, State]]) -> State:
    """Join the states of successive ranges of m rows."""
    whole = State()
    for rows, part in parts:
        if rows.stop - rows.start == m:
            return part
        for name in State.__slots__:
            values = getattr(part, name)
            if values is None:
                continue
            if rows.start == 0:
                setattr(whole, name, np.empty((m, *values.shape[1:]), values.dtype))
            getattr(whole, name)[rows] = values
    return whole
