"""Mutation of the package: do tests notice when a line of it is another?

    pip install pytest-cov
    python tests/mutation/python_mutants.py map         # which test runs which line: minutes
    python tests/mutation/python_mutants.py run --seed 1 --count 300
    python tests/mutation/python_mutants.py again       # survivors, by all tests, slow ones too
    python tests/mutation/python_mutants.py table       # counts, and survivors without a reason

Everything happens in a copy of the tree, and what is found lies in ``build/mutation``: a line of
JSON for each mutant in ``python.jsonl``, of which the last one counts. A mutant meets tests that
run its line, of both engines, quick ones first; the first that fails ends it. One without an end
is ended by the time that it takes. Files of Cython are compiled anew; their
tests are those that come to the compiled engine. What survives meets all tests of the files about
it again, or those that `--tests` names: it is equivalent, as ``python_survivors.txt`` says of it,
or a hole.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import pytest
import python_edits
from python_edits import Edit

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src/logitless")
FOUND = ROOT / "build/mutation"
REASONS = Path(__file__).with_name("python_survivors.txt")
ENGINES = ["compiled", "numpy"]
HEAVY = ("torch", "transformers", "sklearn", "dask", "jax")  # take seconds to import
LOADED = ("numpy", "hypothesis.extra.numpy", "scipy.special", "scipy.sparse.linalg", "mpmath",
          "ml_dtypes", "pandas", "pyarrow.parquet", "h5py", "zarr", "click", "rich.table", "torch",
          "torch.nn.functional", "sklearn.linear_model", "sklearn.pipeline", "sklearn.naive_bayes",
          "sklearn.neural_network", "sklearn.multiclass", "sklearn.utils.estimator_checks",
          "dask.array", "dask.dataframe", "transformers")
# Of how many files of tests, how many tests a mutant meets, and how long they may take.
STAGES = [(2, 40, 5.0), (8, 150, 20.0)]
Stage = tuple[str, list[str], float]  # engine, tests, how long they take
Plan = Callable[[str, Edit], Iterable[Stage]]
CORE = {"_few_rows": "test_few_rows", "_screen": "test_screen", "_columns": "test_sparse_rows",
        "_shares": "test_threads", "_crew": "test_threads"}


class Tests:
    """Which tests run which lines, and how long they take, of one engine."""

    def __init__(self, engine: str, kind: str):
        import coverage

        self.engine = engine
        self.files: dict[str, dict[int, set[str]]] = {}
        self.data = coverage.CoverageData(str(FOUND / f"{kind.replace(' ', '-')}.{engine}"))
        self.data.read()
        log = (FOUND / f"{kind.replace(' ', '-')}.{engine}.log").read_text()
        self.seconds: dict[str, float] = defaultdict(lambda: 0.002)
        for seconds, test in re.findall(r"^([\d.]+)s (?:call|setup) +(\S.*)$", log, re.M):
            self.seconds[test] += float(seconds)
        self.failing = set(re.findall(r"^(?:FAILED|ERROR) (\S+)", log, re.M))

    def of_file(self, path: str) -> dict[int, set[str]]:
        if path not in self.files:
            self.files[path] = self._of_file(path)
        return self.files[path]

    def _of_file(self, path: str) -> dict[int, set[str]]:
        lines = self.data.contexts_by_lineno(path)
        return {line: {context.rsplit("|", 1)[0] for context in contexts} - {""} - self.failing
                for line, contexts in lines.items()}

    @cached_property
    def in_file(self) -> Counter[str]:
        """How many tests each file of them has."""
        contexts = {context.rsplit("|", 1)[0] for context in self.data.measured_contexts()}
        return Counter(test.split("::")[0] for test in contexts)

    def of_lines(self, path: str, first: int, last: int) -> set[str]:
        return set().union(*(tests for line, tests in self.of_file(path).items()
                             if first <= line <= last))

    @cached_property
    def of_core(self) -> set[str]:
        """Those that come to the compiled engine: of the files that lead into Cython."""
        return set().union(*(self.of_lines(str(PACKAGE / name), 1, 1 << 30) for name in [
            "head.py", "_engines/compiled/scoring.py", "_parallel/pool.py"]))

    def of(self, path: str, edit: Edit) -> set[str]:
        if not path.endswith(".py"):
            return self.of_core
        for first, last in (edit.nearest, edit.around):
            if tests := self.of_lines(path, first, last):
                return tests
        return self.of_lines(path, 1, 1 << 30)

    def of_budget(self, tests: Iterable[str], count: int, seconds: float) -> list[str]:
        """Each function once, the quickest first, then each once more with other parameters."""
        functions, chosen = defaultdict(list), []
        for test in sorted(tests, key=lambda test: (self.seconds[test], test)):
            functions[test.split("[")[0]].append(test)
        for _, _, test in sorted((turn, self.seconds[test], test) for found in functions.values()
                                 for turn, test in enumerate(found)):
            seconds -= self.seconds[test]
            if len(chosen) == count or (seconds < 0 and chosen):
                break
            chosen.append(test)
        return chosen


def stages(known: list[Tests], path: str, edit: Edit) -> Iterator[Stage]:
    """Tests to meet one after the other: of the files most about it, then of more.

    Files whose tests all run it are more about it than those with many others.
    """
    for tests in sorted(known, key=lambda tests: ("/plain/" in path) == (tests.engine != "numpy")):
        files = defaultdict(list)
        for test in tests.of(path, edit):
            files[test.split("::")[0]].append(test)

        def distance(name: str, files=files, tests=tests) -> tuple[bool, bool, float]:
            liked = CORE.get(Path(path).stem)
            return (name != f"tests/{liked}.py", any(word in name for word in HEAVY),
                    -len(files[name]) / (tests.in_file[name] + 5))

        order = sorted(files, key=distance)
        met: set[str] = set()
        for upto, count, seconds in STAGES:
            some = [test for name in order[:upto] for test in files[name] if test not in met]
            if chosen := tests.of_budget(some, count, seconds):
                met.update(chosen)
                yield tests.engine, chosen, sum(tests.seconds[test] for test in chosen)


class Tree:
    """A copy of what git knows and of the extension, in which one file at a time is another."""

    def __init__(self, folder: str):
        self.root = Path(folder)
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                               capture_output=True, text=True, check=True).stdout.splitlines()
        names += [str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.so")]
        names += [str(path.relative_to(ROOT)) for path in ROOT.glob("build/temp*/**/*.o")
                  if path.parts[-2] == "isa" or path.stem == "dispatch"]
        for name in names:
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        self.clock = time.time_ns()
        self.core = next((self.root / PACKAGE / "_engines/compiled").glob("_core*.so"))

    @contextlib.contextmanager
    def mutated(self, path: str, edit: Edit):
        """The file with an edit, and an age of its own, so that nothing compiled is stale."""
        file = self.root / path
        source = file.read_bytes()
        try:
            self.write(file, source[:edit.first] + edit.new.encode() + source[edit.last:])
            yield
        finally:
            self.write(file, source)
            if not path.endswith(".py"):
                self.core.unlink(missing_ok=True)
                shutil.copy2(ROOT / self.core.relative_to(self.root), self.core)

    def write(self, file: Path, contents: bytes) -> None:
        file.write_bytes(contents)
        self.clock += 2_000_000_000
        os.utime(file, ns=(self.clock, self.clock))

    def pytest(self, engine: str, tests: list[str], seconds: float) -> tuple[int | str, str]:
        """Exit status, or what ended the process, and output.

        The process is a fork of this one, which has imported all but the package.
        """
        (self.root / "tests.txt").write_text("\n".join(tests))
        output, until = self.root / "output.txt", time.monotonic() + 300 + 20 * seconds
        child = os.fork()
        if not child:
            self._test(engine, int(20 + 2 * seconds), output)
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.02)
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(done[1])
        return (status if status >= 0 else signal.Signals(-status).name,
                output.read_text(errors="replace"))

    def _test(self, engine: str, seconds: int, output: Path) -> NoReturn:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))
        os.chdir(self.root)
        os.environ.update(PYTHONPATH=str(self.root / "src"), LOGITLESS_BACKEND=(
            "numpy" if engine == "numpy" else ""))
        sys.path.insert(0, str(self.root / "src"))
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status: int = 3
        try:
            status = pytest.main(["-x", "-q", "--no-header", "--tb=line", "--hypothesis-seed=0",
                                  "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:cov",
                                  "-W", "ignore::pytest.PytestAssertRewriteWarning", "@tests.txt"])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def compile_core(self) -> bool:
        """Cython to an extension of the objects of the last build; False where there is none."""
        import sysconfig

        import numpy as np

        folder, made = self.core.parent, self.root / "_core.c"
        switches = ["boundscheck=False", "wraparound=False", "freethreading_compatible=True"]
        objects = [str(path) for path in self.root.glob("build/temp*/**/*.o")]
        self.core.unlink()  # what another process has mapped stays as it is
        return all(not subprocess.run(words, cwd=self.root, capture_output=True).returncode
                   for words in [
            [sys.executable, "-m", "cython", "-3",
             *(word for switch in switches for word in ("-X", switch)),
             str(folder / "_core.pyx"), "-o", str(made)],
            ["gcc", "-shared", "-fPIC", "-O1", "-fwrapv", "-std=gnu11", "-w", "-pthread",
             "-DNPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION", "-Icsrc", f"-I{folder}",
             f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}", str(made), *objects,
             "-lm", "-o", str(self.core)]])


def files_about(known: list[Tests], path: str, edit: Edit) -> list[str]:
    """Files of tests that run the statement, else the function, else the module; most first."""
    count: Counter[str] = Counter()
    for tests in known:
        count.update(test.split("::")[0] for test in tests.of(path, edit))
    return [name for name, _ in count.most_common()]


def fate(tree: Tree, path: str, edit: Edit, stages: Iterable[Stage]) -> dict[str, object]:
    """What becomes of a mutant, and which test says so."""
    with tree.mutated(path, edit):
        if not path.endswith(".py") and not tree.compile_core():
            return {"fate": "not compiled"}
        for engine, tests, seconds in stages:
            status, output = tree.pytest(engine, tests, seconds)
            if status:
                failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
                last = output.strip().rsplit("\n", 1)[-1][:200]
                return {"fate": "killed", "by": failed[1] if failed else last, "engine": engine,
                        "status": status}
    return {"fate": "survived"}


def sampled(seed: int, count: int, names: str) -> list[tuple[str, Edit, str]]:
    """Some of all edits of files whose names match."""
    found = []
    for path in sorted((ROOT / PACKAGE).rglob("*.p[yx]*")):
        name = str(path.relative_to(ROOT))
        if path.suffix not in {".py", ".pyx", ".pxi"} or not re.search(names, name):
            continue
        source = path.read_bytes()
        edits = (python_edits.of_python if path.suffix == ".py" else python_edits.of_cython)(source)
        found += [(name, edit, source[edit.first:edit.last].decode()) for edit in edits]
    print(f"{count} of {len(found)} mutants", flush=True)
    return random.Random(seed).sample(found, min(count, len(found)))


def map_tests(kind: str) -> None:
    """Run the tests under coverage, each in a context of its own."""
    FOUND.mkdir(parents=True, exist_ok=True)
    ini = FOUND / "coverage.ini"
    ini.write_text("[run]\nbranch = true\nsource_pkgs = logitless\nrelative_files = true\n")
    for engine in ENGINES:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HYPOTHESIS_PROFILE": "dev",
               "COVERAGE_FILE": str(FOUND / f"{kind.replace(' ', '-')}.{engine}"),
               "LOGITLESS_BACKEND": "numpy" if engine == "numpy" else ""}
        with (FOUND / f"{kind.replace(' ', '-')}.{engine}.log").open("w") as log:
            subprocess.run([
                sys.executable, "-m", "pytest", "-n2", "-m", kind, "-vv", "--durations=0",
                "--durations-min=0.002", "-p", "no:benchmark", "--cov", "--cov-context=test",
                f"--cov-config={ini}", "--cov-report="], cwd=ROOT, env=env, stdout=log,
                stderr=log, check=False)


def recorded(log: Path) -> list[dict]:
    """The last of each mutant."""
    lines = map(json.loads, log.read_text().splitlines() if log.exists() else [])
    return list({(line["file"], line["line"], *line["edit"]): line for line in lines}.values())


def table(log: Path) -> None:
    """Count, and list the survivors that no reason excuses."""
    lines = (line.split("\t") for line in REASONS.read_text().splitlines() if line[:1] != "#")
    known = {tuple(key): reason for *key, reason in lines}
    count = Counter(line["fate"] for line in recorded(log))
    left = [key for line in recorded(log) if line["fate"] == "survived"
            and not known.get(key := (str(Path(line["file"]).relative_to(PACKAGE)), line["source"],
                                      line["old"], line["new"]), "").startswith("equivalent")]
    counted = count["killed"] + count["survived"]
    print(dict(count), f"killed {100 * count['killed'] / counted:.1f} % of {counted}; "
          f"not equivalent {len(left)} ({100 * len(left) / counted:.1f} %)")
    for key in left:
        print(*key, known.get(key, "?"), sep="\t")


def run(mutants: list[tuple[str, Edit, str]], plan: Plan, log: Path, **more: object) -> None:
    """Find out what becomes of mutants."""
    for name in LOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder, log.open("a") as lines:
        tree = Tree(folder)
        status, output = tree.pytest("compiled", ["tests/test_seed.py"], 60)
        if status:
            raise SystemExit(f"tests fail without any mutation:\n{output}")
        for path, edit, old in mutants:
            start = time.monotonic()
            found = fate(tree, path, edit, plan(path, edit))
            source = (ROOT / path).read_text().split("\n")[edit.line - 1].strip()
            record = {"file": path, "line": edit.line, "source": source, "old": old,
                      "new": edit.new, **found, "seconds": round(time.monotonic() - start, 1),
                      **more, "edit": edit[:3], "near": edit[4:]}
            print(json.dumps(record), file=lines, flush=True)
            print(f"{record['fate']:9} {path}:{edit.line}: {old[:60]!r} -> {edit.new!r}  "
                  f"{record.get('by', '')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["map", "run", "again", "table"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--files", default=r"\.py$", help="a regular expression of paths")
    parser.add_argument("--slow", action="store_true", help="map: the tests that are slow")
    parser.add_argument("--tests", nargs="*", help="again: files of tests, else those about it")
    parser.add_argument("--log", type=Path, default=FOUND / "python.jsonl")
    given = parser.parse_args()
    if given.command == "map":
        map_tests("slow" if given.slow else "not slow")
        return
    if given.command == "table":
        table(given.log)
        return
    known = [Tests(engine, "not slow") for engine in ENGINES
             if (FOUND / f"not-slow.{engine}").exists()]
    if given.command == "run":
        done = {(line["file"], *line["edit"]) for line in recorded(given.log)}
        mutants = [mutant for mutant in sampled(given.seed, given.count, given.files)
                   if (mutant[0], *mutant[1][:3]) not in done]
        run(mutants, lambda *mutant: stages(known, *mutant), given.log, seed=given.seed)
    elif given.command == "again":
        left = [(line["file"], Edit(*line["edit"], line["line"], *line["near"]), line["old"])
                for line in recorded(given.log) if line["fate"] == "survived"]
        run(left, lambda path, edit: [
            (engine, given.tests or files_about(known, path, edit)[:20], 900.0)
            for engine in ENGINES], given.log, seed=given.seed, again=True)


if __name__ == "__main__":
    main()
