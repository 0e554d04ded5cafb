"""The operators of divergences, and their place in autograd.

A teacher comes as rows and weights, or as classes of each row, of an integer dtype, and their
probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from .._arrays.checks import compute_dtype
from ..head import LinearHead
from ..results import Gradients
from ._arrays import as_array, as_numbers
from ._call import HELD, as_tensors, backward, final_dtypes, finished, scaled, taken
from ._operators import Operator, in_transform, seen


class Options(NamedTuple):
    """The options as the operators take them."""

    reduction: str
    beta: float
    softcap: float | None
    teacher_softcap: float | None
    temperature: float
    teacher_temperature: float


class Problem:
    """The tensors of a call as arrays; good for the duration of the call, no longer."""

    def __init__(self, tensors: Sequence[Any], options: Options):
        x, weight, bias, first, second, teacher_bias, sample_weight = tensors
        self.options, self.x = options, as_array(x)
        self.student = _head(weight, bias, options.softcap, options.temperature)
        kinds = [self.student.dtype, compute_dtype(self.x.dtype, "input")]
        student = self.student
        self.ask: Callable[..., Any] = student.topk_kl_div
        self.ask_all: Callable[..., Any] = student.topk_kl_div_value_and_grad
        self.teacher: tuple[Any, Any]
        if first.is_floating_point():
            other = _head(second, teacher_bias, options.teacher_softcap,
                          options.teacher_temperature)
            self.ask, self.ask_all = student.kl_div, student.kl_div_value_and_grad
            self.teacher = other, as_array(first)
            kinds += [other.dtype, compute_dtype(self.teacher[1].dtype, "teacher_input")]
        else:
            self.teacher = as_array(first), as_array(second)
        self.dtype = np.result_type(*kinds)
        self.sample_weight = None if sample_weight is None else as_numbers(sample_weight)

    def divergences(
        self, wrt: Sequence[str], factor: np.ndarray | np.floating
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Each divergence; gradients of their sum times `factor`."""
        options: dict[str, Any] = {"beta": self.options.beta, "reduction": "none",
                                   "sample_weight": self.sample_weight}
        if not wrt:
            return np.asarray(self.ask(self.x, *self.teacher, **options)), {}
        n, k = self.student.n_classes, self.student.n_features
        shapes = {"x": self.x.shape, "weight": (n, k), "bias": (n,)}
        # Memory of their own, of which a part may be given back.
        found = {name: np.empty(shapes[name], self.dtype) for name in wrt}
        value, _ = self.ask_all(
            self.x, *self.teacher, wrt=tuple(wrt), out=Gradients(**found),
            grad_output=np.broadcast_to(factor, self.x.shape[:-1]), **options)
        return np.asarray(value), found

    def divisor(self) -> np.float64:
        """What the sum is divided by, NaN instead of 0."""
        if self.options.reduction != "mean":
            return np.float64(1)
        if self.sample_weight is None:
            return np.float64(math.prod(self.x.shape[:-1]) or math.nan)
        return np.float64(self.sample_weight.sum(dtype=np.float64) or math.nan)


def _head(weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None,
          temperature: float) -> LinearHead:
    return LinearHead(as_array(weight), None if bias is None else as_numbers(bias),
                      softcap=softcap, temperature=temperature, pack=False)


# As those of `_call`: tensors, then options; names of gradients in one string.

_TENSORS = ("Tensor input, Tensor weight, Tensor? linear_bias, Tensor teacher_input_or_index, "
            "Tensor teacher_weight_or_prob, Tensor? teacher_bias, Tensor? sample_weight")
_OPTIONS = ("str reduction, float beta, float? softcap, float? teacher_softcap, "
            "float temperature, float teacher_temperature")
_N_TENSORS = 7


