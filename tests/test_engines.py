"""The compiled engine and its plain-NumPy twin, on the whole battery."""

from __future__ import annotations

import numpy as np
import pytest
from support import battery
from support.processes import TESTS, python

pytestmark = pytest.mark.compiled_only

# Where logits are rounded to a common grid, equal ones need not be the same ones.
COARSE = ("offset",)


SAVE = """
import sys
import numpy as np
from support.battery import results
np.savez(sys.argv[1], **{key.replace("/", "|"): a for key, a in results().items()})
"""


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The battery's results from plain NumPy."""
    folder = tmp_path_factory.mktemp("twin")
    python("-c", SAVE, folder / "twin.npz", cwd=TESTS, LOGITLESS_BACKEND="numpy")
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


def test_names_of_the_core_are_those_of_the_interface():
    from logitless._engines.compiled import _core
    from logitless._engines.interface import COEFFICIENTS

    assert _core.COEFFICIENTS == COEFFICIENTS
