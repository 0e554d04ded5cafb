"""The kernels without Python around them: programs of ``c/`` built as ``setup.py`` builds them.

LOGITLESS_WERROR=1 makes every warning an error here, too, whichever machine is built for.
"""

from __future__ import annotations

import ast
import os
import pathlib
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
CSRC = TESTS.parent / "csrc"
PROGRAMS = ("hashes", "edges", "screens", "bf16", "narrow")
# Without optimisation: compiling takes minutes otherwise.
SANITIZE = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def here():
    return platform.machine().lower()


def setup_table():
    """Flags and instruction sets of setup.py, read rather than run: it needs its build tools."""
    table = {}
    for node in ast.parse((TESTS.parent / "setup.py").read_text()).body:
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if name in ("ISAS", "SCREENS", "BF16S", "UNIX_FLAGS", "STRICT_FLAGS"):
            table[name] = eval(ast.unparse(node.value), {}, table)  # literals, and those before
    return table


def compiles(command, source, folder):
    """Whether a program compiles and links."""
    path = folder / "probe.c"
    path.write_text(source)
    command = [*command, str(path), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def compiler_named(name):
    """The compiler, or a skip. `cc` is for machines that have neither gcc nor clang."""
    named = [c for c in ("gcc", "clang") if shutil.which(c)]
    if name == "cc" and named:
        pytest.skip(f"built with {' and '.join(named)}")
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    return name


class Build:
    """Objects of one compiler for a machine, all or the wanted sets, and programs of them."""

    def __init__(self, compiler, machine, folder, *switches, wanted=(), csrc=CSRC):
        self.compiler, self.machine, self.folder = compiler, machine, folder
        self.switches, self.wanted, self.csrc = switches, wanted, csrc
        self.setup = setup_table()
        self.sources, self.objects = {}, {}
        self.have = []

    def command(self):
        flags = [*self.setup["UNIX_FLAGS"], *self.switches]
        # Without optimisation intrinsics are macros, and warn.
        if os.environ.get("LOGITLESS_WERROR") == "1" and "-O0" not in self.switches:
            flags += self.setup["STRICT_FLAGS"]
        return [self.compiler, *flags]

    def add(self, name, source, *flags):
        """Compile an object for all programs, or compile it anew."""
        self.sources[name] = source, *flags
        self.objects[name] = self.compiled(name, source, *flags)

    def compiled(self, name, source, *flags):
        """Compile an object."""
        path = str(self.folder / f"{name}.o")
        done = subprocess.run(
            [*self.command(), *flags, "-c", str(source), "-o", path],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return path

    def usable(self, table):
        """Names and flags of what is wanted, and the machine and the compiler know."""
        for name, (machines, flags, _, probe) in self.setup[table].items():
            known = name in (self.wanted or [name]) and self.machine in (machines or [self.machine])
            if known and compiles([*self.command(), *flags], probe, self.folder):
                yield name, flags

    def macros(self):
        return [f"-DLL_HAVE_{name.upper()}=1" for name in self.have]

    def kernels(self):
        """Compile every instruction set that is wanted and known, side by side."""
        isa, files = self.csrc / "isa", []
        for name, flags in self.usable("ISAS"):
            files += [(f"{name}{bits}", isa / f"{name}.c", *flags, f"-DLL_REAL={bits}")
                      for bits in (64, 32)]
            self.have.append(name)
        for table, kind in ("SCREENS", "screen"), ("BF16S", "bf16"):
            for name, flags in self.usable(table):
                files.append((f"{kind}_{name}", isa / f"{kind}_{name}.c", *flags))
                self.have.append(f"{kind}_{name}")
        files.append(("dispatch", self.csrc / "dispatch.c", *self.macros()))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda file: self.add(*file), files))

    def program(self, name, *flags):
        """Compile a program, and link it with all other objects."""
        own = self.compiled(name, TESTS / "c" / f"{name}.c", f"-I{self.csrc}", *flags)
        path = str(self.folder / name)
        link = [*self.command(), *self.objects.values(), own, "-o", path, "-lm"]
        subprocess.run(link, check=True, timeout=120)
        return path


def build(compiler, machine, folder, *switches, programs=PROGRAMS):
    """Build programs with every instruction set of `machine` that the compiler knows."""
    made = Build(compiler, machine, folder, *switches)
    made.kernels()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(made.program, programs))


def build_tiles(compiler, machine, folder, *switches):
    """Build the program that compares AMX, where the compiler knows it, and its double.

    The switches are for what it looks at; all else is compiled without optimisation, in no time.
    """
    made = Build(compiler, machine, folder, "-O0", wanted=("scalar", "avx512", "amx"))
    made.kernels()
    made.switches = switches
    steps = TESTS / "c" / "tile_steps.c", f"-I{CSRC}"
    for name, flags in made.usable("BF16S"):
        if name == "amx":
            made.add("bf16_amx", CSRC / "isa" / "bf16_amx.c", *flags)
            made.add("screen_amx", CSRC / "isa" / "screen_amx.c", *flags)
            made.add("steps", *steps, *flags, '-DLL_AMX="simd/amx.h"', "-DSTEPS=tile_steps_amx")
    made.add("bf16_double", CSRC / "isa" / "bf16_amx_double.c")
    made.add("screen_double", CSRC / "isa" / "screen_amx_double.c")
    made.add("steps_double", *steps, '-DLL_AMX="simd/amx_double.h"', "-DSTEPS=tile_steps_double")
    return made.program("tiles", *made.macros())


def run(*command, env=None):
    """{instruction set: its lines}."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    blocks = {}
    for line in done.stdout.splitlines():
        if line.startswith("["):
            lines = blocks[line.strip("[]")] = []
        else:
            lines.append(line)
    return blocks
