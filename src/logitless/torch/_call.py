"""The operators of the loss, and their place in autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, get_type_hints

import numpy as np
import torch

from ._arrays import Problem, as_numbers, narrowed
from ._checks import Options, requires_grad, scored_shape
from ._operators import Final, Operator, in_transform, seen

_NAMES = ("x", "weight", "bias", "target")  # of gradients
HELD = _NAMES[:3]  # those that can be found along with the loss
_N_SCORES = 3  # lse, entropy, prediction

# What operators take and give. Names of gradients come as one string; those not in it are empty.
# A sparse target comes as its values, with where those of each row begin, and their classes.
_TENSORS = ("Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, "
            "Tensor? weight, Tensor? temperatures, Tensor? target_start, Tensor? target_classes")
_KINDS = {str: "str", int: "int", int | None: "int", float: "float", float | None: "float?"}
_OPTIONS = ", ".join(f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(Options).items())
_N_TENSORS, _N_OPTIONS = _TENSORS.count(",") + 1, len(Options._fields)

def _parted(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, options, names of gradients; before these what there is of a loss alone."""
    last = _N_TENSORS + _N_OPTIONS
    options = Options(*args[_N_TENSORS:last])
    return args[:_N_TENSORS], options, *args[last:-1], args[-1].split()


def _loss(*args: Any) -> tuple[torch.Tensor, ...]:
    loss, found, scores = _found(*args)
    none = [torch.empty(0, dtype=torch.float32, device="cpu") for _ in range(_N_SCORES)]
    return loss, *as_tensors(found, HELD), *(scores or none)


def _found(*args: Any) -> tuple[torch.Tensor, dict[str, np.ndarray], list[torch.Tensor]]:
    """The loss, and the gradients and the scores found along with it."""
    tensors, options, dtype, with_scores, wrt = _parted(args)
    problem = Problem(tensors, options)
    divisor = problem.divisor()
    losses, found, scores = problem.losses(wrt, 1 / divisor, with_scores)
    if options.reduction == "none":
        loss = torch.from_numpy(losses).to(dtype)
    else:
        total = losses.sum(dtype=np.float64) / divisor
        loss = torch.tensor(total, dtype=dtype, device="cpu")
    return loss, found, list(map(torch.from_numpy, scores))


