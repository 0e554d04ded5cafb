"""The examples in the docstrings of the installed package."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import logitless

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(logitless.__path__, "logitless.")
)
OPTIONAL = {"logitless.__main__", "logitless._engines.compiled._core"}


@pytest.mark.parametrize("name", ["logitless", *sorted(set(MODULES) - OPTIONAL)])
def test_examples(name):
    for library in "dask", "jax", "torch", "transformers":
        if library in name:
            pytest.importorskip(library)
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_public_names_have_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    without = [
        name
        for name in logitless.__all__
        if not any(test.examples for test in finder.find(getattr(logitless, name), name))
    ]
    assert without == []
