"""The loss for PyTorch with its layer, as a module."""

from __future__ import annotations

import math
from typing import Any

import torch

from ._checks import Options
from ._cross_entropy import linear_cross_entropy


class LinearCrossEntropyLoss(torch.nn.Module):
    """``cross_entropy(linear(input), target)``, as ``torch.nn.LinearCrossEntropyLoss``.

    Its state has the names it has in torch, so that either module loads the other's.

    Parameters
    ----------
    in_features : int
        Features of a sample, k.
    num_classes : int
        Classes, C.
    out_features : tuple of int, default ()
        (d1, ..., dK): one classifier for each place of such an array.
    bias : bool, default False
        Have a bias.
    device, dtype : optional
        Of the layer, which must be on the CPU when the loss is computed.
    weight : Tensor, shape (C,), optional
        Weight of each class.
    reduction, ignore_index, label_smoothing, options
        As for `linear_cross_entropy`.
    shift, softcap, temperature, z_loss, entropy_weight, filter_eps
        As for `linear_cross_entropy`; but `temperature` is one number.
    return_scores, loss_dtype
        As for `linear_cross_entropy`.

    Attributes
    ----------
    linear : torch.nn.Linear
        The layer; its weight is (C * d1 * ... * dK, k).
    weight : Tensor or None
        The class weights, a buffer.

    Raises
    ------
    ValueError
        Class weights of another shape, label smoothing outside [0, 1].

    Examples
    --------
    >>> import torch
    >>> from logitless.torch import LinearCrossEntropyLoss
    >>> head = LinearCrossEntropyLoss(5, 10, reduction="none")
    >>> head(torch.zeros(2, 5), torch.tensor([3, 9])).detach()
    tensor([2.3026, 2.3026])
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: torch.Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: object = None,
        shift: int = 0,
        softcap: float | None = None,
        temperature: float = 1.0,
        z_loss: float = 0.0,
        entropy_weight: float = 0.0,
        filter_eps: float = 0.0,
        return_scores: bool = False,
        loss_dtype: torch.dtype | None = None,
    ):
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"`weight` must have shape ({num_classes},), "
                             f"got {tuple(weight.shape)}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"`label_smoothing` must be between 0 and 1, got {label_smoothing}")
        super().__init__()
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.options = options
        self.return_scores, self.loss_dtype = return_scores, loss_dtype
        given = Options(reduction, ignore_index, label_smoothing, shift, softcap, temperature,
                        z_loss, entropy_weight, filter_eps)
        for name, value in given._asdict().items():
            setattr(self, name, value)
        self.register_buffer("weight", weight)
        rows = math.prod(self.out_features, start=num_classes)
        self.linear = torch.nn.Linear(in_features, rows, bias, device, dtype)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> Any:
        """Find the loss, and its scores if so made, as `linear_cross_entropy`."""
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return linear_cross_entropy(
            input, self.linear.weight.reshape(*shape, self.linear.in_features), target,
            linear_bias=None if bias is None else bias.reshape(shape), weight=self.weight,
            options=self.options, return_scores=self.return_scores, loss_dtype=self.loss_dtype,
            **{name: getattr(self, name) for name in Options._fields},
        )

    def extra_repr(self) -> str:
        """Describe the options in the module's repr."""
        names = ("num_classes", "out_features", *Options._fields, "return_scores", "loss_dtype")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
