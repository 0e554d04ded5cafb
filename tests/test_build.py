"""What a build says where it cannot go on: one sentence, with what is missing."""

from __future__ import annotations

import pathlib
import shutil

import pytest

SETUP = pathlib.Path(__file__).resolve().parent.parent / "setup.py"
# setup.py up to the compiler: without Cython, which takes its time, and in place of the extension.
RUN = """
import os, runpy, sys, types
import setuptools
from distutils import sysconfig

build = types.ModuleType("Cython.Build")
build.cythonize = lambda extensions, **_: extensions
compiler = types.ModuleType("Cython.Compiler")
compiler.Options = types.SimpleNamespace()
sys.modules.update({"Cython": types.ModuleType("Cython"), "Cython.Build": build,
                    "Cython.Compiler": compiler})
if os.environ.get("WITHOUT_HEADERS"):
    sysconfig.get_python_inc = lambda *a, **k: "/nowhere"
sys.argv = ["setup.py", "-q", "build_ext", "--build-lib", "lib", "--build-temp", "temp"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.compiled_only


@pytest.fixture
def build(tmp_path, run_python):
    """The last lines of a build that fails."""
    pytest.importorskip("setuptools")
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    (tmp_path / "src" / "logitless").mkdir(parents=True)
    shutil.copy(SETUP, tmp_path)

    def run(**env):
        done = run_python(RUN, check=False, **{"CC": "gcc", **env})
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    return run


def test_no_compiler(build, tmp_path):
    last = build(CC=str(tmp_path / "cc"))
    assert last.startswith("error: logitless is built by a C compiler, and ")
    assert str(tmp_path / "cc") in last
    assert "build-essential" in last


def test_no_headers_of_the_c_library(build):
    last = build(CFLAGS="-nostdinc")
    assert last.startswith("error: the C compiler 'gcc' ")
    assert "<math.h>" in last


def test_no_headers_of_python(build):
    last = build(WITHOUT_HEADERS="1")
    assert last.startswith("error: the headers of this Python (Python.h) are missing")
    assert "python3-dev" in last
