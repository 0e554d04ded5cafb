"""The operators behind `logitless.torch`, and their place in autograd.

Operators are what tracers see: FakeTensorMode, make_fx, torch.export and torch.compile. Each
has a kernel that computes on the memory of its tensors and a fake that only knows shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, get_type_hints

import numpy as np
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from ._arrays import Problem, as_numbers, narrowed
from ._checks import Options, requires_grad, scored_shape

_NAMES = ("x", "weight", "bias", "target")  # of gradients
_HELD = _NAMES[:3]  # those that can be found along with the loss
_N_SCORES = 3  # lse, entropy, prediction

# What operators take and give. Names of gradients come as one string; those not in it are empty.
# A sparse target comes as its values, with where those of each row begin, and their classes.
_TENSORS = ("Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, "
            "Tensor? weight, Tensor? temperatures, Tensor? target_start, Tensor? target_classes")
_KINDS = {str: "str", int: "int", int | None: "int", float: "float", float | None: "float?"}
_OPTIONS = ", ".join(f"{_KINDS[kind]} {name}" for name, kind in get_type_hints(Options).items())
_N_TENSORS, _N_OPTIONS = _TENSORS.count(",") + 1, len(Options._fields)

_PLAIN = {torch.Tensor, torch.nn.Parameter, type(None), str, bool, int, float, torch.dtype}
_in_transform = torch._C._are_functorch_transforms_active  # as `torch.func.grad` is one


def _parted(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, options, names of gradients; before these what there is of a loss alone."""
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
        return (self.of_library if _seen(args) else self.kernel)(*args)


def _seen(args: Iterable[Any]) -> bool:
    """Whether somebody is to see what is done with these tensors and options."""
    return (torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or _in_transform()
            or not all(type(a) in _PLAIN for a in args))


def _loss(*args: Any) -> tuple[torch.Tensor, ...]:
    loss, found, scores = _found(*args)
    none = [torch.empty(0, dtype=torch.float32, device="cpu") for _ in range(_N_SCORES)]
    return loss, *_as_tensors(found, _HELD), *(scores or none)


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
            *_fake_gradients(tensors, wrt, dict.fromkeys(_HELD, wide)),
            *(input.new_empty(shape if with_scores else 0, dtype=kind) for kind in kinds))


def _loss_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, wrt = _parted(args)
    problem = Problem(tensors, options)
    factor = as_numbers(grad_output) / problem.divisor()
    held = [name for name in wrt if name in _HELD]
    found = problem.losses(held, factor)[1] if held else {}
    dtypes = _dtypes(tensors)
    if "target" not in wrt:
        return _as_tensors(found, _NAMES, dtypes)
    return (*_as_tensors(found, _HELD, dtypes),
            problem.target_gradient(dtypes["target"], factor))


def _fake_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, _, wrt = _parted(args)
    return _fake_gradients(tensors, wrt, _dtypes(tensors))


def _scale(gradient: torch.Tensor, factor: torch.Tensor) -> None:
    if factor != 1:  # nearly always it is, and the gradient need not be read
        gradient.mul_(factor)


def _dtypes(tensors: Sequence[Any]) -> dict[str, torch.dtype]:
    """The dtype that each gradient has in the end."""
    return {name: torch.float32 if tensor is None else tensor.dtype
            for name, tensor in zip(_NAMES, tensors, strict=False)}


def _as_tensors(
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


linear_cross_entropy = _Operator(
    "linear_cross_entropy",
    f"({_TENSORS}, {_OPTIONS}, ScalarType dtype, bool with_scores, str wrt) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
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


def apply(*args: Any) -> tuple[torch.Tensor, ...]:
    """The loss, differentiable, and the scores, which are not."""
    if not torch.compiler.is_compiling():
        return _applied(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if _in_transform():
        return torch.compiler.disable(_applied)(*args)
    return _without_gradients(linear_cross_entropy.of_library(*args))


def _applied(*args: Any) -> tuple[torch.Tensor, ...]:
    if _seen(args):
        return _without_gradients(LinearCrossEntropyOperator.apply(*args))
    return LinearCrossEntropy.apply(*args)


def _without_gradients(results: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    loss, *others = results
    return loss, *others[len(_HELD) :]


# Autograd


class LinearCrossEntropy(torch.autograd.Function):
    """The kernel by itself: nobody sees its gradients, which are arrays until they are taken."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[torch.Tensor, ...]:
        tensors, ctx.options, *_ = _parted(args)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtypes = _dtypes(tensors)
        loss, ctx.held, scores = _found(*args)
        ctx.mark_non_differentiable(*scores)
        return loss, *scores

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _backward(ctx, grad_output, partial(_finished, dtypes=ctx.dtypes))


def _finished(
    held: dict[str, np.ndarray], wrt: Sequence[str], factor: torch.Tensor,
    dtypes: dict[str, torch.dtype],
) -> dict[str, torch.Tensor]:
    """Gradients that are held, scaled and rounded where they are and held no longer."""
    taken = {name: held.pop(name) for name in wrt if name in held}
    found = {}
    for name, array in taken.items():
        found[name] = _as_tensor(name, array)
        scale_(found[name], factor)
        if not _seen([factor]):
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
        ctx.held = {name: g for name, g in zip(_HELD, output[1:], strict=False) if name in wrt}

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
    ctx: Any, grad_output: Any, find: Callable[..., dict[str, torch.Tensor]],
    again: _Operator | None = None, names: tuple[str, ...] = _NAMES,
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
        final = _Final.apply(len(found), *found.values(), grad_output, *tensors)
        found = dict(zip(found, final, strict=True))
    # autograd gives them the dtypes of the tensors
    return *map(found.get, names), *[None] * (len(ctx.needs_input_grad) - len(names))


# For compilers, and for exported programs, which call the operator itself.
linear_cross_entropy.of_library.register_autograd(
    lambda ctx, grad_output, *_: _backward(ctx, grad_output, _scaled),
    setup_context=LinearCrossEntropyOperator.setup_context,
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
        raise RuntimeError("what logitless.torch computes has no second derivative; "
                           "torch.nn.functional has functions that do")