def _fake_loss(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, dtype, with_scores, wrt = _parted(args)
    input, linear_weight = tensors[:2]
    shape = scored_shape(input, linear_weight, options.shift)
    wide = torch.promote_types(torch.promote_types(input.dtype, linear_weight.dtype),
                               torch.float32)
    kinds = (wide, wide, torch.int64) if with_scores else (torch.float32,) * _N_SCORES
    return (input.new_empty(shape if options.reduction == "none" else (), dtype=dtype),
            *_fake_gradients(tensors, wrt, dict.fromkeys(HELD, wide)),
            *(input.new_empty(shape if with_scores else 0, dtype=kind) for kind in kinds))


def _loss_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, wrt = _parted(args)
    problem = Problem(tensors, options)
    factor = as_numbers(grad_output) / problem.divisor()
    held = [name for name in wrt if name in HELD]
    found = problem.losses(held, factor)[1] if held else {}
    dtypes = final_dtypes(tensors)
    if "target" not in wrt:
        return as_tensors(found, _NAMES, dtypes)
    return (*as_tensors(found, HELD, dtypes),
            problem.target_gradient(dtypes["target"], factor))


def _fake_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, _, wrt = _parted(args)
    return _fake_gradients(tensors, wrt, final_dtypes(tensors))


def _scale(gradient: torch.Tensor, factor: torch.Tensor) -> None:
    if factor == 1:  # nearly always it is, and the gradient need not be read
        return
    # Where no row counts the gradient is 0, and a sum over a number of rows that is 0 leaves it.
    zero = None if factor.isfinite() else gradient == 0
    gradient.mul_(factor)
    if zero is not None:
        gradient.masked_fill_(zero, 0)


def final_dtypes(tensors: Sequence[Any]) -> dict[str, torch.dtype]:
    """The dtype that each gradient has in the end."""
    return {name: torch.float32 if tensor is None else tensor.dtype
            for name, tensor in zip(_NAMES, tensors, strict=False)}


def as_tensors(
    found: dict[str, np.ndarray], names: Iterable[str],
    dtypes: dict[str, torch.dtype] | None = None,
) -> tuple[torch.Tensor, ...]:
    """Gradients, in `dtypes` if need be; no entries where there is none."""
    return tuple(
        _as_tensor(name, found[name] if dtypes is None else narrowed(found[name], dtypes[name]))
        if name in found else torch.empty(0, dtype=torch.float32, device="cpu")
        for name in names
    )


def _as_tensor(name: str, gradient: np.ndarray | torch.Tensor) -> torch.Tensor:
    """A gradient whose classes come after the places, with its axes as its tensor has them."""
    return torch.as_tensor(gradient, device="cpu").movedim(_CLASS_AXIS[name], 0)


_CLASS_AXIS = {"x": 0, "weight": -2, "bias": -1, "target": 0}


def _fake_gradients(
    tensors: Sequence[Any], wrt: Sequence[str], dtypes: dict[str, torch.dtype]
) -> tuple[torch.Tensor, ...]:
    """Gradients of these names and dtypes, no entries of those that are not wanted."""
    input, linear_weight, _, target, *_ = tensors
    n_classes, *places, n_features = linear_weight.shape
    shapes = {"x": input.shape, "weight": (*places, n_classes, n_features),
              "bias": (*places, n_classes), "target": target.shape}
    return tuple(
        input.new_empty(shapes[name], dtype=dtypes[name]).movedim(_CLASS_AXIS[name], 0)
        if name in wrt else input.new_empty(0, dtype=torch.float32)
        for name in dtypes
    )


linear_cross_entropy = Operator(
    "linear_cross_entropy",
    f"({_TENSORS}, {_OPTIONS}, ScalarType dtype, bool with_scores, str wrt) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _loss, _fake_loss,
)
linear_cross_entropy_backward = Operator(
    "linear_cross_entropy_backward",
    f"(Tensor grad_output, {_TENSORS}, {_OPTIONS}, str wrt) -> (Tensor, Tensor, Tensor, Tensor)",
    _loss_backward, _fake_backward,
)
scale_ = Operator("scale_", "(Tensor(a!) gradient, Tensor factor) -> ()", _scale,
                   lambda gradient, factor: None, mutates=("gradient",))


def found_along(
    reduction: str, input: torch.Tensor, linear_weight: torch.Tensor,
    linear_bias: torch.Tensor | None,
) -> str:
    """Names of the gradients to find along with the loss.

    An exported program does not know whether it will be differentiated, and finds them later.
    """
    if reduction == "none" or torch.compiler.is_exporting():
        return ""
    return " ".join(_named(map(requires_grad, (input, linear_weight, linear_bias))))


def _named(wanted: Iterable[bool]) -> list[str]:
    """Names of the gradients wanted, from one flag for each of the first tensors on."""
    return [name for name, want in zip(_NAMES, wanted, strict=False) if want]


def apply(*args: Any) -> tuple[torch.Tensor, ...]:
    """The loss, differentiable, and the scores, which are not."""
    if not torch.compiler.is_compiling():
        return _applied(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if in_transform():
        return torch.compiler.disable(_applied)(*args)
    return _without_gradients(linear_cross_entropy.of_library(*args))


def _applied(*args: Any) -> tuple[torch.Tensor, ...]:
    if seen(args):
        return _without_gradients(LinearCrossEntropyOperator.apply(*args))
    return LinearCrossEntropy.apply(*args)


def _without_gradients(results: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    loss, *others = results
    return loss, *others[len(HELD) :]


# Autograd


class LinearCrossEntropy(torch.autograd.Function):
    """The kernel by itself: nobody sees its gradients, which are arrays until they are taken."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        tensors, ctx.options, *_ = _parted(args)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtypes = final_dtypes(tensors)
        loss, ctx.held, scores = _found(*args)
        ctx.mark_non_differentiable(*scores)
        return loss, *scores

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return backward(ctx, grad_output, partial(finished, dtypes=ctx.dtypes))


def finished(
    held: dict[str, np.ndarray], wrt: Sequence[str], factor: torch.Tensor,
    dtypes: dict[str, torch.dtype],
) -> dict[str, torch.Tensor]:
    """Gradients that are held, scaled and rounded where they are and held no longer."""
    taken = {name: held.pop(name) for name in wrt if name in held}
    found = {}
    for name, array in taken.items():
        found[name] = _as_tensor(name, array)
        scale_(found[name], factor)
        if not seen([factor]):
            found[name] = _as_tensor(name, narrowed(array, dtypes[name]))
    return found


class LinearCrossEntropyOperator(torch.autograd.Function):
    """The operator as a function that `torch.func.grad` differentiates, too."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return linear_cross_entropy(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensors, ctx.options, *_, wrt = _parted(inputs)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.held = {name: g for name, g in zip(HELD, output[1:], strict=False) if name in wrt}

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return backward(ctx, grad_output, taken)


def taken(
    held: dict[str, torch.Tensor], wrt: Sequence[str], factor: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients that are held, scaled where they are and held no longer."""
    found = {name: held.pop(name) for name in wrt if name in held}
    for gradient in found.values():
        scale_(gradient, factor)
    return found


def scaled(
    held: dict[str, torch.Tensor], wrt: Sequence[str], factor: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients that are held, for compilers as results too, which stay as they are."""
    return {name: torch.where(held[name] == 0, held[name], held[name] * factor)  # as `_scale`
            for name in wrt if name in held}


def backward(
    ctx: Any, grad_output: Any, find: Callable[..., dict[str, torch.Tensor]],
    again: Operator | None = None, names: tuple[str, ...] = _NAMES,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of these names: those that `find` makes of what is held, else made `again`."""
    tensors = ctx.saved_tensors  # which finds out whether they have been changed
    wrt = [] if grad_output is None else _named(ctx.needs_input_grad[: len(names)])
    with torch.no_grad():
        found = find(ctx.held, wrt, grad_output)
        missing = [name for name in wrt if name not in found]
        if missing:  # of losses that are not reduced; or another time, those held being gone
            more = (again or linear_cross_entropy_backward)(grad_output, *tensors, *ctx.options,
                                                            " ".join(missing))
            found |= {name: g for name, g in zip(names, more, strict=True) if name in missing}
    if torch.is_grad_enabled() and found:
        final = Final.apply(len(found), *found.values(), grad_output, *tensors)
        found = dict(zip(found, final, strict=True))
    # autograd gives them the dtypes of the tensors
    return *map(found.get, names), *[None] * (len(ctx.needs_input_grad) - len(names))


# For compilers, and for exported programs, which call the operator itself.
linear_cross_entropy.of_library.register_autograd(
    lambda ctx, grad_output, *_: backward(ctx, grad_output, scaled),
    setup_context=LinearCrossEntropyOperator.setup_context,
)
