"""The layers of the package: a module imports only from those below it, and none in a circle.

Of tests: what they share lies in ``support``, programs in folders of their own, and none imports
another.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "logitless"
BENCH = Path(__file__).parents[1] / "bench"
TESTS = Path(__file__).parent

# From below. A module belongs to the entry that is the longest beginning of its name; modules of
# one entry may import each other, those of one line that are of different entries may not.
LAYERS = [
    ["results", "_arrays", "_parallel", "_version"],
    ["io", "_engines.interface", "_engines.gaps"],
    ["_engines.plain", "_engines.compiled"],
    ["_engines.choice"],
    ["_calls"],
    ["logits", "limits", "head"],
    ["functional", "distillation", "states", "calibration"],
    ["", "jax", "plot", "sklearn", "torch"],
    ["dask", "transformers"],
    ["cli"],
    ["__main__"],
]


def modules(folder: Path) -> dict[str, Path]:
    """Modules of a folder by their names within it, that of a package being its folder's."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        *parents, stem = path.relative_to(folder).with_suffix("").parts
        found[".".join(parents if stem == "__init__" else [*parents, stem])] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path], package: str) -> set[str]:
    """Modules that another one imports, at its beginning or within a function."""
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    here = [part for part in here if part]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [package] if package else []
            base = [*base, *here[: len(here) + 1 - node.level]] if node.level else []
            base += node.module.split(".") if node.module else []
            inside = {".".join([*base, alias.name]) for alias in node.names}
            of_package = {module.removeprefix(f"{package}.") for module in inside} & set(known)
            found |= inside if of_package else {".".join(base)}
    if package:
        found = {module.removeprefix(f"{package}.") if module != package else ""
                 for module in found if module.split(".")[0] == package}
    return found & set(known)


@cache
def graph(folder: Path, package: str) -> dict[str, set[str]]:
    known = modules(folder)
    return {name: imports(name, path, known, package) for name, path in known.items()}


def place(name: str) -> tuple[int, str]:
    """The layer of a module and its entry there."""
    entries = [(entry, i) for i, layer in enumerate(LAYERS) for entry in layer
               if name == entry or name.startswith(f"{entry}." if entry else "\0")]
    entry, layer = max(entries, key=lambda found: len(found[0]))
    return layer, entry


PACKAGE = graph(SRC, "logitless")
FOLDERS = {"_engines"}  # whose __init__ holds nothing but a docstring


@pytest.mark.parametrize("name", sorted(set(PACKAGE) - FOLDERS))
def test_imports_go_downwards(name):
    layer, entry = place(name)
    upwards = {other for other in PACKAGE[name]
               if place(other)[1] != entry and place(other)[0] >= layer}
    assert upwards == set()


@pytest.mark.parametrize(("folder", "package"), [(SRC, "logitless"), (BENCH, ""), (TESTS, "")],
                         ids=["package", "bench", "tests"])
def test_there_is_no_circle(folder, package):
    found = graph(folder, package)
    assert sum(map(len, found.values())) > 10
    assert len(list(TopologicalSorter(found).static_order())) == len(found)


def test_the_engines_do_not_know_each_other():
    for name, imported in PACKAGE.items():
        engines = {module.split(".")[1] for module in {name, *imported}
                   if module.startswith(("_engines.plain", "_engines.compiled"))}
        assert len(engines) < 2 or name == "_engines.choice"


def test_no_test_imports_another():
    imported = set().union(*graph(TESTS, "").values())
    assert "support.oracle" in imported
    assert {name for name in imported if name.split(".")[0] not in ("support", "fuzz")} == set()


def test_every_test_file_has_its_promise_in_the_table():
    """And every file that a page names is there."""
    tests = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    page = (SRC.parents[1] / "CONTRIBUTING.md").read_text()
    table = set(re.findall(r"`(test_\w+\.py)`", page))
    assert tests == table
    named = set(re.findall(r"\btest_\w+\.py", (SRC.parents[1] / "docs/arithmetic.md").read_text()))
    assert len(named) > 10
    assert named <= tests
