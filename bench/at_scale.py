"""Time sparse rows, classes that rows exclude, and states that are merged.

    python bench/at_scale.py            a minute or two
    python bench/at_scale.py --quick    small shapes; seconds

Each beside what one would use without: SciPy's product of sparse rows and a softmax, the same
calls without `exclude`, one head in place of states. All in one process, in turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise

import click
import numpy as np
import scipy
from rich.console import Console
from rich.table import Table
from runner import usable_cpus
from scipy import sparse
from scipy.special import log_softmax, logsumexp
from threadpoolctl import threadpool_limits
from timing import interleave, settle_seconds

import logitless as ll

SHARDS = 64

Calls = dict[str, Callable[[], np.ndarray]]
Group = tuple[str, Calls, np.ndarray | None]  # what, its calls, and the losses in float64


def sparse_losses(m: int, k: int, n: int, entries: int) -> Group:
    """Losses of rows with so many entries each; features come as words do."""
    rng = np.random.default_rng(0)
    often = 1 / np.arange(1, k + 1)
    words = rng.choice(k, (m, entries), p=often / often.sum())
    x = sparse.csr_array((rng.random(m * entries, np.float32), words.ravel(),
                          np.arange(m + 1) * entries), shape=(m, k))
    x.sum_duplicates()
    weight = rng.standard_normal((n, k), np.float32)
    target, rows, turned = rng.integers(n, size=m), np.arange(m), np.ascontiguousarray(weight.T)
    packed = ll.LinearHead(weight)
    z = x.astype(np.float64) @ weight.T.astype(np.float64)
    calls: Calls = {
        "packed head": lambda: packed.loss(x, target),
        "function": lambda: ll.linear_cross_entropy(x, weight, target),
        "SciPy's product and log_softmax": lambda: -log_softmax(x @ turned, axis=1)[rows, target],
        "SciPy's product alone": lambda: x @ turned,
    }
    what = f"losses of sparse rows, {m:,} x {k:,} x {n:,}, {entries} entries a row"
    return what, calls, logsumexp(z, axis=1) - z[rows, target]


def exclusions(m: int, k: int, n: int, seen: int, screen: str | None) -> Group:
    """The ten best classes of those that a row has not seen."""
    rng = np.random.default_rng(0)
    head = ll.LinearHead(rng.standard_normal((n, k), np.float32), screen=screen)
    x = rng.standard_normal((m, k), np.float32)
    index = rng.integers(n, size=(m, seen))
    exclude = sparse.csr_array((np.ones(m * seen, bool), index.ravel(),
                                np.arange(m + 1) * seen), shape=(m, n))
    every = rng.random(n) < 0.01
    calls: Calls = {
        "all": lambda: head.topk(x, 10, normalize=False).index,
        f"but {seen} a row": lambda: head.topk(x, 10, normalize=False, exclude=exclude).index,
        "but 1 % of all": lambda: head.topk(x, 10, normalize=False, exclude=every).index,
    }
    how = "screened" if screen else "dense"
    return f"ten best classes, {how}, {m:,} x {k:,} x {n:,}", calls, None


def merging(m: int, k: int, n: int) -> Group:
    """Everything that `score` gives, of one head, of 64 shards, and what merging takes of that."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((n, k), np.float32)
    x, target = rng.standard_normal((m, k), np.float32), rng.integers(n, size=m)
    head, known = ll.LinearHead(weight), ll.RowState.target_logits(x, weight, target)

    def shards() -> list[ll.RowState]:
        return [ll.RowState.of(x, weight[lo:hi], first=int(lo), target=target, k=10,
                               target_logit=known)
                for lo, hi in pairwise(ll.shard_bounds(n, SHARDS))]

    def merged(states: list[ll.RowState]) -> np.ndarray:
        first = states[0].__copy__()
        for state in states[1:]:
            first.merge(state)
        return first.scores().loss

    made = shards()
    calls: Calls = {
        "one head": lambda: head.score(x, target, k=10).loss,
        f"{SHARDS} states": lambda: shards()[0].nbytes,
        "merging them": lambda: merged(made),
    }
    wide = x.astype(np.float64), weight.astype(np.float64)
    exact = ll.linear_cross_entropy(*wide[:1], wide[1], target)
    return f"scores with ranks and ten best, {m:,} x {k:,} x {n:,}", calls, exact


FULL = (
    lambda: sparse_losses(5_000, 20_000, 50, 20),
    lambda: sparse_losses(20_000, 130_000, 20, 100),
    lambda: sparse_losses(20_000, 100_000, 1_000, 100),
    lambda: exclusions(4_096, 64, 100_000, 50, None),
    lambda: exclusions(4_096, 64, 100_000, 50, "int8"),
    lambda: exclusions(32, 64, 100_000, 50, "int8"),
    lambda: merging(1_024, 256, 64 * 4_096),
)
QUICK = (
    lambda: sparse_losses(500, 2_000, 50, 20),
    lambda: exclusions(64, 64, 10_000, 50, None),
    lambda: merging(16, 16, 64 * 4_096),
)


def timed(calls: Calls, seconds: float, threads: int) -> tuple[dict[str, float], dict]:
    """Best time of each call, and what it gave."""
    first, given = {}, {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        given[name] = call()
        first[name] = time.perf_counter() - start
    samples = interleave(dict(calls), first, seconds, settle_seconds(threads))
    return {name: min(times) for name, times in samples.items()}, given


@click.command()
@click.option("--quick", is_flag=True, help="Small shapes.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True,
              help="For each call.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="Of all; the process is pinned to as many CPUs.")
def main(quick: bool, seconds: float, threads: int) -> None:
    """Time what comes with millions of rows and classes."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable_cpus()[-threads:])
    console = Console(highlight=False, width=120)
    console.print(f"float32, threads: {threads}; logitless {ll.__version__} ({ll.active_isa()}), "
                  f"SciPy {scipy.__version__}")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("samples x features x classes", ""):
        table.add_column(name)
    for name in ("time", "of the first", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    with threadpool_limits(threads), ll.threads(threads):
        for make in QUICK if quick else FULL:
            what, calls, exact = make()
            best, given = timed(calls, 0.1 if quick else seconds, threads)
            base = next(iter(best.values()))
            for name, each in best.items():
                got, error = given[name], ""
                if exact is not None and np.shape(got) == exact.shape:
                    error = f"{np.abs(got - exact).max():.1e}"
                table.add_row(what, name, f"{each * 1e3:.3g} ms", f"{each / base:.3g}", error)
                what = ""
    console.print(table)
    console.print("Error: the largest of a loss, against the same numbers in float64.")


if __name__ == "__main__":
    main()
