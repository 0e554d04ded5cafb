"""What `import logitless` does and does not do."""

from __future__ import annotations

import importlib.metadata
import pathlib

import pytest

import logitless as ll

PACKAGE = pathlib.Path(ll.__file__).parent


def test_import_brings_in_nothing_but_numpy(run_python):
    """No other package: all that is loaded is of NumPy, the standard library, or built in."""
    code = """
import sys, numpy
numpy_alone = set(sys.modules)
import logitless
tops = {name.partition(".")[0] for name in set(sys.modules) - numpy_alone}
known = set(sys.stdlib_module_names) | {"numpy", "logitless", "cython_runtime"}
print(*sorted(t for t in tops - known if not t.startswith("_")))
print(*sorted(t for t in ("click", "rich", "scipy", "sklearn", "torch", "asyncio", "matplotlib",
                          "multiprocessing", "concurrent") if t in sys.modules and
                          t not in {n.partition(".")[0] for n in numpy_alone}))
"""
    foreign, heavy = run_python(code).split("\n")[:2]
    assert foreign == ""
    assert set(heavy.split()) <= {"concurrent"}


def test_import_starts_nothing_and_says_nothing(run_python):
    done = run_python("import threading, logitless; print(threading.active_count())", check=False)
    assert (done.stdout.strip(), done.stderr.strip()) == ("1", "")


def test_import_with_warnings_as_errors(run_python):
    run_python("import warnings; warnings.simplefilter('error'); import logitless")


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_engines" / "compiled" / "_core.pyi").is_file()


def test_version():
    assert ll.__version__.split(".")[0].isdigit()
    try:
        installed = importlib.metadata.version("logitless")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("logitless is not installed")
    assert ll.__version__ == installed


WITHOUT_CORE = """
import os, sys, warnings

class NoCore:
    def find_spec(self, name, path=None, target=None):
        if name == "logitless._engines.compiled._core":
            if "REFUSAL" in os.environ:
                raise ImportError(os.environ["REFUSAL"])
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoCore())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import logitless as ll
    ll.LinearHead([[1.0], [2.0]]).predict([[1.0]])
    ll.softmax([1.0, 2.0])
    ll.LinearHead([[1.0], [2.0]]).loss([[1.0]], [1])
for w in caught:
    print(w.category.__name__, str(w.message).replace("\\n", " "))
print(ll.active_isa(), *ll.available_isas())
"""


def test_without_the_compiled_module_plain_numpy_takes_over_with_one_warning(run_python):
    *warned, isa = run_python(WITHOUT_CORE, LOGITLESS_BACKEND=None).strip().split("\n")
    assert len(warned) == 1
    assert warned[0].startswith("RuntimeWarning")
    assert "is missing (No module named 'logitless._engines.compiled._core')" in warned[0]
    assert isa == "numpy numpy"


@pytest.mark.slow
@pytest.mark.parametrize(("refusal", "says"), [
    ("Interpreter change detected - this module can only be loaded into one interpreter per "
     "process.", "works in one interpreter of a process, and this is another"),
    ("module logitless._engines.compiled._core does not support loading in subinterpreters",
     "works in one interpreter of a process, and this is another"),
    ("_core.so: undefined symbol: ll_isas", "is there but cannot be loaded"),
])
def test_a_compiled_module_that_refuses_is_not_called_missing(run_python, refusal, says):
    out = run_python(WITHOUT_CORE, LOGITLESS_BACKEND=None, REFUSAL=refusal)
    *warned, isa = out.strip().split("\n")
    assert len(warned) == 1
    assert f"the compiled engine of logitless {says} ({refusal})" in warned[0]
    assert "missing" not in warned[0]
    assert isa == "numpy numpy"


SUBINTERPRETER = """
import _xxsubinterpreters as interpreters
import logitless as ll

print(ll.LinearHead([[1.0], [2.0]]).predict([[1.0]]))
try:
    interpreters.run_string(interpreters.create(), '''
import warnings
warnings.simplefilter("always")
import logitless as ll
print(ll.LinearHead([[1.0], [2.0]]).predict([[1.0]]))
''')
except Exception as error:
    print(error)
"""


def test_a_second_interpreter_is_told_what_is_the_matter(run_python):
    """NumPy may refuse it first: then that is what is said."""
    pytest.importorskip("_xxsubinterpreters")
    done = run_python(SUBINTERPRETER, check=False, LOGITLESS_BACKEND=None)
    first, second = done.stdout.strip().split("\n", 1)
    assert first == "[1]"
    assert "missing" not in done.stderr
    if second == "[1]":
        assert "works in one interpreter of a process" in done.stderr
    else:
        assert "ImportError" in second


@pytest.mark.parametrize("name", ["sklearn", "dask"])
def test_an_integration_says_what_to_install(run_python, name):
    done = run_python(f"import sys; sys.modules[{name!r}] = None; import logitless.{name}",
                      check=False)
    assert f"ImportError: logitless.{name} needs {name}" in done.stderr
    assert done.stderr.strip().endswith(f'pip install "logitless[{name}]"')


def test_where_numpy_cannot_be_imported_nothing_else_is_said(run_python):
    code = "import sys; sys.modules['numpy'] = None; import logitless"
    done = run_python(code, check=False, LOGITLESS_BACKEND=None)
    assert done.returncode == 1
    assert "import of numpy halted" in done.stderr
    assert "compiled engine" not in done.stderr


def test_plain_numpy_on_request_comes_without_a_warning(run_python):
    out = run_python(WITHOUT_CORE, LOGITLESS_BACKEND="numpy").strip()
    assert out == "numpy numpy"


def test_unknown_backend(run_python):
    done = run_python(
        "import logitless as ll; ll.softmax([1.0])", check=False, LOGITLESS_BACKEND="fortran"
    )
    assert done.returncode != 0
    assert "LOGITLESS_BACKEND" in done.stderr
    assert "fortran" in done.stderr


@pytest.mark.compiled_only
def test_unknown_instruction_set(run_python):
    code = "import logitless as ll; ll.softmax([1.0]); print(ll.active_isa())"
    done = run_python(code, check=False, LOGITLESS_ISA="mmx")
    # An error, or a warning and the best there is: never a silent choice.
    assert "LOGITLESS_ISA" in done.stderr
    assert "mmx" in done.stderr
