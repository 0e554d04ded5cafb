"""One process that has both packages: rounds of each case, the bits of its results, its memory.

Started by `compare` with a JSON description on its standard input; a line of JSON for each case.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from cases import CASES, Call
from checkouts import Checkout
from paired import rounds
from runner import usable_cpus
from threadpoolctl import threadpool_limits

SAMPLE_SECONDS = 3e-4  # the shorter, the fewer are disturbed
IMPORT_ROUNDS = 3
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt

Pair = tuple[Checkout, Checkout]


def parts(result: object, name: str = "result") -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of a result, and what each is called."""
    if isinstance(result, tuple | list):
        for i, part in enumerate(result):
            yield from parts(part, f"{name}[{i}]")
    elif hasattr(result, "__slots__") and not isinstance(result, np.ndarray | np.generic):
        for field in result.__slots__:
            yield from parts(getattr(result, field, None), field)
    elif result is not None:
        yield name, np.asarray(result)


def differing(a: object, b: object) -> str:
    """Where two results have other bits; "same" if nowhere."""
    first, second = dict(parts(a)), dict(parts(b))
    told = []
    for name in first | second:
        if name not in first or name not in second:
            told.append(f"{name} only in {'A' if name in first else 'B'}")
            continue
        p, q = first[name], second[name]
        if p.dtype != q.dtype or p.shape != q.shape:
            told.append(f"{name}: {p.dtype} {p.shape}, {q.dtype} {q.shape}")
        elif p.tobytes() != q.tobytes():
            each = (np.ascontiguousarray(v).reshape(-1, 1).view(np.uint8) for v in (p, q))
            count = np.not_equal(*each).any(axis=1).sum()
            told.append(f"{name}: {count:,} of {p.size:,}")
    return "; ".join(told) or "same"


def peak(call: Call) -> int:
    """Bytes that a call holds at most beside what it found; all of its memory is NumPy's."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def of_case(name: str, pair: Pair, seconds: float, turn: int) -> dict:
    """Rounds of one case; in the first turn, bits and memory too."""
    order = (0, 1) if turn % 2 == 0 else (1, 0)  # whose head is made first
    calls, results, failed = {}, {}, []
    try:
        inputs = CASES[name]()
    except ImportError as error:
        return {"missing": str(error)}
    for which in order:
        try:
            with pair[which] as package:
                calls[which] = inputs(package)
                results[which] = calls[which]()
        except Exception as error:  # an older package may not have what is asked for
            failed.append(which)
            print(f"{name}, {'AB'[which]}: {type(error).__name__}: {error}", file=sys.stderr)
    if failed:
        return {"failed": sorted(failed)}
    found: dict = {}
    if turn == 0:
        found = {"bits": differing(results[0], results[1]),
                 "memory": [_within(pair[which], partial(peak, calls[which])) for which in (0, 1)]}
    del results
    number = max(_within(pair[which], partial(_calls_a_sample, calls[which])) for which in order)
    a, b = (partial(_within, pair[which], partial(_sample, calls[which], number))
            for which in (0, 1))
    gc.collect()
    gc.disable()
    found["rounds"] = rounds(a, b, seconds)
    gc.enable()
    return found


def _within(checkout: Checkout, call: Call):
    with checkout:
        return call()


def _sample(call: Call, number: int) -> float:
    """Seconds of the CPU, of which others take none; a call of one thread waits for nothing."""
    if number > 1:  # the other one pushed its code and data out of the caches
        call()
    repeats = range(number)
    start = time.process_time()
    for _ in repeats:
        call()
    return (time.process_time() - start) / number


def _calls_a_sample(call: Call) -> int:
    return max(1, int(SAMPLE_SECONDS / max(1e-9, min(_sample(call, 1) for _ in range(5)))))


def of_import(module: str, pair: Pair) -> dict:
    """Rounds of an import in fresh processes that have NumPy."""
    code = (f"import time, numpy\nstart = time.process_time()\nimport {module}\n"
            "print(time.process_time() - start)")

    def once(checkout: Checkout) -> float:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              check=True, env={**os.environ, "PYTHONPATH": str(checkout.src)})
        return float(done.stdout)

    failed, calls = [], [partial(once, checkout) for checkout in pair]
    for which, call in enumerate(calls):
        try:
            call()  # what it imports is compiled to bytes from now on
        except subprocess.CalledProcessError:
            failed.append(which)
    return {"failed": failed} if failed else {"rounds": rounds(*calls, 0, IMPORT_ROUNDS)}


def keep_memory() -> None:
    """What is freed stays with the process: no call waits for fresh pages of the system."""
    mallopt: Callable | None = None
    if os.name == "posix":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def main() -> None:
    """Take one turn of every case that is asked for."""
    job = json.load(sys.stdin)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable_cpus()[-1:])
    keep_memory()
    a, b = Path(job["a"]), Path(job["b"])
    pair = Checkout(a), Checkout(b)
    told = {"isas": [checkout.package.active_isa() for checkout in pair]}
    print(json.dumps(told), flush=True)
    with threadpool_limits(1):
        for name in job["names"]:
            found = (of_import(name.removeprefix("import "), pair) if name.startswith("import ")
                     else of_case(name, pair, job["seconds"], job["turn"]))
            print(json.dumps({"name": name, **found}), flush=True)


if __name__ == "__main__":
    main()
