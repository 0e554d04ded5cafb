"""Divergences from a teacher for PyTorch, without logits."""

from __future__ import annotations

import torch

from .._arrays.checks import check_positive
from .._calls.divergence import check_beta
from ._call import found_along
from ._checks import INTEGER, check_constant, check_loss_dtype, check_tensor
from ._divergence import Options, apply


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
    `logitless.LinearHead.kl_div` has notes on digits.

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
    if teacher_temperature is None:
        teacher_temperature = temperature
    options = _options(reduction, beta, softcap, temperature, teacher_softcap, teacher_temperature)
    return apply(
        input, weight, linear_bias, teacher_input, teacher_weight, teacher_bias, sample_weight,
        *options, check_loss_dtype(loss_dtype, *heads.values()),
        found_along(reduction, input, weight, linear_bias),
    )


def linear_topk_kl_div(
    input: torch.Tensor,
    weight: torch.Tensor,
    index: torch.Tensor,
    prob: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    sample_weight: torch.Tensor | None = None,
    reduction: str = "mean",
    loss_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Divergence from a teacher of whom the probabilities of a few classes are known.

    That of `linear_kl_div`, all other classes of a sample being one, whose probability is what is
    left of 1.

    Parameters
    ----------
    input : Tensor, shape (..., k)
    weight : Tensor, shape (n, k)
    index : Tensor, shape (..., j)
        Classes of each sample, of an integer dtype, none of them twice; -1 for none.
    prob : Tensor, shape (..., j)
        Their probabilities by the teacher, of a float dtype; they get no gradient.
    linear_bias : Tensor, shape (n,), optional
    beta, temperature, softcap, sample_weight, reduction, loss_dtype
        As for `linear_kl_div`.

    Returns
    -------
    Tensor
        In nats: a scalar; with "none" of shape (...,).

    Raises
    ------
    IndexError
        A class that is neither in [0, n) nor -1.
    TypeError, ValueError, RuntimeError
        As `linear_kl_div`; a class twice, probabilities outside [0, 1] or of more than 1
        together.

    Notes
    -----
    As for `linear_kl_div`; beside gradients a call needs up to 64 MiB, without them a few, and
    some 40 bytes for each entry of `index`.

    Examples
    --------
    >>> import torch
    >>> from logitless.torch import linear_topk_kl_div
    >>> hidden = torch.zeros(1, 3, requires_grad=True)
    >>> linear_topk_kl_div(hidden, torch.eye(3), torch.tensor([[1]]), torch.tensor([[0.8]]))
    tensor(0.4596, grad_fn=<_KLDivBackward>)
    """
    given = {"input": input, "weight": weight, "prob": prob, "linear_bias": linear_bias,
             "sample_weight": sample_weight}
    for name, tensor in given.items():
        if tensor is not None or name in ("input", "weight", "prob"):
            check_tensor(name, tensor)
    for name in "prob", "sample_weight":
        check_constant(name, given[name])
    check_tensor("index", index, of=INTEGER)
    lead = (*input.shape[:-1], -1)
    for name, tensor in (("index", index), ("prob", prob)):
        if input.ndim and (tensor.ndim != input.ndim or tensor.shape[:-1] != lead[:-1]):
            raise ValueError(f"`{name}` must have shape {lead[:-1]} + (j,), "
                             f"got {tuple(tensor.shape)}")
    _check_shapes(input=input, weight=weight, linear_bias=linear_bias,
                  sample_weight=sample_weight)
    if prob.shape != index.shape:
        raise ValueError(f"`prob` must have the shape of `index`, {tuple(index.shape)}, "
                         f"got {tuple(prob.shape)}")
    options = _options(reduction, beta, softcap, temperature, None, 1.0)
    return apply(
        input, weight, linear_bias, index, prob, None, sample_weight, *options,
        check_loss_dtype(loss_dtype, input, weight),
        found_along(reduction, input, weight, linear_bias),
    )


def _options(
    reduction: str, beta: float, softcap: float | None, temperature: float,
    teacher_softcap: float | None, teacher_temperature: float,
) -> Options:
    """The options as the operators take them."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    return Options(
        reduction, check_beta(beta), _check_cap(softcap, "softcap"),
        _check_cap(teacher_softcap, "teacher_softcap"), check_positive(temperature, "temperature"),
        check_positive(teacher_temperature, "teacher_temperature"),
    )


def _check_cap(softcap: float | None, name: str) -> float | None:
    return None if softcap is None else check_positive(softcap, name)


def _check_shapes(**given: torch.Tensor | None) -> None:
    """Say which of the tensors, by their names, do not fit the others."""
    shapes = {name: () if t is None else tuple(t.shape) for name, t in given.items()}
    lead, n = shapes["input"][:-1], shapes["weight"][:1]
    for x, weight in ("input", "weight"), ("teacher_input", "teacher_weight"):
        if x not in given:
            continue
        if not shapes[x]:
            raise ValueError(f"`{x}` must have shape (..., k), got ()")
        k = shapes[x][-1]
        if len(shapes[weight]) != 2 or shapes[weight][0] == 0 or shapes[weight][1] != k:
            raise ValueError(f"`{weight}` must have shape (n, {k}), n >= 1, got {shapes[weight]}")
    fits = {"linear_bias": n, "teacher_bias": n, "sample_weight": lead}
    if "teacher_input" in given:
        fits["teacher_input"] = (*lead, *shapes["teacher_input"][-1:])
        fits["teacher_weight"] = (*n, *shapes["teacher_weight"][1:])
    for name, fit in fits.items():
        if given.get(name) is not None and shapes[name] != fit:
            raise ValueError(f"`{name}` must have shape {fit}, got {shapes[name]}")
