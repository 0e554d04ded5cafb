"""Losses of language models on the CPU: time, and memory beyond gradients, of each way to them.

    python bench/language.py            heads of 65,536 and 262,144 classes; some minutes
    python bench/language.py --quick    small ones, once, nothing compiled; minutes

Every way is measured in processes of its own, in turns; the best time counts. A forward pass takes
no gradients; a step takes those of hidden states and weights, or of a model's parameters.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click
from language_ways import INPUTS, WAYS, Case
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from timing import extra_peak, give_memory_back

OPS = ("forward", "step")
HEADS = (Case("head", "Llama", 1024, 1024, 65_536, "bfloat16"),
         Case("head", "Gemma, softcap 30", 1024, 1024, 262_144, "bfloat16", softcap=30.0))
FULL = (
    *(replace(case, dtype=dtype) for case in HEADS for dtype in ("float32", "bfloat16")),
    Case("two heads", "KL divergence", 1024, 768, 50_257, "float32", teacher=1024),
    Case("model", "Llama of one layer", 1024, 1024, 65_536, "bfloat16"),
)
QUICK = tuple(replace(case, m=case.m // 8, n=case.n // 16) for case in FULL)
CALLS, SLOW = 3, 8.0  # of each process; one that takes so many seconds is enough


def work(case: Case, way: str, op: str, threads: int) -> dict:
    """Measure a way in this process."""
    import torch

    import logitless as ll

    torch.set_num_threads(threads)
    step = op == "step"

    def call() -> None:
        start = time.perf_counter()
        with torch.set_grad_enabled(step):
            value = loss()
            if step:
                value.backward()
        seconds.append(time.perf_counter() - start)
        values.append(float(value.detach()))

    def forget() -> None:
        for tensor in leaves:
            tensor.grad = None
        give_memory_back()

    seconds: list[float] = []
    values: list[float] = []
    with ll.threads(threads):
        # The small one brings libraries in; compilers compile the other.
        for this in (replace(case, m=16, n=64), case):
            given = INPUTS[case.kind](this, step)
            loss = WAYS[case.kind][way](this, given)
            if loss is None:
                return {}
            leaves = ([given.x, given.weight] if case.kind != "model"
                      else list(given.parameters()))
            if this is not case or "compile" in way:
                call()
                forget()
        seconds.clear()
        extra = extra_peak(call)
        if extra is not None and step:
            extra -= sum(tensor.grad.nbytes for tensor in leaves)
        while len(seconds) < CALLS and seconds[0] < SLOW:
            forget()
            call()
    return {"seconds": min(seconds), "extra_bytes": extra, "loss": values[-1]}


def started(case: Case, way: str, op: str, threads: int) -> dict:
    """The same in another process."""
    job = json.dumps({"case": asdict(case), "way": way, "op": op, "threads": threads})
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, Path(__file__).resolve(), "--work", job], env=env,
                          check=False, text=True, capture_output=True)
    if done.returncode:
        return {"failed": done.stderr.strip().rpartition("\n")[2] or f"exit {done.returncode}"}
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def measure(case: Case, rounds: int, threads: int, left_out: tuple[str, ...],
            progress: Progress) -> dict[str, dict]:
    """Records of all ways to a case, by way and operation: of several rounds the best."""
    found: dict[str, dict] = {way: {} for way in WAYS[case.kind] if way not in left_out}
    task = progress.add_task(case.name, total=None)
    for round_ in range(rounds):
        for way, op in ((way, op) for way in found for op in OPS):
            before = found[way].get(op, {})
            if round_ and "seconds" not in before:
                continue
            progress.update(task, description=f"{label(case)}: {way}, {op}, {round_ + 1}")
            record = started(case, way, op, threads)
            if "seconds" in before and "seconds" in record:
                record["seconds"] = min(record["seconds"], before["seconds"])
            found[way][op] = record
    progress.remove_task(task)
    return found


def label(case: Case) -> str:
    k = f"({case.k:,}, {case.teacher:,})" if case.teacher else f"{case.k:,}"
    return f"{case.name}, {case.m:,} x {k} x {case.n:,}, {case.dtype}"


def cells(found: dict[str, dict], way: str) -> Iterator[str]:
    """Time, times ours, and memory, of both operations, and the loss."""
    loss = ""
    for op in OPS:
        record = found[way].get(op, {})
        ours = found["logitless"].get(op, {}).get("seconds")
        if "seconds" in record:
            yield f"{record['seconds']:.3g} s"
            yield f"{record['seconds'] / ours:.2f}" if ours else ""
            extra = record["extra_bytes"]
            yield "" if extra is None else f"{extra / 2**20:,.0f} MiB"
            loss = f"{record['loss']:.5f}"
        else:
            yield from ("-",) * 3
    yield loss


def show(console: Console, measured: dict[Case, dict[str, dict]]) -> None:
    for case, found in measured.items():
        table = Table(title=label(case), title_justify="left", box=None, padding=(0, 1, 0, 0),
                      pad_edge=False)
        table.add_column("", no_wrap=True)
        for name in ("forward", "x ours", "memory", "step", "x ours", "memory", "loss"):
            table.add_column(name, justify="right", no_wrap=True)
        for way in found:
            if any(found[way].values()):
                table.add_row(way, *cells(found, way))
        console.print(table)
        for way, op in ((way, op) for way in found for op in OPS):
            if "failed" in found[way].get(op, {}):
                console.print(f"{way}, {op}: {found[way][op]['failed']}")
        console.print()


@click.command()
@click.option("--quick", is_flag=True, help="Small heads, one round.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True,
              help="Processes of each way; the best time counts.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--only", default="", help="Cases whose name has this in it.")
@click.option("--work", "job", default=None, hidden=True)
def main(quick: bool, rounds: int, threads: int, only: str, job: str | None) -> None:
    """Measure losses of language models."""
    if job is not None:
        asked = json.loads(job)
        print(json.dumps(work(**asked | {"case": Case(**asked["case"])})))
        return
    import torch

    import logitless as ll

    console = Console(highlight=False, width=110)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    left_out = ("torch.compile",) if quick else ()  # compilers take their time
    measured = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for case in QUICK if quick else FULL:
            if only in label(case):
                measured[case] = measure(case, 1 if quick else rounds, threads, left_out,
                                         progress)
    console.print(f"threads: {threads}; logitless {ll.__version__} ({ll.active_isa()}), "
                  f"torch {torch.__version__}\n")
    show(console, measured)
    console.print("Tokens x features x classes. Memory: the most a call held beyond what it was "
                  "given and the gradients it leaves.")


if __name__ == "__main__":
    main()
