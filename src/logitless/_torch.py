"""What `logitless.torch` is made of: checks, the call on arrays, and its place in autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import torch

from . import functional
from ._results import Gradients

_FLOAT = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_WRT = ("x", "weight", "bias")


class LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(call, *tensors):
        return call.loss(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.call, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad_output):
        wrt = names_of(ctx.needs_input_grad[1:4])
        gradients = _Gradients.apply(ctx.call, wrt, grad_output, *ctx.saved_tensors)
        return None, *gradients, None, None


class _Gradients(torch.autograd.Function):
    """The gradients as a function of all they depend on, so that none comes out as constant."""

    @staticmethod
    def forward(call, wrt, grad_output, *tensors):
        return call.gradients(wrt, grad_output, *tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("logitless.torch.linear_cross_entropy has no second derivative; "
                           "torch.nn.functional.linear_cross_entropy has")


@dataclass
class Call:
    """A call but for its tensors: input, linear_weight, linear_bias, target, weight.

    Attributes
    ----------
    soft : bool
        The target holds class probabilities.
    places : tuple of int
        (d1, ..., dK), each with a classifier of its own.
    dtype : torch.dtype
        Of the loss.
    options : dict
        Of the functions of arrays.
    wrt : tuple of str
        Gradients to find along with the loss.
    held : dict
        Those gradients, until they are handed out.
    """

    reduction: str
    soft: bool
    places: tuple[int, ...]
    dtype: torch.dtype
    options: dict
    filter_eps: float
    wrt: tuple[str, ...]
    held: dict[str, np.ndarray] = field(default_factory=dict)

    def loss(self, *tensors) -> torch.Tensor:
        arrays = [None if t is None else _array(t) for t in tensors]
        divisor = self._divisor(*arrays)
        losses, self.held = self._run(self.wrt, 1 / divisor, *arrays)
        if self.reduction == "none":
            return torch.from_numpy(losses).to(self.dtype)
        return torch.tensor(losses.sum(dtype=np.float64) / divisor, dtype=self.dtype)

    def gradients(self, wrt, grad_output, *tensors) -> tuple[torch.Tensor | None, ...]:
        """Gradients of input, linear_weight and linear_bias; None for what `wrt` leaves out."""
        if all(name in self.held for name in wrt):
            found = {name: self.held.pop(name) for name in wrt}
            if grad_output != 1:
                for gradient in found.values():
                    torch.from_numpy(gradient).mul_(grad_output)
        else:  # of losses that are not reduced; or another time, those held being gone
            arrays = [None if t is None else _array(t) for t in tensors]
            factor = _array(grad_output) / self._divisor(*arrays)
            _, found = self._run(wrt, factor, *arrays)
        class_axis = {"x": 0, "weight": -2, "bias": -1}
        return tuple(
            torch.from_numpy(found[name]).movedim(axis, 0) if name in found else None
            for name, axis in class_axis.items()
        )  # autograd gives them the dtypes of the tensors

    def _run(self, wrt, factor, x, weight, bias, target, class_weight):
        """Each loss; gradients of their sum times `factor`, with the classes after the places."""
        shape = (*self.places, len(weight))
        shapes = {"x": x.shape, "weight": (*shape, x.shape[-1]), "bias": shape}
        dtype = np.result_type(x, weight, np.float32)
        found = {name: np.zeros(shapes[name], dtype) for name in wrt}
        losses = np.empty((*x.shape[:-1], *self.places), dtype)
        factor = np.broadcast_to(factor, losses.shape)
        for place in np.ndindex(*self.places):
            of_classes, of_rows = (slice(None), *place), (..., *place)
            arrays = (x, weight[of_classes], target[of_rows],
                      None if bias is None else bias[of_classes])
            options = {"reduction": "none", "class_weight": class_weight, **self.options}
            if wrt:
                out = {name: g if name == "x" else g[place] for name, g in found.items()}
                losses[of_rows], _ = functional.linear_cross_entropy_value_and_grad(
                    *arrays, wrt=wrt, grad_output=factor[of_rows], out=Gradients(**out),
                    accumulate=any(place), filter_eps=self.filter_eps, **options,
                )
            else:
                losses[of_rows] = functional.linear_cross_entropy(*arrays, **options)
        return losses, found

    def _divisor(self, x, weight, bias, target, class_weight) -> np.float64:
        """What the sum of the losses is divided by, NaN instead of 0."""
        if self.reduction != "mean":
            return np.float64(1)
        if self.soft:
            return np.float64(target.size / len(weight) or math.nan)
        counted = target[target != self.options["ignore_index"]]
        if class_weight is None:
            return np.float64(counted.size or math.nan)
        weights = class_weight.take(counted, mode="clip")  # the losses find what is out of range
        return np.float64(weights.sum(dtype=np.float64) or math.nan)


def names_of(wanted) -> tuple[str, ...]:
    return tuple(name for name, want in zip(_WRT, wanted, strict=True) if want)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor; of bfloat16, which NumPy has not, a copy."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)


def requires_grad(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def loss_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    dtypes = [tensor.dtype for tensor in tensors if tensor is not None]
    if torch.is_autocast_enabled("cpu"):
        dtypes.append(torch.float32)
    return reduce(torch.promote_types, dtypes)


def check_tensors(**tensors) -> None:
    for name, tensor in tensors.items():
        if tensor is None and name in ("linear_bias", "weight"):
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.device.type != "cpu":
            raise TypeError(f"`{name}` must be on the CPU, where this loss is computed, "
                            f"got a tensor on {tensor.device}")
        if tensor.layout != torch.strided:
            raise TypeError(f"`{name}` must be dense, got layout {tensor.layout}")
        if name != "target" and tensor.dtype not in _FLOAT:
            raise TypeError(f"`{name}` must be of one of {_FLOAT}, got {tensor.dtype}")
        if name in ("target", "weight") and requires_grad(tensor):
            raise TypeError(f"`{name}` requires grad, but gets no gradient here; "
                            f"detach it: `{name}.detach()`")


def check_shapes(input, linear_weight, linear_bias, weight) -> tuple[int, ...]:
    """The places (d1, ..., dK) of a multi-dimensional loss."""
    if input.ndim not in (1, 2):
        raise ValueError(f"`input` must have shape (k,) or (N, k), got {tuple(input.shape)}; "
                         "flatten the axes before the last")
    k, shape = input.shape[-1], tuple(linear_weight.shape)
    if len(shape) < 2 or shape[0] == 0 or shape[-1] != k:
        raise ValueError(f"`linear_weight` must have shape (C, {k}) or (C, d1, ..., dK, {k}), "
                         f"C >= 1, got {shape}")
    if len(shape) > 2 and input.ndim == 1:
        raise ValueError(f"`input` must have shape (N, {k}) with `linear_weight` of shape {shape}, "
                         f"got {tuple(input.shape)}")
    fits = ("linear_bias", linear_bias, shape[:-1]), ("weight", weight, shape[:1])
    for name, tensor, fit in fits:
        if tensor is not None and tensor.shape != fit:
            raise ValueError(f"`{name}` must have shape {fit}, got {tuple(tensor.shape)}")
    return shape[1:-1]


def check_target(target, lead, n_classes, places, ignore_index) -> bool:
    """Whether the target holds class probabilities."""
    shape, dtype = tuple(target.shape), target.dtype
    indices, probabilities = (*lead, *places), (*lead, n_classes, *places)
    if shape not in (indices, probabilities):
        raise ValueError(f"`target` must have shape {indices} for class indices or "
                         f"{probabilities} for class probabilities, got {shape}")
    if shape == indices and dtype not in _INTEGER:
        raise TypeError(f"`target` of shape {shape} must be class indices of one of {_INTEGER}, "
                        f"got {dtype}")
    if shape == probabilities and dtype not in _FLOAT:
        raise TypeError(f"`target` of shape {shape} must be class probabilities of one of "
                        f"{_FLOAT}, got {dtype}")
    if shape == probabilities and ignore_index is not None:
        raise ValueError(f"`ignore_index` must be None with class probabilities, "
                         f"got {ignore_index}")
    return shape == probabilities
