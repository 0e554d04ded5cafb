"""bfloat16, which NumPy does not know by itself: the upper halves of float32.

Inside the package an array of it has the dtype BFLOAT16, whatever library it came from: NumPy cuts,
turns and maps it as any other, and only `widened` reads its numbers.
"""

from __future__ import annotations

import numpy as np

BFLOAT16 = np.dtype([("bfloat16", np.uint16)], align=True)  # at even bytes, else not aligned


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether this is bfloat16, of ml_dtypes or as it is inside the package."""
    return dtype == BFLOAT16 or dtype.name == "bfloat16"


def is_narrow(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype are 16 bits wide and computed in float32."""
    return dtype == BFLOAT16 or (dtype == np.float16 and dtype.isnative)


def widened(array: np.ndarray) -> np.ndarray:
    """The same numbers in float32."""
    wide = array.view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def outside(dtype: np.dtype) -> np.dtype:
    """`dtype` as users see it: bfloat16 of ml_dtypes, where that is installed."""
    if dtype != BFLOAT16:
        return dtype
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        return dtype
    return np.dtype(bfloat16)
