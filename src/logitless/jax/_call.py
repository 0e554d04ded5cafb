"""The loss as one call of compiled programs, and its place in JAX's differentiation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from .. import functional
from ..results import Gradients
from ._ffi import ATTRIBUTE, register

_NAME = "logitless_linear_cross_entropy"
ARRAYS = ("x", "weight", "bias", "target", "class_weight", "sample_weight", "temperature")
_WRT = ARRAYS[:3]


@dataclass(frozen=True)
class Static:
    """What is known of a call before it runs; equal where programs are the same.

    Attributes
    ----------
    dtype : dtype
        Of the computation and of the loss.
    shape : tuple of int
        That of the loss.
    reduction : str
    options : str
        All options, as JSON.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    reduction: str
    options: str


# What programs call


def _run(call: str, operands: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
    """Find the loss, the gradients, or both, on the memory of the program."""
    names = json.loads(call)
    arguments = dict(zip(names["operands"], operands, strict=True)) | names["options"]
    found = dict(zip(names["results"], results, strict=True))
    loss = found.pop("loss", None)
    if found:
        losses, _ = functional.linear_cross_entropy_value_and_grad(
            **arguments, wrt=tuple(found), out=Gradients(**found))
    else:
        del arguments["filter_eps"]
        losses = functional.linear_cross_entropy(**arguments)
    if loss is not None:
        loss[...] = losses


register(_NAME, _run)


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _found(static: Static, operands: dict[str, Any], results: tuple[str, ...]) -> dict[str, Any]:
    """The loss, gradients, or both, by name."""
    given = {name: array for name, array in operands.items() if array is not None}
    shapes = {name: array.shape for name, array in given.items()}
    shapes |= {"loss": static.shape, "bias": given["weight"].shape[:1]}
    call = {"operands": list(given), "results": results, "options": json.loads(static.options)}
    found = jax.ffi.ffi_call(
        _NAME, [jax.ShapeDtypeStruct(shapes[name], static.dtype) for name in results],
        vmap_method="sequential",
    )(*given.values(), **{ATTRIBUTE: json.dumps(call)})
    return dict(zip(results, found, strict=True))


@_found.defjvp
def _no_more(*_: Any) -> Any:
    raise NotImplementedError("logitless.jax.linear_cross_entropy has no second derivative")


# Its place in JAX's differentiation


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def apply(static: Static, operands: dict[str, Any]) -> Any:
    """The loss of the operands, by the names of the arguments; differentiable."""
    return _found(static, operands, ("loss",))["loss"]


def _forward(static: Static, primals: dict[str, Any]) -> tuple[Any, Any]:
    given = {name: primal for name, primal in primals.items() if primal is not None}
    wanted = [name for name, primal in given.items() if primal.perturbed]
    for name in wanted:
        if name not in _WRT:
            raise TypeError(f"`{name}` gets no gradient here, but a derivative by it is asked "
                            f"for; give `jax.lax.stop_gradient({name})`")
    operands = {name: primal.value for name, primal in given.items()}
    if static.reduction == "none":  # gradients are sums over rows whose factors come later
        return _found(static, operands, ("loss",))["loss"], (operands, dict.fromkeys(wanted))
    found = _found(static, operands, ("loss", *wanted))
    loss = found.pop("loss")
    # Of the operands only the dtypes are needed any more.
    return loss, ({name: operands[name].ravel()[:0] for name in wanted}, found)


def _backward(static: Static, held: Any, grad_output: Any) -> tuple[dict[str, Any]]:
    operands, gradients = held
    if static.reduction == "none":
        gradients = _found(static, operands | {"grad_output": grad_output}, tuple(gradients))
    else:
        gradients = {name: gradient * grad_output for name, gradient in gradients.items()}
    return ({name: gradients[name].astype(operands[name].dtype) if name in gradients else None
             for name in ARRAYS},)


apply.defvjp(_forward, _backward, symbolic_zeros=True)
