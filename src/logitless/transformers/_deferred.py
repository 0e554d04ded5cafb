"""Logits that a model's own code handles without their being computed.

While a `DeferredHead` is active, the model's last linear layer gives `DeferredLogits`: its input
and its weights. What the model's forward does to logits (scales, caps, shapes, dtypes) is noted
down, and where it takes their cross entropy, `logitless.torch.linear_cross_entropy` finds it. So no
family of models needs code of its own, and what is not known here is an error, not another loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..torch import linear_cross_entropy
from ..torch._operators import in_transform


class DeferredHead(TorchFunctionMode):
    """Have the head of a model give `DeferredLogits`, in this thread.

    The head is whatever `get_output_embeddings` holds, a single layer or one that is wrapped, as
    `modules_to_save` of peft does it: of its weights, the one that is used counts.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.name = type(model).__name__
        self.head = model.get_output_embeddings()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Watch for the head's linear layer; all else goes its way."""
        kwargs = kwargs or {}
        if func is F.linear and self.is_head(args[1] if len(args) > 1 else kwargs["weight"]):
            return self.logits(*args, **kwargs)
        return func(*args, **kwargs)

    def is_head(self, weight: torch.Tensor) -> bool:
        return any(weight is parameter for parameter in self.head.parameters())

    def logits(
        self, input: Any, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> DeferredLogits:
        if isinstance(input, DeferredLogits):
            raise TypeError(f"the head of {self.name} is more than one linear layer (as with "
                            "LoRA on the head): its logits cannot do without being computed")
        return DeferredLogits(self.name, input, weight, bias)


class DeferredLogits:
    """``factor * tanh(z / divisor)``, or ``z / divisor``, of ``z = x @ weight.T + bias``."""

    def __init__(
        self, name: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None,
        divisor: float = 1.0, factor: float | None = None, dtype: torch.dtype | None = None,
    ) -> None:
        self.name, self.x, self.weight, self.bias = name, x, weight, bias
        self.divisor, self.factor, self.dtype = divisor, factor, dtype or x.dtype

    def replaced(self, **fields: Any) -> DeferredLogits:
        return DeferredLogits(**{**vars(self), **fields})

    @property
    def softcap(self) -> float | None:
        return None if self.factor is None else self.divisor

    @property
    def temperature(self) -> float:
        return self.divisor if self.factor is None else self.divisor / self.factor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.x.shape[:-1], self.weight.shape[0]))

    @property
    def ndim(self) -> int:
        return self.x.ndim

    @property
    def device(self) -> torch.device:
        return self.x.device

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def contiguous(self) -> DeferredLogits:
        return self

    def to(self, *given: Any, **named: Any) -> DeferredLogits:
        """Note a dtype; a device can only be that of the input."""
        for value in (*given, *named.values()):
            if isinstance(value, torch.dtype):
                return self.replaced(dtype=value)
            if torch.device(value) != self.device:
                raise self.unknown(f"to({value})")
        return self

    def view(self, *shape: Any) -> DeferredLogits:
        """Give the axes before that of the classes another shape."""
        *lead, n = shape if len(shape) > 1 else tuple(shape[0])
        if n not in (-1, self.shape[-1]) or (n == -1 and -1 in lead):
            raise ValueError(f"logits of {self.name} have {self.shape[-1]} classes, "
                             f"got the shape {(*lead, n)}")
        return self.replaced(x=self.x.reshape(*lead, self.x.shape[-1]))

    reshape = view

    def __getitem__(self, index: Any) -> DeferredLogits:
        """Take some of the rows, all classes of each."""
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and index.ndim < self.ndim:
            return self.replaced(x=self.x[index])
        parts = index if isinstance(index, tuple) else (index,)
        if not all(part is Ellipsis or isinstance(part, (int, slice)) for part in parts):
            raise self.unknown("an index of tensors, but a mask of rows")
        to_the_end = Ellipsis in parts or len(parts) >= self.ndim
        if to_the_end and parts[-1] != slice(None):
            raise self.unknown("some of the classes")
        return self.replaced(x=self.x[index])

    def __truediv__(self, other: Any) -> DeferredLogits:
        other = self.number(other, "/")
        if self.factor is None:
            return self.replaced(divisor=self.divisor * other)
        return self.replaced(factor=self.factor / other)

    def __mul__(self, other: Any) -> DeferredLogits:
        other = self.number(other, "*")
        if self.factor is None:
            return self.replaced(divisor=self.divisor / other)
        return self.replaced(factor=self.factor * other)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> DeferredLogits:
        """Add a bias, as models do it that keep it apart from the layer."""
        n = self.shape[-1]
        if not isinstance(other, torch.Tensor) or other.shape not in ((n,), (1, n)):
            raise self.unknown(f"+ {getattr(other, 'shape', other)}")
        if self.factor is not None or self.divisor != 1:
            raise self.unknown("a bias after a scale")
        bias = other.reshape(n)
        return self.replaced(bias=bias if self.bias is None else self.bias + bias)

    def tanh(self) -> DeferredLogits:
        if self.factor is not None:
            raise self.unknown("a second tanh")
        return self.replaced(factor=1.0)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(str(self.unknown(name)))

    def number(self, other: Any, operator: str) -> float:
        if not isinstance(other, (int, float)) or not 0 < other < math.inf:
            raise self.unknown(f"{operator} {type(other).__name__}"
                               if not isinstance(other, (int, float)) else f"{operator} {other}")
        return other

    def unknown(self, what: str) -> TypeError:
        return TypeError(f"the logits of {vars(self).get('name')} are not computed, and it needs "
                         f"them: {what}")

    def float(self) -> DeferredLogits:
        return self.replaced(dtype=torch.float32)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer functions of torch: the two that losses of language models call."""
        kwargs = kwargs or {}
        if func is torch.tanh and len(args) == 1 and not kwargs:
            return args[0].tanh()
        if func is F.cross_entropy and args and isinstance(args[0], DeferredLogits):
            return cross_entropy(*args, **kwargs)
        logits = next(value for value in (*args, *kwargs.values()) if isinstance(value, cls))
        raise logits.unknown(getattr(func, "__name__", str(func)))


def cross_entropy(
    logits: DeferredLogits, target: torch.Tensor, weight: torch.Tensor | None = None,
    size_average: None = None, ignore_index: int = -100, reduce: None = None,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> torch.Tensor:
    """``torch.nn.functional.cross_entropy`` of logits that are not there, in their dtype."""
    if logits.ndim > 2 or size_average is not None or reduce is not None:
        raise logits.unknown(f"cross_entropy of {logits.ndim} axes")
    check_in_memory(logits)
    return linear_cross_entropy(
        logits.x, logits.weight, target, linear_bias=logits.bias, weight=weight,
        reduction=reduction, label_smoothing=label_smoothing, softcap=logits.softcap,
        temperature=logits.temperature,
        ignore_index=None if target.is_floating_point() else ignore_index,
        loss_dtype=None if logits.dtype.itemsize == 2 else logits.dtype,
    )


def check_in_memory(logits: DeferredLogits) -> None:
    """Weights that are sharded apart from the model are freed as soon as their layer is done."""
    if torch.compiler.is_compiling() or in_transform():  # storages are not to be seen
        return
    if not logits.weight.untyped_storage().nbytes():
        raise RuntimeError(f"the weights of the head of {logits.name} are freed before the loss "
                           "needs them: give it no `fully_shard` of its own, or one with "
                           "`reshard_after_forward=False`")
