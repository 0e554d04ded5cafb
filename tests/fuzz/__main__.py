"""``python -m fuzz``, from the folder of the tests: calls of every kind, drawn from integers.

A case is one call, drawn from its seed alone. Every one must end in a result, or in an error that
says what was expected, with nothing touched; some are made a second time in another way.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from .batches import batch, check, listening
from .calls import case
from .draw import Draw

STEP = 1000  # cases that a process is given at once


def show(seed):
    """Print the call of a seed, and what becomes of it."""
    np.set_printoptions(threshold=400)
    found = case(Draw(seed))
    print(f"{found.name}(")
    for name, value in found.args.items():
        if isinstance(value, np.ndarray):
            print(f"    # {value.dtype.str} {value.shape}, strides {value.strides}")
        print(f"    {name}={value!r},")
    print(")", flush=True)
    with listening() as heard:
        print(*check(seed, heard), sep="\n")


def batches(asked, folder):
    """Results of ranges of cases, as processes come to their ends; for one that dies others go on.
    """
    last = asked.seed + int(asked.cases)
    until = time.time() + asked.seconds
    ranges = ((first, min(first + STEP, last)) for first in range(asked.seed, last, STEP))
    while True:
        try:
            yield from pool_of(asked.processes, ranges, until, folder)
            return
        except BrokenProcessPool:
            places = sorted(int(path.read_text()) for path in Path(folder).iterdir())
            if not places:
                raise
        yield (collections.Counter(),
               [f"a process has died, in one of the cases {', '.join(map(str, places))}"])
        for path in Path(folder).iterdir():
            path.unlink()
        left = [(place + 1, min(place + STEP - (place - asked.seed) % STEP, last))
                for place in places]
        ranges = itertools.chain(left, ranges)


def pool_of(processes, ranges, until, folder):
    """Results of ranges, until one of the processes dies."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(batch, *some, until, folder)
                   for some in itertools.islice(ranges, processes)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            if time.time() < until:
                running |= {pool.submit(batch, *some, until, folder)
                            for some in itertools.islice(ranges, len(done))}


def report(counts, n_complaints, seconds):
    for name in sorted({name for name, _ in counts}):
        ends = [f"{end} {count:,}" for (which, end), count in sorted(counts.items())
                if which == name]
        yield f"{name:42}{', '.join(ends)}"
    yield f"{sum(counts.values()):,} cases, {n_complaints} complaints, {seconds:.0f} s"


def main():
    parser = argparse.ArgumentParser("fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=float, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which to stop")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", type=int, help="a single case: print the call")
    parser.add_argument("--log", default=os.devnull, help="a file for what is printed, too")
    asked = parser.parse_args()
    if asked.only is not None:
        return show(asked.only)
    print(f"cases from {asked.seed} on", flush=True)
    begun, counts, n_complaints, said = time.time(), collections.Counter(), 0, time.time()
    with tempfile.TemporaryDirectory() as folder, open(asked.log, "a") as log:
        def say(line):
            print(line, flush=True)
            print(line, file=log, flush=True)

        for found, complaints in batches(asked, folder):
            counts += found
            n_complaints += len(complaints)
            for line in complaints:
                say(line)
            if time.time() > said + 60:
                said = time.time()
                say(f"{sum(counts.values()):,} cases, {said - begun:.0f} s")
        for line in report(counts, n_complaints, time.time() - begun):
            say(line)
    return int(n_complaints > 0)


if __name__ == "__main__":
    raise SystemExit(main())
