"""Heads over arrays of Dask: rows, classes or both in chunks, on any number of machines.

Needs dask and distributed: ``pip install "logitless[dask]"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise ImportError(
        f'logitless.dask needs {error.name}: pip install "logitless[dask]"') from error

from .._arrays.checks import check_integer
from .._calls.options import HEAD, LOSS, check_keywords, parted
from .._calls.value_and_grad import NAMES, WORKSPACE_BYTES, check_workspace, check_wrt
from ..head import LinearHead
from ..results import Gradients, Scores, TopK
from . import _gradients
from ._graph import column
from ._inputs import Inputs
from ._states import kind_of_tasks, scores
from ._worker import Setting

__all__ = ["loss", "predict", "score", "topk", "value_and_grad"]

_INDEX = np.dtype(np.intp)
_OF_HEAD = tuple(name for name in HEAD if name not in ("pack", "screen"))
_OPTIONS = (*_OF_HEAD, *(name for name in LOSS if name not in (*HEAD, "shift")))


def score(
    x: Any,
    weight: Any,
    target: Any = None,
    bias: Any = None,
    *,
    k: int = 0,
    entropy: bool = False,
    **options: Any,
) -> Scores:
    """Everything about each row of chunks, as `logitless.LinearHead.score`.

    Parameters
    ----------
    x : dask array or frame, or array_like or sparse, shape (m, k)
        Chunked over rows, which may be sparse matrices of SciPy; chunks over features are joined.
        What only slices, as data sets of h5py do, is read by the tasks.
    weight : dask array or array_like, shape (n, k), or LinearHead
        Chunked over classes, or not at all.
    target : dask array or array_like, optional
        Class indices (m,) or class probabilities (m, n); here and below, chunks become
        those of `x` and `weight`.
    bias : dask array or array_like, shape (n,), optional
    k, entropy
        As `logitless.LinearHead.score`.
    **options
        Those of `logitless.LinearHead`, without `pack` and `screen`, and of
        `logitless.LinearHead.loss`, without `shift`; arrays among them may be dask's. `n_threads`
        is that of a task, 1 unless given.

    Returns
    -------
    Scores
        Of lazy arrays, in the chunks of rows: ``dask.compute(scores)`` gives one of arrays of
        NumPy, from one pass over rows and weights, and each array computed by itself takes one.

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, an option out of range: at once.
    IndexError
        A target outside [0, n): when it is computed, as for all values in chunks.
    RuntimeError
        A worker has another version than the client: when it computes.

    Notes
    -----
    Each chunk of rows meets each chunk of classes in a task, which leaves a `logitless.RowState`:
    some numbers a row. Others merge eight of these at a time. Where targets are class indices and
    classes in chunks, as many tasks find the logits of the targets before, by which ranks are
    counted. Of (rows x classes) nothing larger ever exists than a task has in cache.

    The bits do not depend on workers, their number or death, nor on the chunks of rows. Where
    chunks of classes begin with whole spans, as `logitless.shard_bounds` cuts, they are those
    of `logitless.LinearHead.score`; elsewhere they depend on these chunks.

    Examples
    --------
    >>> import dask, dask.array as da
    >>> import logitless.dask
    >>> x, weight = da.eye(6, chunks=2), da.eye(6, chunks=3)
    >>> scores = logitless.dask.score(x, weight, da.arange(6, chunks=2) // 2, k=2)
    >>> scores.target_rank
    dask.array<target_rank, shape=(6,), dtype=int64, chunksize=(2,), chunktype=numpy.ndarray>
    >>> scores, = dask.compute(scores)
    >>> scores.target_rank, scores.top.index[5]
    (array([0, 1, 2, 2, 3, 3]), array([5, 0]))
    """
    call = _Call("score", x, weight, target, bias, options)
    k = check_integer(k, "k", 0, call.inputs.n)
    results = call.results(k=k, entropy=bool(entropy))
    dtype, indexed = call.inputs.dtype, "target" in call.inputs.of_rows

    return Scores(
        loss=None if target is None else column(results, "loss", dtype),
        lse=column(results, "lse", dtype),
        target_logit=column(results, "target_logit", dtype) if indexed else None,
        target_rank=column(results, "target_rank", np.dtype(np.int64)) if indexed else None,
        predicted=column(results, "predicted", _INDEX),
        max_logit=column(results, "max_logit", dtype),
        entropy=column(results, "entropy", dtype) if entropy else None,
        top=_top(results, dtype, k) if k else None,
    )


def loss(x: Any, weight: Any, target: Any, bias: Any = None, **options: Any) -> da.Array:
    """Softmax cross entropy of each row of chunks, as `logitless.LinearHead.loss`.

    Parameters
    ----------
    x, weight, target, bias, **options
        As `score`.

    Returns
    -------
    dask array, shape (m,)
        In nats, lazy.

    Raises
    ------
    ValueError, TypeError, IndexError, RuntimeError
        As `score`.

    Notes
    -----
    As for `score`.

    Examples
    --------
    >>> import dask.array as da
    >>> import logitless.dask
    >>> x, weight = da.eye(6, chunks=2), da.eye(6, chunks=3)
    >>> logitless.dask.loss(x, weight, da.arange(6, chunks=2)).mean().compute().round(4)
    np.float64(1.0436)
    """
    call = _Call("loss", x, weight, target, bias, options)
    call.example(LinearHead.loss)
    return column(call.results(wanted="loss"), "loss", call.inputs.dtype)


def predict(x: Any, weight: Any, bias: Any = None, **options: Any) -> da.Array:
    """Class of the largest logit of each row of chunks, as `logitless.LinearHead.predict`.

    Parameters
    ----------
    x, weight, bias, **options
        As `score`; of the options those of `logitless.LinearHead`.

    Returns
    -------
    dask array of intp, shape (m,)
        Lazy.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `score`.

    Examples
    --------
    >>> import dask.array as da
    >>> import logitless.dask
    >>> logitless.dask.predict(da.eye(4, chunks=2), da.eye(4, chunks=2)).compute()
    array([0, 1, 2, 3])
    """
    call = _Call("predict", x, weight, None, bias, options, _OF_HEAD)
    return column(call.results(wanted="predicted"), "predicted", _INDEX)


def topk(
    x: Any, weight: Any, k: int, bias: Any = None, *, normalize: bool = True, **options: Any
) -> TopK:
    """Find the `k` best classes of each row of chunks, as `logitless.LinearHead.topk`.

    Parameters
    ----------
    x, weight
        As `score`.
    k : int
        1 to n.
    bias
        As `score`.
    normalize : bool, default True
        Give log-probabilities too.
    **options
        As `score`; those of `logitless.LinearHead`.

    Returns
    -------
    TopK
        Of lazy arrays, in the chunks of rows.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `score`.

    Examples
    --------
    >>> import dask, dask.array as da
    >>> import logitless.dask
    >>> best = logitless.dask.topk(da.eye(4, chunks=2), da.eye(4, chunks=2), 2)
    >>> best, = dask.compute(best)
    >>> best.index.tolist()
    [[0, 1], [1, 0], [2, 0], [3, 0]]
    """
    call = _Call("topk", x, weight, None, bias, options, _OF_HEAD)
    k = check_integer(k, "k", 1, call.inputs.n)
    results = call.results(wanted="top", k=k, normalize=bool(normalize))
    return _top(results, call.inputs.dtype, k, bool(normalize))


def value_and_grad(
    x: Any,
    weight: Any,
    target: Any,
    bias: Any = None,
    *,
    reduction: str = "mean",
    wrt: str | Iterable[str] = NAMES,
    workspace_bytes: int = WORKSPACE_BYTES,
    filter_eps: float = 0.0,
    **options: Any,
) -> tuple[da.Array, Gradients]:
    """Loss and its gradients over chunks of rows, as `logitless.LinearHead.value_and_grad`.

    Parameters
    ----------
    x : dask array or frame, or array_like or sparse, shape (m, k)
        As `score`.
    weight : dask array or array_like, shape (n, k), or LinearHead
        Chunks are joined: every task needs all classes.
    target : dask array or array_like
        Class indices (m,) or class probabilities (m, n); here and below, chunks become
        those of `x`.
    bias : dask array or array_like, shape (n,), optional
    reduction : {"mean", "sum", "batch_mean"}
    wrt, workspace_bytes, filter_eps
        As `logitless.LinearHead.value_and_grad`; each task has a workspace of its own.
    **options
        Those of `logitless.LinearHead`, without `pack` and `screen`, and of
        `logitless.LinearHead.loss`, without `shift`; arrays among them may be dask's. `n_threads`
        is that of a task, 1 unless given.

    Returns
    -------
    loss : dask array, shape ()
        Lazy, as are the gradients.
    grad : Gradients
        `x` in chunks of rows, `weight` and `bias` in one; None for what `wrt` leaves out.

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, an option out of range: at once.
    IndexError
        A target outside [0, n): when it is computed, as for all values in chunks.

    Notes
    -----
    A task a chunk of rows, whose result is as large as the weights, and tasks that add up
    eight of these at a time. The order of all sums, and so the bits, depends on the chunks of
    rows and on nothing else: not on workers, their number or death. Gradients are added in the
    precision of the computation, losses in float64. What a mean is divided by is found from
    targets and weights of rows before the first row is multiplied.

    Examples
    --------
    >>> import dask, dask.array as da
    >>> import numpy as np
    >>> import logitless.dask
    >>> x = da.ones((1000, 2), chunks=(100, 2))
    >>> target = da.arange(1000, chunks=100) % 3
    >>> loss, grad = logitless.dask.value_and_grad(x, np.eye(3, 2), target, wrt="bias")
    >>> loss, grad = dask.compute(loss, grad)
    >>> float(loss.round(4)), grad.bias.round(4)
    (1.195, array([ 0.0883,  0.0893, -0.1776]))
    """
    if reduction not in ("mean", "sum", "batch_mean"):
        raise ValueError("`reduction` must be one of ('mean', 'sum', 'batch_mean'), "
                         f"got {reduction!r}")
    call = _Call("value_and_grad", x, weight, target, bias, options, one_shard=True)
    inputs = call.inputs
    wanted = check_wrt(wrt, inputs.sparse)
    of_gradient = {"wrt": wanted, "workspace_bytes": check_workspace(workspace_bytes),
                   "filter_eps": filter_eps}
    call.example(lambda head, x, target, **options: head.value_and_grad(
        x, target, **of_gradient, **options))
    tasks = _gradients.Tasks(call.setting, inputs.names, inputs.n, inputs.dtype, reduction,
                             call.of_head, call.of_loss, of_gradient)
    return _gradients.value_and_grad(inputs, tasks, wanted)


class _Call:
    """Arguments of a call, checked: arrays whose chunks agree, and options by who takes them."""

    def __init__(self, function: str, x: Any, weight: Any, target: Any, bias: Any,
                 options: dict[str, Any], known: tuple[str, ...] = _OPTIONS,
                 one_shard: bool = False):
        check_keywords(function, options, known)
        self.of_head, self.of_loss = parted(function, options)
        self.setting = Setting.of(self.of_head.pop("n_threads", None))
        if isinstance(weight, LinearHead):
            weight, bias = self._taken_apart(weight, bias)
        self.inputs = Inputs(x, weight, bias, target, self.of_loss, one_shard)
        self.example(LinearHead.score)

    def _taken_apart(self, head: LinearHead, bias: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight and bias of a head, whose options become those of the call."""
        if bias is not None or self.of_head:
            given = "bias" if bias is not None else next(iter(self.of_head))
            raise ValueError(f"`{given}` is that of the head in place of `weight`, got another")
        weight, bias = head._layer.unpack()
        self.of_head.update({name: head._options[name] for name in ("softcap", "temperature")})
        return weight, bias

    def example(self, of: Callable[..., Any]) -> None:
        """Try a call of a head on one row, which refuses options that are out of range."""
        row, weight, target = self.inputs.example
        of(LinearHead(weight, pack=False, **self.of_head), row, target, **self.of_loss)

    def results(self, wanted: str = "all", normalize: bool = True, **asked: Any) -> da.Array:
        """Lazy Scores of each chunk of rows."""
        inputs = self.inputs
        kind = kind_of_tasks(inputs, wanted, normalize)
        return scores(inputs, kind(
            self.setting, inputs.names, inputs.n, inputs.probs is not None, self.of_head,
            self.of_loss, wanted, normalize, **asked))


def _top(results: da.Array, dtype: np.dtype, k: int, normalize: bool = True) -> TopK:
    return TopK(column(results, "top.index", _INDEX, k), column(results, "top.logit", dtype, k),
                column(results, "top.log_prob", dtype, k) if normalize else None)
