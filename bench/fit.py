"""Time a whole fit: SoftmaxRegression beside LogisticRegression of scikit-learn and of Intel's.

    python bench/fit.py            five problems, best of three; some minutes
    python bench/fit.py --quick    small ones, once; seconds

All minimise the same objective by L-BFGS with the same penalty and tolerance, on the same rows,
in turns. What each came to, the objective and the largest entry of its gradient, is computed here
in float64. Intel's is that of scikit-learn-intelex (sklearnex), where that is installed.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import click
import numpy as np
import sklearn
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from runner import usable_cpus
from scipy import sparse
from scipy.special import logsumexp
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from timing import extra_peak, settle_seconds

import logitless as ll
from logitless.sklearn import SoftmaxRegression

try:
    from sklearnex.linear_model import LogisticRegression as IntelRegression
except ImportError:
    IntelRegression = None

BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Problem:
    """Rows to fit, and how closely.

    Gradients are of the mean loss: the more classes, the smaller each entry, and `tol` with it.
    """

    name: str
    rows: Callable[[], tuple[np.ndarray, np.ndarray]]
    tol: float = 1e-4
    C: float = 1.0


def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x / 16, y


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    """Features of 1e-3 to 4e3, as they are."""
    return load_breast_cancer(return_X_y=True)


def made(m: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal features, and labels drawn from the softmax of a linear layer of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), np.float32)
    weight = rng.standard_normal((n, k), np.float32) * np.float32(3 / np.sqrt(k))
    return x, ll.LinearHead(weight).sample(x, rng)[:, 0]


def text(m: int, k: int, n: int, length: int) -> tuple[sparse.csr_array, np.ndarray]:
    """Words by tf-idf: common ones in all texts, and a few that are common in those of a class."""
    rng = np.random.default_rng(0)
    often = 1 / np.arange(1, k + 1) ** 1.07
    often /= often.sum()
    y = rng.integers(n, size=m)
    own = np.stack([rng.permutation(k) for _ in range(n)])
    words = np.concatenate([rng.choice(k, (m, length), p=often),
                            own[y[:, None], rng.choice(k, (m, length // 4), p=often)]], axis=1)
    counts = sparse.csr_array((np.ones(words.size), words.ravel(),
                               np.arange(m + 1) * words.shape[1]), shape=(m, k))
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts), y


def problem(m: int, k: int, n: int, tol: float = 1e-4) -> Problem:
    return Problem(f"{m:,} x {k:,} x {n:,}", lambda: made(m, k, n), tol)


FULL = (Problem("digits", digits), Problem("breast cancer", breast_cancer),
        problem(60_000, 784, 10), problem(20_000, 512, 1_000, tol=1e-6),
        Problem("20,000 x 130,000 x 20, sparse", lambda: text(20_000, 130_000, 20, 130)))
QUICK = (*FULL[:2], problem(2_000, 64, 10), problem(1_000, 32, 100, tol=1e-5),
         Problem("500 x 2,000 x 5, sparse", lambda: text(500, 2_000, 5, 40)))


@dataclass
class Result:
    """What a contender's fits came to."""

    seconds: float
    extra_bytes: int | None
    iterations: int
    objective: float
    gradient: float


def contenders(p: Problem, max_iter: int, threads: int) -> dict[str, Callable]:
    same = {"C": p.C, "tol": p.tol, "max_iter": max_iter}
    found = {"logitless": lambda: SoftmaxRegression(**same, n_jobs=threads),
             "scikit-learn": lambda: LogisticRegression(**same)}
    if IntelRegression:
        found["sklearnex"] = lambda: IntelRegression(**same)
    return found


