"""The loss and its gradients: arguments checked, the engine called, results shaped."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._arrays.checks import (
    as_array,
    check_direct_out,
    check_flag,
    check_integer,
    compute_dtype,
    plain,
)
from .._arrays.rows import Rows
from .._arrays.sparse_x import SparseX, as_rows
from .._engines.choice import engine
from .._engines.interface import Layer
from ..results import Gradients
from .backward import Backward, RowScores
from .batch import given_loss
from .objective import F64, Objective, shifted
from .options import DEFAULTS, LossOptions

if TYPE_CHECKING:
    from .._arrays.checks import Values

WORKSPACE_BYTES = 64 << 20
NAMES = ("x", "weight", "bias")


def value_and_grad(layer: Layer, n_threads: int | None, x: np.ndarray | SparseX, target: object,
                   dtype: np.dtype, *, reduction: str, wrt: object, grad_output: object,
                   workspace_bytes: int, filter_eps: object, out: object, accumulate: bool,
                   options: LossOptions, scores: RowScores | None = None
                   ) -> tuple[Values, Gradients]:
    """Loss and Gradients of a layer for checked rows; see `LinearHead.value_and_grad`.

    The same pass fills in `scores`.
    """
    wanted = check_wrt(wrt, isinstance(x, SparseX))
    workspace_bytes = check_workspace(workspace_bytes)
    accumulate = check_flag(accumulate, "accumulate")
    eps = _check_eps(filter_eps)
    used = x
    if options is not DEFAULTS:
        used, target, options = shifted(x, target, options)
    rows = as_rows(used)
    objective = Objective(target, rows.lead, layer.n_classes, dtype, reduction, options,
                          layer.softcap)
    factor = check_factor(grad_output, rows.lead, reduction)
    grads = gradient_arrays(out, wanted, x, layer, dtype, accumulate, objective)

    request = objective.request(entropy=scores is not None)
    backward = Backward(objective, factor, eps, layer.temperature, scores)
    into = Gradients(_rows_of(grads.x, used.shape, accumulate), grads.weight, grads.bias)
    engine.gradients(layer, rows, request, backward, into, accumulate, workspace_bytes,
                     n_threads)
    return given_loss(backward.losses, objective, rows.lead, None), grads


def _rows_of(grad: np.ndarray | None, used: tuple[int, ...], accumulate: bool) -> Any:
    """Where the engine writes the gradient of the rows in use: (m, k), or Rows if they are apart.

    Positions without a target further along have no gradient.
    """
    if grad is None:
        return None
    if grad.shape != used:
        if not accumulate:
            grad[..., used[-2] :, :] = 0
        grad = grad[..., : used[-2], :]
    rows = Rows(grad)
    return rows if rows.whole is None else rows.whole


def check_workspace(workspace_bytes: object) -> int:
    """Check how much memory logits may take."""
    return check_integer(workspace_bytes, "workspace_bytes", 1)


def check_wrt(wrt: object, sparse: bool) -> tuple[str, ...]:
    """Check which gradients are wanted; of sparse rows, by default, those that are offered."""
    if wrt is NAMES and sparse:
        return NAMES[1:]
    if not isinstance(wrt, (str, tuple, list, set, frozenset)):
        raise TypeError(f"`wrt` must be a sequence of {NAMES}, got {type(wrt).__name__}")
    wanted = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"`wrt` must name some of {NAMES}, got {name!r}")
    if "x" in wanted and sparse:
        raise ValueError("`wrt` must name some of ('weight', 'bias') where `x` is sparse: its "
                         "gradient is dense, got 'x'")
    return wanted


def _check_eps(eps: object) -> float:
    if isinstance(eps, bool) or not isinstance(eps, Real):
        raise TypeError(f"`filter_eps` must be a number, got {type(eps).__name__}")
    if not eps < 1 or eps < 0:
        raise ValueError(f"`filter_eps` must be in [0, 1), got {eps}")
    return float(eps)


def check_factor(
    grad_output: object, lead: tuple[int, ...], reduction: str
) -> np.ndarray | float:
    """Factors of the rows in float64, (m,) or a number."""
    if grad_output is None:
        return 1.0
    array = as_array(grad_output, "grad_output")
    compute_dtype(array.dtype, "grad_output")
    expected = lead if reduction == "none" else ()
    if array.shape != expected:
        raise ValueError(
            f"`grad_output` must have shape {expected} with reduction {reduction!r}, "
            f"got {array.shape}"
        )
    return plain(array, F64).reshape(-1 if expected else ())


class Reads(Protocol):
    """What is read while gradients are written."""

    def arrays(self) -> list[np.ndarray | None]: ...


def gradient_arrays(out: object, wanted: tuple[str, ...], x: np.ndarray | SparseX,
                    layer: Layer, dtype: np.dtype, accumulate: bool, reads: Reads) -> Gradients:
    """Arrays for the gradients: those of `out`, else new ones."""
    shapes = {"x": x.shape, "weight": (layer.n_classes, layer.n_features),
              "bias": (layer.n_classes,)}
    if out is None:
        if accumulate:
            raise ValueError("`accumulate` needs `out`, the gradients to add to, got None")
        return Gradients(**{name: engine.empty(shapes[name], dtype) for name in wanted})
    if not isinstance(out, Gradients):
        raise TypeError(f"`out` must be Gradients, got {type(out).__name__}")
    others = [*(x.arrays if isinstance(x, SparseX) else [x]), *layer.given, *reads.arrays()]
    for name in wanted:
        array = getattr(out, name)
        _check_gradient(array, name, shapes[name], dtype, others)
        others.append(array)
    return Gradients(**{name: getattr(out, name) for name in wanted})


def _check_gradient(array: np.ndarray | None, name: str, shape: tuple[int, ...], dtype: np.dtype,
                    inputs: Sequence[object]) -> None:
    name = f"out.{name}"
    if array is None:
        raise ValueError(f"`{name}` must be an array, as `wrt` names it, got None")
    check_direct_out(array, shape, dtype, name, inputs)
