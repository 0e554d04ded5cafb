"""Memory that is kept from call to call: fresh memory costs a page fault every 4 KiB."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from ._core import address

LINE = 64  # bytes of a cache line
HUGE_PAGE = 2 << 20
KEPT_BYTES = 4 << 20  # larger memory is worth its page faults, and is given back

# As many as were ever in use at once, whichever threads of the pool take turns. What was used last
# is taken first, while it may be in a cache.
_kept: deque[np.ndarray] = deque()


def take(nbytes: int) -> np.ndarray:
    """Memory of at least that many bytes, the caller's until it is given back."""
    try:
        memory = _kept.pop()
    except IndexError:
        return _fresh(nbytes)
    return memory if len(memory) >= nbytes else _fresh(nbytes)


def _fresh(nbytes: int) -> np.ndarray:
    if nbytes <= KEPT_BYTES:
        return np.empty(nbytes, np.uint8)
    return aligned((-(-nbytes // HUGE_PAGE) * HUGE_PAGE,), np.dtype(np.uint8))


def enough(nbytes: int, memory: np.ndarray | None) -> np.ndarray:
    """What the caller has, where it is so much; else other memory."""
    return take(nbytes) if memory is None or len(memory) < nbytes else memory


def give(memory: np.ndarray | None) -> None:
    """Keep memory for the next call."""
    if memory is not None and len(memory) <= KEPT_BYTES:
        _kept.append(memory)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that starts at a cache line: no vector of it lies across two. Large memory at a page.

    NumPy asks the system for huge pages from 4 MiB on, and the system gives those that lie in the
    memory as a whole: at other addresses the ends are a thousand small ones.
    """
    size = math.prod(shape) * dtype.itemsize
    step = HUGE_PAGE if size >= HUGE_PAGE else LINE
    memory = np.empty(size + step, np.uint8)
    start = -address(memory) % step
    return memory[start : start + size].view(dtype).reshape(shape)


def reals(memory: np.ndarray, dtype: np.dtype, *sizes: int) -> list[np.ndarray]:
    """Parts of memory as reals, each of which starts at a cache line."""
    start, parts = -address(memory) % 64, []
    for size in sizes:
        parts.append(memory[start : start + size * dtype.itemsize].view(dtype))
        start += -(-size * dtype.itemsize // 64) * 64
    return parts
