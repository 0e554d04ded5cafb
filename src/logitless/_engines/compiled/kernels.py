"""The kernels in use, and which arrays they can read where they are."""

from __future__ import annotations

import os

import numpy as np

from . import _core
from ._core import Kernels


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
