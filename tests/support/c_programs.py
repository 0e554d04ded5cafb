"""The kernels without Python around them: programs of ``c/`` built as ``setup.py`` builds them.

LOGITLESS_WERROR=1 makes every warning an error here, too, whichever machine is built for.
"""

from __future__ import annotations

import ast
import os
import pathlib
import platform
import subprocess

TESTS = pathlib.Path(__file__).resolve().parents[1]
CSRC = TESTS.parent / "csrc"
PROGRAMS = ("hashes", "edges", "screens")


def here():
    return platform.machine().lower()


def setup_table():
    """Flags and instruction sets of setup.py, read rather than run: it needs its build tools."""
    table = {}
    for node in ast.parse((TESTS.parent / "setup.py").read_text()).body:
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if name in ("ISAS", "SCREENS", "UNIX_FLAGS", "STRICT_FLAGS"):
            table[name] = eval(ast.unparse(node.value), {}, table)  # literals, and ISAS in SCREENS
    return table["ISAS"], table["SCREENS"], table["UNIX_FLAGS"], table["STRICT_FLAGS"]


def compiles(command, source, folder):
    """Whether a program compiles and links."""
    path = folder / "probe.c"
    path.write_text(source)
    command = [*command, str(path), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def build(compiler, machine, folder, *switches):
    """Build the programs with every instruction set of `machine` that the compiler knows."""
    isas, screens, common, strict = setup_table()
    command = [compiler, *common, *switches]
    # Without optimisation intrinsics are macros, and warn.
    if os.environ.get("LOGITLESS_WERROR") == "1" and "-O0" not in switches:
        command += strict
    objects, macros = [], []

    def add(name, source, flags):
        objects.append(str(folder / f"{name}.o"))
        done = subprocess.run(
            [*command, *flags, "-c", str(source), "-o", objects[-1]],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr

    def usable(table):
        for name, (machines, flags, _, probe) in table.items():
            known = not machines or machine in machines
            if known and compiles([*command, *flags], probe, folder):
                yield name, flags

    for isa, flags in usable(isas):
        macros.append(f"-DLL_HAVE_{isa.upper()}=1")
        for bits in (32, 64):
            source = CSRC / "isa" / f"{isa}.c"
            add(f"{isa}{bits}", source, [*flags, f"-DLL_REAL={bits}"])
    for screen, flags in usable(screens):
        macros.append(f"-DLL_HAVE_SCREEN_{screen.upper()}=1")
        add(f"screen_{screen}", CSRC / "isa" / f"screen_{screen}.c", flags)
    add("dispatch", CSRC / "dispatch.c", macros)
    kernels = [*objects]
    for name in PROGRAMS:
        objects[:] = kernels
        add(name, TESTS / "c" / f"{name}.c", [f"-I{CSRC}"])
        link = [*command, *objects, "-o", str(folder / name), "-lm"]
        subprocess.run(link, check=True, timeout=120)
    return [str(folder / name) for name in PROGRAMS]


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
