"""The loss for JAX: cross entropy of a linear layer without the logits, under jit and grad.

Needs JAX 0.5 or newer: ``pip install "logitless[jax]"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    import jax
    from jax import numpy as jnp
except ModuleNotFoundError as error:
    raise ImportError(
        f'logitless.jax needs {error.name}: pip install "logitless[jax]"') from error

import numpy as np

from ._call import ARRAYS, Static, apply
from ._checks import check

if TYPE_CHECKING:
    from jax.typing import ArrayLike

__all__ = ["linear_cross_entropy"]


def linear_cross_entropy(
    x: ArrayLike,
    weight: ArrayLike,
    target: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    entropy_weight: float = 0.0,
    shift: int = 0,
    softcap: float | None = None,
    temperature: ArrayLike = 1.0,
    filter_eps: float = 0.0,
    n_threads: int | None = None,
) -> jax.Array:
    """``-log(softmax(x @ weight.T + bias)[target])`` without the logits, differentiable.

    Parameters
    ----------
    x : array_like, shape (..., k)
        float32, bfloat16, float16, or float64 where JAX has it.
    weight : array_like, shape (n, k)
        One row per class: the transpose of a kernel (k, n) as Flax holds it.
    target : array_like
        Class indices (...,) of any integer dtype, or class probabilities (..., n) of one
        of these float dtypes: finite, not negative.
    bias : array_like, shape (n,), optional
    reduction : {"mean", "sum", "none", "batch_mean"}
        As for `logitless.LinearHead.loss`.
    class_weight : array_like, shape (n,), optional
        Finite and not negative.
    sample_weight : array_like, shape (...,), optional
        Finite.
    ignore_index, label_smoothing, z_loss, entropy_weight, shift
        As for `logitless.LinearHead.loss`.
    softcap, n_threads
        As for `logitless.LinearHead`.
    temperature : float or array_like, shape (...,), default 1.0
        A number as for `logitless.LinearHead`, or one for each row.
    filter_eps : float, default 0.0
        As for `logitless.LinearHead.value_and_grad`; 0 is exact.

    Returns
    -------
    Array
        In nats: a scalar, or with "none" of shape (...,). float32, or float64 where `x` or
        `weight` is; never of 16 bits. "mean" of no row that counts is NaN, with a
        RuntimeWarning.

    Raises
    ------
    TypeError
        A dtype that cannot be used; an option that is a traced value: all but the arrays
        are static. A derivative by any of these but `x`, `weight` and `bias`.
    ValueError
        Shapes that do not fit, an option out of range.
    NotImplementedError
        When a second derivative is asked for. A first one in forward mode, `jax.jvp`, is
        JAX's TypeError.
    jax.errors.JaxRuntimeError
        What only the contents of arrays tell, when the result is waited for: a class index
        outside [0, n), which reads ``OUT_OF_RANGE: IndexError: ...``, or entries of
        probabilities or weights that are negative or not finite. Where JAX runs the call at
        once, outside of `jax.jit`, it may be an IndexError or ValueError of the same text.

    Notes
    -----
    Gradients flow to `x`, `weight` and `bias`, and have their dtypes; those that nobody
    asks for are not computed. But for "none" they are found along with the loss, in one
    pass, and scaled by what comes in; with "none" the backward pass computes them. Those
    of 16-bit arrays are sums in float32 that are rounded once.

    Programs call the loss on their own memory (XLA's foreign function interface): no
    array is copied, and beside gradients a call takes up to 64 MiB. Under `jax.jit`
    the gradient of a loss that is differentiated by itself is not even scaled. It is
    there for JAX's CPU backend alone.

    Leading axes need no `jax.vmap`, which calls the loss once for each entry of its axis,
    gradients included; for losses of single rows give `x` (..., k) and "none". Rows that are
    sharded are gathered, except in `jax.shard_map`, which needs ``check_vma=False``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from logitless.jax import linear_cross_entropy
    >>> x, target = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([2])
    >>> step = jax.jit(jax.value_and_grad(linear_cross_entropy, argnums=(0, 1)))
    >>> loss, (by_x, by_weight) = step(x, jnp.eye(3), target)
    >>> loss.round(4), by_x.round(4)
    (Array(0.4076, dtype=float32), Array([[ 0.09  ,  0.2447, -0.3348]], dtype=float32))
    """
    options: dict[str, Any] = {
        "reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing,
        "z_loss": z_loss, "entropy_weight": entropy_weight, "shift": shift, "softcap": softcap,
        "filter_eps": filter_eps, "n_threads": n_threads,
    }
    of_rows = None
    if np.ndim(temperature):  # of tracers, too
        of_rows = temperature
    else:
        options["temperature"] = temperature
    given = x, weight, bias, target, class_weight, sample_weight, of_rows
    arrays: dict[str, Any] = {
        name: None if array is None else jnp.asarray(array)
        for name, array in zip(ARRAYS, given, strict=True)
    }
    dtype, rows, checked = check(arrays, **options)
    return apply(Static(dtype, rows if reduction == "none" else (), reduction, checked), arrays)
