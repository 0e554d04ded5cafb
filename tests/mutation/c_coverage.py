"""Lines and branches of ``csrc`` that tests come to, in the oracle build.

    python tests/mutation/c_coverage.py      # exit status 1 if there is a line that none comes to
    python tests/mutation/c_coverage.py map [NAME...]    # which comes to which line, for c_mutants:
                                             # programs and files of tests

The kernels of plain C are built with gcov's counters and without optimisation. Programs of
``tests/c`` and some files of tests in Python run over them, side by side.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from c_oracle import PROGRAMS, ROOT, Oracle

# Programs that come to much in little time, and tests of what is left.
QUICK = ("screens", "bf16", "hashes 32", "narrow")
FILES = (
    "tests/test_limits.py",
    "tests/test_exclude.py",
    "tests/test_sparse_rows.py",
    "tests/test_gradient_filter.py::test_filter_zero_is_exact",
    "tests/test_topk_divergence.py",
    "tests/test_gradient_bits.py::test_threads_on_work_worth_splitting[f32-2-shape1]",
    "tests/test_narrow.py",
)
# What registers of several numbers leave over, where they hold one: places no test can come to.
NOT_IN_PLAIN_C = {
    ("logits/pack.inc.h", "for (ptrdiff_t i = 0; i < height; i++)"),
    ("logits/pack.inc.h", "packed[p * height + i] = x[least(i, count - 1) * x_row + p];"),
    ("logits/gemm.inc.h",
     "micro_step(height, width, sum, a + p * height, b + p * LL_LANES, b_panel);"),
    ("screen/bytes.inc.h", "width /= 2;"),
}
MAP = ROOT / "build/mutation/c_map.json"


class Counts:
    """How often lines and branches were come to, by file."""

    def __init__(self) -> None:
        self.lines: dict[str, Counter[int]] = defaultdict(Counter)
        self.branches: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        self.units: dict[str, set[str]] = defaultdict(set)

    def add(self, oracle: Oracle) -> Counts:
        for unit in oracle.build.objects:
            done = subprocess.run(["gcov", "-b", "--json-format", "--stdout", f"{unit}.gcda"],
                                  cwd=oracle.folder, capture_output=True, text=True, check=True)
            for report in done.stdout.splitlines():
                for file in json.loads(report)["files"]:
                    self.add_file(unit, file, oracle.build.csrc)
        return self

    def add_file(self, unit: str, file: dict, csrc: Path) -> None:
        path = Path(file["file"]).resolve()
        if not path.is_relative_to(csrc):
            return
        name = str(path.relative_to(csrc))
        self.units[name].add(unit)
        for line in file["lines"]:
            at = line["line_number"]
            self.lines[name][at] += line["count"]
            for number, branch in enumerate(line["branches"]):
                self.branches[name][at, number] += branch["count"]

    def missing(self) -> list[tuple[str, int]]:
        return [(name, line) for name, lines in sorted(self.lines.items())
                for line, count in sorted(lines.items()) if not count]


def share(counters: dict[str, Counter]) -> str:
    counts = [count for counter in counters.values() for count in counter.values()]
    met = sum(count > 0 for count in counts)
    return f"{met} of {len(counts)} ({100 * met / len(counts):.2f} %)"


def oracle_in(folder: Path) -> Oracle:
    oracle = Oracle(folder, "-O0", "--coverage")
    oracle.add_extension()
    return oracle


def report() -> int:
    with tempfile.TemporaryDirectory() as folder:
        oracle = oracle_in(Path(folder))
        with ThreadPoolExecutor(2) as pool:
            for wrong in pool.map(lambda suite: oracle.run(*suite, seconds=600),
                                  [(name,) for name in QUICK] + [FILES]):
                if wrong:
                    print(wrong)
                    return 1
        counts = Counts().add(oracle)
    missing = [(name, line, (ROOT / "csrc" / name).read_text().splitlines()[line - 1].strip())
               for name, line in counts.missing()]
    missed = [at for at in missing if (at[0], at[2]) not in NOT_IN_PLAIN_C]
    for name, line, text in missed:
        print(f"csrc/{name}:{line}: {text}")
    print(f"lines: {share(counts.lines)}, {len(missing) - len(missed)} of them that plain C cannot "
          f"come to; branches: {share(counts.branches)}")
    return bool(missed)


def write_map(suites: list[str]) -> None:
    """{suite: its seconds and lines}, of each suite alone; those known before stay."""
    known = json.loads(MAP.read_text()) if MAP.exists() else {"suites": {}}
    with tempfile.TemporaryDirectory() as folder:
        oracle = oracle_in(Path(folder))
        for suite in suites:
            for old in oracle.folder.glob("*.gcda"):
                old.unlink()
            begun = time.perf_counter()
            wrong = oracle.run(suite, seconds=900)
            seconds = round(time.perf_counter() - begun, 1)
            print(f"{suite}: {wrong or seconds}", flush=True)
            if wrong:
                continue
            counts = Counts().add(oracle)
            known["suites"][suite] = {
                "seconds": seconds,
                "lines": {name: sorted(line for line, count in lines.items() if count)
                          for name, lines in counts.lines.items()},
            }
            known["code"] = {name: sorted(lines) for name, lines in counts.lines.items()}
            known["units"] = {name: sorted(units) for name, units in counts.units.items()}
            MAP.parent.mkdir(parents=True, exist_ok=True)
            MAP.write_text(json.dumps(known))


if __name__ == "__main__":
    if sys.argv[1:2] == ["map"]:
        write_map(sys.argv[2:] or [*PROGRAMS, *FILES])
    else:
        sys.exit(report())
