"""Two heads: how far a student's softmax is from a teacher's, without the logits of either."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._calls.divergence import WORKSPACE_BYTES
from ._calls.options import HEAD, check_keywords, spelled_out
from ._calls.value_and_grad import NAMES
from ._calls.value_and_grad import WORKSPACE_BYTES as HEAD_BYTES
from .head import LinearHead
from .results import Gradients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ._arrays.checks import Values
    from ._calls.options import HeadKeywords


def linear_kl_div(
    x: ArrayLike,
    weight: ArrayLike,
    teacher_x: ArrayLike,
    teacher_weight: ArrayLike,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    reduction: str = "none",
    sample_weight: ArrayLike | None = None,
    out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> Values:
    """``KL(softmax(teacher_x @ teacher_weight.T) || softmax(x @ weight.T))`` without logits.

    With p the softmax of the student, q that of the teacher and
    ``m = beta * q + (1 - beta) * p``::

        beta 0    KL(q || p) = sum q log(q / p)
        beta 1    KL(p || q) = sum p log(p / q)
        between   beta KL(q || m) + (1 - beta) KL(p || m)

    Parameters
    ----------
    x : array_like, shape (m, k)
        The student's rows. Any leading shape; see `LinearHead` for dtypes and layouts.
    weight : array_like, shape (n, k)
    teacher_x : array_like, shape (m, k')
        The teacher's rows, in the leading shape of `x`; of any number of features.
    teacher_weight : array_like, shape (n, k')
    bias, teacher_bias : array_like, shape (n,), optional
    beta : float, default 0.0
        In [0, 1].
    temperature : float, default 1.0
        Logits of both heads are divided by it.
    teacher_temperature : float, optional
        Those of the teacher, where it is another.
    softcap, teacher_softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)`` before that, in each head its own.
    reduction, sample_weight, out
        As for `LinearHead.kl_div`.
    n_threads : int, optional
        As for `LinearHead`.

    Returns
    -------
    ndarray, shape (m,), or scalar
        In nats, bit for bit as `LinearHead.kl_div`, which has notes on digits and memory.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead` and `LinearHead.kl_div`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> x = [[0.0, 1.0], [3.0, 3.0]]
    >>> ll.linear_kl_div(x, np.eye(2), x, 2 * np.eye(2)).round(4)
    array([0.0671, 0.    ])
    """
    student, teacher = _heads(weight, bias, teacher_weight, teacher_bias, softcap, teacher_softcap,
                              temperature, teacher_temperature, n_threads)
    return student.kl_div(x, teacher, teacher_x, beta=beta, reduction=reduction,
                          sample_weight=sample_weight, out=out)


def linear_kl_div_value_and_grad(
    x: ArrayLike,
    weight: ArrayLike,
    teacher_x: ArrayLike,
    teacher_weight: ArrayLike,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    reduction: str = "mean",
    sample_weight: ArrayLike | None = None,
    wrt: str | Iterable[str] = NAMES,
    grad_output: ArrayLike | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    out: Gradients | None = None,
    accumulate: bool = False,
    n_threads: int | None = None,
) -> tuple[Values, Gradients]:
    """`linear_kl_div` and its gradients with respect to the student.

    Parameters
    ----------
    x, weight, teacher_x, teacher_weight, bias, teacher_bias, beta, temperature
    teacher_temperature, softcap, teacher_softcap, sample_weight, n_threads
        As for `linear_kl_div`.
    reduction, wrt, grad_output, workspace_bytes, out, accumulate
        As for `LinearHead.kl_div_value_and_grad`.

    Returns
    -------
    divergence : ndarray, shape (m,), or scalar
        In nats, bit for bit as `linear_kl_div`.
    grad : Gradients
        `x` (m, k), `weight` (n, k), `bias` (n,) of the student; None for what `wrt` leaves out.

    Raises
    ------
    ValueError, TypeError
        As `LinearHead` and `LinearHead.kl_div_value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> value, grad = ll.linear_kl_div_value_and_grad(
    ...     [[0.0, 1.0]], np.eye(2), [[0.0, 1.0]], 2 * np.eye(2))
    >>> float(value.round(4)), grad.x.round(4)
    (0.0671, array([[ 0.1497, -0.1497]]))
    """
    student, teacher = _heads(weight, bias, teacher_weight, teacher_bias, softcap, teacher_softcap,
                              temperature, teacher_temperature, n_threads)
    return student.kl_div_value_and_grad(
        x, teacher, teacher_x, beta=beta, reduction=reduction, sample_weight=sample_weight, wrt=wrt,
        grad_output=grad_output, workspace_bytes=workspace_bytes, out=out, accumulate=accumulate,
    )


@spelled_out(LinearHead, pack=False)
def linear_topk_kl_div(
    x: ArrayLike,
    weight: ArrayLike,
    index: ArrayLike,
    prob: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    reduction: str = "none",
    sample_weight: ArrayLike | None = None,
    out: np.ndarray | None = None,
    **options: Unpack[HeadKeywords],
) -> Values:
    """Divergence from a teacher of whom the probabilities of a few classes are known.

    Parameters
    ----------
    x : array_like, shape (m, k)
    weight : array_like, shape (n, k)
    index : array_like of int, shape (m, j)
        Classes of each row, -1 for none.
    prob : array_like, shape (m, j)
        Their probabilities; what they leave of 1 is that of all other classes together.
    bias : array_like, shape (n,), optional
    beta, reduction, sample_weight, out
        As for `LinearHead.topk_kl_div`.
    **options
        Options of `LinearHead`; `pack` is False unless given.

    Returns
    -------
    ndarray, shape (m,), or scalar
        In nats, bit for bit as `LinearHead.topk_kl_div`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead` and `LinearHead.topk_kl_div`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> ll.linear_topk_kl_div([[0.0, 0.0, 0.0]], np.eye(3), [[1]], [[0.8]]).round(4)
    array([0.4596])
    """
    head = _head("linear_topk_kl_div", weight, bias, options)
    return head.topk_kl_div(x, index, prob, beta=beta, reduction=reduction,
                            sample_weight=sample_weight, out=out)


@spelled_out(LinearHead, pack=False)
def linear_topk_kl_div_value_and_grad(
    x: ArrayLike,
    weight: ArrayLike,
    index: ArrayLike,
    prob: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    beta: float = 0.0,
    reduction: str = "mean",
    sample_weight: ArrayLike | None = None,
    wrt: str | Iterable[str] = NAMES,
    grad_output: ArrayLike | None = None,
    workspace_bytes: int = HEAD_BYTES,
    out: Gradients | None = None,
    accumulate: bool = False,
    **options: Unpack[HeadKeywords],
) -> tuple[Values, Gradients]:
    """`linear_topk_kl_div` and its gradients.

    Parameters
    ----------
    x, weight, index, prob, bias, beta, sample_weight, **options
        As for `linear_topk_kl_div`.
    reduction, wrt, grad_output, workspace_bytes, out, accumulate
        As for `LinearHead.value_and_grad`.

    Returns
    -------
    divergence : ndarray, shape (m,), or scalar
        In nats, bit for bit as `linear_topk_kl_div`.
    grad : Gradients
        `x` (m, k), `weight` (n, k), `bias` (n,); None for what `wrt` leaves out.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `LinearHead` and `LinearHead.topk_kl_div_value_and_grad`.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> value, grad = ll.linear_topk_kl_div_value_and_grad(
    ...     [[0.0, 0.0, 0.0]], np.eye(3), [[1]], [[0.8]])
    >>> float(value.round(4)), grad.x.round(4)
    (0.4596, array([[ 0.2333, -0.4667,  0.2333]]))
    """
    head = _head("linear_topk_kl_div_value_and_grad", weight, bias, options)
    return head.topk_kl_div_value_and_grad(
        x, index, prob, beta=beta, reduction=reduction, sample_weight=sample_weight, wrt=wrt,
        grad_output=grad_output, workspace_bytes=workspace_bytes, out=out, accumulate=accumulate,
    )


def _head(function: str, weight: ArrayLike, bias: ArrayLike | None, options: Any) -> LinearHead:
    """Make the head of a call."""
    check_keywords(function, options, HEAD)
    return LinearHead(weight, bias, **{"pack": False, **options})


def _heads(
    weight: ArrayLike, bias: ArrayLike | None, teacher_weight: ArrayLike,
    teacher_bias: ArrayLike | None, softcap: float | None, teacher_softcap: float | None,
    temperature: float, teacher_temperature: float | None, n_threads: int | None,
) -> tuple[LinearHead, LinearHead]:
    """Make both heads of a call; copies of the weights would not pay for one."""
    if teacher_temperature is None:
        teacher_temperature = temperature
    student = LinearHead(weight, bias, softcap=softcap, temperature=temperature, pack=False,
                         n_threads=n_threads)
    try:
        teacher = LinearHead(teacher_weight, teacher_bias, softcap=teacher_softcap,
                             temperature=teacher_temperature, pack=False)
    except (TypeError, ValueError) as error:  # in the names that these arguments have here
        words = re.sub(r"\b(weight|bias|softcap|temperature)\b", r"teacher_\1", str(error))
        raise type(error)(words) from None
    if teacher.n_classes != student.n_classes:
        raise ValueError(f"`teacher_weight` must have as many classes as `weight`, "
                         f"{student.n_classes}, got {teacher.n_classes}")
    return student, teacher
