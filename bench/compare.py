"""Compare a revision with the working tree: times, bits and memory of small calls.

    python bench/compare.py HEAD                      all cases; three or four minutes
    python bench/compare.py HEAD --quick              each only just; under a minute
    python bench/compare.py v0.1.0 loss gradient      cases whose names begin so
    python bench/compare.py v0.1.0 --other HEAD       two revisions
    python bench/compare.py ../other/checkout         another checkout, as it is built

A process has both packages, one CPU, and lets them take turns: A B B A, B A A B, ... A few
processes do so one after the other, for in each memory may lie well for one of the two. A case is
slower where the ratios of all rounds prove it, and those of other processes do again: a slowdown of
the threshold is seen, an equal pair is not. The exit status is 1 if a case is slower, needs more
memory, or fails where it did not. The table is Markdown.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import numpy as np
from cases import CASES
from checkouts import ROOT, git, source
from formats import mebibytes, milliseconds, table
from paired import Round, Verdict

WORKER = Path(__file__).resolve().with_name("compare_worker.py")
NAMES = (*CASES, "import logitless", "import logitless.cli.commands")
SECONDS, QUICK_SECONDS = 1.0, 0.15  # for a case in each process
TURNS = 3, 9  # processes at least, and at most while something is unclear
SLACK_BYTES = 1 << 16  # of memory, beyond the threshold
HEADER = ("", "A, ms", "B, ms", "of the best", "of the rounds", "99 % interval", "MiB", "B is",
          "bits")

Take = Callable[[list[str], int], Iterator[dict]]  # names and a turn, to what the worker found


@dataclass
class Row:
    """What one case came to, so far."""

    name: str
    rounds: list[Round] = field(default_factory=list)
    bits: str = ""
    memory: tuple[int, int] = (0, 0)
    stopped: str = ""  # why there are no rounds

    def add(self, found: dict) -> None:
        """Take in what the worker found in one turn."""
        self.rounds += [tuple(pair) for pair in found.get("rounds", ())]
        self.bits = found.get("bits", self.bits)
        self.memory = tuple(found.get("memory", self.memory))
        if "missing" in found:
            self.stopped = f"not taken: {found['missing']}"
        elif "failed" in found:
            only_b = found["failed"] == [1]
            self.stopped = "failing" if only_b else "not to compare"

    def change(self, threshold: float) -> str:
        """What B is."""
        if self.stopped or not self.rounds:
            return self.stopped or "failing"
        change = Verdict.of(self.rounds).change(threshold)
        more = self.memory[1] > (1 + threshold) * self.memory[0] + SLACK_BYTES
        return "larger" if more and change != "slower" else change

    def worse(self, threshold: float) -> bool:
        return self.change(threshold) in ("slower", "larger", "failing")

    def told(self, threshold: float) -> list[str]:
        """Cells of the table."""
        change = self.change(threshold)
        change = f"**{change}**" if self.worse(threshold) else change
        if not self.rounds:
            return [self.name, *[""] * 6, change, ""]
        v, memory = Verdict.of(self.rounds), dict.fromkeys(mebibytes(n) for n in self.memory)
        return [self.name, milliseconds(v.a), milliseconds(v.b), f"{v.b / v.a:.3f}",
                f"{v.ratio:.3f}", f"{v.low:.3f} to {v.high:.3f}", " to ".join(memory), change,
                self.bits]


def judged(names: list[str], take: Take, threshold: float) -> dict[str, Row]:
    """Take turns until each case is clear."""
    rows = {name: Row(name) for name in names}
    for turn in range(TURNS[1]):
        left = [name for name, row in rows.items() if not row.stopped
                and (turn < TURNS[0] or row.change(threshold) == "unclear")]
        for found in take(left, turn) if left else ():
            rows[found["name"]].add(found)
    return rows


def confirmed(names: list[str], take: Take, threshold: float) -> list[Row]:
    """Rows of all cases; a slowdown is one if it is found again."""
    rows = judged(names, take, threshold)
    slower = [name for name, row in rows.items() if row.change(threshold) == "slower"]
    return list((rows | judged(slower, take, threshold)).values())


def taken(a: Path, b: Path, seconds: float, names: list[str], turn: int) -> Iterator[dict]:
    """What a process of its own finds; the first of its lines says which instruction sets."""
    job = {"a": str(a), "b": str(b), "seconds": seconds, "names": names, "turn": turn}
    with subprocess.Popen([sys.executable, str(WORKER)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        for line in process.stdout:
            found = json.loads(line)
            if "name" in found:
                names = [name for name in names if name != found["name"]]
                _progress(f"{turn + 1}: {found['name']}")
                yield found
    _progress("")
    if process.returncode:
        yield from ({"name": name, "failed": [1]} for name in names[:1])


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def saved(path: Path, names: tuple[str, str], rows: list[Row]) -> None:
    """Write ratios to a history, in place of those of the same cases of the same two revisions."""
    entries = json.loads(path.read_text()) if path.exists() else []
    before = next((e for e in entries if (e["a"], e["b"]) == names), {})
    verdicts = {row.name: Verdict.of(row.rounds) for row in rows if row.rounds}
    known = before.get("ratios", {}) | {
        name: [round(value, 3) for value in (v.ratio, v.low, v.high)]
        for name, v in verdicts.items()}
    bits = {row.name for row in rows if row.bits not in ("", "same")}
    bits |= set(before.get("other bits", ())) - set(verdicts)
    entry = {
        "a": names[0], "b": names[1], "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(), "python": platform.python_version(),
        "numpy": np.__version__, "ratios": {name: known[name] for name in NAMES if name in known},
        "other bits": [name for name in NAMES if name in bits],
    }
    lines = ",\n".join(json.dumps(e) for e in [*(e for e in entries if e is not before), entry])
    path.write_text(f"[\n{lines}\n]\n")


@click.command()
@click.argument("rev")
@click.argument("names", nargs=-1)
@click.option("--other", help="What is compared with REV, in place of the working tree.")
@click.option("--quick", is_flag=True, help="Each case only just.")
@click.option("--threshold", type=click.FloatRange(min=0, min_open=True), default=0.05,
              show_default=True, help="The slowdown that is to be seen.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder of built revisions.",
              default=Path(tempfile.gettempdir(), "logitless-trees"), show_default=True)
@click.option("--save", type=click.Path(path_type=Path), help="A history to write the ratios to.")
def main(rev: str, names: tuple[str, ...], other: str | None, quick: bool, threshold: float,
         cache: Path, save: Path | None) -> None:
    """Compare REV (A) with the working tree (B): times, bits and memory of small calls."""
    chosen = [name for name in NAMES if not names or name.startswith(names)]
    if not chosen:
        raise click.UsageError(f"no case begins so; there are {'; '.join(NAMES)}")
    try:
        (label_a, a), (label_b, b) = source(rev, cache), source(other or str(ROOT), cache)
        if other is None:
            label_b = git("describe", "--always", "--abbrev=10", "--exclude=*", "--dirty")
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    take = partial(taken, a, b, QUICK_SECONDS if quick else SECONDS)
    rows = confirmed(chosen, take, threshold)
    worse = [row.name for row in rows if row.worse(threshold)]
    print(f"A is {label_a}, B is {label_b}; one thread of {platform.machine()}, NumPy "
          f"{np.__version__}\n\n{table(HEADER, (row.told(threshold) for row in rows))}\n\n"
          f"{'; '.join(worse) or 'nothing'} worse, at a threshold of {threshold:.0%}")
    if save:
        saved(save, (label_a, label_b), rows)
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
