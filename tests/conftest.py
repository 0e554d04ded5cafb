"""Settings every test shares.

``HYPOTHESIS_PROFILE=ci`` tries more examples than the default ``dev``.
"""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import logitless as ll

pytest.register_assert_rewrite("support")

from support.oracle import COMPILED  # noqa: E402
from support.processes import python  # noqa: E402

_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("dev", max_examples=15, **_COMMON)
settings.register_profile("ci", max_examples=150, derandomize=True, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items):
    if COMPILED:
        return
    skip = pytest.mark.skip(reason="the plain-NumPy engine does not promise this")
    for item in items:
        if "compiled_only" in item.keywords:
            item.add_marker(skip)


def pytest_report_header():
    return f"logitless: {ll.active_isa()} of {', '.join(ll.available_isas())}"


@pytest.fixture(params=[np.float32, np.float64], ids=["f32", "f64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture
def eager(monkeypatch):
    """Threads are put to work of any size."""
    for name in "plan.FLOPS_PER_THREAD", "plan.FLOPS_PER_SHARE", "gradient_plan.FLOPS_PER_THREAD":
        monkeypatch.setattr(f"logitless._engines.compiled.{name}", 1)


@pytest.fixture
def gen():
    """Random numbers of PyTorch."""
    return pytest.importorskip("torch").Generator().manual_seed(20240229)


@pytest.fixture(scope="module")
def one_blas_thread():
    """Threads of BLAS that wait by spinning make small products slow on a busy machine."""
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        yield


@pytest.fixture
def command(capsys):
    """Run the command in this process: exit code, stdout, stderr."""
    cli = pytest.importorskip("logitless.cli")

    def run(*args):
        code = cli.main([str(arg) for arg in args])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def run_python(tmp_path):
    """Run a piece of Python in a fresh process, in a folder of its own."""
    return partial(python, "-c", cwd=tmp_path)
