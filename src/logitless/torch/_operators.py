"""Operators of PyTorch, which tracers see: FakeTensorMode, make_fx, torch.export, torch.compile.

Each has a kernel that computes on the memory of its tensors and a fake that only knows shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

_PLAIN = {torch.Tensor, torch.nn.Parameter, type(None), str, bool, int, float, torch.dtype}
in_transform = torch._C._are_functorch_transforms_active  # as `torch.func.grad` is one
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # by one, which may be over by now


class Operator:
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
        return (self.of_library if seen(args) else self.kernel)(*args)


def seen(args: Iterable[Any]) -> bool:
    """Whether somebody is to see what is done with these tensors and options."""
    return (torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or in_transform()
            or not all(type(a) in _PLAIN for a in args)
            or any(isinstance(a, torch.Tensor) and _is_wrapped(a) for a in args))


class Final(torch.autograd.Function):
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
