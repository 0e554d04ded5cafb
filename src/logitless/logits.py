"""Functions of logits or probabilities already at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays.checks import as_array, check_axis, check_classes, compute_dtype, plain
from ._arrays.rows import Rows, row_blocks
from ._arrays.sparse import SparseRows
from ._calls.batch import Batch, check_loss_out, given_loss
from ._calls.objective import Objective, shifted
from ._calls.options import DEFAULTS, LossOptions, spelled_out
from ._calls.targets import Targets
from ._engines.choice import engine
from ._engines.interface import Request, State

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ._arrays.checks import TargetLike, Values
    from ._calls.options import LossKeywords


def softmax(logits: ArrayLike, axis: int | tuple[int, ...] | None = -1) -> Values:
    """``exp(logits) / sum(exp(logits))`` along `axis`.

    Parameters
    ----------
    logits : array_like
        Any layout; dtypes as for `LinearHead`.
    axis : int, tuple of int or None, default -1
        Over what to normalise; None is everything.

    Returns
    -------
    ndarray of the shape of `logits`, or scalar
        Of float32 or float64. NaN wherever there is a NaN or +inf along `axis`, or nothing
        but -inf, as in `scipy.special.softmax`.

    Raises
    ------
    ValueError
        No class along `axis`, or an `axis` that does not exist.
    TypeError
        A dtype that cannot be used.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.softmax([1.0, 2.0, 3.0]).round(2)
    array([0.09, 0.24, 0.67])
    """
    return _normalized(logits, axis, "proba")


def log_softmax(logits: ArrayLike, axis: int | tuple[int, ...] | None = -1) -> Values:
    """``logits - log(sum(exp(logits)))`` along `axis`.

    Parameters
    ----------
    logits : array_like
        Any layout; dtypes as for `LinearHead`.
    axis : int, tuple of int or None, default -1

    Returns
    -------
    ndarray of the shape of `logits`, or scalar
        In nats, float32 or float64; as precise near 0 as anywhere. NaN as for `softmax`;
        but beside +inf all other logits have -inf, as in `scipy.special.log_softmax`.

    Raises
    ------
    ValueError, TypeError
        As `softmax`.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.log_softmax([1.0, 2.0, 3.0]).round(4)
    array([-2.4076, -1.4076, -0.4076])
    >>> ll.log_softmax([50.0, 0.0])
    array([-1.92874985e-22, -5.00000000e+01])
    """
    return _normalized(logits, axis, "log_proba")


def logsumexp(logits: ArrayLike, axis: int | tuple[int, ...] | None = -1) -> Values:
    """``log(sum(exp(logits)))`` along `axis`.

    Parameters
    ----------
    logits : array_like
        Any layout; dtypes as for `LinearHead`.
    axis : int, tuple of int or None, default -1

    Returns
    -------
    ndarray or scalar
        The shape of `logits` without `axis`. +inf where a logit is, -inf where all are and
        where there are none, NaN where there is one, as in `scipy.special.logsumexp`.

    Raises
    ------
    ValueError
        An `axis` that does not exist.
    TypeError
        A dtype that cannot be used.

    Examples
    --------
    >>> import logitless as ll
    >>> float(ll.logsumexp([1000.0, 1000.0]).round(4))
    1000.6931
    """
    rows, _, _ = _along(as_array(logits, "logits"), axis)
    if rows.n == 0:
        return rows.shaped(np.full(rows.rows.m, -np.inf, rows.dtype))
    return rows.shaped(rows.each(Request(rows.dtype), _lse_with_infinities))


def _lse_with_infinities(state: State, _: slice) -> np.ndarray:
    return np.where(np.isinf(state.max), state.max, state.lse)


@spelled_out(LossOptions)
def cross_entropy(
    logits: ArrayLike,
    target: TargetLike,
    *,
    reduction: str = "none",
    out: np.ndarray | None = None,
    **options: Unpack[LossKeywords],
) -> Values:
    """``-log(softmax(logits)[target])`` of each row.

    With class probabilities `t` as target it is
    ``sum(t) * logsumexp(logits) - sum(t * logits)``.

    Parameters
    ----------
    logits : array_like, shape (m, n)
        Any leading shape and layout; dtypes as for `LinearHead`.
    target : array_like
        Class indices (m,) or class probabilities (m, n).
    reduction, ignore_index, class_weight, sample_weight, label_smoothing, z_loss
    entropy_weight, temperature, shift, out
        As `LinearHead.loss`.

    Returns
    -------
    ndarray, shape (m,), or scalar
        In nats.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead.loss`.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.cross_entropy([[1.0, 2.0, 3.0]], [2]).round(4)
    array([0.4076])
    >>> ll.cross_entropy([[1.0, 2.0, 3.0]], [[0.0, 0.0, 1.0]]).round(4)
    array([0.4076])
    """
    z = check_classes(as_array(logits, "logits"), "logits")
    of_loss = LossOptions.of("cross_entropy", options)
    if of_loss is not DEFAULTS:
        z, target, of_loss = shifted(z, target, of_loss, "logits")
    return _logit_batch(Rows(z)).loss(target, out, reduction, of_loss)


def nll(
    p: ArrayLike,
    target: TargetLike,
    *,
    reduction: str = "none",
    ignore_index: int = -100,
    class_weight: ArrayLike | None = None,
    out: np.ndarray | None = None,
) -> Values:
    """``-log(p[target])``; with class probabilities `t` as target ``-sum(t * log(p))``.

    Class weights `w` make these ``-w[target] * log(p[target])`` and
    ``-sum(w * t * log(p))``.

    Parameters
    ----------
    p : array_like, shape (m, n)
        Taken as given: neither checked nor normalised. Any leading shape and
        layout; dtypes as for `LinearHead`.
    target : array_like
        Class indices (m,) or float class probabilities (m, n).
    reduction, ignore_index, class_weight, out
        As `LinearHead.loss`.

    Returns
    -------
    ndarray, shape (m,), or scalar
        In nats. +inf where p is 0, NaN where it is negative; entries whose
        target is 0 contribute nothing, whatever they are.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead.loss`.

    Examples
    --------
    >>> import logitless as ll
    >>> float(ll.nll([0.2, 0.3, 0.4, 0.6, 0.5], 3).round(4))
    0.5108
    >>> float(ll.nll([0.25, 0.75], [0.5, 0.5]).round(4))
    0.837
    """
    p = check_classes(as_array(p, "p"), "p")
    dtype = compute_dtype(p.dtype, "p")
    rows = Rows(p)

    options = LossOptions(ignore_index=ignore_index, class_weight=class_weight)
    objective = Objective(target, rows.lead, rows.n, dtype, reduction, options)
    check_loss_out(out, objective, rows.lead)
    state = _nll(rows, objective.targets, objective.options.class_weight, dtype)
    return given_loss(objective.losses(state), objective, rows.lead, out)


def _nll(rows: Rows, targets: Targets, class_weight: np.ndarray | None, dtype: np.dtype) -> State:
    """Find what the losses of the probabilities `rows` are made of."""
    state = State()
    if targets.index is not None:
        index = targets.index[:, 0]
        counts = index >= 0
        chosen = np.ones(rows.m, dtype)  # whose logarithm is the loss of ignored rows, 0
        for block in row_blocks(rows.m, rows):
            picked = np.take_along_axis(rows[block], np.maximum(targets.index[block], 0), 1)
            np.copyto(chosen[block], picked[:, 0], casting="unsafe", where=counts[block])
        state.target_loss = engine.neg_log(chosen)[:, None]
    if targets.probs is not None:
        state.prob_loss = np.empty(rows.m, dtype)
        for block in row_blocks(rows.m, rows, targets.probs):
            with np.errstate(all="ignore"):
                p = plain(rows[block], dtype)
                t = targets.probs[block]
                if isinstance(t, SparseRows):
                    t = t.dense(0, rows.n, dtype)
                t = plain(t, dtype)
                if class_weight is not None:
                    t = t * class_weight
            state.prob_loss[block] = engine.neg_log_sum(p, t)
    return state


def _logit_batch(rows: Rows) -> Batch:
    dtype = compute_dtype(rows.dtype, "logits")
    return Batch(rows, rows.n, dtype, engine.score_logits, None)


def _along(
    logits: np.ndarray, axis: int | tuple[int, ...] | None
) -> tuple[Batch, tuple[int, ...], tuple[int, ...]]:
    """Give a batch whose classes lie along `axis`, the axes in its order, and their lengths."""
    logits = np.atleast_1d(logits)
    compute_dtype(logits.dtype, "logits")
    axes = check_axis(axis, logits.ndim)
    order = tuple(a for a in range(logits.ndim) if a not in axes) + axes
    moved = logits.transpose(order)
    return _logit_batch(Rows(moved, len(axes))), order, moved.shape


def _normalized(
    logits: ArrayLike, axis: int | tuple[int, ...] | None, write: str
) -> Values:
    logits = as_array(logits, "logits")
    rows, order, shape = _along(logits, axis)
    if rows.n == 0:
        raise ValueError(
            f"`logits` must have at least one class along axis {axis}, got none in shape {shape}"
        )
    out = rows.columns(write)
    if write == "log_proba":
        _beside_infinity(rows.rows, out)
    return out.reshape(shape).transpose(np.argsort(order)).reshape(logits.shape)[()]


def _beside_infinity(rows: Any, out: np.ndarray) -> None:
    """Put -inf in rows of log-probabilities where other logits are +inf and none is NaN."""
    if not np.isnan(out[:, 0]).any():
        return
    for block in row_blocks(rows.m, rows):
        row = np.flatnonzero(np.isnan(out[block, 0])) + block.start
        z = rows[block][row - block.start]
        infinite = z == np.inf
        out[row[:, None], np.arange(rows.n)] = np.where(
            ~infinite & infinite.any(axis=1, keepdims=True)
            & ~np.isnan(z).any(axis=1, keepdims=True), -np.inf, np.nan)
