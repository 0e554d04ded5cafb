"""`logitless bench`: this machine beside NumPy and beside what it can do."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import logitless as ll

from .._arrays.bfloat16 import BFLOAT16
from .._arrays.checks import compute_dtype, plain
from .._parallel import pool
from ..limits import MachineLimits
from .demo import best_times, settle

# samples x features x classes: few classes, a recommender, a language model, one of its tokens
DEFAULT_SHAPES = ((50_000, 64, 10), (512, 64, 100_000), (256, 768, 50_257), (1, 768, 50_257))
SECONDS_PER_SHAPE = 3.0
TOLERANCE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32), "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16), "bfloat16": BFLOAT16}


@dataclass(frozen=True)
class Timed:
    """One shape (m, k, n): seconds of ours and of NumPy, and what had to be done in them."""

    shape: tuple[int, int, int]
    ours: float
    numpy: float
    flops: int
    read_bytes: int

    def limit(self, gflops: float, read_gb_s: float) -> float:
        """Shortest time that a machine of this speed allows."""
        return max(self.flops / gflops, self.read_bytes / read_gb_s) / 1e9


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read "MxKxN": samples, features, classes.

    Raises
    ------
    ValueError
        It is not three positive integers, or no memory could hold it.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(f"a shape is MxKxN (samples x features x classes), got {text!r}")
    m, k, n = map(int, parts)
    if max(m * k, n * k, m * n) * 8 > sys.maxsize:
        raise ValueError(f"a shape must fit into memory, got {text!r}")
    return m, k, n


def numpy_loss(x: np.ndarray, weight: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute the loss of each row as one writes it in NumPy with care: in place, shifted."""
    logits = x @ weight.T
    target_logit = logits[np.arange(len(x)), target]
    best = logits.max(axis=1)
    logits -= best[:, None]
    np.exp(logits, out=logits)
    return np.log(logits.sum(axis=1)) + best - target_logit


def run(console: Console, shapes: Iterable[tuple[int, int, int]], dtype: str,
        threads: int | None) -> None:
    """Time the loss of random inputs of some shapes and print a table.

    Parameters
    ----------
    console : rich Console
    shapes : iterable of (m, k, n)
    dtype : {"float32", "float64", "float16", "bfloat16"}
        Of samples and weights. NumPy has those of 16 bits in float32, widened beforehand.
    threads : int, optional
        Of logitless; NumPy's are those of its BLAS.

    Raises
    ------
    click.ClickException
        logitless and NumPy give different results.
    """
    threads = pool.resolve(threads)
    limits = [ll.machine_limits(threads)]
    times = []
    for shape in shapes:
        times.append(measure(shape, DTYPES[dtype], threads))
        settle(threads)
        limits.append(ll.machine_limits(threads))
    # The best seen before, between and after: a slow moment of the machine flatters nobody.
    peak = max(gflops_limit(found, dtype) for found in limits)
    read = max(found.read_gb_s for found in limits)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("shape", "logitless", "NumPy", "speedup", "of limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in times:
        table.add_row("x".join(map(str, t.shape)), _microseconds(t.ours), _microseconds(t.numpy),
                      f"{t.numpy / t.ours:.2f}x", f"{t.limit(peak, read) / t.ours:.0%}")
    widened = ", samples and weights widened to float32 beforehand" if "16" in dtype else ""
    console.print(f"Time of the loss of each sample, {dtype}; shapes are samples x features x "
                  "classes")
    console.print(table)
    console.print(f"Best of several, in turns. logitless: {ll.active_isa()}, threads: {threads}, "
                  f"weights packed beforehand; NumPy {np.__version__}, threads: those of its "
                  f"BLAS{widened}. The limit is {peak:,.0f} GFLOP/s or {read:,.0f} GB/s as "
                  "measured in between, whichever takes longer; above 100 % the data was in the "
                  "caches.")


def gflops_limit(limits: MachineLimits, dtype: str) -> float:
    """Peak of the products that a loss in this dtype is made of."""
    if dtype == "bfloat16" and limits.dot_gflops_bfloat16:
        return limits.dot_gflops_bfloat16
    return limits.fma_gflops_float64 if dtype == "float64" else limits.fma_gflops_float32


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.{0 if seconds >= 1e-4 else 1}f} us"


def measure(shape: tuple[int, int, int], dtype: np.dtype, threads: int) -> Timed:
    """Time one shape.

    Raises
    ------
    click.ClickException
        logitless and NumPy give different results.
    """
    m, k, n = shape
    rng = np.random.default_rng(0)
    wide = compute_dtype(dtype, "dtype")
    # Logits have a standard deviation of 2.
    x, weight = uniform(rng, (m, k), 2.0, dtype), uniform(rng, (n, k), 12.0 / k**0.5, dtype)
    target = rng.integers(n, size=m)
    head = ll.LinearHead(weight, n_threads=threads)
    rivals = [partial(head.loss, x, target),
              partial(numpy_loss, plain(x, wide), plain(weight, wide), target)]
    ours, theirs = (rival() for rival in rivals)
    if not np.allclose(ours, theirs, rtol=TOLERANCE[wide], atol=TOLERANCE[wide]):
        raise click.ClickException("logitless and NumPy disagree on this shape: please report "
                                   "this with the output of `logitless info`")
    fastest, by_numpy = best_times(rivals, SECONDS_PER_SHAPE, threads)
    return Timed(shape, fastest, by_numpy, 2 * m * k * n, x.nbytes + weight.nbytes)


def uniform(rng: np.random.Generator, shape: tuple[int, int], width: float,
            dtype: np.dtype) -> np.ndarray:
    """Draw numbers of some dtype between -width / 2 and width / 2."""
    a = rng.random(shape, np.float64 if dtype == np.float64 else np.float32)
    a -= 0.5
    a *= width
    if dtype != BFLOAT16:
        return a.astype(dtype, copy=False)
    return (a.view(np.uint32) >> 16).astype(np.uint16).view(dtype)
