"""Mutation of the kernels: do tests notice when a line of ``csrc`` is another?

    python tests/mutation/c_coverage.py map              # which test comes to which line
    python tests/mutation/c_mutants.py run --seed 1 --count 300
    python tests/mutation/c_mutants.py again             # what has survived and is not explained
    python tests/mutation/c_mutants.py again --under sanitizers      # or another instruction set
    python tests/mutation/c_mutants.py table             # counts, and survivors without a reason

A mutant is an oracle build from a copy of ``csrc`` in which one place is another. It meets the
programs of ``tests/c``, whose lines must be the golden ones, then tests in Python, of those that
come to its line; the first that is wrong ends it, as does the time that it takes. What
is found is a line of JSON each in ``build/mutation/c.jsonl``. Mutants whose objects are the same to
the byte are no mutants. What plain C does not show, programs may under sanitizers, as
``test_c_hashes.py`` runs them, or another instruction set, whose kernels have other shapes.
``c_survivors.txt`` says why those that survive may.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import c_edits
from c_coverage import MAP
from c_edits import Edit
from c_oracle import CSRC, PROGRAMS, ROOT, SANITIZE, Oracle

LOG = ROOT / "build/mutation/c.jsonl"
# Objects that suites use, where these are not all.
USES = {"hashes 32": {"scalar32"}, "hashes 64": {"scalar64"}, "bf16": {"bf16_scalar"},
        "screens": {"scalar32", "screen_scalar"}}
# What may be looked at beside plain C.
SANITIZERS = "sanitizers"
WATCHED = [name for name in PROGRAMS if "hashes" not in name]
UNDER = ("scalar", "avx2", "avx512", "neon", SANITIZERS)
REASONS = Path(__file__).with_name("c_survivors.txt")


class Tree:
    """A copy of the sources, the objects of them, and one place at a time that is another."""

    def __init__(self, folder: Path, under: str = "scalar"):
        self.csrc = folder / "csrc"
        self.under = under
        shutil.copytree(CSRC, self.csrc)
        if under == SANITIZERS:
            self.oracle = Oracle(folder / "oracle", *SANITIZE, csrc=self.csrc)
            return
        self.oracle = Oracle(folder / "oracle", "-Og", isa=under, csrc=self.csrc)
        self.oracle.add_extension()

    def units(self, units: set[str]) -> set[str]:
        """Objects that take the place of those of plain C."""
        if self.under in ("scalar", SANITIZERS):
            return units
        kinds = {re.sub(r"scalar", r"\\w+", unit) for unit in units}
        return {unit for unit in self.oracle.build.objects if "scalar" not in unit
                and any(re.fullmatch(kind, unit) for kind in kinds)}

    def suites(self, suites: list[tuple[tuple[str, ...], float]]
               ) -> list[tuple[tuple[str, ...], float]]:
        """Under sanitizers programs that print one hash, with time for every access. Where no suite
        is known to come to a line, all are tried.
        """
        if self.under == SANITIZERS:
            suites = [(suite, 20 * seconds) for suite, seconds in suites if suite[0] in WATCHED]
            return suites or [((name,), 400.0) for name in WATCHED]
        if self.under != "scalar":
            return suites or [((name,), 100.0) for name in PROGRAMS]
        return suites

    def compiled(self, units: set[str]) -> bool | None:
        """Whether an object is another than before; none if one does not compile."""
        build, other = self.oracle.build, False
        for unit in units:
            object_ = Path(build.objects[unit])
            before = object_.read_bytes()
            try:
                build.add(unit, *build.sources[unit])
            except AssertionError:
                return None
            other |= object_.read_bytes() != before
            self.oracle.linked.clear()
        return other

    def fate(self, name: str, edit: Edit, units: set[str],
             suites: list[tuple[tuple[str, ...], float]]) -> dict[str, str]:
        """What becomes of a mutant, and which test says so. What a suite does not use is compiled
        when it has gone well.
        """
        file, units, suites = self.csrc / name, self.units(units), self.suites(suites)
        source = file.read_text()
        kept = {unit: Path(self.oracle.build.objects[unit]).read_bytes() for unit in units}
        left, other = set(units), False
        try:
            file.write_text(edit.made(source))
            for suite, seconds in suites:
                now = left & USES.get(suite[0], left) if self.under == "scalar" else left
                new = self.compiled(now)
                if new is None:
                    return {"fate": "not compiled"}
                left -= now
                other |= new
                if other and (by := self.oracle.run(*suite, seconds=seconds)):
                    return {"fate": "killed", "by": by[:200]}
            if left:
                return {"fate": "not run"}
            return {"fate": "survived" if other else "same object"}
        finally:
            file.write_text(source)
            for unit, contents in kept.items():
                Path(self.oracle.build.objects[unit]).write_bytes(contents)
            self.oracle.linked.clear()


class Known:
    """Suites and the lines they come to."""

    def __init__(self) -> None:
        self.map = json.loads(MAP.read_text())
        self.suites = self.map["suites"]

    def about(self, name: str, line: int) -> list[tuple[tuple[str, ...], float]]:
        """Programs one by one, then files of tests, the quickest first; time for each."""
        come = [suite for suite, found in self.suites.items()
                if line in found["lines"].get(name, [])]
        files = sorted((suite for suite in come if suite not in PROGRAMS),
                       key=lambda suite: self.suites[suite]["seconds"])
        return [((suite,), self.limit(suite))
                for suite in (*(name for name in PROGRAMS if name in come), *files)]

    def limit(self, suite: str) -> float:
        return float(5 + 2 * self.suites[suite]["seconds"])

    def sampled(self, seed: int, count: int, files: str) -> list[tuple[str, Edit, int]]:
        found = []
        for name, code in sorted(self.map["code"].items()):
            if re.search(files, name):
                source = (CSRC / name).read_text()
                found += [(name, edit, line) for edit, line in
                          c_edits.edits(source, code)]
        print(f"{count} of {len(found)} mutants", flush=True)
        return c_edits.shuffled(found, seed)[:count]


def recorded(log: Path) -> list[dict]:
    """The last of each mutant."""
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else [])
    return list({(line["file"], *line["edit"]): line for line in lines}.values())


def run(known: Known, mutants: list[tuple[str, Edit, int]], log: Path, under: str,
        **more: object) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("a") as lines:
        tree = Tree(Path(folder), under)
        for name, edit, line in mutants:
            begun = time.monotonic()
            found = tree.fate(name, edit, set(known.map["units"][name]), known.about(name, line))
            source = (tree.csrc / name).read_text().splitlines()[edit.line - 1]
            record = {"file": name, "line": edit.line, "source": source.strip(),
                      "old": source[edit.first:edit.last], "new": edit.new, **found,
                      "seconds": round(time.monotonic() - begun, 1), **more, "edit": edit,
                      "near": line, "under": under}
            if under == "scalar" or found["fate"] == "killed":  # else as plain C has said
                print(json.dumps(record), file=lines, flush=True)
            print(f"{record['fate']:12} {name}:{edit.line}: {record['old']!r} -> {edit.new!r}  "
                  f"{record.get('by', '')}", flush=True)


def reasons() -> dict[tuple[str, str, str, str], str]:
    """Why mutants may survive: lines of file, source, old, new and reason, between tabs."""
    found = {}
    for line in REASONS.read_text().splitlines() if REASONS.exists() else []:
        if line and not line.startswith("#"):
            *mutant, reason = line.split("\t")
            found[tuple(mutant)] = reason
    return found


def key_of(line: dict) -> tuple[str, str, str, str]:
    return line["file"], line["source"], line["old"], line["new"]


def not_equivalent(lines: list[dict]) -> list[dict]:
    known = reasons()
    return [line for line in lines if not known.get(key_of(line), "").startswith("equivalent")]


def table(log: Path) -> None:
    known, lines = reasons(), recorded(log)
    count = Counter(line["fate"] for line in lines)
    counted = count["killed"] + count["survived"]
    unexplained = [key_of(line) for line in
                   not_equivalent([line for line in lines if line["fate"] == "survived"])]
    print(dict(count), f"killed {100 * count['killed'] / counted:.1f} % of {counted}; "
          f"not equivalent {len(unexplained)} ({100 * len(unexplained) / counted:.1f} %)")
    for key in unexplained:
        print(*key, known.get(key, "?"), sep="\t")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["run", "again", "table"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--files", default="", help="a regular expression of paths in csrc")
    parser.add_argument("--under", choices=UNDER, default="scalar")
    parser.add_argument("--log", type=Path, default=LOG)
    given = parser.parse_args()
    if given.command == "table":
        table(given.log)
        return
    known = Known()
    if given.command == "run":
        done = {(line["file"], *line["edit"]) for line in recorded(given.log)}
        mutants = [mutant for mutant in known.sampled(given.seed, given.count, given.files)
                   if (mutant[0], *mutant[1]) not in done]
    else:
        mutants = [(line["file"], Edit(*line["edit"]), line["near"])
                   for line in not_equivalent(recorded(given.log))
                   if line["fate"] in ("survived", "not run")
                   and re.search(given.files, line["file"])]
    run(known, mutants, given.log, given.under,
        seed=given.seed if given.command == "run" else None)


if __name__ == "__main__":
    main()
