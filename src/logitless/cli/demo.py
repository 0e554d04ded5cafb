"""The demo: a head fitted to real digits, others scored in one pass, also beside NumPy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.columns import Columns
from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

import logitless as ll

from .._parallel import pool
from ..io import open_packaged

N_FITTED = 1200  # the others take no part in the fit
N_HARDEST = 10
TILED_ROWS = 100_000
SECONDS_PER_SHAPE = 0.4
SPIN_SECONDS = 0.25  # threads of BLAS and OpenMP keep a core that long after a call, at most


@dataclass(frozen=True)
class Sample:
    """One digit and what the head makes of it."""

    index: int
    pixels: np.ndarray
    target: int
    predicted: int
    loss: float
    p_target: float
    p_predicted: float


class Failure(click.ClickException):
    """What keeps the demo from its end, told in one line."""

    exit_code = 2


def run(console: Console, plot: Path) -> None:
    """Fit a head to some digits, score the others, show the hardest, time it beside NumPy.

    Parameters
    ----------
    console : rich Console
        Where it is printed; its width is kept.
    plot : Path
        Where the picture of the hardest digits goes, if matplotlib is there.

    Raises
    ------
    click.ClickException
        scikit-learn is missing, logitless and NumPy give different results, or the
        picture cannot be written.
    """
    estimator = softmax_regression()
    digits = open_packaged("digits.npz")
    pixels, target = digits["x"], digits["target"]
    x = pixels.astype(np.float32) / 16
    console.print("Handwritten digits of 8x8 pixels: E. Alpaydin and C. Kaynak, Optical "
                  "Recognition of Handwritten Digits, UCI, 1998 (CC BY 4.0).")
    start = time.perf_counter()
    model = fit(estimator, x[:N_FITTED], target[:N_FITTED])
    seconds = time.perf_counter() - start

    pixels, x, target = pixels[N_FITTED:], x[N_FITTED:], target[N_FITTED:]
    head = ll.LinearHead.from_estimator(model)
    scores = head.score(x, target)
    assert scores.loss is not None  # as there are targets
    console.print(f"A head of {head.n_classes} classes and {head.n_features} features was fitted "
                  f"to the first {N_FITTED:,} digits by {model.n_iter_[0]} iterations in "
                  f"{seconds:.2f} s; scored here, in one pass, are the other {len(x)}, which it "
                  "has not seen.\n")
    right = int(np.count_nonzero(scores.predicted == target))
    console.print(f"accuracy    {scores.accuracy:.1%}  ({right} of {len(x)})\n"
                  f"mean loss   {scores.loss.mean(dtype=np.float64):.4f} nats\n"
                  f"perplexity  {scores.perplexity:.4f}\n")

    samples = hardest(scores, pixels, target)
    console.print(f"The {len(samples)} hardest")
    console.print(_sample_table(samples, gap=1 if console.width < 45 else 2))
    console.print()
    console.print(_drawings(samples, console))
    _time(console, model.coef_, model.intercept_, x, target)
    _picture(console, samples, plot)


def softmax_regression() -> type:
    """Import the class that is fitted, or say how to get what it needs."""
    try:
        from ..sklearn import SoftmaxRegression
    except ImportError as error:
        raise Failure(f"the demo needs scikit-learn 1.6 or newer ({error}): "
                       'pip install "logitless[cli,sklearn]"') from error
    return SoftmaxRegression


def fit(estimator: type, x: np.ndarray, target: np.ndarray) -> Any:
    """Fit it to these rows, under a line of progress on a terminal."""
    line = TextColumn("Fitting: iteration {task.completed}, loss {task.fields[loss]}")
    with Progress(line, console=Console(stderr=True), transient=True,
                  disable=not (sys.stderr and sys.stderr.isatty())) as progress:
        task = progress.add_task("", total=None, loss="")
        return estimator(verbose=lambda iteration, loss: progress.update(
            task, completed=iteration, loss=f"{loss:.4f}")).fit(x, target)


def hardest(scores: ll.Scores, pixels: np.ndarray, target: np.ndarray) -> list[Sample]:
    """Pick the samples with the largest loss, the largest first."""
    assert scores.loss is not None  # as there were targets
    rows = np.argsort(-scores.loss, kind="stable")[:N_HARDEST]
    p_target = np.exp(-scores.loss)
    p_predicted = np.exp(scores.max_logit - scores.lse)
    return [Sample(N_FITTED + int(i), pixels[i].reshape(8, 8), int(target[i]),
                   int(scores.predicted[i]), float(scores.loss[i]), float(p_target[i]),
                   float(p_predicted[i])) for i in rows]


def _sample_table(samples: list[Sample], gap: int) -> Table:
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False)
    for name in ("index", "target", "its p", "predicted", "its p", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in samples:
        table.add_row(str(s.index), str(s.target), f"{s.p_target:.3f}", str(s.predicted),
                      f"{s.p_predicted:.3f}", f"{s.loss:.2f}")
    return table


def _drawings(samples: list[Sample], console: Console) -> Columns:
    # Shades, not colours: they survive a pipe, a log and any theme. A cell is
    # about twice as tall as wide, so a pixel is two cells.
    shades = " .:oO@" if console.options.ascii_only else " ░▒▓█"

    def draw(s: Sample) -> Text:
        level = (s.pixels.astype(int) * (len(shades) - 1) + 8) // 16
        lines = ["".join(shades[v] * 2 for v in row) for row in level]
        caption = f"{s.index}: {s.target}, not {s.predicted}"
        if s.target == s.predicted:
            caption = f"{s.index}: {s.target}"
        return Text("\n".join([caption, *lines, ""]), no_wrap=True)

    return Columns([draw(s) for s in samples], width=16, padding=(0, 3))


def numpy_score(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and prediction as one writes them in NumPy with care: in place, shifted by the max."""
    logits = x @ weight.T
    logits += bias
    predicted = logits.argmax(axis=1)
    rows = np.arange(len(x))
    best = logits[rows, predicted]
    target_logit = logits[rows, target]
    logits -= best[:, None]
    np.exp(logits, out=logits)
    return np.log(logits.sum(axis=1)) + best - target_logit, predicted


