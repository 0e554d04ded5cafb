"""The checks of `logitless.jax`: what shapes, dtypes and options tell, before anything runs.

Arrays of a traced function have no contents yet. Where the package checks shapes, ones without
memory stand in for them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import functional
from .._arrays.checks import check_weight, check_x, compute_dtype
from .._calls.objective import Objective, shifted
from .._calls.options import LossOptions
from .._calls.targets import check_target

_FLOAT = ("float32", "float64", "bfloat16", "float16")
_INTEGERS = ("ignore_index", "shift", "n_threads")


def check(
    arrays: Mapping[str, jax.Array | None], **options: Any
) -> tuple[np.dtype, tuple[int, ...], str]:
    """Dtype of the computation, shape of the rows that have a loss, options as JSON."""
    for name, array in arrays.items():
        if array is not None:
            _check_dtype(name, array.dtype)
    given = {name: _stand_in(array) for name, array in arrays.items()}
    weight, _ = check_weight(given["weight"], given["bias"])
    n, k = weight.shape
    x = check_x(given["x"], k)
    dtype = np.result_type(compute_dtype(x.dtype, "x"), compute_dtype(weight.dtype, "weight"))
    # A problem of two rows tells whether the numbers are good.
    two = np.zeros((2, 1), dtype)
    functional.linear_cross_entropy_value_and_grad(two, two, [0, 1], **options | {"shift": 0})

    of_loss = LossOptions(options["ignore_index"], given["class_weight"], given["sample_weight"],
                          shift=options["shift"], temperature=given["temperature"])
    x, target, of_loss = shifted(x, given["target"], of_loss)
    rows = x.shape[:-1]
    if target.dtype.kind not in "iu" and target.shape == (*rows, n):
        check_target(target.reshape(-1, n)[:0], (0,), n, dtype, of_loss.ignore_index)
        target = np.zeros(rows, np.int64)  # the others cost n a row to check
    elif target.dtype.kind in "iu":
        target = np.zeros(target.shape, np.int64)  # there may be a single class
    Objective(target, rows, n, dtype, options["reduction"], of_loss)
    return dtype, rows, json.dumps({name: _plain(name, o) for name, o in options.items()})


def _check_dtype(name: str, dtype: np.dtype) -> None:
    if dtype.name in _FLOAT or (name == "target" and jnp.issubdtype(dtype, jnp.integer)):
        return
    also = " or of an integer dtype" if name == "target" else ""
    raise TypeError(f"`{name}` must be of one of {_FLOAT}{also}, got {dtype}")


def _stand_in(array: jax.Array | None) -> Any:
    return None if array is None else np.broadcast_to(np.ones((), array.dtype), array.shape)


def _plain(name: str, option: Any) -> Any:
    """Make a checked option one that JSON has: of Python's own types."""
    if option is None or isinstance(option, str):
        return option
    return operator.index(option) if name in _INTEGERS else float(option)
