"""Divergences of two heads: arguments checked, the engine called, results shaped.

The divergence of row i is weighted with its sample weight s, and reduced like a loss:

    s * (beta KL(q | m) + (1 - beta) KL(p | m)),   m = beta q + (1 - beta) p

with p the student's softmax and q the teacher's, KL(q | p) for beta = 0 and KL(p | q) for beta = 1.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .._arrays.checks import as_float, check_flag
from .._arrays.rows import Rows
from .._arrays.sparse_x import SparseX, as_rows
from .._engines.choice import engine
from .._engines.interface import COEFFICIENTS, Layer, Request, State, Teacher
from ..results import Gradients
from .batch import check_loss_out, given_loss
from .objective import check_reduction, check_sample_weight, reduced
from .value_and_grad import check_factor, check_workspace, check_wrt, gradient_arrays

if TYPE_CHECKING:
    from .._arrays.checks import Values

WORKSPACE_BYTES = 128 << 20  # twice that of one head
SMALLEST = 1e-30  # share of the teacher that float32 tells from 0
SOFTMAX = COEFFICIENTS.index("softmax")


class Rowwise:
    """Divergences of rows that are weighted and reduced like losses.

    Attributes
    ----------
    reduction : str
    dtype : dtype
    sample_weight : ndarray of float64, shape (m,), or None
    losses : ndarray, shape (m,)
        Of the rows that have been taken in.
    """

    filters = False

    def __init__(self, lead: tuple[int, ...], dtype: np.dtype, reduction: str,
                 sample_weight: object):
        check_reduction(reduction)
        self.reduction, self.dtype = reduction, dtype
        self.sample_weight = check_sample_weight(sample_weight, lead)
        self.losses = np.empty(math.prod(lead), dtype)
        self._factor: np.ndarray | float = 0.0

    def multiply(self, grad_output: np.ndarray | float, temperature: float) -> None:
        """Say what gradients by the logits are multiplied with."""
        divisor = self.divisor()
        with np.errstate(all="ignore"):
            self._factor = np.divide(grad_output, divisor * temperature) if divisor else 0.0

    def note(self, value: np.ndarray, rows: slice) -> np.ndarray:
        """Note the divergences of some rows and give the factors of their gradients."""
        factor = self._factor[rows] if isinstance(self._factor, np.ndarray) else self._factor
        with np.errstate(all="ignore"):
            if self.sample_weight is not None:
                weight = self.sample_weight[rows]
                value = np.where(weight == 0, 0, weight * value)
                factor = np.where(weight == 0, 0, weight * factor)
            self.losses[rows] = value
        return np.broadcast_to(factor, value.shape)

    def divisor(self) -> float:
        """What the sum of the rows is divided by; 0 where no row counts in a mean."""
        if self.reduction == "mean" and self.sample_weight is not None:
            with np.errstate(over="ignore"):
                return float(self.sample_weight.sum())
        return len(self.losses) if self.reduction in ("mean", "batch_mean") else 1

    def reduce(self, losses: np.ndarray) -> np.generic:
        """Divergences (m,) to one."""
        return reduced(losses, self.divisor(), self.reduction, self.dtype)


class Divergence(Rowwise):
    """What a divergence from another head is asked for, and the rows that have been taken in."""

    def __init__(self, teacher: Layer, x: np.ndarray | SparseX, lead: tuple[int, ...], n: int,
                 dtype: np.dtype, beta: object, reduction: str, sample_weight: object):
        super().__init__(lead, dtype, reduction, sample_weight)
        if x.shape[:-1] != lead:
            raise ValueError(f"`teacher_x` must have the leading shape of `x`, {lead}, "
                             f"got shape {x.shape}")
        if teacher.n_classes != n:
            raise ValueError(f"`teacher` must have as many classes as the student, {n}, "
                             f"got {teacher.n_classes}")
        self.teacher = Teacher(teacher, as_rows(x), check_beta(beta))
        self.request = Request(dtype)

    def arrays(self) -> list[np.ndarray | None]:
        """All that is read while gradients are written."""
        return [*self.teacher.x.arrays, *self.teacher.layer.given, self.sample_weight]

    def take(self, state: State, rows: slice) -> np.ndarray:
        """Note the divergences of some rows and give the coefficients of their gradients."""
        b, value = self.teacher.beta, state.from_student
        if b < 1:
            value = state.from_teacher if b == 0 else b * state.from_teacher + (1 - b) * value
        coefficients = np.zeros((len(COEFFICIENTS), len(value)), self.dtype)
        with np.errstate(over="ignore"):  # of factors that the precision has no room for
            coefficients[SOFTMAX] = self.note(value, rows)
        return coefficients


class Asked(Protocol):
    """What is asked of a student whose gradients are wanted."""

    filters: bool
    losses: np.ndarray
    dtype: np.dtype
    reduction: str

    @property
    def request(self) -> Request: ...
    @property
    def teacher(self) -> Teacher[Layer] | None: ...
    def arrays(self) -> list[np.ndarray | None]: ...
    def multiply(self, grad_output: np.ndarray | float, temperature: float) -> None: ...
    def reduce(self, losses: np.ndarray) -> np.generic: ...
    def take(self, state: State, rows: slice) -> np.ndarray: ...


def kl_div(layer: Layer, n_threads: int | None, rows: Rows | SparseX, divergence: Divergence,
           out: np.ndarray | None) -> Values:
    """Find the divergences of checked rows; see `LinearHead.kl_div`."""
    if out is not None:
        check_loss_out(out, divergence, rows.lead)
    engine.divergence(layer, rows, divergence.teacher, divergence.dtype, divergence.take,
                      WORKSPACE_BYTES // 2, n_threads)
    return given_loss(divergence.losses, divergence, rows.lead, out)


def value_and_grad(layer: Layer, n_threads: int | None, x: np.ndarray | SparseX,
                   divergence: Asked, *, wrt: object, grad_output: object,
                   workspace_bytes: object, out: object,
                   accumulate: bool) -> tuple[Values, Gradients]:
    """Find them and their gradients; see `LinearHead.kl_div_value_and_grad`."""
    wanted = check_wrt(wrt, isinstance(x, SparseX))
    workspace = check_workspace(workspace_bytes)
    accumulate = check_flag(accumulate, "accumulate")
    rows = as_rows(x)
    divergence.multiply(check_factor(grad_output, rows.lead, divergence.reduction),
                        layer.temperature)
    grads = gradient_arrays(out, wanted, x, layer, divergence.dtype, accumulate, divergence)
    d_x = None if grads.x is None else grads.x.reshape(rows.m, rows.n)
    engine.gradients(
        layer, rows, divergence.request, divergence, Gradients(d_x, grads.weight, grads.bias),
        accumulate, workspace, n_threads, divergence.teacher,
    )
    return given_loss(divergence.losses, divergence, rows.lead, None), grads


def check_beta(beta: object) -> float:
    """Check the share of the teacher in what lies between two softmaxes."""
    if isinstance(beta, bool) or not isinstance(beta, Real):
        raise TypeError(f"`beta` must be a number, got {type(beta).__name__}")
    share = as_float(beta)
    if not 0 <= share <= 1 or 0 < share < SMALLEST:
        raise ValueError(f"`beta` must be 0 or between {SMALLEST} and 1, got {beta}")
    return share
