"""The commands behind `logitless`: what the words mean and what is printed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

import logitless as ll

from .._engines.choice import engine
from .._parallel import pool
from . import bench as timing
from . import demo as demonstration
from .errors import input_errors
from .evaluation import Evaluation, as_json, show
from .files import InputFile, Source, refuse_as_output
from .given import Given, of_scores
from .part import Part
from .scoring import Job, Totals, append_scores
from .writing import writer_of


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ll.__version__, prog_name="logitless", message="%(prog)s %(version)s")
def group() -> None:
    """Softmax losses, predictions and top k of a linear layer, in one pass over its weights."""


@group.command()
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="PATH",
              default="logitless-demo.png", show_default=True,
              help="Where the picture of the hardest digits goes, if matplotlib is installed.")
def demo(plot: Path) -> None:
    """Fit a head to handwritten digits that ship here; score others, also with NumPy."""
    with input_errors():
        pool.resolve()  # or a message about what the environment asks for
    demonstration.run(Console(highlight=False, markup=False), plot)


@group.command()
@click.argument("head", type=InputFile())
@click.argument("x", type=InputFile())
@click.argument("target", type=InputFile(), required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, metavar="OUT",
              help="A .npz or .parquet, written when all is done; an existing file is replaced.")
@click.option("--topk", type=click.IntRange(min=0), default=0, show_default=True,
              help="Also the K best classes of each row.", metavar="K")
@click.option("--resume", is_flag=True,
              help="Keep what is finished in OUT.part if interrupted, and go on from there.")
@click.option("--screen", is_flag=True,
              help="Find the best classes by bytes first: the same ones, sooner; no lse, no loss.")
@click.option("--fit-temperature", is_flag=True,
              help="Divide logits by what makes the mean loss least; some more passes find it.")
@of_scores
def score(head: Source, x: Source, target: Source | None, out: Path, topk: int, resume: bool,
          fit_temperature: bool, **options: Any) -> None:
    """Score the rows of X with HEAD, against TARGET if given.

    HEAD is a linear layer: a .npz with weight (n, k) and, if it has them, bias (n,),
    softcap and temperature; a .npy with the weight; a .safetensors file, or the index
    .json of several; a table with a column of lists, or columns of numbers, and if it has
    one a column named bias. FILE:KEY names the weight where the names do not tell. X
    (m, k) and TARGET (class indices (m,), or probabilities (m, n)) are .npy or
    .safetensors files, read a block of rows at a time, or .npz files: with a single
    array, one named x or target, or FILE:KEY; or what scipy.sparse.save_npz writes.

    Tables are Parquet, Arrow (Feather) and CSV files, of which a batch of rows is read at
    a time, CSV with names in the first line. X is the column of lists, or else all columns
    of numbers but TARGET's; TARGET the only column or the one named target; the index of a
    pandas frame is none of these; FILE:KEY is the column named KEY.

    OUT gets loss (with TARGET), predicted, max_logit and lse, each (m,), and with
    --topk top_index and top_log_prob (m, K); with --screen no lse, and top_logit. The
    probability of the prediction is exp(max_logit - lse). Losses are in nats.
    """
    start = time.perf_counter()
    with input_errors(), contextlib.ExitStack() as entered:
        refuse_as_output(out, [head, x, target, options["exclude"]])
        write = writer_of(out)
        given = Given(head, x, target, options)
        job = given.job(topk)
        if fit_temperature:
            job.fit_temperature()
        part = entered.enter_context(Part(out, given.identity(job))) if resume else None
        begin, totals = (0, Totals()) if part is None else part.done
        writer = entered.enter_context(
            write(out, job.leading_shape, None if part is None else part.spools))
        progress = entered.enter_context(_progress())
        task = progress.add_task("", total=job.rows, completed=begin)
        for block in job.blocks(begin):
            append_scores(writer, block.scores)
            totals = totals.plus(block.scores, block.counts)
            if part is not None:
                part.keep(block.end, totals)
            progress.advance(task, block.end - block.begin)
    _summarise(job, totals, begin, time.perf_counter() - start, out)


@group.command()
@click.argument("head", type=InputFile())
@click.argument("x", type=InputFile())
@click.argument("target", type=InputFile())
@click.option("--topk", "ks", type=click.IntRange(min=1), multiple=True, metavar="K",
              help="Look at the K best classes; may be given several times.  [default: 1, 5, 10]")
@click.option("--hardest", type=click.IntRange(min=0), default=10, show_default=True, metavar="N",
              help="Tell the N rows with the largest losses.")
@click.option("--json", "to_json", is_flag=True, help="One JSON object.")
@of_scores
def evaluate(head: Source, x: Source, target: Source, ks: tuple[int, ...], hardest: int,
             to_json: bool, **options: Any) -> None:
    """Tell how good the predictions of HEAD for the rows of X are, by TARGET.

    Files are as for `score`. Over the rows that count: mean loss and perplexity;
    accuracy; the mean rank of the target; expected calibration error; the part of the
    rows whose target is among the K best classes, and NDCG at K. Where TARGET holds
    probabilities, every class that has one is looked for: recall is the part of them
    among the K best, and NDCG weighs them.
    """
    with input_errors():
        given = Given(head, x, target, options)
        n = given.head.n_classes
        ks = ks or tuple(k for k in (1, 5, 10) if k <= n)
        job = given.job(0)
        if max(ks) > n:
            raise ValueError(f"--topk must be at most the classes of HEAD, {n}, got {max(ks)}")
        if not job.of_classes:
            job = given.job(max(ks))
    found = Evaluation(ks, hardest, job.of_classes)
    with input_errors(), _progress() as progress:
        task = progress.add_task("", total=job.rows)
        for block in job.blocks(0):
            found.add(block)
            progress.advance(task, block.end - block.begin)
    if to_json:
        click.echo(json.dumps(as_json(found.found()), indent=2))
    else:
        show(Console(highlight=False, markup=False), found.found())


class RateColumn(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        """Their number so far by the time it took."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")


