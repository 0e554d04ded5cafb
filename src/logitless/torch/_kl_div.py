"""The divergence of two heads for PyTorch, without the logits of either."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from .._arrays.checks import check_positive, compute_dtype
from .._calls.divergence import check_beta
from ..head import LinearHead
from ..results import Gradients
from ._arrays import as_array, as_numbers
from ._call import (
    _HELD,
    _as_tensors,
    _backward,
    _dtypes,
    _finished,
    _in_transform,
    _Operator,
    _scaled,
    _seen,
    _taken,
    found_along,
)
from ._checks import check_constant, check_loss_dtype, check_tensor


class _Options(NamedTuple):
    """The options as the operators take them."""

    reduction: str
    beta: float
    softcap: float | None
    teacher_softcap: float | None
    temperature: float
    teacher_temperature: float


def linear_kl_div(
    input: torch.Tensor,
    weight: torch.Tensor,
    teacher_input: torch.Tensor,
    teacher_weight: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    sample_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    loss_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Divergence of ``softmax(input @ weight.T)`` from that of a teacher, without logits.

    With p the softmax of the student, q that of the teacher and
    ``m = beta * q + (1 - beta) * p``::

        beta 0    KL(q || p) = sum q log(q / p)
        beta 1    KL(p || q) = sum p log(p / q)
        between   beta KL(q || m) + (1 - beta) KL(p || m)

    Parameters
    ----------
    input : Tensor, shape (..., k)
        float32, float64, bfloat16 or float16, on the CPU.
    weight : Tensor, shape (n, k)
    teacher_input : Tensor, shape (..., k')
        Of the same samples; of any number of features.
    teacher_weight : Tensor, shape (n, k')
        Nothing of the teacher gets a gradient.
    linear_bias, teacher_bias : Tensor, shape (n,), optional
    beta : float, default 0.0
        In [0, 1].
    temperature : float, default 1.0
        Logits of both heads are divided by it. The result is not multiplied with its square.
    teacher_temperature : float, optional
        Those of the teacher, where it is another.
    softcap, teacher_softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)`` before that, in each head its own.
    sample_weight : Tensor, shape (...,), optional
        Of each sample, finite; what has weight 0 has divergence 0, whatever it holds.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the number of samples, or by the sum of their weights.
    loss_dtype : {torch.float32, torch.float64}, optional
        Of the result. Unless given it is the widest of the two inputs and weights; float32 under
        autocast if these are narrower.

    Returns
    -------
    Tensor
        In nats: a scalar; with "none" of shape (...,).

    Raises
    ------
    TypeError
        Something else than a dense tensor on the CPU in one piece, a dtype that cannot be
        used, a tensor of the teacher or weights of samples that require grad.
    ValueError
        Shapes that do not fit, an option out of range.
    RuntimeError
        When a second derivative is asked for.

    Notes
    -----
    Gradients flow to `input`, `weight` and `linear_bias`. With "mean" and "sum" they are computed
    along with the divergence, where they are wanted, and held until ``backward``; with
    "none", ``backward`` computes them. Beside gradients a call needs up to 128 MiB, without
    them up to 64 MiB; tensors of 16 bits are read where they are, and computed in float32.
    `LinearHead.kl_div` has notes on digits.

    `torch.compile`, `torch.export`, `make_fx` and fake tensors see one operator,
    ``torch.ops.logitless.linear_kl_div``. `torch.func.grad` works; `torch.vmap` and
    forward-mode derivatives do not.

    Examples
    --------
    >>> import torch
    >>> from logitless.torch import linear_kl_div
    >>> hidden = torch.tensor([[0.0, 1.0], [3.0, 3.0]], requires_grad=True)
    >>> teacher = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    >>> loss = linear_kl_div(hidden, torch.eye(2), teacher, torch.eye(2))
    >>> loss.backward()
    >>> loss.detach(), hidden.grad
    (tensor(0.0336), tensor([[ 0.0749, -0.0749],
            [ 0.0000,  0.0000]]))
    """
    heads = {"input": input, "weight": weight, "teacher_input": teacher_input,
             "teacher_weight": teacher_weight}
    others = {"linear_bias": linear_bias, "teacher_bias": teacher_bias,
              "sample_weight": sample_weight}
    for name, tensor in {**heads, **others}.items():
        if tensor is not None or name in heads:
            check_tensor(name, tensor)
        if name not in ("input", "weight", "linear_bias"):
            check_constant(name, tensor)
    _check_shapes(**heads, **others)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    temperature = check_positive(temperature, "temperature")
    if teacher_temperature is None:
        teacher_temperature = temperature
    options = _Options(
        reduction, check_beta(beta), _check_cap(softcap, "softcap"),
        _check_cap(teacher_softcap, "teacher_softcap"), temperature,
        check_positive(teacher_temperature, "teacher_temperature"),
    )
    return _apply(
        input, weight, linear_bias, teacher_input, teacher_weight, teacher_bias, sample_weight,
        *options, check_loss_dtype(loss_dtype, *heads.values()),
        found_along(reduction, input, weight, linear_bias),
    )


