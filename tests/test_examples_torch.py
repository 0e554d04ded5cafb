"""The example that trains a language model with PyTorch."""

from __future__ import annotations

import pathlib

import pytest

pytest.importorskip("torch", minversion="2.13")

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "torch_language_model.py"


@pytest.mark.slow
@pytest.mark.compiled_only  # plain NumPy takes ten times as long
def test_language_model(run_python):
    """It compares the curves of the loss itself."""
    out = run_python(f"import runpy; runpy.run_path({str(EXAMPLE)!r})", OMP_NUM_THREADS="1")
    table, times, last = out.strip().split("\n\n")[1:]
    assert len(table.split("\n")) == 12
    assert [line.split()[0] for line in times.split("\n")] == ["head", "logitless", "torch"]
    assert float(last.rpartition(" ")[2]) < 1e-5
