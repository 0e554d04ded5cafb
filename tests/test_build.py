"""What a build says where it cannot go on: one sentence, with what is missing. What it makes."""

from __future__ import annotations

import json
import pathlib
import re
import shutil

import pytest

import logitless as ll

ROOT = pathlib.Path(__file__).resolve().parent.parent
SETUP = ROOT / "setup.py"
# setup.py up to the compiler: without Cython, which takes its time, and in place of the extension.
RUN = """
import json, os, runpy, sys, types
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
sys.argv = ["setup.py", "-q", *json.loads(os.environ["COMMAND"])]
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
        command = "build_ext", "--build-lib", "lib", "--build-temp", "temp"
        done = run_python(RUN, check=False,
                          **{"CC": "gcc", "COMMAND": json.dumps(command), **env})
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


def test_nothing_of_an_earlier_checkout_gets_into_the_wheel(tmp_path, run_python):
    pytest.importorskip("setuptools")
    package, copied = tmp_path / "src" / "logitless", tmp_path / "lib" / "logitless"
    for folder, module in (package, "ours"), (copied, "gone"):
        folder.mkdir(parents=True)
        for name in "__init__", module:
            (folder / f"{name}.py").touch()
    shutil.copy(SETUP, tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in "README.md", "LICENSE":
        (tmp_path / name).touch()
    run_python(RUN, COMMAND=json.dumps(["build_py", "--build-lib", "lib"]))
    assert {path.name for path in copied.iterdir()} == {"__init__.py", "ours.py"}


def test_the_version_stands_in_one_place():
    """The package's own: the build reads it there, and what must repeat it says the same."""
    project = (ROOT / "pyproject.toml").read_text().partition("[project.optional")[0]
    assert re.search(r'^dynamic = \["version"\]$', project, re.M)
    assert not re.search("^version =", project, re.M)
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.*)$", citation, re.M) == [ll.__version__]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## ([^\s,]+)", changes, re.M).group(1) == ll.__version__
