"""What this machine can do, to hold a time against."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
    dot_gflops_bfloat16 : float
        Products of bfloat16 summed in float32, from registers, in 1e9 flops a second, made the way
        that heads of bfloat16 take. 0 where there is none: plain NumPy widens them.
    dot_gops_int8 : float
        Products of bytes summed in int32, from registers, in 1e9 multiplications and additions a
        second, made the way that screens take. 0 where there are none: plain NumPy.

    Examples
    --------
    >>> import logitless as ll
    >>> ll.machine_limits(1).n_threads
    1
    """

    n_threads: int
    fma_gflops_float32: float
    fma_gflops_float64: float
    read_gb_s: float
    dot_gflops_bfloat16: float
    dot_gops_int8: float


def machine_limits(n_threads: int | None = None) -> MachineLimits:
    """Measure the peaks of arithmetic and the memory read rate of this machine.

    No product of matrices runs faster than the peak of its numbers, none that reads its weights
    from memory faster than that allows. bfloat16 rows against bfloat16 weights have a peak of their
    own; float32 rows against them, that of float32. All depend on what else runs: measure them
    beside what is held against them.

    Parameters
    ----------
    n_threads : int, optional
        Threads to measure with; by default those that calls use.

    Returns
    -------
    MachineLimits
        Best of several trials, of about a second in all; takes 256 MiB meanwhile.

    Notes
    -----
    Under the plain-NumPy engine the peaks are those of a large matrix product, and there is none of
    bfloat16 or bytes.

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
        _peak(partial(engine.spin_fma, np.dtype(np.float32)), n_threads),
        _peak(partial(engine.spin_fma, np.dtype(np.float64)), n_threads),
        max(_read_rate(memory, streams, n_threads) for streams in READ_STREAMS),
        _peak(engine.spin_bf16, n_threads),
        _peak(engine.spin_int8, n_threads),
    )


def _peak(spin: Callable[[int], float], n_threads: int) -> float:
    """1e9 operations a second of a load that tells how many it did; 0 where it does none."""
    rounds, seconds, operations = 1000, 0.0, 1.0
    while seconds < SECONDS and operations:
        rounds *= 2
        start = time.perf_counter()
        operations = spin(rounds)
        seconds = time.perf_counter() - start
    if not operations:
        return 0.0
    return _best(lambda _: spin(rounds), range(n_threads)) * operations * n_threads / 1e9


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
