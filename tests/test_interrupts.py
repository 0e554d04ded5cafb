"""SIGINT wherever it can land in a call: it ends the call, and all is as if that had not been made.

An interrupt lands where the interpreter, or the extension between two blocks, looks for signals. Of
these places, some hundreds to a call, tests take some; ``LOGITLESS_FAULTS=all`` takes all of them.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
import threading
from itertools import count

import numpy as np
import pytest
from support import faults
from support.oracle import COMPILED

import logitless as ll
from logitless._parallel import pool

pytestmark = [
    pytest.mark.usefixtures("eager", "one_blas_thread"),
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    # Python 3.11 begins the step that it traces again after every look for signals: without end.
    pytest.mark.skipif(sys.gettrace() is not None, reason="steps are traced, as by coverage"),
    # Python itself can lose a file that is open, between two steps of a `with`.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALL = os.environ.get("LOGITLESS_FAULTS") == "all"
PLACES = 8  # of a call, about


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    faults.module()
    return faults.cases(tmp_path_factory.mktemp("faults"))


def places(call, seed, some=PLACES):
    """Places of a call to interrupt, and how many there are."""
    _, error, there = faults.interrupted(call, 1 << 40)
    assert error is None
    step = 1 if ALL else max(there // some, 1)
    return range(1 + seed % step, there + 1, step), there


def interrupted(call, first, second=0):
    """Interrupt a call; whether it was before the end. Nothing else may come of it."""
    result, error, there = faults.interrupted(call, first, second)
    if there < first:  # garbage is collected, threads come and go: not all calls have as many
        assert error is None
        return False
    assert isinstance(error, KeyboardInterrupt), (first, there, error, result)
    return True


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("name", faults.NAMES)
def test_once(cases, name, n_threads):
    found, inputs = cases
    case, other, before = found[name], found["score"], faults.as_bytes(inputs)
    if n_threads > 1 and not COMPILED:
        pytest.skip("these threads are the compiled engine's")
    with ll.threads(n_threads):
        expected, same = faults.as_bytes(case()), faults.as_bytes(other())
        looks, _ = places(case.call, faults.NAMES.index(name) * 3 + n_threads)
        hits = 0
        for look in looks:
            hits += interrupted(case.call, look)
            assert faults.as_bytes(other()) == same, look
            assert faults.as_bytes(case()) == expected, look
        assert hits
    assert faults.as_bytes(inputs) == before


@pytest.mark.parametrize("after", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("name", ["loss", "proba, out", "gradients, out", "screened", "score, few"])
def test_twice(cases, name, after):
    """The second comes while the first is on its way out."""
    case = cases[0][name]
    with ll.threads(3):
        expected = faults.as_bytes(case())
        for look in places(case.call, after)[0]:
            interrupted(case.call, look, look + after)
            assert faults.as_bytes(case()) == expected, look


@pytest.mark.compiled_only
def test_nothing_is_kept(cases):
    case = cases[0]["gradients"]
    with ll.threads(3):
        case()
        before = faults.kept_bytes()
        for look in range(1, 600, 1 if ALL else 25):
            faults.interrupted(case, look)
        case()
        # Threads that happen to be at work at the same time have memory each.
        assert faults.kept_bytes() <= 3 * before


@pytest.mark.compiled_only
def test_helpers_are_as_many_as_they_were(cases, monkeypatch):
    """An interrupt while a thread starts."""
    case = cases[0]["loss"]
    with ll.threads(4):
        expected = faults.as_bytes(case())
        for look in places(case.call, 1, 40)[0]:
            monkeypatch.setattr(pool, "_helpers", [])
            before = threading.active_count()
            interrupted(case.call, look)
            assert faults.as_bytes(case()) == expected
            assert threading.active_count() - before <= len(pool._helpers) + 1


@pytest.mark.compiled_only
def test_an_interrupt_that_becomes_an_error(monkeypatch):
    """A Condition makes a RuntimeError of one that comes while it lets go of its lock."""
    start = threading.Thread.start

    def interrupted_start(self):
        start(self)
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(pool, "_helpers", [])
    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        pool.run(lambda tasks: list(tasks), 2, 2)
    assert len(pool._helpers) == 1


@pytest.mark.slow
def test_a_fit(cases):
    pytest.importorskip("sklearn")
    from logitless.sklearn import SoftmaxRegression

    x, y = np.random.default_rng(0).standard_normal((60, 4)), np.arange(60) % 3
    model = SoftmaxRegression(max_iter=5, tol=1).fit(x, y)
    for call in (lambda: model.fit(x[:, ::-1], 2 - y), lambda: model.partial_fit(x, y)):
        before = {name: pickle.dumps(value) for name, value in vars(model).items()}
        for look in range(1, 20_000, 1 if ALL else 997):
            _, error, there = faults.interrupted(call, look)
            if there < look:
                break
            if error is None:
                continue
            assert isinstance(error, KeyboardInterrupt)
            now = {name: pickle.dumps(value) for name, value in vars(model).items()}
            assert now == before, look


@pytest.mark.slow
def test_torch(cases):
    torch = pytest.importorskip("torch")
    from logitless.torch import linear_cross_entropy

    x, w, t = (torch.from_numpy(a) for a in faults.problem(60, 300, 20))
    x.requires_grad_(), w.requires_grad_()

    def call():
        return torch.autograd.grad(linear_cross_entropy(x, w, t), (x, w))

    def as_bytes(grads):
        return [grad.numpy().tobytes() for grad in grads]

    with ll.threads(3):
        expected = as_bytes(call())
        for look in places(call, 1, 6)[0]:
            interrupted(call, look)
            assert as_bytes(call()) == expected


WORDS = ["score", "head.npy", "x.npy", "target.npy", "--block-rows", "10", "--topk", "2", "-o"]


@pytest.mark.slow
@pytest.mark.parametrize("resume", [False, True])
def test_the_command(tmp_path, monkeypatch, capsys, resume):
    """One line, exit code 130, nothing left but what is gone on from: to the same bytes."""
    cli = pytest.importorskip("logitless.cli")
    from logitless.cli import part

    pytest.importorskip("rich")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part, "KEEP_SECONDS", 0)
    monkeypatch.setattr(os, "fsync", lambda number: None)
    x, w, t = faults.problem(45, 7, 5)
    for name, array in ("x", x), ("head", w), ("target", t):
        np.save(name, array)
    assert cli.main([*WORDS, "whole.npz"]) == 0
    whole, names = (tmp_path / "whole.npz").read_bytes(), set(os.listdir())
    words = [*WORDS, "out.npz", *["--resume"] * resume]
    codes = 0
    with faults.little_garbage():
        for look in count(1, 1 if ALL else 197):
            code, error, there = faults.interrupted(lambda: cli.main(words), look)
            error = capsys.readouterr().err
            left = set(os.listdir()) - names
            if code == 0 and there < look:
                break
            if code == 130:
                assert error.strip() == "interrupted", look
                codes += 1
            assert left <= {"out.npz", *["out.npz.part"] * resume}, look
            if "out.npz" in left:
                assert (tmp_path / "out.npz").read_bytes() == whole, look
            if resume:
                gc.collect()  # what holds on to the lock
                assert cli.main(words) == 0
                assert (tmp_path / "out.npz").read_bytes() == whole, look
                assert set(os.listdir()) - names == {"out.npz"}, look
            (tmp_path / "out.npz").unlink(missing_ok=True)
    assert codes > 10
