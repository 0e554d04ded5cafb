"""The loss for PyTorch: ``torch.nn.functional.linear_cross_entropy`` without the logits."""

from __future__ import annotations

from typing import Any

import torch

from ._call import apply, found_along
from ._checks import (
    Options,
    check_loss_dtype,
    check_options,
    check_shapes,
    check_shift,
    check_target,
    check_tensors,
)
from ._scores import scores_of
from ._sparse import SparseTarget


def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    shift: int = 0,
    softcap: float | None = None,
    temperature: float | torch.Tensor = 1.0,
    z_loss: float = 0.0,
    entropy_weight: float = 0.0,
    filter_eps: float = 0.0,
    return_scores: bool = False,
    loss_dtype: torch.dtype | None = None,
) -> Any:
    """``cross_entropy(input @ linear_weight.T + linear_bias, target)`` without the logits.

    Takes what ``torch.nn.functional.linear_cross_entropy`` takes and gives what it
    gives, for tensors on the CPU. The options after `options` are this package's own,
    and so are more axes of `input` before the last.

    Parameters
    ----------
    input : Tensor, shape (..., k)
        float32, float64, bfloat16 or float16.
    linear_weight : Tensor, shape (C, k) or (C, d1, ..., dK, k)
        With more than two axes one classifier for each place in (d1, ..., dK);
        `input` must then have at least two.
    target : Tensor
        Class indices: an integer dtype, shape (...,) or (..., d1, ..., dK). Or
        class probabilities: a float dtype, shape (..., C) or (..., C, d1, ..., dK);
        finite, not negative. Those of shape (..., C) may be sparse, in COO layout, or
        of shape (N, C) in CSR layout; no row of them is made dense.
    linear_bias : Tensor, shape (C,) or (C, d1, ..., dK), optional
    weight : Tensor, shape (C,), optional
        Weight of each class; finite, not negative.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights of the targets that count; with
        class probabilities, by their number.
    ignore_index : int, optional
        Targets of this class index do not count; -100 by default. Not for class
        probabilities.
    label_smoothing : float, default 0.0
        In [0, 1]: this part of each target is spread over all classes.
    options : object, optional
        Accepted, without effect: there is nothing to choose between.
    shift : int, default 0
        For causal models: with `input` of shape (..., t, k), position i is scored
        against the target of position i + shift, which makes t - shift losses.
        Nothing is copied for it: no gradient goes to the last positions of `input`,
        nor to the first of class probabilities.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)``.
    temperature : float or Tensor, default 1.0
        Logits are divided by it, after the cap. A tensor of a float dtype, without
        gradient, holds one for all rows or, of shape (...,), for each; with a shift,
        for each target.
    z_loss : float, default 0.0
        Adds this times the square of the log-sum-exp to each loss.
    entropy_weight : float, default 0.0
        Adds this times the entropy of the softmax to each loss; of either sign.
    filter_eps : float, default 0.0
        What is left out of the gradients, as in
        `logitless.LinearHead.value_and_grad`; 0 is exact.
    return_scores : bool, default False
        Give `Scores` beside the loss: the log-sum-exp, the entropy, the z-loss by itself,
        the prediction and whether it is the target, from the same pass.
    loss_dtype : torch.float32 or torch.float64, optional
        The dtype of the loss, whatever that of the tensors; gradients have theirs.

    Returns
    -------
    loss : Tensor
        In nats: a scalar; with "none" of shape (...,) or (..., d1, ..., dK). Its
        dtype is `loss_dtype`, else that of `input` and `linear_weight`, the wider of
        the two; class probabilities and the weights beside them widen it, and so does
        autocast, to float32. "mean" of no target that counts is NaN.
    scores : Scores
        Only with `return_scores`; a named tuple of tensors without gradient.

    Raises
    ------
    TypeError
        Something else than a dense tensor (of `target`, COO or CSR) on the CPU in one
        piece, a dtype that cannot be used, class weights that require grad.
    ValueError
        Shapes that do not fit, an option out of range.
    IndexError
        A class index that is neither in [0, C) nor `ignore_index`.
    RuntimeError
        When a second derivative is asked for.

    Notes
    -----
    Gradients flow to `input`, `linear_weight`, `linear_bias` and class probabilities,
    and have their dtypes; of sparse ones to the entries that are stored. With "mean"
    and "sum" the first three are computed along with the loss, where they are wanted,
    and held until ``backward``; with "none", ``backward`` computes them, and always
    that of class probabilities, ``(1 - label_smoothing) * weight *
    -log(softmax(logits))`` times what comes in.

    Beside gradients a call needs up to 64 MiB, without them a few MiB. Tensors of any
    layout are read where they are, those of 16 bits too. Losses are computed in
    float32 at least: `loss_dtype` gives that of 16-bit tensors before it is rounded to
    their dtype.

    Gradients of 16-bit tensors are sums in float32, 4 bytes an entry, until they have
    been scaled. Then they are rounded, once, in the memory they have, and half of it is
    given back; compiled graphs and `torch.func` take new memory for it.

    `torch.compile`, `torch.export`, `make_fx` and fake tensors see one operator,
    ``torch.ops.logitless.linear_cross_entropy``; at a sparse target a compiled graph
    breaks, and goes on behind it. `torch.func.grad` works; `torch.vmap` and
    forward-mode derivatives do not. Storages of parameters may be freed and filled
    again between calls, as FSDP2 does it; where the parameters are not gathered, a
    DTensor needs its ``full_tensor()``.

    Examples
    --------
    >>> import torch
    >>> from logitless.torch import linear_cross_entropy
    >>> x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    >>> loss = linear_cross_entropy(x, torch.eye(3), torch.tensor([2]))
    >>> loss.backward()
    >>> loss.detach(), x.grad
    (tensor(0.4076), tensor([[ 0.0900,  0.2447, -0.3348]]))

    Of a language model in bfloat16, the hidden states of 4 tokens, whose targets are
    the tokens that come next:

    >>> tokens = torch.tensor([[0, 2, 1, 2]])
    >>> hidden = torch.eye(3, dtype=torch.bfloat16)[tokens]
    >>> weight = torch.eye(3, dtype=torch.bfloat16)
    >>> linear_cross_entropy(hidden, weight, tokens, shift=1, reduction="none",
    ...                      loss_dtype=torch.float32)
    tensor([[1.5514, 1.5514, 1.5514]])
    """
    of_rows = None
    if isinstance(temperature, torch.Tensor):
        of_rows, temperature = temperature, 1.0
    check_tensors(input=input, linear_weight=linear_weight, target=target,
                  linear_bias=linear_bias, weight=weight, temperature=of_rows)
    if of_rows is not None and of_rows.ndim == 0:
        of_rows = of_rows.expand(input.shape[:-1])
    places = check_shapes(input, linear_weight, linear_bias, weight, of_rows)
    lead, n_classes = tuple(input.shape[:-1]), linear_weight.shape[0]
    if not lead and target.shape == (1,) != (n_classes,):
        target = target[0]
    soft = check_target(target, lead, n_classes, places, ignore_index)
    checked = check_options(Options(reduction, ignore_index, label_smoothing, shift, softcap,
                                    temperature, z_loss, entropy_weight, filter_eps))
    check_shift(checked.shift, input)
    stored = None if target.layout == torch.strided else SparseTarget.of(target)
    dense, *where = (target, None, None) if stored is None else stored
    loss, *scores = apply(
        input, linear_weight, linear_bias, dense, weight, of_rows, *where, *checked,
        check_loss_dtype(loss_dtype, input, linear_weight, *((target, weight) if soft else ())),
        bool(return_scores), found_along(reduction, input, linear_weight, linear_bias),
    )
    if not return_scores:
        return loss
    return loss, scores_of(scores, target, stored, len(lead), checked)
