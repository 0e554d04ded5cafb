"""Every allocation of a call fails once: a MemoryError, and all is as it was."""

from __future__ import annotations

import gc
import tracemalloc
from itertools import count

import pytest
from support import faults
from support.oracle import COMPILED

import logitless as ll
from logitless._parallel import pool

pytestmark = pytest.mark.usefixtures("eager", "one_blas_thread")

NAMES = list(faults.NAMES)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    faults.module()
    return faults.cases(tmp_path_factory.mktemp("faults"))


def starve_each(case, expected):
    """Fail one allocation after the other until none is left; returns how many there were."""
    for which in count(1):
        case.clear()
        result, error, there = faults.starved(case.call, which)
        if error is None and there < which:
            assert faults.as_bytes(result) == expected
            return which - 1
        if error is None:  # Python or NumPy did without
            assert faults.as_bytes(result) == expected, which
            continue
        assert isinstance(error, MemoryError), (which, error)
        if case.late:
            assert all((array == 9).all() for array in case.out), which
        error = None
        assert faults.as_bytes(case()) == expected, which


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_arrays(cases, name, n_threads):
    found, inputs = cases
    case, before = found[name], faults.as_bytes(inputs)
    if n_threads > 1 and not COMPILED:
        pytest.skip("these threads are the compiled engine's")
    with ll.threads(n_threads):
        expected = faults.as_bytes(case())
        assert starve_each(case, expected) > 0
    assert faults.as_bytes(inputs) == before


@pytest.mark.slow
@pytest.mark.compiled_only
@pytest.mark.parametrize("name", ["few", "few, predict", "few, loss"])
def test_memory_of_a_few_rows(cases, name):
    """Which is no array."""
    case = cases[0][name]
    expected = faults.as_bytes(case())
    held = []
    with faults.little_garbage():
        tracemalloc.start()
        try:
            for _ in range(3):
                for which in range(1, 30):
                    faults.starved(case, which)
                gc.collect()  # an error holds on to the frame that holds on to it
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert held[-1] - held[0] < 2000
    assert faults.as_bytes(case()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loss", "screened", "gradients", "sparse gradients"])
def test_a_caller_beside_one_that_fails(cases, name):
    found, _ = cases
    case, other = found[name], found["score"]
    with ll.threads(2):
        expected, same = faults.as_bytes(case()), faults.as_bytes(other())

    def score():
        with ll.threads(2):
            assert faults.as_bytes(other()) == same

    with faults.at_the_same_time(score), ll.threads(2):
        starve_each(case, expected)


@pytest.mark.compiled_only
def test_the_pool():
    """Where objects of Python cannot be made, too: each task is done once, or the run fails."""
    def work():
        done = []
        pool.run(lambda tasks: done.extend(tasks), 6, 3)
        return sorted(done)

    for which in count(1):
        result, error, there = faults.starved(work, which, faults.REST)
        assert error is None or isinstance(error, MemoryError), (which, error)
        assert error or result == list(range(6)), which
        assert work() == list(range(6))
        if not error and there < which:
            break
    assert which > 20
