"""What the machine can do: rates that add up, and none where nothing does the work."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from support.processes import python

import logitless as ll
from logitless import limits
from logitless._engines.choice import engine


class Clock:
    """Time that goes by while a load runs, and not otherwise."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def spin(self, rounds):
        """Two operations each, 1e6 rounds a second."""
        self.now += rounds * 1e-6
        return 2.0 * rounds


def test_a_rate_is_operations_over_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    assert limits._peak(clock.spin, 1) == pytest.approx(2e6 / 1e9)


def test_a_load_that_does_nothing_has_no_rate():
    assert limits._peak(lambda rounds: 0.0, 1) == 0


@pytest.mark.slow
def test_limits_are_there_where_something_does_the_work():
    found = asdict(ll.machine_limits(1))
    assert found["n_threads"] == 1
    there = {"dot_gflops_bfloat16": engine.bf16_name(), "dot_gops_int8": engine.int8_name()}
    assert {name for name, value in found.items() if value > 0} == {
        name for name in found if there.get(name, True)}


@pytest.mark.slow
def test_plain_numpy_multiplies_neither_bfloat16_nor_bytes():
    code = ("import json, logitless as ll; from dataclasses import asdict;"
            "print(json.dumps(asdict(ll.machine_limits(1))))")
    found = json.loads(python("-c", code, LOGITLESS_BACKEND="numpy"))
    assert found["dot_gflops_bfloat16"] == found["dot_gops_int8"] == 0
    assert found["fma_gflops_float32"] > 0


@pytest.mark.compiled_only
@pytest.mark.parametrize("isa", ll.available_isas())
def test_products_of_bytes_are_counted(isa):
    from logitless._engines.compiled._core import screener_for

    screener = screener_for(isa)
    one = screener.spin(1)
    assert one % (2 * 4 * screener.lanes) == 0 < one
    assert [screener.spin(rounds) for rounds in (0, 2, 63, 64, 1000)] == [
        rounds * one for rounds in (0, 2, 63, 64, 1000)]


@pytest.mark.compiled_only
def test_chains_and_products_are_counted(dtype):
    """Two operations each, for every number of each accumulator; and none without a round."""
    from logitless._engines.compiled.kernels import BF16, KERNELS

    for load, lanes in (KERNELS[dtype].spin_fma, 64 // dtype.itemsize), (BF16.spin, 2):
        one = load(1)
        assert one % (2 * lanes) == 0 < one
        assert [load(rounds) for rounds in (0, 2, 99)] == [rounds * one for rounds in (0, 2, 99)]


@pytest.mark.compiled_only
@pytest.mark.parametrize("streams", [1, 3, 4, 5])
def test_memory_is_read_once(streams, dtype):
    """Whole vectors of each part: what is read is added up."""
    from logitless._engines.compiled.kernels import KERNELS

    vector = 64 // dtype.itemsize
    memory = np.arange(streams * 3 * vector, dtype=dtype)
    assert KERNELS[dtype].spin_read(memory, streams) == memory.sum()
