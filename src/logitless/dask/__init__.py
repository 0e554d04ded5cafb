"""Heads over arrays of Dask: rows, classes or both in chunks, on any number of machines.

Needs dask and distributed: ``pip install "logitless[dask]"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

try:
    import dask.array as da
except ModuleNotFoundError as error:
    raise ImportError(
        f'logitless.dask needs {error.name}: pip install "logitless[dask]"') from error

from .._calls.options import HEAD, LOSS, check_keywords, parted
from .._calls.value_and_grad import WORKSPACE_BYTES, check_workspace, check_wrt
from ..head import LinearHead
from ..results import Gradients
from . import _gradients
from ._inputs import Inputs
from ._worker import Setting

__all__ = ["value_and_grad"]

_OPTIONS = tuple(name for name in (*HEAD, *LOSS) if name not in ("pack", "screen", "shift"))


def value_and_grad(
    x: Any,
    weight: Any,
    target: Any,
    bias: Any = None,
    *,
    reduction: str = "mean",
    wrt: str | Iterable[str] = ("x", "weight", "bias"),
    workspace_bytes: int = WORKSPACE_BYTES,
    filter_eps: float = 0.0,
    **options: Any,
) -> tuple[da.Array, Gradients]:
    """Loss and its gradients over chunks of rows, as `LinearHead.value_and_grad`.

    Parameters
    ----------
    x : dask array or frame, or array_like, shape (m, k)
        Chunked over rows; chunks over features are joined.
    weight : dask array or array_like, shape (n, k)
        Chunks are joined: every task needs all classes.
    target : dask array or array_like
        Class indices (m,) or class probabilities (m, n); here and below, chunks become
        those of `x`.
    bias : dask array or array_like, shape (n,), optional
    reduction : {"mean", "sum", "batch_mean"}
    wrt, workspace_bytes, filter_eps
        As `LinearHead.value_and_grad`; each task has a workspace of its own.
    **options
        Those of `LinearHead`, without `pack` and `screen`, and of `LinearHead.loss`, without
        `shift`; arrays among them may be dask's. `n_threads` is that of a task, 1 unless given.

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
    wanted = check_wrt(wrt)
    if reduction not in ("mean", "sum", "batch_mean"):
        raise ValueError("`reduction` must be one of ('mean', 'sum', 'batch_mean'), "
                         f"got {reduction!r}")
    setting, of_head, of_loss = _parted("value_and_grad", options)
    inputs = Inputs(x, weight, bias, target, of_loss, one_shard=True)
    of_gradient: dict[str, Any] = {
        "wrt": wanted, "workspace_bytes": check_workspace(workspace_bytes),
        "filter_eps": filter_eps}
    row, weight_row, its_target = inputs.example
    LinearHead(weight_row, pack=False, **of_head).value_and_grad(  # refuses what is out of range
        row, its_target, **of_gradient, **of_loss)
    tasks = _gradients.Tasks(setting, inputs.names, inputs.n, inputs.dtype, reduction, of_head,
                             of_loss, of_gradient)
    return _gradients.value_and_grad(inputs, tasks, wanted)


def _parted(function: str, options: Mapping[str, Any]
            ) -> tuple[Setting, dict[str, Any], dict[str, Any]]:
    """Where tasks run, and the options of the head and of losses."""
    check_keywords(function, options, _OPTIONS)
    of_head, of_loss = parted(function, options)
    return Setting.of(of_head.pop("n_threads", None)), of_head, of_loss
