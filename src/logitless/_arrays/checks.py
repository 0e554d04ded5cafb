"""Arguments to checked arrays: a clear error here, or never."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from .bfloat16 import BFLOAT16, is_bfloat16, widened
from .files import Windows, check_mapped
from .frames import read_frame, refuse_objects, remedy
from .sliced import Sliced, is_sliced

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import ArrayLike

    class Sparse(Protocol):
        """A SciPy sparse matrix or array, of any format."""

        shape: Any
        dtype: Any

        def tocsr(self) -> Any: ...

    TargetLike: TypeAlias = ArrayLike | Sparse
    ExcludeLike: TypeAlias = ArrayLike | Sparse
    # What is found out about each row: an array, for a single row (k,) a scalar of NumPy. Which of
    # them depends on shapes: a union would have every caller tell them apart, so it is Any, as
    # with NumPy's own reductions.
    Values: TypeAlias = Any

# By type number, which byte order and metadata leave alone.
_COMPUTE = {
    np.dtype(code).num: np.dtype(wide)
    for codes, wide in (("?bBhHef", np.float32), ("iIlLqQd", np.float64))
    for code in codes
}
_HOST_MEMORY = (1, 3, 11)  # DLPack: CPU, CUDA's and ROCm's pinned host memory


def as_array(value: Any, name: str) -> np.ndarray:
    """`value` as an ndarray, without a copy where it already is an array of some library."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"`{name}` must be a plain array, got a masked one; fill it first")
        return np.asarray(value)
    kind = type(value).__name__
    if getattr(value, "requires_grad", False):
        raise TypeError(f"`{name}` requires grad; detach it first: `{name}.detach()`")
    if hasattr(value, "toarray") and hasattr(value, "tocsr"):
        raise TypeError(f"`{name}` must be dense, got a sparse {kind}; see its `.toarray()`")
    if type(value).__module__.partition(".")[0] == "dask":
        raise TypeError(f"`{name}` must be in memory or read in slices, got a {kind} of dask; see "
                        f"logitless.dask, or `{name}.compute()`")
    if hasattr(value, "untyped_storage"):
        check_storage(value, name)
    try:
        frame = read_frame(value, name)
        if frame is not None:
            return frame
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":
            return _torch_bfloat16(value, name)
        if hasattr(value, "__dlpack_device__"):
            device = int(value.__dlpack_device__()[0])
            if device not in _HOST_MEMORY:
                raise TypeError(f"it must be in CPU memory, is on DLPack device type {device}")
            if not hasattr(value, "__array__"):
                return np.from_dlpack(value)
        array = np.asarray(value)
        refuse_objects(array)
        return array
    except MemoryError:
        raise
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be read as an array: {error}") from error
    except Exception as error:  # whatever the other library raises
        raise TypeError(f"`{name}` ({kind}) cannot be read as an array: {error}") from error


