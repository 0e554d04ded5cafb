"""What calls take of memory that NumPy or the kernels allocate."""

from __future__ import annotations

import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

MIB = 1 << 20


@contextmanager
def traced():
    """Bytes allocated in a block, once it is left: the most at a time, and what is kept of them."""
    found = SimpleNamespace(peak=None, kept=None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield found
        kept, peak = tracemalloc.get_traced_memory()
        found.kept, found.peak = kept - before, peak - before
    finally:
        tracemalloc.stop()


def peak(call):
    """Most bytes that a call has beside what was there before."""
    with traced() as found:
        call()
    return found.peak


def peak_again(call):
    """The same of a second call, for which the first has kept what is kept from call to call."""
    call()
    return peak(call)
