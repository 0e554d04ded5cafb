"""Lines and branches of ``csrc`` that tests come to, in the oracle build.

    python tests/mutation/c_coverage.py      # exit status 1 if there is a line that none comes to
    python tests/mutation/c_coverage.py map [NAME...]    # which comes to which line, for c_mutants:
                                             # programs and files of tests

The kernels of plain C are built with gcov's counters and without optimisation, so that a line is a
line. Programs of ``tests/c`` and some tests in Python run over them, side by side.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from c_oracle import PROGRAMS, ROOT, Oracle

# What comes to every line: programs, and tests of what these leave. Minutes of a core.
QUICK = ("edges", "hashes 32", "narrow", "screens")
NEEDED = (
    "tests/test_limits.py",
    "tests/test_bf16.py::test_screen[False-1]",
    "tests/test_narrow.py::test_screen",
    "tests/test_screen.py::test_many_candidates_on_the_way",
    "tests/test_screen.py::test_cap_and_temperature",
    "tests/test_screen.py::test_ties_go_to_the_lowest_index",
    "tests/test_exclude.py::test_a_bias_of_minus_infinity_is_the_same",
    "tests/test_exclude.py::test_a_row_with_nothing_left",
    "tests/test_exclude.py::test_against_a_softmax_in_numpy",
    "tests/test_exclude.py::test_candidates_in_any_layout",
    "tests/test_exclude.py::test_ranks_of_what_cannot_happen",
    "tests/test_exclude.py::test_screens_go_round_what_rows_have_seen",
    "tests/test_exclude.py::test_smoothing_goes_over_the_classes_that_are_left",
    "tests/test_exclude.py::test_sparse_rows",
    "tests/test_gradient_bits.py::test_threads_on_work_worth_splitting[f32-2-shape4]",
    "tests/test_gradient_filter.py::test_filter_zero_is_exact",
    "tests/test_sparse_rows.py::test_a_row_does_not_see_the_batch",
    "tests/test_sparse_rows.py::test_every_call_takes_them",
    "tests/test_sparse_rows.py::test_every_form",
    "tests/test_sparse_rows.py::test_every_type",
    "tests/test_sparse_rows.py::test_gradients_are_those_of_dense_rows",
    "tests/test_sparse_rows.py::test_nothing_at_all",
    "tests/test_sparse_rows.py::test_what_is_not_finite_is_met_by_entries_alone",
    "tests/test_topk_divergence.py::test_classes_that_neither_has",
    "tests/test_topk_divergence.py::test_same_however_it_is_computed",
)
# What comes to lines that mutants are on.
FILES = (
    "tests/test_limits.py",
    "tests/test_golden.py",
    "tests/test_exclude.py",
    "tests/test_sparse_rows.py",
    "tests/test_gradient_filter.py::test_filter_zero_is_exact",
    "tests/test_gradient_filter.py::test_weights_two_apart",
    "tests/test_topk_divergence.py",
    "tests/test_gradient_bits.py::test_threads_on_work_worth_splitting[f32-2-shape4]",
    "tests/test_narrow.py",
    "tests/test_bf16.py::test_screen",
    "tests/test_screen.py",
    "tests/test_screen_proof.py",
)
# Lines that plain C has and cannot come to, and why.
NOT_IN_PLAIN_C = {
    ("logits/pack.inc.h", "for (ptrdiff_t i = 0; i < height; i++)"): "LL_SQUARE is 1",
    ("logits/pack.inc.h", "packed[p * height + i] = x[least(i, count - 1) * x_row + p];"):
        "LL_SQUARE is 1",
    ("logits/gemm.inc.h",
     "micro_step(height, width, sum, a + p * height, b + p * LL_LANES, b_panel);"): "LL_STEPS is 1",
    ("screen/bytes.inc.h", "width /= 2;"): "LL_BYTE_WIDE is 1",
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


def spent() -> float:
    """Seconds of a core in programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def share(counters: dict[str, Counter]) -> str:
    counts = [count for counter in counters.values() for count in counter.values()]
    met = sum(count != 0 for count in counts)  # below 0 where threads count at once
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
                                  [(name,) for name in QUICK] + [NEEDED]):
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
            begun = spent()
            wrong = oracle.run(suite, seconds=900)
            seconds = round(spent() - begun, 1)
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