def reached(model, x: np.ndarray, y: np.ndarray, C: float) -> tuple[float, float]:
    """Mean loss plus penalty and the largest entry of its gradient, in float64."""
    weight, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    index = np.searchsorted(model.classes_, y)
    total, grad_weight, grad_bias = 0.0, weight / C, np.zeros_like(bias)
    for lo in range(0, x.shape[0], BLOCK_ROWS):
        part, label = x[lo : lo + BLOCK_ROWS].astype(np.float64), index[lo : lo + BLOCK_ROWS]
        z = part @ weight.T + bias
        if len(weight) == 1:  # of the second class; the first has 0
            z = np.hstack([np.zeros_like(z), z])
        rows, lse = np.arange(len(z)), logsumexp(z, axis=1)
        total += float((lse - z[rows, label]).sum())
        off = np.exp(z - lse[:, None])
        off[rows, label] -= 1
        off = off[:, -len(weight):]
        grad_weight += (part.T @ off).T
        grad_bias += off.sum(axis=0)
    largest = max(np.abs(grad_weight).max(), np.abs(grad_bias).max())
    return (total + 0.5 * float((weight**2).sum()) / C) / len(y), float(largest) / len(y)


def measure(p: Problem, dtype: str, rounds: int, max_iter: int, threads: int,
            progress: Progress) -> dict[str, Result]:
    """Fit each in turns: once for memory and what it reaches, then for time."""
    task = progress.add_task(f"{p.name}: made", total=None)
    x, y = p.rows()
    x = x.astype(dtype)
    results = {}
    makers = contenders(p, max_iter, threads)
    for round_ in range(rounds + 1):
        for name, make in makers.items():
            progress.update(task, description=f"{p.name}: {name}, {round_} of {rounds}")
            model = make()
            if round_ == 0:
                extra = extra_peak(lambda model=model: model.fit(x, y))
                results[name] = Result(np.inf, extra, int(np.max(model.n_iter_)),
                                       *reached(model, x, y, p.C))
                continue
            time.sleep(settle_seconds(threads))
            start = time.perf_counter()
            model.fit(x, y)
            results[name].seconds = min(results[name].seconds, time.perf_counter() - start)
    progress.remove_task(task)
    return results


def show(console: Console, measured: dict[str, dict[str, Result]]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("m x k x n", ""):
        table.add_column(name, no_wrap=True)
    for name in ("fit", "steps", "a step", "memory", "objective", "gradient"):
        table.add_column(name, justify="right", no_wrap=True)
    for shape, results in measured.items():
        for name, r in results.items():
            memory = "" if r.extra_bytes is None else f"{r.extra_bytes / 2**20:,.0f} MiB"
            table.add_row(shape, name, f"{r.seconds:.3g} s", f"{r.iterations}",
                          f"{r.seconds / r.iterations * 1e3:.3g} ms", memory,
                          f"{r.objective:.6f}", f"{r.gradient:.1e}")
    console.print(table)


@click.command()
@click.option("--quick", is_flag=True, help="Small problems, one fit each.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32",
              show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True,
              help="Timed fits of each; the best counts.")
@click.option("--max-iter", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="Of all, BLAS and OpenMP included; the process is pinned to as many CPUs.")
def main(quick: bool, dtype: str, rounds: int, max_iter: int, threads: int) -> None:
    """Time whole fits beside scikit-learn."""
    if hasattr(os, "sched_setaffinity"):  # the threads of Intel's heed nothing else
        os.sched_setaffinity(0, usable_cpus()[-threads:])
    warnings.simplefilter("ignore", ConvergenceWarning)  # the objectives tell
    console = Console(highlight=False)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    measured = {}
    with (threadpool_limits(threads), ll.threads(threads),
          Progress(*columns, console=Console(stderr=True), transient=True) as progress):
        for p in QUICK if quick else FULL:
            measured[p.name] = measure(p, dtype, 1 if quick else rounds, max_iter, threads,
                                       progress)
    intel = ("sklearnex " + version("scikit-learn-intelex") if IntelRegression
             else "no sklearnex")
    console.print(f"{dtype}, threads: {threads}; logitless {ll.__version__} "
                  f"({ll.active_isa()}), scikit-learn {sklearn.__version__}, {intel}")
    show(console, measured)
    console.print("Samples x features x classes. Steps: iterations of L-BFGS. Memory: the most a "
                  "fit held beyond its rows. Gradient: its largest entry, at the end.")


if __name__ == "__main__":
    main()
