"""The kernels in use, and which arrays they can read where they are."""

from __future__ import annotations

import os

import numpy as np

from ..._arrays.bfloat16 import BFLOAT16
from ..._parallel import pool
from . import _core
from ._core import TYPES, Crew, Helper, Kernels

pool.wait_with(Helper, Crew)


def available_isas() -> tuple[str, ...]:
    """Instruction sets built and runnable, best first."""
    return _core.instruction_sets()


def _select() -> str:
    asked = os.environ.get("LOGITLESS_ISA", "").strip().lower()
    isas = available_isas()
    if asked and asked not in isas:
        raise ValueError(f"LOGITLESS_ISA must be one of {', '.join(isas)} here, got {asked!r}")
    return asked or isas[0]


_ISA = _select()
KERNELS = {np.dtype(np.float32): Kernels(_ISA, 32), np.dtype(np.float64): Kernels(_ISA, 64)}
BF16 = _core.bf16_products(_ISA)[0]
_NARROW = {BFLOAT16: TYPES["bfloat16"], np.dtype(np.float16): TYPES["float16"]}


def type_of(dtype: np.dtype) -> int:
    """What the kernels call weights of this dtype."""
    return _NARROW.get(dtype, TYPES["real"])


def active_isa() -> str:
    """The instruction set in use."""
    return _ISA


def in_place(a: np.ndarray, dtype: np.dtype) -> bool:
    """Whether the kernels can read these elements where they are."""
    item = dtype.itemsize
    return (
        a.dtype == dtype
        and a.dtype.isnative
        and a.flags.aligned
        and a.strides[0] % item == 0
        and a.strides[1] % item == 0
    )


def has_rows(a: np.ndarray, dtype: np.dtype) -> bool:
    """Whether the kernels can read these rows where they are: columns next to each other."""
    return in_place(a, dtype) and (a.strides[1] == dtype.itemsize or a.shape[1] == 1)
