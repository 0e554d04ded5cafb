"""The commands behind `logitless`: what the words mean and what is printed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

import logitless as ll

from . import _bench, _demo, _parallel
from .io import NpzWriter, open_array, read_head

# Unless told otherwise a block of rows grows until it takes about this long, so that the
# progress is seen to move, or is this many bytes to read; but the weights, which are read
# once a block, are never read for fewer rows than these.
BLOCK_SECONDS = (0.1, 0.4)
MIN_BLOCK_ROWS = 1024
MAX_BLOCK_BYTES = 32 << 20

InputFile = click.Path(exists=True, dir_okay=False, path_type=Path)


class InputError(click.ClickException):
    exit_code = 2


@contextlib.contextmanager
def input_errors(where: str = "") -> Iterator[None]:
    """Turn what the library says about its input into a line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, IndexError, MemoryError, OSError) as error:
        raise InputError(f"{where}{str(error) or type(error).__name__}") from error


def run(args: list[str] | None) -> int:
    """Run a command and return its exit code; what interrupts it passes through."""
    try:
        return group.main(args, prog_name="logitless", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:
        raise (abort.__cause__ or KeyboardInterrupt()) from None
    except OSError as error:
        what = "cannot write to standard output: " if error.filename is None else ""
        print(f"Error: {what}{error}", file=sys.stderr)
        return 2


def _version() -> str:
    try:
        return metadata.version("logitless")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="logitless", message="%(prog)s %(version)s")
def group() -> None:
    """Softmax losses, predictions and top k of a linear layer, in one pass over its weights."""


@group.command()
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH",
              default="logitless-demo.png", show_default=True,
              help="Where the picture of the hardest digits goes, if matplotlib is installed.")
def demo(plot: Path) -> None:
    """Fit a head to handwritten digits that ship here; score others, also with NumPy."""
    with input_errors():
        _parallel.resolve()  # or a message about what the environment asks for
    _demo.run(Console(highlight=False, markup=False), plot)


@group.command()
@click.argument("head", type=InputFile)
@click.argument("x", type=InputFile)
@click.argument("target", type=InputFile, required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="OUT.npz",
              help="Written when all is done; an existing file is replaced.")
@click.option("--topk", type=click.IntRange(min=0), default=0, show_default=True,
              help="Also the K best classes of each row.", metavar="K")
