"""Log-probabilities and entropies for PyTorch without the logits: what policy gradients need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch

from .._arrays.checks import check_integer, check_positive, compute_dtype, plain
from .._arrays.rows import Rows
from .._calls.log_prob import log_prob, log_prob_gradients
from .._calls.objective import check_temperature
from .._calls.targets import check_index
from ..head import LinearHead
from ..results import Gradients
from ._arrays import as_array, as_numbers, narrowed
from ._checks import INTEGER, check_constant, check_loss_dtype, check_tensor
from ._operators import Final, Operator, in_transform

_NAMES = ("x", "weight", "bias")  # of gradients


def linear_log_prob(
    input: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    softcap: float | None = None,
    temperature: float | torch.Tensor = 1.0,
    ignore_index: int = -100,
    loss_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``log_softmax(input @ weight.T + linear_bias)`` at some classes, and its entropy.

    Both are differentiable, so that losses of policies, preferences and the like are
    made of them, and the logits are in memory neither on the way there nor back.

    Parameters
    ----------
    input : Tensor, shape (..., k)
        float32, float64, bfloat16 or float16, on the CPU.
    weight : Tensor, shape (n, k)
    target : Tensor, shape (...,) or (..., j)
        A class for each row, or j of them, of an integer dtype. A class that is there
        several times counts as often.
    linear_bias : Tensor, shape (n,), optional
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``.
    temperature : float or Tensor, shape (...,), default 1.0
        Logits are divided by it, after the cap: a positive number, or one for each row,
        which gets no gradient.
    ignore_index : int, default -100
        Where `target` is this, there is no class: the log-probability is 0, without a
        gradient.
    loss_dtype : {torch.float32, torch.float64}, optional
        Of the results. Unless given it is that of `input` and `weight`, the wider of the
        two; float32 under autocast if these are narrower.

    Returns
    -------
    log_prob : Tensor, in the shape of `target`
        In nats.
    entropy : Tensor, shape (...,)
        ``-sum(p * log(p))``, of ignored rows too.

    Raises
    ------
    TypeError
        Something else than a dense tensor on the CPU in one piece, a dtype that
        cannot be used, a temperature that requires grad.
    ValueError
        Shapes that do not fit, an option out of range; the temperature of a row that is
        not positive and finite, or too far from the cap.
    IndexError
        A class that is neither in [0, n) nor `ignore_index`.
    RuntimeError
        When a second derivative is asked for.

    Notes
    -----
    Gradients flow to `input`, `weight` and `linear_bias`. ``backward`` takes one pass, of
    the gradients that are wanted, for both results together; the entropy costs nothing
    where it has not been used. Beside these gradients a call needs up to 64 MiB and some
    50 bytes for each entry of `target`, without them a few MiB and what the results take.
    Everything is computed in float32 at least, and gradients are rounded to the dtype of
    their tensors once.

    `torch.compile`, `torch.export`, `make_fx` and fake tensors see one operator,
    ``torch.ops.logitless.linear_log_prob``. `torch.func.grad` works; `torch.vmap` and
    forward-mode derivatives do not.

    Examples
    --------
    A step of a policy gradient, with a bonus for the entropy:

    >>> import torch
    >>> from logitless.torch import linear_log_prob
    >>> hidden = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    >>> action, advantage = torch.tensor([2, 0]), torch.tensor([1.0, -1.0])
    >>> log_prob, entropy = linear_log_prob(hidden, torch.eye(3), action)
    >>> log_prob.detach(), entropy.detach()
    (tensor([-0.4076, -1.0986]), tensor([0.8324, 1.0986]))
    >>> (-(advantage * log_prob).mean() - 0.01 * entropy.mean()).backward()
    >>> hidden.grad
    tensor([[ 0.0443,  0.1217, -0.1660],
            [ 0.3333, -0.1667, -0.1667]])

    Several classes a row, of which some rows have fewer, at a temperature each:

    >>> classes = torch.tensor([[2, 1], [0, -100]])
    >>> linear_log_prob(hidden.detach(), torch.eye(3), classes,
    ...                 temperature=torch.tensor([1.0, 0.5]))[0]
    tensor([[-0.4076, -1.4076],
            [-1.0986,  0.0000]])
    """
    for name, tensor in (("input", input), ("weight", weight), ("target", target)):
        check_tensor(name, tensor)
    if linear_bias is not None:
        check_tensor("linear_bias", linear_bias)
    _check_shapes(input, weight, target, linear_bias)
    lead = tuple(input.shape[:-1])
    of_head, of_rows = _check_temperature(temperature, lead)
    return _apply(
        input, weight, linear_bias, target, of_rows,
        None if softcap is None else check_positive(softcap, "softcap"), of_head,
        check_integer(ignore_index, "ignore_index"), check_loss_dtype(loss_dtype, input, weight),
    )