def _time(console: Console, weight: np.ndarray, bias: np.ndarray, x: np.ndarray,
          target: np.ndarray) -> None:
    head = ll.LinearHead(weight, bias)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("rows", "logitless", "NumPy", "speedup"):
        table.add_column(name, justify="right", no_wrap=True)
    for rows in (np.arange(len(x)), np.arange(TILED_ROWS) % len(x)):
        some, labels = x[rows], target[rows]
        rivals: list[Callable[[], Any]] = [
            partial(head.score, some, labels), partial(numpy_score, some, weight, bias, labels)]
        _check_agreement(*(rival() for rival in rivals))
        ours, theirs = best_times(rivals, SECONDS_PER_SHAPE, pool.resolve())
        table.add_row(f"{len(rows):,}", _seconds(ours), _seconds(theirs), f"{theirs / ours:.2f}x")

    n, k = weight.shape
    console.print(f"Time of loss and prediction: {k} features, {n} classes, float32")
    console.print(table)
    console.print(f"Best of several, in turns; the rows of {TILED_ROWS:,} are the others repeated. "
                  f"logitless: {ll.active_isa()}, threads: {pool.resolve()}; NumPy "
                  f"{np.__version__}, threads: those of its BLAS. Both gave the same results.\n")


def _check_agreement(scores: ll.Scores, by_numpy: tuple[np.ndarray, np.ndarray]) -> None:
    loss, predicted = by_numpy
    assert scores.loss is not None
    if not (np.array_equal(scores.predicted, predicted)
            and np.allclose(scores.loss, loss, rtol=1e-4, atol=1e-5)):
        raise click.ClickException("logitless and NumPy disagree on these digits: please report "
                                   "this with the output of `logitless info`")


def best_times(functions: Sequence[Callable[[], object]], seconds: float,
               n_threads: int) -> list[float]:
    """Time functions in turns, so that a slow moment of the machine hits all; seconds, best of.

    On several threads a turn comes after a pause and takes as long: threads of one library that
    still spin would slow the other down.
    """
    best = [float("inf")] * len(functions)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for i, function in enumerate(functions):
            best[i] = min(best[i], _best_of_turn(function, settle(n_threads)))
        rounds += 1
    return best


def settle(n_threads: int) -> float:
    """Wait for threads that still spin, where several are at work; the seconds that it took."""
    pause = SPIN_SECONDS if n_threads > 1 else 0.0
    time.sleep(pause)
    return pause


def _best_of_turn(function: Callable[[], object], seconds: float) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best


def _seconds(t: float) -> str:
    return f"{t * 1e6:.0f} us" if t < 1e-3 else f"{t * 1e3:.2f} ms"


def _picture(console: Console, samples: list[Sample], path: Path) -> None:
    try:
        # Figure without pyplot: Agg by itself, no window system, no global state.
        from matplotlib.figure import Figure
    except ImportError:
        console.print('For a picture of the hardest ten: pip install "logitless[plot]"')
        return
    figure = Figure(figsize=(10, 5), layout="constrained")
    figure.suptitle(f"The {len(samples)} hardest of the digits the head has not seen")
    for s, axes in zip(samples, figure.subplots(2, 5).flat, strict=True):
        axes.imshow(s.pixels, cmap="gray_r", vmin=0, vmax=16)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{s.index}: is {s.target}, p = {s.p_target:.3f}\n"
                       f"predicted {s.predicted}, p = {s.p_predicted:.3f}", fontsize=9)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise Failure(f"cannot write the picture: {error}") from error
    console.print(f"Wrote a picture of the hardest ten to {path}")
