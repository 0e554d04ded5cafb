"""The page for who comes from another library: blocks that run, parameters."""

from __future__ import annotations

import importlib
import inspect
import pathlib

import numpy as np
import pytest
from support import pages

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming-from.md"


@pytest.fixture(scope="module")
def page():
    if not PAGE.exists():
        pytest.skip("no documentation beside these tests")
    return PAGE.read_text(encoding="utf-8")


def test_blocks_of_the_page_run(page):
    for names in pages.run(PAGE):
        assert np.isfinite(names.get("loss", 0.0)).all()
    assert all(np.isfinite(getattr(names["grad"], name)).all() for name in ("weight", "bias"))


def test_page_names_every_parameter_that_is_different(page):
    linear_model = pytest.importorskip("sklearn.linear_model")
    sklearn = importlib.import_module("logitless.sklearn")
    section = page[page.index("## scikit-learn") : page.index("## optax")]
    named = {name.strip("`") for row in section.splitlines() if row.startswith("| `")
             for name in row.split("|")[1].replace(" (before 1.8)", "").strip().split(", ")}
    ours, theirs = (
        {name: p.default for name, p in inspect.signature(model).parameters.items()}
        for model in (sklearn.SoftmaxRegression, linear_model.LogisticRegression))
    different = {name for name in ours.keys() | theirs.keys()
                 if ours.get(name, ()) != theirs.get(name, ())}
    assert different <= named
    assert named & ours.keys() & theirs.keys() <= different | {
        "n_jobs", "verbose", "class_weight", "warm_start"}
