"""AMX and its double in plain C, by ``c/tiles.c``: the same bits.

Where the processor has AMX, its instructions, the product of bfloat16 and the screen are held
against the double; everywhere the double is held against the definition. To try another machine,
build the program with ``-static`` by ``support.c_programs.build_tiles``, and take it there.
"""

from __future__ import annotations

import subprocess

import pytest
from support.c_programs import SANITIZE, build_tiles, compiler_named, compiles, here

pytestmark = [pytest.mark.compiled_only, pytest.mark.slow]


def check(program):
    done = subprocess.run([program], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " 0 of " in done.stdout
    print(done.stdout)


@pytest.mark.parametrize("compiler", ["gcc", "clang", "cc"])
def test_amx_and_its_double(compiler, tmp_path):
    check(build_tiles(compiler_named(compiler), here(), tmp_path, "-O2"))


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sanitizers_find_nothing(compiler, tmp_path):
    compiler = compiler_named(compiler)
    if not compiles([compiler, *SANITIZE], "int main(void) { return 0; }\n", tmp_path):
        pytest.skip(f"{compiler} has no sanitizers here")
    check(build_tiles(compiler, here(), tmp_path, *SANITIZE))