def _progress() -> Progress:
    return Progress(BarColumn(), TextColumn("{task.percentage:>3.0f} %"), RateColumn(),
                    TimeRemainingColumn(), console=Console(stderr=True),
                    disable=not (sys.stderr and sys.stderr.isatty()), transient=True)


def _summarise(job: Job, totals: Totals, begin: int, seconds: float, out: Path) -> None:
    with_loss = job.target is not None
    lines = [("rows", f"{totals.rows:,}")]
    if job.temperature is not None:
        lines.append(("temperature", f"{job.temperature:.6g}"))
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
    if begin:
        lines.append(("resumed", f"behind {begin:,} rows"))
    lines += [("time", f"{seconds:.3g} s, {(totals.rows - begin) / seconds:,.0f} rows/s"),
              ("written to", str(out))]
    _print_pairs(lines)


@group.command()
@click.option("--shape", "shapes", multiple=True, metavar="MxKxN",
              help="Samples x features x classes; may be given several times.")
@click.option("--dtype", type=click.Choice(list(timing.DTYPES)), default="float32",
              show_default=True, help="Of samples and weights.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="Of logitless: as many as the process may use unless given.")
def bench(shapes: tuple[str, ...], dtype: str, threads: int | None) -> None:
    """Time this machine beside NumPy and beside its own limit."""
    with input_errors():
        timing.run(Console(highlight=False, markup=False),
                   [timing.parse_shape(shape) for shape in shapes] or timing.DEFAULT_SHAPES,
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
              ("bfloat16 peak", _peak(limits["dot_gflops_bfloat16"], "GFLOP/s", facts["bf16"])),
              ("int8 peak", _peak(limits["dot_gops_int8"], "Gop/s", facts["int8"])),
              ("memory read", f"{limits['read_gb_s']:,.1f} GB/s")]
    _print_pairs(lines)


def _peak(rate: float, unit: str, by: str) -> str:
    return f"{rate:,.1f} {unit} ({by})" if rate else "none here"


def _facts() -> dict[str, Any]:
    isa = ll.active_isa()
    with input_errors():  # what the environment asks for may be wrong
        threads = pool.resolve()
    return {"version": ll.__version__, "numpy": np.__version__,
            "python": platform.python_version(),
            "engine": "numpy" if isa == "numpy" else "compiled",
            "isa": isa, "isas": list(ll.available_isas()),
            "bf16": engine.bf16_name(), "int8": engine.int8_name(),
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
