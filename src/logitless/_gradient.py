"""The loss and its gradients: arguments checked, the engine called, results shaped."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from ._backend import engine
from ._objective import F64, Objective, shifted
from ._pass import given_loss
from ._request import State
from ._results import Gradients
from ._validate import (
    Rows,
    as_array,
    check_direct_out,
    check_integer,
    check_x,
    compute_dtype,
    plain,
)

WORKSPACE = 64 << 20
NAMES = ("x", "weight", "bias")

# Rows of the coefficients of a row of G = d loss / d logits, times 1 / temperature:
# G[c] = SOFTMAX * p[c] - TARGET * (c == y) - class_weight[c] * (PROBS * t[c] + SMOOTH),
# where what is smaller than LIMIT may be left out.
SOFTMAX, TARGET, PROBS, SMOOTH, LIMIT, COEFFICIENTS = range(6)


class Backward:
    """What turns the states of rows into their losses and the coefficients of their gradients.

    Attributes
    ----------
    filters : bool
        Tiles below the limits are to be left out.
    losses : ndarray, shape (m,)
        Of the rows that have been taken in.
    """

    def __init__(self, objective: Objective, grad_output, filter_eps: float, temperature: float):
        self._objective = objective
        self._filter_eps = filter_eps
        self.filters = filter_eps > 0
        self.losses = np.empty(objective.targets.rows, objective.dtype)
        divisor = objective.divisor()
        # Of each row, or of all that count; nothing is reduced where none counts.
        self._weight = grad_output / (divisor * temperature) if divisor else 0.0
        self._class_total = objective.n
        if objective.class_weight is not None:
            self._class_total = float(objective.class_weight.sum(dtype=F64))

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the losses of some rows and give their coefficients, 0 for rows left out."""
        self.losses[rows] = self._objective.losses(state, rows)
        weight = self._row_weight(rows)
        coefficients = np.zeros((COEFFICIENTS, rows.stop - rows.start), self._objective.dtype)
        with np.errstate(all="ignore"):
            self._fill(coefficients, weight, state, rows)
        return coefficients

    def _row_weight(self, rows: slice):
        """Find what the gradients of some rows are multiplied with: an array, or one number."""
        weight = self._weight if np.ndim(self._weight) == 0 else self._weight[rows]
        if self._objective.sample_weight is not None:
            weight = weight * self._objective.sample_weight[rows]
        counts = self._objective.counts(rows)
        return weight if counts is None else np.where(counts, weight, 0.0)

    def _fill(self, c: np.ndarray, weight: np.ndarray, state: State, rows: slice) -> None:
        o = self._objective
        c[LIMIT] = self._filter_eps * np.abs(weight)
        if o.plain and o.targets.probs is None:
            c[SOFTMAX] = c[TARGET] = weight
            return
        index = None if o.targets.index is None else o.targets.index[rows, 0]
        target = weight * (1 - o.label_smoothing)
        of_class = o.target_weight(rows)
        if o.targets.probs is not None:
            is_index = False if index is None else index >= 0
            c[PROBS] = np.where(is_index, 0, target)
            target = np.where(is_index, target, 0)
        if of_class is not None:
            target = target * of_class
        c[TARGET] = mass = target
        if o.targets.probs is not None:
            mass = mass + _times(np.asarray(c[PROBS], F64), state.prob_sum)
        if o.label_smoothing > 0:
            smooth = weight * (o.label_smoothing / o.n)
            c[SMOOTH] = smooth
            mass = mass + smooth * self._class_total
        if o.z_loss > 0:
            mass = mass + _times(2 * o.z_loss * weight, state.lse.astype(F64))
        c[SOFTMAX] = mass