@click.option("--softcap", type=float, metavar="C", help="Logits become C tanh(z / C).")
@click.option("--temperature", type=float, metavar="T", help="Logits are divided by T.")
@click.option("--ignore-index", type=int, default=-100, show_default=True, metavar="I",
              help="Rows with this target have loss 0 and do not count.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="As many as the process may use unless given.")
@click.option("--block-rows", type=click.IntRange(min=1), metavar="N",
              help="Rows read and scored at a time; found by their speed unless given.")
def score(head: Path, x: Path, target: Path | None, out: Path, topk: int, softcap: float | None,
          temperature: float | None, ignore_index: int, threads: int | None,
          block_rows: int | None) -> None:
    """Score the rows of X with HEAD, against TARGET if given.

    HEAD is a linear layer: a .npz with weight (n, k) and, if it has them, bias (n,),
    softcap and temperature; or a .npy with the weight. X (m, k) and TARGET (class
    indices (m,), or probabilities (m, n)) are .npy files, read a block of rows at a
    time, or .npz files with a single array or one named x or target.

    OUT gets loss (with TARGET), predicted, max_logit and lse, each (m,), and with
    --topk top_index and top_log_prob (m, K). The probability of the prediction is
    exp(max_logit - lse). Losses are in nats.
    """
    start = time.perf_counter()
    with input_errors():
        _refuse_input_as_output(out, [head, x, target])
        stored = read_head(head)
        layer = ll.LinearHead(
            stored.weight, stored.bias, n_threads=threads,
            softcap=stored.softcap if softcap is None else softcap,
            temperature=next(t for t in (temperature, stored.temperature, 1.0) if t is not None))
        job = Job(layer, open_array(x, key="x"),
                  None if target is None else open_array(target, key="target"),
                  ignore_index=ignore_index, k=topk)
        writer = NpzWriter(out, job.leading_shape)
    with input_errors(), writer, _progress() as progress:
        totals = job.run(writer, block_rows, progress)
    _summarise(totals, time.perf_counter() - start, target is not None, out)


@dataclass
class Totals:
    """Sums over the rows: `counted` are those whose target is not ignored."""

    rows: int = 0
    no_softmax: int = 0  # rows of logits that are NaN, +inf, or -inf throughout
    counted: int = 0
    loss: float = 0.0
    correct: int | None = 0  # None with targets that are no single class

    def add(self, scores: ll.Scores, counts: np.ndarray | bool) -> None:
        """Add a block; `counts` tells the rows that do, unless all do."""
        has_softmax = np.isfinite(scores.lse)
        self.rows += has_softmax.size
        self.no_softmax += int(np.count_nonzero(~has_softmax))
        if scores.loss is None:
            return
        self.loss += float(scores.loss.sum(dtype=np.float64))
        self.counted += int(np.count_nonzero(np.broadcast_to(counts, has_softmax.shape)))
        if scores.target_rank is None:
            self.correct = None
        elif self.correct is not None:
            hits = (scores.target_rank == 0) & has_softmax & counts
            self.correct += int(np.count_nonzero(hits))


class Job:
    """Rows of `x` to score with `head`, checked; leading axes are kept in the results."""

    def __init__(self, head: ll.LinearHead, x: np.ndarray, target: np.ndarray | None, *,
                 ignore_index: int, k: int):
        if x.ndim == 0 or x.shape[-1] != head.n_features:
            raise ValueError(f"X must have shape (..., {head.n_features}), which is what HEAD "
                             f"takes, got {x.shape}")
        self.head, self.ignore_index, self.k = head, ignore_index, k
        self.leading_shape = x.shape[:-1]
        self.rows = int(np.prod(self.leading_shape, dtype=np.int64))
        self.x = x.reshape(self.rows, head.n_features)
        self.target = None
        self.of_classes = target is not None and target.dtype.kind in "iu"
        if target is not None:
            tail = () if self.of_classes else (head.n_classes,)
            _check_target(target, self.leading_shape, head.n_classes)
            self.target = target.reshape(self.rows, *tail)
            if self.of_classes:
                self._check_labels()

    def _check_labels(self) -> None:
        # All of them before the first block is scored, by the number of their row in the file.
        n, ignored = self.head.n_classes, self.ignore_index
        row = _first_row(self.target, lambda t: ((t < 0) | (t >= n)) & (t != ignored))
        if row is not None:
            raise IndexError(f"TARGET must be in [0, {n}) or {ignored} (ignored), got "
                             f"{self.target[row]} at row {row}")

    def run(self, writer: NpzWriter, block_rows: int | None, progress: Progress) -> Totals:
        """Score block after block into `writer`."""
        totals = Totals()
        task = progress.add_task("", total=self.rows)
        step = block_rows or MIN_BLOCK_ROWS
        end = 0
        while True:  # of no rows: one empty block, for the dtypes of the results
            begin, end = end, min(end + step, self.rows)
            start = time.perf_counter()
            with input_errors("" if end - begin == self.rows else
                              f"rows {begin} to {end - 1} (row 0 here is row {begin}): "):
                self._block(slice(begin, end), writer, totals)
            progress.advance(task, end - begin)
            if end == self.rows:
                return totals
            if block_rows is None:
                step = self._next_step(step, time.perf_counter() - start)

    def _next_step(self, step: int, seconds: float) -> int:
        if seconds > BLOCK_SECONDS[1]:
            return max(step // 2, MIN_BLOCK_ROWS)
        row_bytes = self.x[:1].nbytes + (0 if self.target is None else self.target[:1].nbytes)
        if seconds < BLOCK_SECONDS[0] and 2 * step * row_bytes <= MAX_BLOCK_BYTES:
            return 2 * step
        return step

    def _block(self, rows: slice, writer: NpzWriter, totals: Totals) -> None:
        t = None if self.target is None else self.target[rows]
        scores = self.head.score(self.x[rows], t, k=self.k, ignore_index=self.ignore_index)
        writer.append(predicted=scores.predicted, max_logit=scores.max_logit, lse=scores.lse)
        if self.k:
            writer.append(top_index=scores.top.index, top_log_prob=scores.top.log_prob)
        if t is not None:
            writer.append(loss=scores.loss)
        totals.add(scores, t != self.ignore_index if self.of_classes else True)


def _first_row(target: np.ndarray, is_bad: Callable[[np.ndarray], np.ndarray]) -> int | None:
    for begin in range(0, len(target), 1 << 20):
        bad = is_bad(target[begin : begin + (1 << 20)])
        if bad.any():
            return begin + int(bad.argmax())
    return None


def _check_target(target: np.ndarray, lead: tuple[int, ...], n: int) -> None:
    """Refuse what is neither class indices nor class probabilities by what it seems to be."""
    whole, shape, soft = target.dtype.kind in "iu", target.shape, (*lead, n)
    if target.dtype.kind != "b" and shape == (lead if whole else soft):
        return
    what = f"TARGET ({target.dtype}, {shape})"
    if shape == soft:
        raise ValueError(f"{what} must be floats to be class probabilities: "
                         "`.astype(np.float32)`; `.argmax(axis=-1)` makes class indices of "
                         "one-hot rows")
    if shape == lead:
        raise ValueError(f"{what} must be integers to be class indices: {_whole(target)}")
    if len(shape) == len(lead) and shape[1:] == lead[1:]:
        raise ValueError(f"{what} must have a class for each row of X, of which there are "
                         f"{lead[0]}, got {shape[0]}")
    hint = f"; `.reshape({lead})` makes that of it" if target.size == math.prod(lead) else ""
    raise ValueError(f"{what} must have shape {lead} for class indices (integers){hint}, or "
                     f"{soft} for class probabilities (floats)")


def _whole(target: np.ndarray) -> str:
    """Tell how floats or bools become class indices, or why they are none."""
    t = target.reshape(-1)
    row = _first_row(t, lambda t: (t != np.floor(t)) | np.isinf(t))  # NaN, too
    if row is None:
        return "`.astype(np.int64)` makes them that"
    return f"got {t[row]} at row {row}"


def _refuse_input_as_output(out: Path, inputs: list[Path | None]) -> None:
    for path in inputs:
        if path is not None and out.exists() and os.path.samefile(out, path):
            raise ValueError(f"{out}: OUT must not be one of the inputs")


class RateColumn(ProgressColumn):
    """Rows a second."""

    def render(self, task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")


def _progress() -> Progress:
    return Progress(BarColumn(), TextColumn("{task.percentage:>3.0f} %"), RateColumn(),
                    TimeRemainingColumn(), console=Console(stderr=True),
                    disable=not sys.stderr.isatty(), transient=True)


def _summarise(totals: Totals, seconds: float, with_loss: bool, out: Path) -> None:
    lines = [("rows", f"{totals.rows:,}")]
    if totals.no_softmax:
        lines.append(("no softmax", f"{totals.no_softmax:,} rows"))
    if with_loss and totals.counted != totals.rows:
        lines.append(("counted", f"{totals.counted:,}"))
    if with_loss and totals.counted:
        mean = totals.loss / totals.counted
        with np.errstate(over="ignore"):
            lines += [("mean loss", f"{mean:.6g} nats"), ("perplexity", f"{np.exp(mean):.6g}")]
        if totals.correct is not None:
            lines.append(("accuracy", f"{totals.correct / totals.counted:.2%}"))
    lines += [("time", f"{seconds:.3g} s, {totals.rows / seconds:,.0f} rows/s"),
              ("written to", str(out))]
    _print_pairs(lines)


@group.command()
@click.option("--shape", "shapes", multiple=True, metavar="MxKxN",
              help="Samples x features x classes; may be given several times.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32",
              show_default=True)
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Of logitless: as many as the process may use unless given.")
def bench(shapes: tuple[str, ...], dtype: str, threads: int | None) -> None:
    """Time this machine beside NumPy and beside its own limit."""
    with input_errors():
        _bench.run(Console(highlight=False, markup=False),
                   [_bench.parse_shape(shape) for shape in shapes] or _bench.DEFAULT_SHAPES,
                   dtype, threads)


@group.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(as_json: bool) -> None:
    """Tell the engine, instruction sets, threads and limits."""
    facts = _facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    lines = [("logitless", facts["version"]), ("NumPy", facts["numpy"]),
             ("Python", facts["python"]), ("engine", facts["engine"]),
             ("instruction set", f"{facts['isa']} (available: {', '.join(facts['isas'])})"),
             ("threads", f"{facts['threads']} ({facts['threads_reason']})")]
    limits = facts["limits"]
    lines += [("FMA peak", f"{limits['fma_gflops_float32']:,.1f} GFLOP/s in float32, "
                           f"{limits['fma_gflops_float64']:,.1f} in float64, of these threads"),
              ("memory read", f"{limits['read_gb_s']:,.1f} GB/s")]
    _print_pairs(lines)


def _facts() -> dict:
    isa = ll.active_isa()
    with input_errors():  # what the environment asks for may be wrong
        threads = _parallel.resolve()
    return {"version": _version(), "numpy": np.__version__,
            "python": platform.python_version(),
            "engine": "numpy" if isa == "numpy" else "compiled",
            "isa": isa, "isas": list(ll.available_isas()),
            "threads": threads, "threads_reason": _threads_reason(),
            "limits": asdict(ll.machine_limits())}


def _threads_reason() -> str:
    if value := os.environ.get("LOGITLESS_NUM_THREADS"):
        return f"LOGITLESS_NUM_THREADS={value}"
    value = os.environ.get("OMP_NUM_THREADS", "")
    if value.split(",")[0].strip().strip("0").isdigit():
        return f"OMP_NUM_THREADS={value}"
    return "the CPUs this process may use"


def _print_pairs(lines: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        click.echo(f"{name:<{width}}{value}")
