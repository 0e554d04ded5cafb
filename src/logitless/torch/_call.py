"""The operators behind `logitless.torch`, and their place in autograd.

Operators are what tracers see: FakeTensorMode, make_fx, torch.export and torch.compile. Each
has a kernel that computes on the memory of its tensors and a fake that only knows shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_type_hints

import numpy as np
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ._arrays import Problem, as_numbers
from ._checks import Options, requires_grad

_NAMES = ("x", "weight", "bias", "target")  # of gradients
_HELD = _NAMES[:3]  # those that can be found along with the loss

# What operators take and give. Names of gradients come as one string; those not in it are empty.
_TENSORS = "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight"
_KINDS = {str: "str", int | None: "int", float: "float", float | None: "float?"}
_OPTIONS = ", ".join(f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(Options).items())
_N_TENSORS, _N_OPTIONS = _TENSORS.count(",") + 1, len(Options._fields)


_PLAIN = {torch.Tensor, torch.nn.Parameter, type(None), str, int, float, torch.dtype}
_in_transform = torch._C._are_functorch_transforms_active  # as `torch.func.grad` is one


def _parted(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, options, the dtype of the loss if there is one, names of gradients."""
    last = _N_TENSORS + _N_OPTIONS
    options = Options(*args[_N_TENSORS:last])
    return args[:_N_TENSORS], options, *args[last:-1], args[-1].split()


class _Operator:
    """An operator, and its kernel for those who need not go by way of the dispatcher."""

    def __init__(self, name: str, schema: str, kernel: Callable[..., Any],
                 fake: Callable[..., Any], mutates: tuple[str, ...] = ()):
        self.kernel = kernel
        self.of_library = torch.library.custom_op(
            f"logitless::{name}", kernel, mutates_args=mutates, device_types="cpu", schema=schema
        )
        self.of_library.register_fake(fake)

    def __call__(self, *args: Any) -> Any:
        """Call the operator where somebody is to see it, else its kernel: 40 us less."""
        seen = (torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or _in_transform()
                or not all(type(a) in _PLAIN for a in args))
        return (self.of_library if seen else self.kernel)(*args)


