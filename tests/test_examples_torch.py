"""The examples that train language models with PyTorch."""

from __future__ import annotations

import pathlib

import pytest

pytest.importorskip("torch", minversion="2.13")

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def printed(run_python, name):
    code = f"import runpy; runpy.run_path({str(EXAMPLES / name)!r})"
    return run_python(code, OMP_NUM_THREADS="1").strip().split("\n\n")


@pytest.mark.slow
@pytest.mark.compiled_only  # plain NumPy takes ten times as long
def test_language_model(run_python):
    """It compares the curves of the loss itself."""
    table, times, last = printed(run_python, "torch_language_model.py")[1:]
    assert len(table.split("\n")) == 12
    assert [line.split()[0] for line in times.split("\n")] == ["head", "logitless", "torch"]
    assert float(last.rpartition(" ")[2]) < 1e-5


@pytest.mark.slow
@pytest.mark.compiled_only
def test_distillation(run_python):
    """Students come closer to the teacher than who has seen the words alone."""
    _, curves, results = printed(run_python, "torch_distillation.py")
    first, last = ([float(loss) for loss in curves.split("\n")[at].split()] for at in (1, -1))
    assert (first[0], last[0]) == (1, 120)
    assert all(end < 0.6 * begin for begin, end in zip(first[1:], last[1:], strict=True))
    rows = [line.rsplit(maxsplit=3) for line in results.split("\n")[1:]]
    divergence, same = ({name: float(row[at].rstrip("%")) for name, *row in rows} for at in (1, 2))
    assert divergence["the teacher"] == 0
    assert same["the teacher"] == 100
    for name in "beta 0", "beta 0.5":
        assert divergence[name] < divergence["words alone"]
        assert same[name] > same["words alone"]