def _check_cap(softcap: float | None, name: str) -> float | None:
    return None if softcap is None else check_positive(softcap, name)


def _check_shapes(**given: torch.Tensor | None) -> None:
    """Say which of the tensors, by their names, do not fit the others."""
    shapes = {name: () if t is None else tuple(t.shape) for name, t in given.items()}
    lead, n = shapes["input"][:-1], shapes["weight"][:1]
    for x, weight in ("input", "weight"), ("teacher_input", "teacher_weight"):
        if not shapes[x]:
            raise ValueError(f"`{x}` must have shape (..., k), got ()")
        k = shapes[x][-1]
        if len(shapes[weight]) != 2 or shapes[weight][0] == 0 or shapes[weight][1] != k:
            raise ValueError(f"`{weight}` must have shape (n, {k}), n >= 1, got {shapes[weight]}")
    fits = {"teacher_input": (*lead, *shapes["teacher_input"][-1:]),
            "teacher_weight": (*n, *shapes["teacher_weight"][1:]),
            "linear_bias": n, "teacher_bias": n, "sample_weight": lead}
    for name, fit in fits.items():
        if given[name] is not None and shapes[name] != fit:
            raise ValueError(f"`{name}` must have shape {fit}, got {shapes[name]}")


class _Problem:
    """The tensors of a call as arrays; good for the duration of the call, no longer."""

    def __init__(self, tensors: Sequence[Any], options: _Options):
        x, weight, bias, y, teacher_weight, teacher_bias, sample_weight = tensors
        self.x, self.teacher_x = as_array(x), as_array(y)
        self.student = _head(weight, bias, options.softcap, options.temperature)
        self.teacher = _head(teacher_weight, teacher_bias, options.teacher_softcap,
                             options.teacher_temperature)
        self.dtype = np.result_type(
            self.student.dtype, self.teacher.dtype,
            *(compute_dtype(rows.dtype, "input") for rows in (self.x, self.teacher_x)))
        self.sample_weight = None if sample_weight is None else as_numbers(sample_weight)
        self.options = options

    def divergences(
        self, wrt: Sequence[str], factor: np.ndarray | np.floating
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Each divergence; gradients of their sum times `factor`."""
        arrays = self.x, self.teacher, self.teacher_x
        options: dict[str, Any] = {"beta": self.options.beta, "reduction": "none",
                                   "sample_weight": self.sample_weight}
        if not wrt:
            return np.asarray(self.student.kl_div(*arrays, **options)), {}
        n, k = self.student.n_classes, self.student.n_features
        shapes = {"x": self.x.shape, "weight": (n, k), "bias": (n,)}
        # Memory of their own, of which a part may be given back.
        found = {name: np.empty(shapes[name], self.dtype) for name in wrt}
        value, _ = self.student.kl_div_value_and_grad(
            *arrays, wrt=tuple(wrt), grad_output=np.broadcast_to(factor, self.x.shape[:-1]),
            out=Gradients(**found), **options)
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


# Operators, as those of `_call`: tensors, then options; names of gradients in one string.

_TENSORS = ("Tensor input, Tensor weight, Tensor? linear_bias, Tensor teacher_input, "
            "Tensor teacher_weight, Tensor? teacher_bias, Tensor? sample_weight")
_OPTIONS = ("str reduction, float beta, float? softcap, float? teacher_softcap, "
            "float temperature, float teacher_temperature")
_N_TENSORS = 7


def _parted(args: Sequence[Any]) -> tuple[Any, ...]:
    """Tensors, options, the dtype of the result if there is one, names of gradients."""
    last = _N_TENSORS + len(_Options._fields)
    return args[:_N_TENSORS], _Options(*args[_N_TENSORS:last]), *args[last:-1], args[-1].split()


def _found(*args: Any) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The divergence, and the gradients found along with it."""
    tensors, options, dtype, wrt = _parted(args)
    problem = _Problem(tensors, options)
    divisor = problem.divisor()
    each, found = problem.divergences(wrt, 1 / divisor)
    if options.reduction == "none":
        return torch.from_numpy(each).to(dtype), found
    total = each.sum(dtype=np.float64) / divisor
    return torch.tensor(total, dtype=dtype, device="cpu"), found


def _forward(*args: Any) -> tuple[torch.Tensor, ...]:
    value, found = _found(*args)
    return value, *_as_tensors(found, _HELD)


def _fake_forward(*args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, dtype, wrt = _parted(args)
    wide = torch.float32
    for tensor in (tensors[0], tensors[1], tensors[3], tensors[4]):
        wide = torch.promote_types(wide, tensor.dtype)
    shape = tensors[0].shape[:-1] if options.reduction == "none" else ()
    return (tensors[0].new_empty(shape, dtype=dtype),
            *_fake_gradients(tensors, wrt, dict.fromkeys(_HELD, wide)))


def _fake_gradients(tensors: Sequence[Any], wrt: Sequence[str],
                    dtypes: dict[str, torch.dtype]) -> tuple[torch.Tensor, ...]:
    x, weight = tensors[:2]
    shapes = {"x": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
    return tuple(x.new_empty(shapes[name], dtype=dtypes[name]) if name in wrt
                 else x.new_empty(0, dtype=torch.float32) for name in _HELD)


def _kernel_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, options, wrt = _parted(args)
    problem = _Problem(tensors, options)
    factor = as_numbers(grad_output) / problem.divisor()
    return _as_tensors(problem.divergences(wrt, factor)[1], _HELD, _dtypes(tensors[:3]))


def _fake_backward(grad_output: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
    tensors, _, wrt = _parted(args)
    return _fake_gradients(tensors, wrt, _dtypes(tensors[:3]))


_operator = _Operator(
    "linear_kl_div", f"({_TENSORS}, {_OPTIONS}, ScalarType dtype, str wrt) -> "
    "(Tensor, Tensor, Tensor, Tensor)", _forward, _fake_forward,
)
_backward_operator = _Operator(
    "linear_kl_div_backward",
    f"(Tensor grad_output, {_TENSORS}, {_OPTIONS}, str wrt) -> (Tensor, Tensor, Tensor)",
    _kernel_backward, _fake_backward,
)


def _apply(*args: Any) -> torch.Tensor:
    if not torch.compiler.is_compiling():
        return _applied(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if _in_transform():
        return torch.compiler.disable(_applied)(*args)
    return _operator.of_library(*args)[0]


def _applied(*args: Any) -> torch.Tensor:
    if _seen(args):
        return _KLDivOperator.apply(*args)[0]
    return _KLDiv.apply(*args)


class _KLDiv(torch.autograd.Function):
    """The kernel by itself: nobody sees its gradients, which are arrays until they are taken."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> torch.Tensor:
        tensors, ctx.options, *_ = _parted(args)
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.dtypes = _dtypes(tensors[:3])
        value, ctx.held = _found(*args)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Any) -> tuple[torch.Tensor | None, ...]:
        return _backward(ctx, grad_output, partial(_finished, dtypes=ctx.dtypes),
                         _backward_operator, _HELD)


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
        ctx.held = {name: g for name, g in zip(_HELD, output[1:], strict=True) if name in wrt}

    @staticmethod
    def backward(ctx: Any, grad_output: Any, *_: Any) -> tuple[torch.Tensor | None, ...]:
        return _backward(ctx, grad_output, _taken, _backward_operator, _HELD)


_operator.of_library.register_autograd(
    lambda ctx, grad_output, *_: _backward(ctx, grad_output, _scaled, _backward_operator, _HELD),
    setup_context=_KLDivOperator.setup_context,
)