def _loss(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, dtype, wrt = _parted(args)
    problem = Problem(tensors, options)
    divisor = problem.divisor()
    losses, found = problem.losses(wrt, 1 / divisor)
    if options.reduction == "none":
        loss = torch.from_numpy(losses).to(dtype)
    else:
        total = losses.sum(dtype=np.float64) / divisor
        loss = torch.tensor(total, dtype=dtype, device="cpu")
    return loss, *_as_tensors(found, _HELD)


def _fake_loss(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, dtype, wrt = _parted(args)
    input, linear_weight = tensors[:2]
    shape = (*input.shape[:-1], *linear_weight.shape[1:-1]) if options.reduction == "none" else ()
    return input.new_empty(shape, dtype=dtype), *_fake_gradients(tensors, wrt, _HELD)


def _loss_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, wrt = _parted(args)
    problem = Problem(tensors, options)
    factor = as_numbers(grad_output) / problem.divisor()
    held = [name for name in wrt if name in _HELD]
    found = problem.losses(held, factor)[1] if held else {}
    if "target" not in wrt:
        return _as_tensors(found, _NAMES)
    return *_as_tensors(found, _HELD), problem.target_gradient(tensors[3].dtype, factor)


def _fake_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, _, wrt = _parted(args)
    return _fake_gradients(tensors, wrt, _NAMES)


def _scale(gradient: torch.Tensor, factor: torch.Tensor) -> None:
    if factor != 1:  # nearly always it is, and the gradient need not be read
        gradient.mul_(factor)


def _as_tensors(found: dict[str, np.ndarray], names: Iterable[str]) -> tuple[torch.Tensor, ...]:
    """Gradients whose classes come after the places; no entries where there is none."""
    return tuple(
        torch.from_numpy(found[name]).movedim(_CLASS_AXIS[name], 0) if name in found
        else torch.empty(0, dtype=torch.float32, device="cpu")
        for name in names
    )


_CLASS_AXIS = {"x": 0, "weight": -2, "bias": -1, "target": 0}


def _fake_gradients(
    tensors: Sequence[Any], wrt: Sequence[str], names: Iterable[str]
) -> tuple[torch.Tensor, ...]:
    input, linear_weight, _, target, _ = tensors
    n_classes, *places, n_features = linear_weight.shape
    shapes = {"x": input.shape, "weight": (*places, n_classes, n_features),
              "bias": (*places, n_classes), "target": target.shape}
    dtype = torch.promote_types(torch.promote_types(input.dtype, linear_weight.dtype),
                                torch.float32)
    dtypes = dict.fromkeys(_HELD, dtype) | {"target": target.dtype}
    return tuple(
        input.new_empty(shapes[name], dtype=dtypes[name]).movedim(_CLASS_AXIS[name], 0)
        if name in wrt else input.new_empty(0, dtype=torch.float32)
        for name in names
    )


linear_cross_entropy = _Operator(
    "linear_cross_entropy",
    f"({_TENSORS}, {_OPTIONS}, ScalarType dtype, str wrt) -> (Tensor, Tensor, Tensor, Tensor)",
    _loss, _fake_loss,
)
linear_cross_entropy_backward = _Operator(
    "linear_cross_entropy_backward",
    f"(Tensor grad_output, {_TENSORS}, {_OPTIONS}, str wrt) -> (Tensor, Tensor, Tensor, Tensor)",
    _loss_backward, _fake_backward,
)
scale_ = _Operator("scale_", "(Tensor(a!) gradient, Tensor factor) -> ()", _scale,
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


def apply(*args: Any) -> torch.Tensor:
    """The loss, differentiable."""
    if not torch.compiler.is_compiling():
        return _applied(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if _in_transform():
        return torch.compiler.disable(_applied)(*args)
    return linear_cross_entropy.of_library(*args)[0]


def _applied(*args: Any) -> torch.Tensor:
    return LinearCrossEntropy.apply(*args)[0]


# Autograd


class LinearCrossEntropy(torch.autograd.Function):
    """The operator as a function that `torch.func.grad` differentiates, too."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return linear_cross_entropy(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensors, ctx.options, _, wrt = _parted(inputs)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        gradients = output[1:]
        ctx.mark_non_differentiable(*gradients)
        ctx.held = {name: g for name, g in zip(_HELD, gradients, strict=True) if name in wrt}

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _backward(ctx, grad_output, _taken)


def _taken(
    held: dict[str, torch.Tensor], wrt: Sequence[str], factor: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients that are held, scaled where they are and held no longer."""
    found = {name: held.pop(name) for name in wrt if name in held}
    for gradient in found.values():
        scale_(gradient, factor)
    return found


def _scaled(
    held: dict[str, torch.Tensor], wrt: Sequence[str], factor: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients that are held, for compilers as results too, which stay as they are."""
    return {name: held[name] * factor for name in wrt if name in held}


def _backward(
    ctx: Any, grad_output: Any, find: Callable[..., dict[str, torch.Tensor]]
) -> tuple[torch.Tensor | None, ...]:
    tensors = ctx.saved_tensors  # which finds out whether they have been changed
    wrt = [] if grad_output is None else _named(ctx.needs_input_grad)
    with torch.no_grad():
        found = find(ctx.held, wrt, grad_output)
        missing = [name for name in wrt if name not in found]
        if missing:  # of losses that are not reduced; or another time, those held being gone
            more = linear_cross_entropy_backward(grad_output, *tensors, *ctx.options,
                                                 " ".join(missing))
            found |= {name: g for name, g in zip(_NAMES, more, strict=True) if name in missing}
    if torch.is_grad_enabled() and found:
        final = _Final.apply(len(found), *found.values(), grad_output, *tensors)
        found = dict(zip(found, final, strict=True))
    # autograd gives them the dtypes of the tensors
    return *map(found.get, _NAMES), *[None] * (len(ctx.needs_input_grad) - len(_NAMES))


# For compilers, and for exported programs, which call the operator itself.
linear_cross_entropy.of_library.register_autograd(
    lambda ctx, grad_output, *_: _backward(ctx, grad_output, _scaled),
    setup_context=LinearCrossEntropy.setup_context,
)


class _Final(torch.autograd.Function):
    """Gradients as a function of all they depend on, so that none comes out as constant."""

    @staticmethod
    def forward(count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tensors[:count]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError("logitless.torch.linear_cross_entropy has no second derivative; "
                           "torch.nn.functional.linear_cross_entropy has")
