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
    assert (PACKAGE / "_core.pyi").is_file()


def test_version():
    assert ll.__version__.split(".")[0].isdigit()
    try:
        installed = importlib.metadata.version("logitless")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("logitless is not installed")
    assert ll.__version__ == installed


WITHOUT_CORE = """
import sys, warnings

class NoCore:
    def find_spec(self, name, path=None, target=None):
        if name == "logitless._core":
            raise ModuleNotFoundError("No module named 'logitless._core'", name=name)

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
    assert isa == "numpy numpy"


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