def _parted(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, options, the dtype of the result if there is one, names of gradients."""
    last = _N_TENSORS + len(Options._fields)
    return args[:_N_TENSORS], Options(*args[_N_TENSORS:last]), *args[last:-1], args[-1].split()


def _found(*args: Any) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The divergence, and the gradients found along with it."""
    tensors, options, dtype, wrt = _parted(args)
    problem = Problem(tensors, options)
    divisor = problem.divisor()
    each, found = problem.divergences(wrt, 1 / divisor)
    if options.reduction == "none":
        return torch.from_numpy(each).to(dtype), found
    total = each.sum(dtype=np.float64) / divisor
    return torch.tensor(total, dtype=dtype, device="cpu"), found


def _forward(*args: Any) -> tuple[torch.Tensor, ...]:
    value, found = _found(*args)
    return value, *as_tensors(found, HELD)


def _fake_forward(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, dtype, wrt = _parted(args)
    wide, heads = torch.float32, tensors[:2]
    if tensors[3].is_floating_point():
        heads += tensors[3:5]
    for tensor in heads:
        wide = torch.promote_types(wide, tensor.dtype)
    shape = tensors[0].shape[:-1] if options.reduction == "none" else ()
    return (tensors[0].new_empty(shape, dtype=dtype),
            *_fake_gradients(tensors, wrt, dict.fromkeys(HELD, wide)))


def _fake_gradients(tensors: Sequence[Any], wrt: Sequence[str],
                    dtypes: dict[str, torch.dtype]) -> tuple[torch.Tensor, ...]:
    x, weight = tensors[:2]
    shapes = {"x": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
    return tuple(x.new_empty(shapes[name], dtype=dtypes[name]) if name in wrt
                 else x.new_empty(0, dtype=torch.float32) for name in HELD)


def _kernel_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, wrt = _parted(args)
    problem = Problem(tensors, options)
    factor = as_numbers(grad_output) / problem.divisor()
    return as_tensors(problem.divergences(wrt, factor)[1], HELD, final_dtypes(tensors[:3]))


def _fake_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, _, wrt = _parted(args)
    return _fake_gradients(tensors, wrt, final_dtypes(tensors[:3]))


_operator = Operator(
    "linear_kl_div", f"({_TENSORS}, {_OPTIONS}, ScalarType dtype, str wrt) -> "
    "(Tensor, Tensor, Tensor, Tensor)", _forward, _fake_forward,
)
_backward_operator = Operator(
    "linear_kl_div_backward",
    f"(Tensor grad_output, {_TENSORS}, {_OPTIONS}, str wrt) -> (Tensor, Tensor, Tensor)",
    _kernel_backward, _fake_backward,
)


def apply(*args: Any) -> torch.Tensor:
    if not torch.compiler.is_compiling():
        return _applied(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if in_transform():
        return torch.compiler.disable(_applied)(*args)
    return _operator.of_library(*args)[0]


def _applied(*args: Any) -> torch.Tensor:
    if seen(args):
        return _KLDivOperator.apply(*args)[0]
    return _KLDiv.apply(*args)


class _KLDiv(torch.autograd.Function):
    """The kernel by itself: nobody sees its gradients, which are arrays until they are taken."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        tensors, ctx.options, *_ = _parted(args)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtypes = final_dtypes(tensors[:3])
        value, ctx.held = _found(*args)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> tuple[torch.Tensor | None, ...]:
        return backward(ctx, grad_output, partial(finished, dtypes=ctx.dtypes),
                         _backward_operator, HELD)


class _KLDivOperator(torch.autograd.Function):
    """The operator as a function that `torch.func.grad` differentiates, too."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return _operator(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        tensors, ctx.options, *_, wrt = _parted(inputs)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.held = {name: g for name, g in zip(HELD, output[1:], strict=True) if name in wrt}

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return backward(ctx, grad_output, taken, _backward_operator, HELD)


_operator.of_library.register_autograd(
    lambda ctx, grad_output, *_: backward(ctx, grad_output, scaled, _backward_operator, HELD),
    setup_context=_KLDivOperator.setup_context,
)