def _times(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Weight 0 makes 0 of anything."""
    return np.where(weight == 0, 0, weight * value)


def value_and_grad(layer, n_threads, x, target, *, reduction, wrt, grad_output, workspace_bytes,
                   filter_eps, out, accumulate, shift, sample_weight=None, **options):
    """Loss and Gradients of a layer; see `LinearHead.value_and_grad`."""
    x = check_x(x, layer.n_features)
    dtype = max(layer.dtype, compute_dtype(x.dtype, "x"), key=lambda d: d.itemsize)
    wanted = _check_wrt(wrt)
    workspace_bytes = check_integer(workspace_bytes, "workspace_bytes", 1)
    filter_eps = _check_eps(filter_eps)
    used, target, sample_weight = shifted(x, target, sample_weight, shift)
    rows = Rows(used)
    objective = Objective(target, rows.lead, layer.n_classes, dtype, reduction=reduction,
                          sample_weight=sample_weight, **options)
    grad_output = _check_grad_output(grad_output, rows.lead, reduction)
    grads = _gradients(out, wanted, x, layer, dtype, accumulate, objective)

    probs = objective.targets.probs
    request = objective.request()
    backward = Backward(objective, grad_output, filter_eps, layer.temperature)
    d_x = _rows_of(grads.x, used.shape, accumulate)
    engine.gradients(
        layer, rows, probs, request, backward, Gradients(d_x, grads.weight, grads.bias),
        bool(accumulate), workspace_bytes, n_threads,
    )
    if d_x is not None and not np.may_share_memory(d_x, grads.x):
        # Positions without a target further along have no gradient.
        if accumulate:
            grads.x[..., : used.shape[-2], :] += d_x.reshape(used.shape)
        else:
            grads.x[..., : used.shape[-2], :] = d_x.reshape(used.shape)
    return given_loss(backward.losses, objective, rows.lead, None), grads


def _rows_of(grad: np.ndarray | None, used: tuple[int, ...], accumulate) -> np.ndarray | None:
    """Where the engine writes the gradient of the rows in use, (m, k)."""
    if grad is None:
        return None
    if grad.shape == used:
        return grad.reshape(math.prod(used[:-1]), used[-1])
    if not accumulate:
        grad[..., used[-2] :, :] = 0
    if grad.ndim == 2:
        return grad[: used[0]]
    return np.zeros((math.prod(used[:-1]), used[-1]), grad.dtype)


def _check_wrt(wrt) -> tuple[str, ...]:
    if not isinstance(wrt, (str, tuple, list, set, frozenset)):
        raise TypeError(f"`wrt` must be a sequence of {NAMES}, got {type(wrt).__name__}")
    wanted = (wrt,) if isinstance(wrt, str) else tuple(wrt)
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"`wrt` must name some of {NAMES}, got {name!r}")
    return wanted


def _check_eps(eps) -> float:
    if isinstance(eps, bool) or not isinstance(eps, Real):
        raise TypeError(f"`filter_eps` must be a number, got {type(eps).__name__}")
    if not 0 <= eps < 1:
        raise ValueError(f"`filter_eps` must be in [0, 1), got {eps}")
    return float(eps)


def _check_grad_output(grad_output, lead: tuple[int, ...], reduction: str):
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


def _gradients(out, wanted, x, layer, dtype, accumulate, objective: Objective) -> Gradients:
    """Arrays for the gradients: those of `out`, else new ones."""
    shapes = {"x": x.shape, "weight": (layer.n_classes, layer.n_features),
              "bias": (layer.n_classes,)}
    if out is None:
        if accumulate:
            raise ValueError("`accumulate` needs `out`, the gradients to add to, got None")
        return Gradients(**{name: engine.empty(shapes[name], dtype) for name in wanted})
    if not isinstance(out, Gradients):
        raise TypeError(f"`out` must be Gradients, got {type(out).__name__}")
    others = [x, *layer.given, *objective.arrays()]
    for name in wanted:
        array = getattr(out, name)
        _check_gradient(array, name, shapes[name], dtype, others)
        others.append(array)
    return Gradients(**{name: getattr(out, name) for name in wanted})


def _check_gradient(array, name: str, shape, dtype, inputs) -> None:
    name = f"out.{name}"
    if array is None:
        raise ValueError(f"`{name}` must be an array, as `wrt` names it, got None")
    check_direct_out(array, shape, dtype, name, inputs)
