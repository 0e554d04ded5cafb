"""Memory that a thread keeps from call to call: fresh memory costs a page fault every 4 KiB."""

from __future__ import annotations

import threading

import numpy as np

KEPT_BYTES = 4 << 20  # larger memory is worth its page faults, and is given back

_own = threading.local()


def take(nbytes: int) -> np.ndarray:
    """Memory of at least that many bytes, the caller's until it is given back."""
    memory = _own.__dict__.pop("memory", None)
    if memory is None or len(memory) < nbytes:
        memory = np.empty(nbytes, np.uint8)
    return memory


def give(memory: np.ndarray | None) -> None:
    """Keep memory for the next call of this thread."""
    if memory is not None and len(memory) <= KEPT_BYTES:
        _own.memory = memory
