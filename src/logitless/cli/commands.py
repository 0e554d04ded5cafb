"""The commands behind `logitless`: what the words mean and what is printed."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
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
from ..io import NpzWriter, open_array
from . import bench as timing
from . import demo as demonstration
from .scoring import Job, Totals, input_errors


@dataclass(frozen=True)
class Source:
    """A file, and the name of an array in it if one was given."""

    path: Path
    key: str | None


class InputFile(click.ParamType):
    """An argument FILE or FILE:KEY; either may hold colons."""

    name = "file"
    _file = click.Path(exists=True, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> Source:
        """Take what follows the name of a file for a key."""
        path, key = value, None
        for end in (i for i, letter in enumerate(value) if letter == ":"):
            if not os.path.exists(value) and os.path.isfile(value[:end]):
                path, key = value[:end], value[end + 1 :]  # the longest name that a file has
        return Source(Path(os.fsdecode(self._file.convert(path, param, ctx))), key)


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
        pool.resolve()  # or a message about what the environment asks for
    demonstration.run(Console(highlight=False, markup=False), plot)


@group.command()
@click.argument("head", type=InputFile())
@click.argument("x", type=InputFile())
@click.argument("target", type=InputFile(), required=False)
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
def score(head: Source, x: Source, target: Source | None, out: Path, topk: int,
          softcap: float | None, temperature: float | None, ignore_index: int,
          threads: int | None, block_rows: int | None) -> None:
    """Score the rows of X with HEAD, against TARGET if given.

    HEAD is a linear layer: a .npz with weight (n, k) and, if it has them, bias (n,),
    softcap and temperature; a .npy with the weight; a .safetensors file, or the index
    .json of several. FILE:KEY names the weight where the names do not tell. X (m, k)
    and TARGET (class indices (m,), or probabilities (m, n)) are .npy or .safetensors
    files, read a block of rows at a time, or .npz files: with a single array, one named
    x or target, or FILE:KEY.

    OUT gets loss (with TARGET), predicted, max_logit and lse, each (m,), and with
    --topk top_index and top_log_prob (m, K). The probability of the prediction is
    exp(max_logit - lse). Losses are in nats.
    """
    start = time.perf_counter()
    with input_errors():
        _refuse_input_as_output(out, [head, x, target])
        scale = {"softcap": softcap, "temperature": temperature}
        given: Any = {name: value for name, value in scale.items() if value is not None}
        layer = ll.LinearHead.from_file(head.path, head.key, pack=False, n_threads=threads,
                                         **given)
        job = Job(layer, open_array(x.path, key=x.key, prefer="x"),
                  None if target is None
                  else open_array(target.path, key=target.key, prefer="target"),
                  ignore_index=ignore_index, k=topk)
        writer = NpzWriter(out, job.leading_shape)
    with input_errors(), writer, _progress() as progress:
        totals = job.run(writer, block_rows, progress)
    _summarise(totals, time.perf_counter() - start, target is not None, out)


def _refuse_input_as_output(out: Path, inputs: list[Source | None]) -> None:
    for source in inputs:
        if source is not None and out.exists() and os.path.samefile(out, source.path):
            raise ValueError(f"{out}: OUT must not be one of the inputs")


class RateColumn(ProgressColumn):
    """Rows a second."""

    def render(self, task: Task) -> Text:
        """Their number so far by the time it took."""
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
    return {"version": _version(), "numpy": np.__version__,
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