def _check_shapes(input: torch.Tensor, weight: torch.Tensor, target: torch.Tensor,
                  linear_bias: torch.Tensor | None) -> None:
    if input.ndim == 0:
        raise ValueError("`input` must have shape (..., k), got ()")
    lead, k = tuple(input.shape[:-1]), input.shape[-1]
    if weight.ndim != 2 or weight.shape[0] == 0 or weight.shape[1] != k:
        raise ValueError(f"`weight` must have shape (n, {k}), n >= 1, got {tuple(weight.shape)}")
    if linear_bias is not None and linear_bias.shape != weight.shape[:1]:
        raise ValueError(f"`linear_bias` must have shape {tuple(weight.shape[:1])}, "
                         f"got {tuple(linear_bias.shape)}")
    if tuple(target.shape[: len(lead)]) != lead or target.ndim > len(lead) + 1:
        raise ValueError(f"`target` must have shape {lead} or {lead} + (j,), "
                         f"got {tuple(target.shape)}")
    if target.dtype not in INTEGER:
        raise TypeError(f"`target` must be of one of {INTEGER}, got {target.dtype}")


def _check_temperature(
    temperature: object, lead: tuple[int, ...]
) -> tuple[float, torch.Tensor | None]:
    """The temperature of all rows, and that of each if there is one."""
    if isinstance(temperature, Real):
        return check_positive(temperature, "temperature"), None
    if not isinstance(temperature, torch.Tensor):
        raise TypeError("`temperature` must be a number or a torch.Tensor, "
                        f"got {type(temperature).__name__}")
    check_tensor("temperature", temperature)
    check_constant("temperature", temperature)
    if tuple(temperature.shape) not in ((), lead):
        raise ValueError(f"`temperature` must be a number or have shape {lead}, "
                         f"got {tuple(temperature.shape)}")
    return 1.0, temperature.detach().expand(lead)


