"""The kernels without Python around them: every instruction set and compiler gives the same bits.

``c/hashes.c`` is built as ``setup.py`` builds the kernels, run, and held against
``golden/hashes.txt``, and programs that print one hash against the file of their name there;
``write_goldens.py`` writes them. NEON and a big-endian machine are cross-compiled for and emulated;
where the tools for that are missing the test is skipped, unless ``LOGITLESS_REQUIRE_QEMU=1`` asks
for a failure instead.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from support.c_programs import (
    CSRC,
    SANITIZE,
    build,
    compiler_named,
    compiles,
    here,
    run,
    setup_table,
)

GOLDEN = pathlib.Path(__file__).parent / "golden" / "hashes.txt"
GOLDEN_HASH = {name: GOLDEN.with_name(f"{name}.txt")
               for name in ("bf16", "edges", "narrow", "screens")}
ARM = ("aarch64", "arm64")

pytestmark = pytest.mark.compiled_only


def check(blocks, *isas, bits=""):
    """Compare with the golden lines, of all bits or some; `isas` must be among the blocks."""
    golden = [line for line in GOLDEN.read_text().splitlines() if line.startswith(f"f{bits}")]
    assert set(isas) <= set(blocks)
    for isa, lines in blocks.items():
        differ = [f"{isa}: {line}" for line in lines if line not in golden]
        assert lines == golden, (
            "these are not the bits of tests/golden/hashes.txt. To change them is to change the "
            "version of the arithmetic contract, on purpose and in CHANGELOG.md:\n"
            + "\n".join(differ or [f"{isa}: lines are missing"])
        )


def check_same(*command, env=None):
    """Run a program whose lines all end in the same hash, some in a golden one: the names they
    begin with.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200,
                          env={**os.environ, **(env or {})})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    lines = done.stdout.splitlines()
    hashes = {line.split()[-1] for line in lines}
    assert len(hashes) == 1
    golden = GOLDEN_HASH.get(pathlib.Path(command[-1]).name)
    assert golden is None or hashes == {golden.read_text().strip()}
    return {line.split()[0] for line in lines}


@pytest.mark.slow
def test_this_machine(tmp_path):
    """By clang where there is one: what is installed is most often built by gcc."""
    compiler = next((c for c in ("clang", "gcc", "cc") if shutil.which(c)), None)
    if compiler is None:
        pytest.skip("there is no compiler")
    hashes, *others = build(compiler, here(), tmp_path, "-O3")
    check(run(hashes), "scalar")
    for program in others:
        assert "scalar" in check_same(program)


# Each takes a minute or more with every access watched: one compiler's sanitizers do.
@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "programs"), [("gcc", ("edges", "narrow")),
                                                    ("clang", ("screens", "bf16"))])
def test_sanitizers_find_nothing(compiler, programs, tmp_path):
    compiler = compiler_named(compiler)
    if not compiles([compiler, *SANITIZE], "int main(void) { return 0; }\n", tmp_path):
        pytest.skip(f"{compiler} has no sanitizers here")
    # Leaks would be the test program's own, and are not found under a debugger.
    env = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    for program in build(compiler, here(), tmp_path, *SANITIZE, programs=programs):
        assert "scalar" in check_same(program, env=env)


def emulate(machine, what, folder, *switches, bits=()):
    """Instruction sets of another machine, held against the golden lines, screens and the like.

    Lines are those of some `bits`, or all.
    """
    compiler = f"{machine}-linux-gnu-gcc"
    emulators = f"qemu-{machine}", f"qemu-{machine}-static"
    emulator = next(filter(None, map(shutil.which, emulators)), None)
    missing = [] if emulator else [emulators[0]]
    if not shutil.which(compiler):
        missing.append(compiler)
    if missing:
        message = f"{what} cannot be tested: {' and '.join(missing)} not found"
        if os.environ.get("LOGITLESS_REQUIRE_QEMU") == "1":
            pytest.fail(f"{message}, and LOGITLESS_REQUIRE_QEMU=1")
        pytest.skip(message)
    hashes, _, *others = build(compiler, machine, folder, "-static", *switches)
    blocks = run(emulator, hashes, *map(str, bits))
    check(blocks, bits="".join(map(str, bits)))
    return [set(blocks), *(check_same(emulator, program) for program in others)]


@pytest.mark.slow
def test_neon_under_emulation(tmp_path):
    if here() in ARM:
        pytest.skip("this machine runs NEON itself")
    both = {"neon", "scalar"}
    products = {"bfmlal", *both}
    assert emulate(ARM[0], "NEON", tmp_path, "-O3") == [both, both, products, products]


@pytest.mark.slow
def test_big_endian_under_emulation(tmp_path):
    """Plain C on s390x, where GCC computes float in double unless it is told not to: float32."""
    if here() == "s390x":
        pytest.skip("this machine is big-endian itself")
    plain = {"scalar"}
    blocks = emulate("s390x", "big-endian", tmp_path, "-O1", bits=(32,))
    assert blocks == [plain, plain, plain, plain]


@pytest.mark.parametrize("flags", ["-ffast-math", "-Ofast", "-std=c11 -mfpmath=387"])
@pytest.mark.parametrize("compiler", ["gcc", "clang", "cc"])
def test_flags_that_change_the_bits_are_refused(compiler, flags, tmp_path):
    command = [compiler_named(compiler), *setup_table()["UNIX_FLAGS"], *flags.split()]
    if not compiles(command, "int main(void) { return 0; }\n", tmp_path):
        pytest.skip(f"{compiler} does not know {flags} here")
    source = CSRC / "isa" / "scalar.c"
    done = subprocess.run([*command, "-DLL_REAL=32", "-fsyntax-only", str(source)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "logitless needs" in done.stderr
