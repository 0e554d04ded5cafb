"""The bits themselves, on a few fixed inputs.

They are the same on every machine, and stay so from release to release: to change them
(``python tests/write_goldens.py``) is to change the version of the arithmetic contract, on
purpose and in the changelog.
"""

from __future__ import annotations

import json
import pathlib

import pytest
from support import battery

pytestmark = pytest.mark.compiled_only


def test_golden_bits():
    kept = json.loads((pathlib.Path(__file__).parent / "golden" / "battery.json").read_text())
    ours = battery.golden()
    assert len(ours) == 2 * len(battery.GOLDEN)
    assert ours.keys() == kept.keys()
    differ = [name for name in ours if ours[name] != kept[name]]
    assert not differ, f"other bits than ever before: {differ}"
