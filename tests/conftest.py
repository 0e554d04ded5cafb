"""Settings every test shares.

``HYPOTHESIS_PROFILE=ci`` tries more examples than the default ``dev``.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import logitless as ll

pytest.register_assert_rewrite("support")

COMPILED = ll.active_isa() != "numpy"

_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
settings.register_profile("dev", max_examples=15, **_COMMON)
settings.register_profile("ci", max_examples=400, derandomize=True, **_COMMON)
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
def run_python(tmp_path):
    """Run a piece of Python in a fresh process and return what it printed.

    The environment is this one's with the given changes; None removes a variable.
    """

    def run(code, *, timeout=240, check=True, **env):
        full = dict(os.environ)
        for key, value in env.items():
            if value is None:
                full.pop(key, None)
            else:
                full[key] = value
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=full,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            pytest.fail(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done

    return run
