"""One-shot functions: the results of a `LinearHead` made for one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._calls.options import HEAD, LossOptions, check_keywords, parted, spelled_out
from ._calls.value_and_grad import NAMES, WORKSPACE_BYTES
from .head import LinearHead
from .results import Gradients, Scores, TopK

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ._arrays.checks import ExcludeLike, TargetLike, Values
    from ._calls.options import HeadAndLossKeywords, HeadKeywords


def _head(function: str, weight: ArrayLike, bias: ArrayLike | None, options: Any) -> LinearHead:
    """Make the head of a call; a copy of the weights would not pay for one."""
    if options:
        check_keywords(function, options, HEAD)
    return LinearHead(weight, bias, **{"pack": False, **options})


@spelled_out(LossOptions, LinearHead, pack=False)
def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    target: TargetLike,
    bias: ArrayLike | None = None,
    *,
    reduction: str = "none",
    out: np.ndarray | None = None,
    exclude: ExcludeLike | None = None,
    **options: Unpack[HeadAndLossKeywords],
) -> Values:
    """``-log(softmax(x @ weight.T + bias)[target])`` without the logits in memory.

    Parameters
    ----------
    x : array_like, shape (m, k)
        Any leading shape; see `LinearHead` for dtypes, layouts and memory.
    weight : array_like, shape (n, k)
    target : array_like
        Class indices (m,) or class probabilities (m, n); see `LinearHead.loss`.
    bias : array_like, shape (n,), optional
    reduction, out, exclude
        As for `LinearHead.loss`.
    **options
        Options of `LinearHead`, `pack` being False unless given, and of
        `LinearHead.loss`: `ignore_index`, `class_weight`, `sample_weight`,
        `label_smoothing`, `z_loss`, `entropy_weight`, `shift`. `temperature` is a number,
        or has one for each row, (m,).

    Returns
    -------
    ndarray, shape (m,), or scalar
        In nats, bit for bit as `LinearHead.loss`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead` and `LinearHead.loss`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_cross_entropy([[1.0, 2.0, 3.0]], np.eye(3), [2]).round(4)
    array([0.4076])
    """
    of_head, of_loss = parted("linear_cross_entropy", options)
    head = _head("linear_cross_entropy", weight, bias, of_head)
    return head.loss(x, target, reduction=reduction, out=out, exclude=exclude, **of_loss)


@spelled_out(LossOptions, LinearHead, pack=False)
def linear_cross_entropy_value_and_grad(
    x: ArrayLike,
    weight: ArrayLike,
    target: TargetLike,
    bias: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    wrt: str | Iterable[str] = NAMES,
    grad_output: ArrayLike | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    filter_eps: float = 0.0,
    out: Gradients | None = None,
    accumulate: bool = False,
    **options: Unpack[HeadAndLossKeywords],
) -> tuple[Values, Gradients]:
    """Loss and its gradients, as `LinearHead.value_and_grad`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    target : array_like
    bias : array_like, shape (n,), optional
    reduction, wrt, grad_output, workspace_bytes, filter_eps, out, accumulate
        As `LinearHead.value_and_grad`.
    **options
        As `linear_cross_entropy`.

    Returns
    -------
    loss : ndarray, shape (m,), or scalar
        In nats, bit for bit as `linear_cross_entropy`.
    grad : Gradients
        `x` (m, k), `weight` (n, k), `bias` (n,); None for what `wrt` leaves out.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead` and `LinearHead.value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> loss, grad = ll.linear_cross_entropy_value_and_grad([[1.0, 2.0]], np.eye(2), [1])
    >>> float(loss.round(4)), grad.weight.round(4)
    (0.3133, array([[ 0.2689,  0.5379],
           [-0.2689, -0.5379]]))
    """
    of_head, of_loss = parted("linear_cross_entropy_value_and_grad", options)
    return _head("linear_cross_entropy_value_and_grad", weight, bias, of_head).value_and_grad(
        x, target, reduction=reduction, wrt=wrt, grad_output=grad_output,
        workspace_bytes=workspace_bytes, filter_eps=filter_eps, out=out, accumulate=accumulate,
        **of_loss,
    )


@spelled_out(LossOptions, LinearHead, pack=False)
def linear_score(
    x: ArrayLike,
    weight: ArrayLike,
    target: TargetLike | None = None,
    bias: ArrayLike | None = None,
    *,
    k: int = 0,
    entropy: bool = False,
    exclude: ExcludeLike | None = None,
    **options: Unpack[HeadAndLossKeywords],
) -> Scores:
    """Everything about each row of ``x @ weight.T + bias``, as `LinearHead.score`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    target : array_like, optional
    bias : array_like, shape (n,), optional
    k, entropy, exclude
        As `LinearHead.score`.
    **options
        As `linear_cross_entropy`.

    Returns
    -------
    Scores
        As of `LinearHead.score`, bit for bit.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead` and `LinearHead.score`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> scores = ll.linear_score([[1.0, 2.0, 3.0]], np.eye(3), [1])
    >>> scores.predicted, scores.target_rank
    (array([2]), array([1]))
    """
    of_head, of_loss = parted("linear_score", options)
    head = _head("linear_score", weight, bias, of_head)
    return head.score(x, target, k=k, entropy=entropy, exclude=exclude, **of_loss)


@spelled_out(LinearHead, pack=False)
def linear_topk(
    x: ArrayLike,
    weight: ArrayLike,
    k: int,
    bias: ArrayLike | None = None,
    *,
    normalize: bool = True,
    exclude: ExcludeLike | None = None,
    candidates: ArrayLike | None = None,
    **options: Unpack[HeadKeywords],
) -> TopK:
    """Find the `k` largest of ``x @ weight.T + bias`` in each row, as `LinearHead.topk`.

    Parameters
    ----------
    x : array_like, shape (m, d)
    weight : array_like, shape (n, d)
    k : int
        1 to n.
    bias : array_like, shape (n,), optional
    normalize : bool, default True
        Give log-probabilities too.
    exclude, candidates
        As `LinearHead.topk`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    TopK
        As of `LinearHead.topk`, bit for bit.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead` and `LinearHead.topk`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_topk([[1.0, 2.0, 3.0]], np.eye(3), 2).index
    array([[2, 1]])
    """
    head = _head("linear_topk", weight, bias, options)
    return head.topk(x, k, normalize=normalize, exclude=exclude, candidates=candidates)


@spelled_out(LinearHead, pack=False)
def linear_softmax(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *,
    exclude: ExcludeLike | None = None, **options: Unpack[HeadKeywords],
) -> np.ndarray:
    """``softmax(x @ weight.T + bias)``, as `LinearHead.predict_proba`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    bias : array_like, shape (n,), optional
    exclude : sparse matrix (m, n) or array of bool (n,), optional
        Classes that do not count, as `LinearHead.topk`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    ndarray, shape (m, n)
        Probabilities, bit for bit as `LinearHead.predict_proba`.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_softmax([1.0, 2.0, 3.0], np.eye(3)).round(2)
    array([0.09, 0.24, 0.67])
    """
    return _head("linear_softmax", weight, bias, options).predict_proba(x, exclude=exclude)


@spelled_out(LinearHead, pack=False)
def linear_log_softmax(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *,
    exclude: ExcludeLike | None = None, **options: Unpack[HeadKeywords],
) -> np.ndarray:
    """``log(softmax(x @ weight.T + bias))``, as `LinearHead.predict_log_proba`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    bias : array_like, shape (n,), optional
    exclude : sparse matrix (m, n) or array of bool (n,), optional
        Classes that do not count, as `LinearHead.topk`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    ndarray, shape (m, n)
        In nats, bit for bit as `LinearHead.predict_log_proba`.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_log_softmax([1.0, 2.0, 3.0], np.eye(3)).round(4)
    array([-2.4076, -1.4076, -0.4076])
    """
    return _head("linear_log_softmax", weight, bias, options).predict_log_proba(x, exclude=exclude)


@spelled_out(LinearHead, pack=False)
def linear_logsumexp(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *,
    exclude: ExcludeLike | None = None, **options: Unpack[HeadKeywords],
) -> Values:
    """``log(sum(exp(x @ weight.T + bias)))`` of each row, as `LinearHead.logsumexp`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    bias : array_like, shape (n,), optional
    exclude : sparse matrix (m, n) or array of bool (n,), optional
        Classes that do not count, as `LinearHead.topk`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    ndarray, shape (m,)
        In nats, bit for bit as `LinearHead.logsumexp`.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_logsumexp([[1.0, 2.0, 3.0]], np.eye(3)).round(4)
    array([3.4076])
    """
    return _head("linear_logsumexp", weight, bias, options).logsumexp(x, exclude=exclude)


@spelled_out(LinearHead, pack=False)
def linear_argmax(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *,
    exclude: ExcludeLike | None = None, **options: Unpack[HeadKeywords],
) -> Values:
    """``argmax(x @ weight.T + bias)`` of each row, as `LinearHead.predict`.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    bias : array_like, shape (n,), optional
    exclude : sparse matrix (m, n) or array of bool (n,), optional
        Classes that do not count, as `LinearHead.topk`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    ndarray of intp, shape (m,)
        As of `LinearHead.predict`.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_argmax([[1.0, 2.0, 3.0]], np.eye(3))
    array([2])
    """
    return _head("linear_argmax", weight, bias, options).predict(x, exclude=exclude)