def check_storage(tensor: Any, name: str) -> None:
    """Refuse a tensor of torch whose memory has been given back, at least in part.

    Those who shard parameters do that between their uses, and torch reads what is there then.
    """
    if tensor.layout is not sys.modules["torch"].strided or not tensor.numel():
        return
    last = sum((length - 1) * step
               for length, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
    there = tensor.untyped_storage().nbytes()
    if there < needed:
        raise ValueError(f"`{name}` must have memory for its elements, {needed} bytes, got "
                         f"{there}: its storage has been freed or made smaller")


def _torch_bfloat16(tensor: Any, name: str) -> np.ndarray:
    """Read a tensor of the one dtype that NumPy does not know by itself."""
    bits = tensor.view(sys.modules["torch"].int16).numpy()
    if name in ("x", "weight", "bias"):
        return bits.view(BFLOAT16)
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        raise TypeError(
            f"NumPy reads bfloat16 with the package ml_dtypes: install it, or give `{name}.float()`"
        ) from None
    return bits.view(bfloat16)


def compute_dtype(dtype: np.dtype, name: str) -> np.dtype:
    """float32 or float64: what an array of `dtype` is computed in."""
    wide = _COMPUTE.get(dtype.num)
    if wide is not None:
        return wide
    if is_bfloat16(dtype):
        return np.dtype(np.float32)
    raise TypeError(
        f"`{name}` must be float16, bfloat16, float32, float64, bool or integer, "
        f"got {dtype}{remedy(dtype)}"
    )


def kept_bfloat16(array: np.ndarray) -> np.ndarray:
    """`array`, or if it is bfloat16 of ml_dtypes the same memory as BFLOAT16."""
    if array.dtype.kind == "V" and array.dtype != BFLOAT16 and is_bfloat16(array.dtype):
        return array.view(BFLOAT16)
    return array


def plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` as the kernels read it: in `dtype`, contiguous and aligned, copied only if it is not.

    ``np.ascontiguousarray`` leaves what is not aligned where it is.
    """
    if array.dtype.kind == "V" and array.dtype == BFLOAT16 and dtype != BFLOAT16:
        array = widened(array)
    return np.require(array, dtype, ["C", "A"])


def copied(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Make the same of an array, in memory of its own: copied once."""
    own = plain(array, dtype)
    return own.copy() if np.may_share_memory(own, array) else own


def as_rows(x: Any, name: str) -> np.ndarray | Sliced:
    if isinstance(x, Sliced):
        return x
    return Sliced(x, name) if is_sliced(x) else as_array(x, name)


def check_x(x: object, n_features: int, name: str = "x") -> np.ndarray:
    """Rows (..., n_features). What is read in slices becomes Sliced, which passes for an array."""
    if type(x) is not np.ndarray:
        x = as_rows(x, name)
    x = kept_bfloat16(cast(np.ndarray, x))
    if isinstance(x, np.ndarray) and x.base is not None:
        check_mapped(x, name)
    if x.ndim == 0:
        raise ValueError(f"`{name}` must have shape (..., {n_features}), got a scalar")
    if x.shape[-1] != n_features:
        weight = name[:-1] + "weight"  # `teacher_x` has a `teacher_weight`
        raise ValueError(
            f"`{weight}.shape[1]` must equal `{name}.shape[-1]` ({x.shape[-1]}), got {n_features}"
        )
    return x


def check_weight(
    weight: object, bias: object
) -> tuple[np.ndarray | Windows, np.ndarray | None]:
    if not isinstance(weight, Windows):
        weight = kept_bfloat16(as_array(weight, "weight"))
    compute_dtype(weight.dtype, "weight")
    if weight.ndim != 2:
        raise ValueError(
            f"`weight` must have shape (n_classes, n_features), got shape {weight.shape}"
        )
    if weight.shape[0] == 0:
        raise ValueError(f"`weight` must have at least one class, got shape {weight.shape}")
    if bias is None:
        return weight, None
    bias = kept_bfloat16(as_array(bias, "bias"))
    if bias.dtype == BFLOAT16:
        bias = widened(bias)  # as small as it is
    compute_dtype(bias.dtype, "bias")
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"`bias` must have shape (weight.shape[0],) = {weight.shape[:1]}, got {bias.shape}"
        )
    return weight, bias


def check_classes(array: np.ndarray, name: str) -> np.ndarray:
    """Logits or probabilities (..., n), at least one class."""
    compute_dtype(array.dtype, name)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(
            f"`{name}` must have shape (..., n) with at least one class, got shape {array.shape}"
        )
    return array


def as_float(value: Any) -> float:
    """A number in float64: what is beyond its range becomes infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_positive(value: object, name: str) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
    number = as_float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"`{name}` must be positive and finite, got {value}")
    return number


def check_divisor(value: float, name: str, dtype: np.dtype) -> None:
    """Check that logits in `dtype` can be divided by a number: neither it nor they are lost."""
    least, most = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    if not least <= value <= most:
        raise ValueError(f"{name} must be within [{least:.8g}, {most:.8g}] for logits in {dtype}, "
                         f"got {value}")


def check_flag(value: object, name: str) -> bool:
    """Whether a switch is on: anything that has a truth value, as NumPy has it."""
    try:
        return bool(value)
    except Exception:  # whatever an array or an object of another library raises
        raise TypeError(f"`{name}` must be True or False, got {type(value).__name__}") from None


def check_integer(
    value: Any, name: str, least: int | None = None, most: int | None = None
) -> int:
    try:
        if isinstance(value, bool):  # it is an index to Python, but a switch in the wrong place
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {type(value).__name__}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"`{name}` must be {limits}, got {number}")
    return number


def read_shift(value: Any) -> int:
    """How far targets are shifted; True is 1 here, as in Cut Cross-Entropy."""
    return check_integer(int(value) if isinstance(value, bool) else value, "shift", 0)


def check_axis(axis: object, ndim: int) -> tuple[int, ...]:
    """`axis` (int, tuple of int or None) as distinct axes of an array, none negative."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(check_integer(a, "axis") for a in axes)
    if not all(-ndim <= a < ndim for a in axes):
        raise ValueError(f"`axis` must be within [{-ndim}, {ndim}), got {axis}")
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError(f"`axis` must not name an axis twice, got {axis}")
    return axes


def check_out(out: object, shape: tuple[int, ...], dtype: np.dtype, name: str = "out") -> None:
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"`{name}` must be an ndarray, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"`{name}` must be {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"`{name}` must be writeable, got a read-only array")


def check_direct_out(
    out: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, name: str, inputs: Iterable[object]
) -> None:
    """Check an array that results go into while `inputs` are still read."""
    check_out(out, shape, dtype, name)
    if not (out.flags.c_contiguous and out.flags.aligned and out.dtype.isnative):
        raise ValueError(
            f"`{name}` must be C-contiguous, aligned and of native byte order, "
            f"got strides {out.strides} and dtype {out.dtype.str!r}"
        )
    if any(a is not None and np.may_share_memory(out, a) for a in inputs):
        raise ValueError(
            f"`{name}` must not overlap an input or another result, "
            "got an array that shares memory with one of them"
        )
