"""Every allocation of a call fails once: a MemoryError, and all is as it was."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from itertools import chain, count

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
@pytest.mark.parametrize("known", [False, True], ids=["new", "fitted"])
def test_fits(known):
    """Some of the allocations of a fit: who has failed is as before."""
    sklearn = pytest.importorskip("logitless.sklearn")
    x, _, y = faults.problem(40, 3, 4)

    def coefficients(model):
        return faults.as_bytes([model.coef_, model.intercept_])

    expected = coefficients(sklearn.SoftmaxRegression(max_iter=5, tol=1).fit(x, y))
    for which in chain(range(1, 60), range(60, 10**6, 29)):
        model = sklearn.SoftmaxRegression(max_iter=5, tol=1)
        before = vars(model.fit(x[:20], y[:20]) if known else model).copy()
        _, error, there = faults.starved(lambda m=model: m.fit(x, y), which)
        if error is None:
            assert coefficients(model) == expected
        else:
            assert isinstance(error, MemoryError), (which, error)
            assert vars(model) == before
        if there < which:
            break
    assert which > 60


@pytest.mark.slow
def test_tensors():
    """Loss and gradients by PyTorch, whose own memory does not fail here."""
    torch = pytest.importorskip("torch")
    ours = pytest.importorskip("logitless.torch")
    x, w, y = (torch.from_numpy(array) for array in faults.problem(30, 1100, 8))
    x.requires_grad_()
    w.requires_grad_()

    def call():
        x.grad = w.grad = None
        loss = ours.linear_cross_entropy(x, w, y)
        loss.backward()
        return [loss.detach().numpy(), x.grad.numpy(), w.grad.numpy()]

    assert starve_each(faults.Case(call), faults.as_bytes(call())) > 0


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
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="where it cannot make a function, CPython "
                                                        "itself crashes")
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
