"""The compiled engine and its plain-NumPy twin, on the whole battery."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from support import battery

pytestmark = pytest.mark.compiled_only

# Where logits are rounded to a common grid, equal ones need not be the same ones.
COARSE = ("offset",)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The battery's results from plain NumPy."""
    folder = tmp_path_factory.mktemp("twin")
    script = pathlib.Path(battery.__file__)
    done = subprocess.run(
        [sys.executable, str(script), "twin.npz"],
        env={**os.environ, "LOGITLESS_BACKEND": "numpy"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "twin.npz") as saved:
        return {key.replace("|", "/"): saved[key] for key in saved.files}


def test_engines_agree(twin):
    ours = battery.results()
    assert ours.keys() == twin.keys()
    for name, a in ours.items():
        b = twin[name]
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        if a.dtype.kind != "f":
            if not any(word in name for word in COARSE):
                np.testing.assert_array_equal(a, b, err_msg=name)
            continue
        eps = np.finfo(a.dtype).eps
        finite = np.abs(b[np.isfinite(b)])
        size = max(1.0, finite.max()) if finite.size else 1.0
        rtol = 1000 * eps * (64 if "offset" in name else 1)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1000 * eps * size, err_msg=name)
