"""All instruction sets give the same bits, and the environment chooses among them."""

from __future__ import annotations

import pytest
from support.processes import hashes

import logitless as ll

pytestmark = pytest.mark.compiled_only


@pytest.mark.parametrize("cases", [
    "battery", pytest.param("gradient_battery", marks=pytest.mark.slow)
])
def test_instruction_sets_agree(cases):
    scalar = hashes(cases, LOGITLESS_ISA="scalar")
    assert scalar
    for isa in set(ll.available_isas()) - {"scalar"}:
        ours = hashes(cases, LOGITLESS_ISA=isa)
        assert ours.keys() == scalar.keys()
        differ = [name for name in ours if ours[name] != scalar[name]]
        assert not differ, (
            f"{isa} differs from scalar in {len(differ)} of {len(ours)}: {differ[:9]}"
        )


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "neon"])
def test_environment_chooses_the_instruction_set(isa, run_python):
    if isa not in ll.available_isas():
        pytest.skip(f"this machine has no {isa}")
    assert run_python(
        "import logitless as ll; print(ll.active_isa())", LOGITLESS_ISA=isa
    ).split() == [isa]
