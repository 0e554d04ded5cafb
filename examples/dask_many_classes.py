"""Millions of rows against 100,000 classes on workers of Dask, and what two are to one.

``python examples/dask_many_classes.py`` takes minutes; ``--rows 100000`` a few seconds. Workers are
processes of one thread here; the address of a cluster's scheduler in `Client` makes them machines.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import dask
import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import logitless as ll
import logitless.dask

FEATURES, CLASSES, SHARDS, ROWS_OF_CHUNK, BEST = 64, 100_000, 4, 8192, 10


def arrays(rows):
    """Rows, weights and targets, none of which is anywhere as a whole."""
    rng = da.random.default_rng(0)
    shards = tuple(np.diff(ll.shard_bounds(CLASSES, SHARDS)).tolist())
    x = rng.standard_normal((rows, FEATURES), chunks=(ROWS_OF_CHUNK, FEATURES), dtype=np.float32)
    weight = rng.standard_normal((CLASSES, FEATURES), chunks=(shards, FEATURES),
                                 dtype=np.float32) / 4
    return x, weight, rng.integers(0, CLASSES, rows, chunks=ROWS_OF_CHUNK)


def peak_memory():
    """Largest memory of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)


def scored(rows, workers):
    """Loss, rank and best classes of all rows: what each sums up to, seconds, memory."""
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, \
            Client(cluster) as client:
        x, weight, target = arrays(rows)
        (weight,) = client.persist([weight])
        before = client.run(peak_memory)
        scores = logitless.dask.score(x, weight, target, k=BEST)
        start = time.perf_counter()
        sums = dask.compute(scores.loss.sum(dtype=np.float64), scores.target_rank.sum(),
                            scores.top.index.sum())
        seconds = time.perf_counter() - start
        more = max(after - before[worker] for worker, after in client.run(peak_memory).items())
    return [number.item() for number in sums], seconds, more


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--scaling-rows", type=int, default=200_000)
    given = options.parse_args()

    print(f"{given.rows:,} rows x {FEATURES} x {CLASSES:,} classes: the logits would take "
          f"{given.rows * CLASSES * 4 / 1e9:,.0f} GB")
    sums, seconds, memory = scored(given.rows, 2)
    print(f"2 workers: {seconds:.1f} s, {given.rows / seconds:,.0f} rows/s, "
          f"{memory:.0f} MiB more a worker")
    print(f"mean loss {sums[0] / given.rows:.4f} nats, mean rank {sums[1] / given.rows:,.0f}")

    rows = given.scaling_rows
    one, two = scored(rows, 1), scored(rows, 2)
    assert one[0] == two[0], "the sums depend on the workers"
    print(f"{rows:,} rows: 1 worker {one[1]:.2f} s, 2 workers {two[1]:.2f} s, "
          f"{one[1] / two[1]:.2f} times as fast, the same sums")


if __name__ == "__main__":
    main()
