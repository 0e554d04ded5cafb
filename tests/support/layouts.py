"""The same numbers in other places: strides, byte orders, addresses."""

from __future__ import annotations

import numpy as np

LAYOUTS = ("fortran", "strided", "reversed", "swapped")


def as_layout(a, layout):
    """An array in one of `LAYOUTS`: its elements are the same."""
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "swapped":
        return a.astype(a.dtype.newbyteorder())
    if layout == "reversed":
        return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]
    wide = np.zeros([3 * length for length in a.shape], a.dtype)
    strided = wide[(slice(1, None, 3),) * a.ndim]
    strided[...] = a
    return strided


def unaligned(a, offset=1):
    """The same array, its first byte `offset` bytes behind an address that suits it."""
    raw = np.zeros(a.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 32 + offset
    out = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    assert out.flags.aligned == (offset % a.dtype.alignment == 0 or not a.size)
    return out
