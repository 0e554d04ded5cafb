"""What this machine can do, to hold a time against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._engines.choice import engine
from ._parallel import pool

READ_BYTES = 1 << 28  # larger than the caches
READ_STREAMS = (1, 4, 8)  # parts read side by side: which is fastest depends on the machine
SECONDS = 0.02  # of arithmetic in one trial
TRIALS = 5


@dataclass(frozen=True)
class MachineLimits:
    """Measured limits of the machine.

    Attributes
    ----------
    n_threads : int
        Threads that took part.
    fma_gflops_float32, fma_gflops_float64 : float
        Fused multiply-adds in registers, two flops each, in 1e9 flops a second.
    read_gb_s : float
        Memory read once, in 1e9 bytes a second: front to back, or several parts of it side by
        side where that is faster.
    """

    n_threads: int
    fma_gflops_float32: float
    fma_gflops_float64: float
    read_gb_s: float


def machine_limits(n_threads: int | None = None) -> MachineLimits:
    """Measure the peak of fused multiply-adds and the memory read rate of this machine.

    No product of matrices runs faster than the first, none that reads its weights from memory
    faster than the second. Both depend on what else runs: measure them beside what is held
    against them.

    Parameters
    ----------
    n_threads : int, optional
        Threads to measure with; by default those that calls use.

    Returns
    -------
    MachineLimits
        Best of several trials, of about half a second in all; takes 256 MiB meanwhile.

    Notes
    -----
    Under the plain-NumPy engine the peak is that of a large matrix product.

    Examples
    --------
    >>> import logitless as ll
    >>> limits = ll.machine_limits(1)
    >>> limits.fma_gflops_float32 > 0 and limits.read_gb_s > 0
    True
    """
    if n_threads is not None:
        n_threads = pool.check_threads(n_threads)
    n_threads = pool.resolve(n_threads)
    memory = np.ones(READ_BYTES // 8)
    return MachineLimits(
        n_threads,
        _peak(np.dtype(np.float32), n_threads),
        _peak(np.dtype(np.float64), n_threads),
        max(_read_rate(memory, streams, n_threads) for streams in READ_STREAMS),
    )


def _peak(dtype: np.dtype, n_threads: int) -> float:
    rounds, seconds, flops = 1000, 0.0, 0.0
    while seconds < SECONDS:
        rounds *= 2
        start = time.perf_counter()
        flops = engine.spin_fma(dtype, rounds)
        seconds = time.perf_counter() - start
    rate = _best(lambda _: engine.spin_fma(dtype, rounds), range(n_threads))
    return rate * flops * n_threads / 1e9


def _read_rate(memory: np.ndarray, streams: int, n_threads: int) -> float:
    parts = np.array_split(memory, n_threads)
    return _best(lambda part: engine.spin_read(part, streams), parts) * memory.nbytes / 1e9


def _best(work: Callable[[Any], object], parts: Sequence[Any]) -> float:
    """Runs a second of all parts side by side, in the best of several trials."""

    def claim(tasks: pool.Tasks) -> None:
        for task in tasks:
            work(parts[task])

    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        pool.run(claim, len(parts), len(parts))
        times.append(time.perf_counter() - start)
    return 1 / min(times)