class _Problem:
    """The tensors of a call as arrays; good for the duration of the call, no longer."""

    def __init__(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
                 target: torch.Tensor, temperatures: torch.Tensor | None, softcap: float | None,
                 temperature: float, ignore_index: int):
        self.rows, given = Rows(as_array(input)), as_array(weight)
        # Made for its checks and its layer: what is asked of it no method answers.
        head = LinearHead(given, None if bias is None else as_numbers(bias), softcap=softcap,
                          temperature=temperature, pack=False)
        self.layer = head._layer
        self.dtype = np.result_type(compute_dtype(self.rows.dtype, "input"), head.dtype)
        index = check_index(as_numbers(target), head.n_classes, ignore_index)
        lead = self.rows.lead
        self.index = index.reshape(self.rows.m, math.prod(index.shape[len(lead) :]))
        self.temperature = check_temperature(
            None if temperatures is None else as_numbers(temperatures), lead, self.dtype,
            self.layer.softcap)

    def results(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (m, j) and entropies (m,)."""
        return log_prob(self.layer, self.rows, self.index, self.temperature, self.dtype)

    def gradients(self, by_log_prob: np.ndarray | None, by_entropy: np.ndarray | None,
                  wrt: Sequence[str]) -> dict[str, np.ndarray]:
        """Gradients of the sums that have these factors."""
        m, k, n = self.rows.m, self.layer.n_features, self.layer.n_classes
        shapes = {"x": (m, k), "weight": (n, k), "bias": (n,)}
        found = {name: np.empty(shapes[name], self.dtype) for name in wrt}
        log_prob_gradients(self.layer, self.rows, self.index, self.temperature,
                           _factors(by_log_prob, self.index.shape), _factors(by_entropy, (m,)),
                           Gradients(**found))
        return found


def _factors(given: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Factors in float64; None where there is none but 0, which compilers write out."""
    if given is None or not given.any():
        return None
    return plain(given, np.dtype(np.float64)).reshape(shape)


# Operators, as those of `_call`: tensors, then options; names of gradients in one string.

_ARGUMENTS = ("Tensor input, Tensor weight, Tensor? linear_bias, Tensor target, "
              "Tensor? temperatures, float? softcap, float temperature, int ignore_index")
_N_TENSORS, _N_ARGUMENTS = 5, 8


def _forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    *given, dtype = args
    values, entropy = _Problem(*given).results()
    input, target = args[0], args[3]
    return (torch.from_numpy(values).view(target.shape).to(dtype),
            torch.from_numpy(entropy).view(input.shape[:-1]).to(dtype))


def _fake_forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    input, target, dtype = args[0], args[3], args[-1]
    return (input.new_empty(target.shape, dtype=dtype),
            input.new_empty(input.shape[:-1], dtype=dtype))


def _backward(by_log_prob: torch.Tensor | None, by_entropy: torch.Tensor | None,
              *args: Any) -> tuple[torch.Tensor, ...]:
    *given, wrt = args
    factors = [None if by is None else as_numbers(by) for by in (by_log_prob, by_entropy)]
    found = _Problem(*given).gradients(factors[0], factors[1], wrt.split())
    return tuple(
        narrowed(found[name], tensor.dtype).view(tensor.shape) if name in found
        else torch.empty(0, dtype=torch.float32, device="cpu")
        for name, tensor in zip(_NAMES, given[:3], strict=True)
    )


def _fake_backward(by_log_prob: torch.Tensor | None, by_entropy: torch.Tensor | None,
                   *args: Any) -> tuple[torch.Tensor, ...]:
    *given, wrt = args
    return tuple(
        given[0].new_empty(tensor.shape, dtype=tensor.dtype) if name in wrt.split()
        else given[0].new_empty(0, dtype=torch.float32)
        for name, tensor in zip(_NAMES, given[:3], strict=True)
    )


_operator = Operator("linear_log_prob", f"({_ARGUMENTS}, ScalarType dtype) -> (Tensor, Tensor)",
                      _forward, _fake_forward)
_backward_operator = Operator(
    "linear_log_prob_backward",
    f"(Tensor? by_log_prob, Tensor? by_entropy, {_ARGUMENTS}, str wrt) -> "
    "(Tensor, Tensor, Tensor)",
    _backward, _fake_backward,
)


def _apply(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if not torch.compiler.is_compiling():
        return _LinearLogProb.apply(*args)
    # Compilers know what an operator is; what `torch.func` makes of functions, they don't.
    if in_transform():
        return torch.compiler.disable(_LinearLogProb.apply)(*args)
    return _operator.of_library(*args)


class _LinearLogProb(torch.autograd.Function):
    """The operator as a function that `torch.func.grad` differentiates, too."""

    @staticmethod
    def forward(*args: Any) -> Any:
        return _operator(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs[:_N_TENSORS])
        ctx.options = inputs[_N_TENSORS:_N_ARGUMENTS]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *by: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors  # which finds out whether they have been changed
        wrt = [name for name, want in zip(_NAMES, ctx.needs_input_grad, strict=False) if want]
        found: dict[str, torch.Tensor] = {}
        if any(factor is not None for factor in by) and wrt:
            with torch.no_grad():
                each = _backward_operator(*by, *tensors, *ctx.options, " ".join(wrt))
            found = {name: g for name, g in zip(_NAMES, each, strict=True) if name in wrt}
        if torch.is_grad_enabled() and found:
            final = Final.apply(len(found), *found.values(), *by, *tensors)
            found = dict(zip(found, final, strict=True))
        return *map(found.get, _NAMES), *[None] * (len(ctx.needs_input_grad) - len(_NAMES))


_operator.of_library.register_autograd(_LinearLogProb.backward,
                                       setup_context=_LinearLogProb.setup_context)
