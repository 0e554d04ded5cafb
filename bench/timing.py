"""Timing in turns, and the memory of one call."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_SECONDS = 0.01  # a sample repeats short calls until it takes this long
ROUNDS = (3, 60)
SLOW = ((8.0, 2), (2.0, 3))  # a call of so many seconds is timed so often in all
HOPELESS = 1.5  # and once less if it takes that many times as long as the fastest
SPIN_SECONDS = 0.25  # threads of BLAS and OpenMP keep a core that long after a call, at most


def settle_seconds(threads: int) -> float:
    """Pause between contenders of so many threads: none where nobody has threads that spin."""
    return SPIN_SECONDS if threads > 1 else 0.0


def interleave(
    calls: dict[str, Callable], first: dict[str, float], seconds: float, settle: float
) -> dict[str, list]:
    """Time calls in turns, so that a slow moment of the machine hits all of them.

    Parameters
    ----------
    calls : dict of callable
        Warm: each has run before.
    first : dict of float
        Seconds that it took then. Of a slow call this is the first sample.
    seconds : float
        Time to spend on each call, unless that makes fewer than three rounds.
    settle : float
        Seconds to wait at each change, so that threads of one library that still spin do not
        slow the next one down. A turn takes as long again: short calls are sampled again and again.

    Returns
    -------
    dict of list of float
        Seconds a call, at least one entry for each round.
    """
    slow = {name: times for name in calls for least, times in SLOW[::-1] if first[name] >= least}
    fastest = min(first.values(), default=0.0)
    slow |= {name: max(1, times - 1) for name, times in slow.items()
             if first[name] > HOPELESS * fastest}
    samples = {name: [first[name]] if name in slow else [] for name in calls}
    number = {name: 1 if name in slow else _calls_a_sample(calls[name]) for name in calls}
    names = list(calls)
    end = time.perf_counter() + seconds * sum(name not in slow for name in calls)
    for done in range(ROUNDS[1] if names else 0):
        if done >= ROUNDS[0] and time.perf_counter() >= end:
            break
        shift = done % len(names)  # nobody always comes after the same one
        for name in names[shift:] + names[:shift]:
            if len(samples[name]) < slow.get(name, ROUNDS[1]):
                samples[name] += _turn(calls[name], number[name], settle)
    return samples


def _turn(call: Callable, number: int, settle: float) -> list[float]:
    time.sleep(settle)
    end = time.perf_counter() + settle
    samples = [_sample(call, number)]
    while time.perf_counter() < end:
        samples.append(_sample(call, number))
    return samples


def _sample(call: Callable, number: int) -> float:
    if number > 1:  # the others pushed its code and data out of the caches
        call()
    repeats = range(number)
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    for _ in repeats:
        call()
    seconds = time.perf_counter() - start
    if collecting:
        gc.enable()
    return seconds / number


def _calls_a_sample(call: Callable) -> int:
    number = 1
    while (seconds := _sample(call, number)) * number < SAMPLE_SECONDS / 2 and number < 1 << 20:
        number *= 2 if seconds * number > SAMPLE_SECONDS / 16 else 8
    return number


def resident() -> tuple[int, int] | None:
    """Bytes resident now and at most so far; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
    return kib["VmRSS"] << 10, kib["VmHWM"] << 10


def give_memory_back() -> None:
    """Collect garbage and hand free memory of the C heap to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def extra_peak(call: Callable) -> int | None:
    """Most bytes resident during a call beyond those before it; None where that is unknown."""
    give_memory_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except OSError:
        return None
    before = resident()
    call()
    after = resident()
    return max(0, after[1] - before[0]) if before and after else None
