"""The oracle build: the kernels in plain C alone, or with one more instruction set.

Over them the programs of ``tests/c`` and the extension, in a copy of the package, so that tests in
Python come to the same objects. Sources may be another copy of ``csrc``.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from math import ceil
from pathlib import Path

import numpy

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))

from support.c_programs import CSRC, SANITIZE, Build, here  # noqa: E402

CORE = Path("src/logitless/_engines/compiled")
GOLDEN = TESTS / "golden"
# instruction set: what goes with it
WANTED = {"scalar": (), "avx512": ("vnni", "dot"), "avx2": (), "neon": ("bfmlal",)}
# What comes to the kernels: programs, and files of tests for what they do not reach.
PROGRAMS = ("screens", "bf16", "hashes 32", "hashes 64", "narrow", "edges")
MEMORY = 6 << 30  # of a mutant that asks for more and more
# What programs are told under sanitizers: leaks are their own, stdbuf comes before everything.
ASAN = "detect_leaks=0:verify_asan_link_order=0"


class Oracle:
    """All objects of an instruction set beside plain C, and what is linked of them."""

    def __init__(self, folder: Path, *switches: str, isa: str = "scalar", csrc: Path = CSRC):
        self.folder, self.isa, self.watched = folder, isa, set(SANITIZE) <= set(switches)
        folder.mkdir(parents=True, exist_ok=True)
        self.build = Build("gcc", here(), folder, *switches, "-fPIC", csrc=csrc,
                           wanted=("scalar", isa, *WANTED[isa]))
        self.build.kernels()
        self.linked: set[str] = set()  # what is of these objects
        self.lock = threading.Lock()

    def link(self, name: str) -> None:
        """A program, whose own object is compiled once, or the extension, if it is not there."""
        with self.lock:
            if name in self.linked:
                return
            own, target, switches = self.folder / f"{name}.o", self.folder / name, []
            if name == "extension":
                target, switches = self.extension(), ["-shared"]
            if own.exists():
                subprocess.run([*self.build.command(), *switches, str(own),
                                *self.build.objects.values(), "-o", str(target), "-lm"],
                               check=True, timeout=120)
            else:
                self.build.program(name)
            self.linked.add(name)

    def extension(self) -> Path:
        return self.folder / CORE / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"

    def add_extension(self) -> None:
        """A copy of the package and of its tests, for the extension."""
        for name in "src", "tests":
            shutil.copytree(ROOT / name, self.folder / name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "pyproject.toml", self.folder)
        source = self.folder / "_core.c"
        subprocess.run([sys.executable, "-m", "cython", "-3", "-X", "boundscheck=False", "-X",
                        "wraparound=False", str(ROOT / CORE / "_core.pyx"), "-o", str(source)],
                       check=True)
        subprocess.run(["gcc", "-O0", "-w", "-fPIC", "-DNPY_NO_DEPRECATED_API=NPY_1_7_API_VERSION",
                        f"-I{CSRC}", f"-I{ROOT / CORE}", f"-I{numpy.get_include()}",
                        f"-I{sysconfig.get_path('include')}", "-c", str(source), "-o",
                        str(self.folder / "extension.o")],
                       check=True)

    def start(self, *suite: str, seconds: float) -> subprocess.Popen[str]:
        """A program, or pytest with files of tests; linked anew if that has not been done."""
        env = {**os.environ, "HYPOTHESIS_PROFILE": "dev", "PYTHONPATH": str(self.folder / "src"),
               "LOGITLESS_ISA": self.isa, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
               "ASAN_OPTIONS": ASAN}
        name, *words = suite[0].split()
        command = ["stdbuf", "-oL", str(self.folder / name), *words]
        if suite[0] not in PROGRAMS:
            name = "extension"
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
                       "--hypothesis-seed=1", "-m", "not slow", *suite]
        self.link(name)
        return subprocess.Popen(command, cwd=self.folder, env=env, text=True, errors="replace",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                preexec_fn=lambda: bound(seconds, not self.watched))

    def run(self, *suite: str, seconds: float) -> str:
        """What was wrong, at the first line that should be another, in the end, or in so many
        seconds of a core: ten times as many, where they are spent waiting.
        """
        running = self.start(*suite, seconds=seconds)
        judge, output, wrong = Judge(suite[0], self.isa), [], ""
        timer = threading.Timer(10 * seconds, running.kill)
        timer.start()
        with running:
            for line in running.stdout or ():
                output.append(line)
                wrong = judge.wrong(line.rstrip("\n"))
                if wrong or judge.enough:
                    running.kill()
                    break
        in_time = timer.is_alive() and running.returncode != -signal.SIGXCPU
        timer.cancel()
        if wrong or judge.enough or (in_time and running.returncode == 0):
            return wrong
        failed = [line.split(" - ")[0].strip() for line in output
                  if line.startswith(("FAILED", "ERROR"))]
        return (f"{suite[0]}: no end after {seconds:.0f} s" if not in_time
                else failed[0] if failed else f"{suite[0]}: exit status {running.returncode}")


def bound(seconds: float, memory: bool) -> None:
    """Sanitizers have terabytes of addresses that they do not touch."""
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(seconds), ceil(seconds) + 5))
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Judge:
    """What a suite prints, line by line, against what it should."""

    def __init__(self, suite: str, isa: str):
        name, *words = suite.split()
        self.suite, self.isa, self.name = suite, isa, name
        self.enough = False  # what comes is of no interest
        self.wanted: list[str] = []
        if name == "hashes":
            self.wanted = [line for line in (GOLDEN / "hashes.txt").read_text().splitlines()
                           if line.startswith(f"f{words[0]} ")]
        self.hash = ""
        if name in ("bf16", "edges", "narrow", "screens"):
            self.hash = (GOLDEN / f"{name}.txt").read_text().strip()
        self.at = 0
        self.block = ""

    def wrong(self, line: str) -> str:
        if self.name == "hashes":
            if line.startswith("["):
                self.enough = self.block == self.isa
                self.block = line.strip("[]")
                self.at = 0
                return ""
            if self.at >= len(self.wanted) or line != self.wanted[self.at]:
                return f"{self.suite}: {line}"
            self.at += 1
        elif self.hash and not re.fullmatch(rf"\S.* {self.hash}", line):
            return f"{self.suite}: {line}"
        return ""
