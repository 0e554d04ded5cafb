"""The checks of `logitless.torch`: tensors, their shapes, and options as plain numbers."""

from __future__ import annotations

from functools import reduce
from numbers import Real
from typing import Any, NamedTuple, get_type_hints

import torch

from .._arrays.checks import check_integer, check_positive, read_shift


class Options(NamedTuple):
    """The options that functions, modules and operators take, but for PyTorch's `options`."""

    reduction: str = "mean"
    ignore_index: int | None = None
    label_smoothing: float = 0.0
    shift: int = 0
    softcap: float | None = None
    temperature: float = 1.0
    z_loss: float = 0.0
    entropy_weight: float = 0.0
    filter_eps: float = 0.0


_NUMBERS = tuple(name for name, kind in get_type_hints(Options).items() if kind is float)
_FLOAT = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def requires_grad(tensor: torch.Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def check_loss_dtype(given: object, *tensors: torch.Tensor | None) -> torch.dtype:
    """The dtype of the loss: as given, or the widest of the tensors."""
    if given is not None:
        if given not in (torch.float32, torch.float64):
            raise TypeError("`loss_dtype` must be torch.float32, torch.float64 or None, "
                            f"got {given}")
        return given
    dtypes = [tensor.dtype for tensor in tensors if tensor is not None]
    if torch.is_autocast_enabled("cpu"):
        dtypes.append(torch.float32)
    return reduce(torch.promote_types, dtypes)


def check_tensors(**tensors: torch.Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is None and name in ("linear_bias", "weight", "temperature"):
            continue
        check_tensor(name, tensor, may_be_sparse=name == "target")
        if name in ("weight", "temperature"):
            check_constant(name, tensor)


def check_tensor(name: str, tensor: object, may_be_sparse: bool = False,
                 of: tuple[torch.dtype, ...] = _FLOAT) -> None:
    """Refuse what is no tensor whose memory can be read, or none of these dtypes."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}")
    if hasattr(tensor, "full_tensor"):
        raise TypeError(f"`{name}` must be a tensor in one piece, got a DTensor: "
                        f"give `{name}.full_tensor()`, or `{name}.to_local()` for the part "
                        "that is here")
    if tensor.device.type != "cpu":
        raise TypeError(f"`{name}` must be on the CPU, where this loss is computed, "
                        f"got a tensor on {tensor.device}")
    if may_be_sparse and tensor.layout in (torch.sparse_coo, torch.sparse_csr):
        return
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "a nested tensor" if tensor.is_nested else f"layout {tensor.layout}"
        also = ", sparse COO or sparse CSR" if may_be_sparse else ""
        raise TypeError(f"`{name}` must be dense{also}, got {layout}")
    if name != "target" and tensor.dtype not in of:
        raise TypeError(f"`{name}` must be of one of {of}, got {tensor.dtype}")


def check_constant(name: str, tensor: torch.Tensor | None) -> None:
    """Refuse what has a gradient coming that is not computed."""
    if requires_grad(tensor):
        raise TypeError(f"`{name}` requires grad, but gets no gradient here; "
                        f"detach it: `{name}.detach()`")


def check_shapes(
    input: torch.Tensor, linear_weight: torch.Tensor, linear_bias: torch.Tensor | None,
    weight: torch.Tensor | None, temperature: torch.Tensor | None,
) -> tuple[int, ...]:
    """The places (d1, ..., dK) of a multi-dimensional loss."""
    if input.ndim == 0:
        raise ValueError("`input` must have shape (..., k), got ()")
    k, shape = input.shape[-1], tuple(linear_weight.shape)
    if len(shape) < 2 or shape[0] == 0 or shape[-1] != k:
        raise ValueError(f"`linear_weight` must have shape (C, {k}) or (C, d1, ..., dK, {k}), "
                         f"C >= 1, got {shape}")
    if len(shape) > 2 and input.ndim == 1:
        raise ValueError(f"`input` must have shape (..., N, {k}) with `linear_weight` of shape "
                         f"{shape}, got {tuple(input.shape)}")
    fits = (("linear_bias", linear_bias, shape[:-1]), ("weight", weight, shape[:1]),
            ("temperature", temperature, tuple(input.shape[:-1])))
    for name, tensor, fit in fits:
        if tensor is not None and tensor.shape != fit:
            raise ValueError(f"`{name}` must have shape {fit}, got {tuple(tensor.shape)}")
    return shape[1:-1]


def scored_shape(
    input: torch.Tensor, linear_weight: torch.Tensor, shift: int
) -> tuple[int, ...]:
    """The shape of losses that are not reduced."""
    lead = tuple(input.shape[:-1])
    if shift:
        lead = (*lead[:-1], lead[-1] - shift)
    return *lead, *linear_weight.shape[1:-1]


def check_shift(shift: int, input: torch.Tensor) -> None:
    if shift and (input.ndim < 2 or shift > input.shape[-2]):
        raise ValueError("`shift` must be at most the length of the last axis but one of `input`, "
                         f"got {shift} for shape {tuple(input.shape)}")


def check_target(
    target: torch.Tensor, lead: tuple[int, ...], n_classes: int, places: tuple[int, ...],
    ignore_index: int | None,
) -> bool:
    """Whether the target holds class probabilities."""
    shape, dtype = tuple(target.shape), target.dtype
    indices, probabilities = (*lead, *places), (*lead, n_classes, *places)
    if shape not in (indices, probabilities):
        raise ValueError(f"`target` must have shape {indices} for class indices or "
                         f"{probabilities} for class probabilities, got {shape}")
    if shape == indices and dtype not in INTEGER:
        raise TypeError(f"`target` of shape {shape} must be class indices of one of {INTEGER}, "
                        f"got {dtype}")
    if shape == probabilities and dtype not in _FLOAT:
        raise TypeError(f"`target` of shape {shape} must be class probabilities of one of "
                        f"{_FLOAT}, got {dtype}")
    if target.layout != torch.strided:
        _check_sparse(target, shape == probabilities, places)
    if shape == probabilities and ignore_index is not None:
        raise ValueError(f"`ignore_index` must be None with class probabilities, "
                         f"got {ignore_index}")
    return shape == probabilities


def _check_sparse(target: torch.Tensor, is_probabilities: bool, places: tuple[int, ...]) -> None:
    if not is_probabilities or places:
        raise ValueError("`target` must be dense, unless it holds class probabilities (..., C), "
                         f"got layout {target.layout} of shape {tuple(target.shape)}")
    if target.layout == torch.sparse_csr:
        dense = target.values().ndim - 1 or target.ndim - 2
    else:
        dense = target.dense_dim()
    if dense:
        raise ValueError("`target` must have no dense or batch axes where it is sparse, "
                         f"got layout {target.layout} of shape {tuple(target.shape)}")


def check_options(options: Options) -> Options:
    """The options as the operators take them; those in between limits are checked there."""
    if options.reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"`reduction` must be 'mean', 'sum' or 'none', got {options.reduction!r}")
    index, softcap = options.ignore_index, options.softcap
    checked: dict[str, Any] = {"reduction": options.reduction}
    for name in _NUMBERS:
        checked[name] = _number(getattr(options, name), name)
    checked["ignore_index"] = -100 if index is None else check_integer(index, "ignore_index")
    checked["shift"] = read_shift(options.shift)
    checked["softcap"] = None if softcap is None else check_positive(softcap, "softcap")
    checked["temperature"] = check_positive(options.temperature, "temperature")
    return Options(**checked)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    return float(value)
