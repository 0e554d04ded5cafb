"""The loss and its gradients over chunks of rows, added up in one order whoever computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from .._calls.objective import F64, Objective, reduced
from .._calls.options import LossOptions
from ..head import LinearHead
from ..results import Gradients
from ._graph import Layer, collected, column, first_rows, tree, whole
from ._inputs import Inputs
from ._worker import Setting


@dataclass(slots=True)
class _Part:
    """What some rows add to the loss, and to its gradients."""

    loss: Any
    grad: Gradients


@dataclass(frozen=True)
class Tasks:
    """What tasks do, the same for all chunks of rows.

    Attributes
    ----------
    names : tuple of str
        Of the arrays that tasks are given last.
    of_head, of_loss, of_gradient : dict
        Options of the head, of losses, of gradients alone.
    """

    setting: Setting
    names: tuple[str, ...]
    n: int
    dtype: np.dtype
    reduction: str
    of_head: dict[str, Any]
    of_loss: dict[str, Any]
    of_gradient: dict[str, Any]

    def divisor(self, first_row: int | None, *arrays: np.ndarray) -> float:
        """What a chunk adds to what losses are divided by."""
        target, options = self._parted(arrays)
        with self.setting.of_task(first_row):
            return Objective(target, target.shape[:1], self.n, self.dtype, self.reduction,
                             LossOptions(**options)).divisor()

    def part(self, first_row: int | None, divisor: float, x: np.ndarray, weight: np.ndarray,
             bias: np.ndarray | None, *arrays: np.ndarray) -> _Part:
        """Sum of the losses of a chunk, and its part of the gradients."""
        target, options = self._parted(arrays)
        with self.setting.of_task(first_row):
            head = LinearHead(weight, bias, pack=False, **self.of_head)
            losses, grad = head.value_and_grad(
                x, target, reduction="none", **self.of_gradient, **options,
                grad_output=np.full(x.shape[0], 1 / divisor if divisor else 0.0))
        with np.errstate(over="ignore", invalid="ignore"):
            return _Part(losses.sum(dtype=F64), grad)

    def add(self, parts: list[_Part]) -> _Part:
        """Add up what chunks give, in their order; the gradients by x stay where they are."""
        with np.errstate(over="ignore", invalid="ignore"):
            loss = np.sum([part.loss for part in parts])
        return _Part(loss, Gradients(weight=_sum([part.grad.weight for part in parts]),
                                     bias=_sum([part.grad.bias for part in parts])))

    def total(self, parts: list[_Part], divisor: float) -> _Part:
        """All of them, with the loss reduced."""
        total = self.add(parts)
        loss = reduced(np.array([total.loss]), divisor, self.reduction, self.dtype)
        return _Part(loss, total.grad)

    def _parted(self, arrays: tuple[np.ndarray, ...]) -> tuple[Any, dict[str, Any]]:
        """Target and options of the loss."""
        given = dict(zip(self.names, arrays, strict=True))
        return given.pop("target"), {**self.of_loss, **given}


def _sum(arrays: list[Any]) -> np.ndarray | None:
    if arrays[0] is None:
        return None
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def value_and_grad(inputs: Inputs, tasks: Tasks, wrt: tuple[str, ...]
                   ) -> tuple[da.Array, Gradients]:
    """Lazy loss and gradients: a task a chunk of rows, and those that add these up."""
    token = tokenize([array.name for array in inputs.dependencies], tasks)
    gradient, divisor = f"logitless-gradient-{token}", f"logitless-divisor-{token}"
    firsts = list(enumerate(first_rows(inputs.row_chunks)))
    layer: Layer = {}
    by: Any = 1.0
    if tasks.reduction != "sum":
        layer.update(((divisor, i), (tasks.divisor, first, *inputs.keys(i, 0)))
                     for i, first in firsts)
        layer[divisor,] = (sum, tree(layer, (divisor,), [(divisor, i) for i, _ in firsts], sum))
        by = (divisor,)
    for i, first in firsts:
        layer[gradient, i] = (tasks.part, first, by, (inputs.x.name, i, 0), *inputs.classes(0),
                              *inputs.keys(i, 0))
    parts = collected(gradient, layer, (inputs.row_chunks,), inputs.dependencies)

    total, layer = f"logitless-gradients-{token}", {}
    last = tree(layer, (total,), [(gradient, i) for i, _ in firsts], tasks.add)
    layer[total,] = (tasks.total, last, by)
    sums = collected(total, layer, (), [parts])
    n, k = inputs.weight.shape
    lazy = {"x": lambda: column(parts, "grad.x", inputs.dtype, k),
            "weight": lambda: whole(sums, "grad.weight", inputs.dtype, n, k),
            "bias": lambda: whole(sums, "grad.bias", inputs.dtype, n)}
    return (whole(sums, "loss", inputs.dtype),
            Gradients(**{name: lazy[name]() for name in wrt}))
