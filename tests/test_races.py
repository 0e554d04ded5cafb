"""Nothing that threads share changes while they run: with threads that take turns all the time."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.oracle import assert_same_bits

import logitless as ll
from logitless._parallel import pool

pytestmark = pytest.mark.compiled_only


@pytest.fixture(autouse=True)
def threads_take_turns():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def problem(m, n, k, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((n, k)).astype("f4")
    return x, w, rng.integers(0, n, m)


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [2, 3, 4, 7])
@pytest.mark.parametrize("blocks", [2, 3, 5, 8])
def test_gradients_from_a_window_of_logits(n_threads, blocks):
    """Logits that did not fit into the workspace are scored again, by all threads at once."""
    x, w, t = problem(240, 16_384, 24)
    options = {"class_weight": np.linspace(0.5, 2, len(w), dtype="f4"), "label_smoothing": 0.1}
    workspace = blocks * 240 * (512 + 16) * 4
    expected = ll.linear_cross_entropy_value_and_grad(x, w, t, n_threads=1, **options)
    for _ in range(6):
        loss, grad = ll.linear_cross_entropy_value_and_grad(
            x, w, t, n_threads=n_threads, workspace_bytes=workspace, **options)
        assert_same_bits(loss, expected[0])
        for name in ("x", "weight", "bias"):
            assert_same_bits(getattr(grad, name), getattr(expected[1], name), name)


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [2, 3, 7])
@pytest.mark.parametrize("blocks", [2, 5])
def test_divergences_from_windows_of_logits(monkeypatch, n_threads, blocks):
    """Those of both heads are scored again, for the sums and for the gradients."""
    from logitless._calls import divergence

    x, w, _ = problem(240, 16_384, 24)
    y, v, _ = problem(240, 16_384, 40, seed=1)
    workspace = 2 * blocks * 240 * (512 + 16) * 4
    expected = ll.linear_kl_div_value_and_grad(x, w, y, v, n_threads=1, reduction="none", beta=0.5)
    monkeypatch.setattr(divergence, "WORKSPACE_BYTES", 1 << 19)
    for _ in range(4):
        value, grad = ll.linear_kl_div_value_and_grad(
            x, w, y, v, n_threads=n_threads, reduction="none", beta=0.5, workspace_bytes=workspace)
        assert_same_bits(value, expected[0])
        assert_same_bits(ll.linear_kl_div(x, w, y, v, n_threads=n_threads, beta=0.5), value)
        for name in ("x", "weight", "bias"):
            assert_same_bits(getattr(grad, name), getattr(expected[1], name), name)


@pytest.mark.parametrize("kind", ["f4", "f2", "f8"])
def test_gradients_of_one_head_by_many_callers(kind):
    x, w, t = problem(100, 5000, 16)
    head = ll.LinearHead(w.astype(kind), pack=False, n_threads=3)
    expected = head.value_and_grad(x, t)[1]
    found = []

    def call():
        for _ in range(4):
            found.append(head.value_and_grad(x, t, workspace_bytes=1 << 20)[1])

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 16
    for grad in found:
        for name in ("x", "weight", "bias"):
            assert_same_bits(getattr(grad, name), getattr(expected, name), name)


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 5, 300])
@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_scores(m, n_threads):
    """Rows shared out, or classes of a few rows, with ranks that all spans look at."""
    x, w, t = problem(m, 40_000, 24, seed=m)
    soft = np.abs(x[:, :1] + w[:, 0])
    for weight in (w, w.astype("f2")):
        one = ll.LinearHead(weight, pack=False, n_threads=1)
        many = ll.LinearHead(weight, pack=False, n_threads=n_threads)
        for _ in range(3):
            a, b = one.score(x, t, k=7, entropy=True), many.score(x, t, k=7, entropy=True)
            for name in ("loss", "lse", "target_rank", "predicted", "entropy"):
                assert_same_bits(getattr(a, name), getattr(b, name), name)
            assert_same_bits(a.top.index, b.top.index)
            assert_same_bits(one.loss(x, soft), many.loss(x, soft))
            assert_same_bits(one.predict_proba(x), many.predict_proba(x))


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(("m", "n", "kind"), [
    (45, 513, "f4"), (30, 700, "f8"), (20, 5000, "f2"), (50, 4097, "f4"), (3, 9000, "f8"),
    (30, 11_000, "f4"),
])
def test_blocks_of_classes(eager, monkeypatch, m, n, kind, pack):
    """Few rows, few spans: logits of blocks are kept, all or a few spans at a time, and folded."""
    from logitless._engines.compiled import plan, sharing

    x, w, t = problem(m, n, 100, seed=n)
    x = x.astype("f8") if kind == "f8" else x
    soft = np.abs(x[:, :1] + w[:, 0]).astype(kind)
    w, options = w.astype(kind), {"softcap": 9.0, "temperature": 0.7, "pack": pack}
    ways = []
    monkeypatch.setattr(sharing, "_score_by_block",
                        lambda *args, way=sharing._score_by_block: ways.append(1) or way(*args))

    def results(n_threads):
        head = ll.LinearHead(w, n_threads=n_threads, **options)
        s = head.score(x, t, k=5, entropy=True)
        grad = head.value_and_grad(x, t)[1]
        return (s.loss, s.target_rank, s.predicted, s.entropy, s.top.index, s.top.logit,
                head.loss(x, soft), head.loss(x, t, label_smoothing=0.1), head.predict_proba(x),
                head.logits(x), grad.x, grad.weight,
                head.score(x, temperature=np.linspace(0.5, 2, m)).lse)

    expected = results(1)
    assert not ways
    for kept in (4 << 20, 1 << 20):
        monkeypatch.setattr(plan, "KEPT_BYTES", kept)
        for n_threads in (2, 3):
            for a, b in zip(results(n_threads), expected, strict=True):
                assert_same_bits(a, b)
    assert ways


@pytest.mark.parametrize("kind", ["f4", "f2", "f8"])
def test_spans_are_merged_a_few_at_a_time(monkeypatch, kind):
    """However many of their states wait for that."""
    from logitless._engines.compiled import sharing

    x, w, t = problem(5, 70_000, 16, seed=3)
    soft = np.abs(x[:, :1] + w[:, 0]).astype(kind)
    head = ll.LinearHead(w.astype(kind), pack=False, n_threads=3)

    def results():
        s = head.score(x, t, k=9, entropy=True)
        return (s.loss, s.lse, s.target_rank, s.predicted, s.entropy, s.top.index, s.top.logit,
                head.loss(x, soft), head.loss(x, t, label_smoothing=0.1), head.predict_proba(x))

    expected = results()
    monkeypatch.setattr(sharing, "STATE_BYTES", 1)
    monkeypatch.setattr(sharing, "SPANS_PER_THREAD", 1)
    for a, b in zip(results(), expected, strict=True):
        assert_same_bits(a, b)


def test_screened():
    x, w, _ = problem(900, 4000, 32)
    head = ll.LinearHead(w, screen="int8", n_threads=5)
    expected = ll.LinearHead(w, n_threads=1).topk(x, 9, normalize=False)
    for _ in range(8):
        assert_same_bits(head.topk(x, 9, normalize=False).index, expected.index)


def test_what_threads_share_is_not_changed_once_it_is_made(monkeypatch):
    from logitless._engines.compiled import divergence, gradient, kept, scoring, screening

    made = set()

    def set_while_made(self, name, value):
        assert sys._getframe(1).f_code.co_name == "__init__", (type(self), name)
        made.add(type(self).__name__)
        object.__setattr__(self, name, value)

    for shared in (scoring.Scoring, scoring.Block, gradient._Call, gradient._Window,
                   divergence.Pair, kept.Kept, screening.ScreenedScoring):
        monkeypatch.setattr(shared, "__setattr__", set_while_made)
    x, w, t = problem(900, 9000, 24)
    soft = np.abs(x[:, :1] + w[:, 0]).astype("f2")
    head = ll.LinearHead(w, screen="int8", n_threads=3)
    head.score(x, t, k=3)
    head.loss(x[:5], soft[:5])
    head.topk(x, 3, normalize=False)
    ll.cross_entropy(soft[:20], t[:20])
    for workspace in (1 << 20, 64 << 20):
        head.value_and_grad(x, t, workspace_bytes=workspace)
    ll.linear_cross_entropy_value_and_grad(x, w[:90], t % 90, n_threads=3)
    ll.linear_kl_div(x, w, x[:, :9], w[:, :9], beta=0.5, n_threads=3)
    for workspace in (1 << 20, 128 << 20):
        ll.linear_kl_div_value_and_grad(x, w, x[:, :9], w[:, :9], n_threads=3,
                                        workspace_bytes=workspace)
    ll.linear_kl_div_value_and_grad(x, w[:90], x, w[:90], n_threads=3)
    assert made == {"LinearScoring", "LogitScoring", "Block", "_Call", "_Window", "Pair", "Kept",
                    "ScreenedScoring"}


# The pool


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0)


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_what_a_helper_raises_leaves_the_call_when_all_are_done(n_threads):
    inside, most = [], []

    def work(tasks):
        inside.append(1)
        try:
            for task in tasks:
                spin(0.002)
                if task == 5:
                    raise ValueError("five")
        finally:
            inside.pop()
            most.append(len(inside))

    for _ in range(20):
        with pytest.raises(ValueError, match="five"):
            pool.run(work, 40, n_threads)
        assert not inside


def test_what_a_helper_meets_outside_of_its_work_leaves_the_call(monkeypatch):
    """No memory for the call of a function, an exception sent by another thread: it helps again."""
    def fail(self):
        raise MemoryError

    before = len(pool._helpers)
    with monkeypatch.context() as patch:
        patch.setattr(pool.Tasks, "help", fail)
        with pytest.raises(MemoryError):
            pool.run(lambda tasks: [spin(0.01) for _ in tasks], 30, 3)
    inside = set()
    pool.run(lambda tasks: [inside.add(threading.get_ident()) or spin(0.01) for _ in tasks], 30, 3)
    assert len(inside) == 3
    assert len(pool._helpers) == max(before, 2)


def test_helpers_that_cannot_be_started_take_no_memory(monkeypatch):
    def fail(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(pool, "_helpers", [])
    monkeypatch.setattr(threading.Thread, "start", fail)
    tracemalloc.start()
    try:
        for _ in range(100):  # what Python keeps for itself
            pool.run(lambda tasks: list(tasks), 2, 2)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(500):
            pool.run(lambda tasks: list(tasks), 2, 2)
        assert tracemalloc.get_traced_memory()[0] - before < 500 * 8
    finally:
        tracemalloc.stop()


def test_helpers_do_not_keep_what_their_first_caller_had_set(monkeypatch):
    """Where threads begin with the context of who starts them, as in Python 3.14 without a GIL."""
    class Inheriting(threading.Thread):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.context = contextvars.copy_context()

        def run(self):
            self.context.run(super().run)

    def work(tasks):
        for _ in tasks:
            seen[threading.current_thread()] = np.geterr()["over"]
            time.sleep(0.01)

    monkeypatch.setattr(pool, "_helpers", [])
    monkeypatch.setattr(threading, "Thread", Inheriting)
    with np.errstate(over="raise"):
        seen = {}
        pool.run(work, 20, 2)
    caller = seen.pop(threading.current_thread())
    assert (caller, list(seen.values())) == ("raise", ["warn"])


def test_all_tasks_are_done_once():
    for n_threads in (1, 2, 5):
        done = []
        pool.run(lambda tasks, done=done: done.extend(tasks), 500, n_threads)
        assert sorted(done) == list(range(500))


def test_work_of_both_kinds_by_many_callers():
    """Work in Python and in C, begun and taken back, by more callers than there are cores."""
    x, w, _ = problem(200, 900, 16)
    head = ll.LinearHead(w, n_threads=3)
    expected, wrong = head.logsumexp(x), []

    def call():
        for i in range(60):
            done = []
            pool.run(lambda tasks, done=done: done.extend(tasks), i % 5, 4)
            same = np.array_equal(head.logsumexp(x), expected)
            if sorted(done) != list(range(i % 5)) or not same:
                wrong.append(i)

    callers = [threading.Thread(target=call) for _ in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_helpers_are_kept():
    pool.run(lambda tasks: [spin(0.001) for _ in tasks], 30, 3)
    before = list(pool._helpers)
    assert len(before) >= 2
    for _ in range(50):
        pool.run(lambda tasks: [None for _ in tasks], 6, 3)
    assert pool._helpers == before


COMING_AND_GOING = """
import threading
from logitless._engines.compiled._core import Crew, Helper

helpers = []

def nothing():
    pass

def change():
    for _ in range(100):
        helpers.extend([Helper() for _ in range(50)])
        for helper in list(helpers):
            helpers.remove(helper)

other = threading.Thread(target=change)
other.start()
while other.is_alive():
    Crew(nothing, nothing, nothing).run(helpers, 40, nothing)
print("good")
"""


def test_helpers_come_and_go_while_a_caller_looks_for_some(run_python):
    """Without a GIL that reads memory which was given back, if it reads the list itself."""
    assert run_python(COMING_AND_GOING).split() == ["good"]


def test_threads_that_are_more_than_cores_do_not_wait_awake(monkeypatch):
    monkeypatch.setattr(pool, "_helpers", [])
    monkeypatch.setattr(pool, "_cores", lambda: 3)
    pool.run(lambda tasks: [None for _ in tasks], 6, 3)
    assert all(helper.turns for helper in pool._helpers)
    pool.run(lambda tasks: [None for _ in tasks], 6, 4)
    assert len(pool._helpers) == 3
    assert not any(helper.turns for helper in pool._helpers)


@given(st.integers(1, 20_000), st.integers(1, 40), st.integers(1, 21), st.booleans())
def test_blocks_of_rows(m, n_threads, steps, even):
    from logitless._engines.compiled.plan import ROW_STEP, VECTOR, Plan

    most = steps * ROW_STEP
    bounds = Plan(most, 1, False, False, even, n_threads).bounds(m)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == m
    assert (sizes > 0).all()
    assert (bounds[:-1] % VECTOR == 0).all()
    assert sizes[0] <= most
    assert (np.diff(sizes) <= 0).all()  # memory for the first a thread takes is enough for all
    if n_threads > 1 and not even:  # the last to be taken are small
        assert sizes[-1] <= ROW_STEP
        assert sizes[0] <= max(m / (2 * n_threads), ROW_STEP)
    elif n_threads > 1:
        assert np.ptp(sizes[:-1]) <= VECTOR if len(sizes) > 1 else True


# Interrupts, in a process of their own

INTERRUPTS = """
import os, signal, sys, threading, time
import numpy as np, logitless as ll
from logitless._parallel import pool

pause, signals = {pause}, {signals}
armed = False

def handler(number, frame):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, handler)

def interrupted(call):
    "Whether interrupts have ended a call; they go on when it has been left."
    global armed

    def interrupt():
        time.sleep(0.02)
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)

    sender, found = threading.Thread(target=interrupt), False
    armed = True
    sender.start()
    try:
        try:
            call()
        except KeyboardInterrupt:
            armed, found = False, True
    except KeyboardInterrupt:
        armed, found = False, True
    look()
    sender.join()
    return found
"""

POOL = INTERRUPTS + """
inside, at_the_end = [], []

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0)

def work(tasks):
    for _ in tasks:
        inside.append(1)
        try:
            spin(0.02)
        finally:
            inside.pop()

def look():
    for _ in range(5):
        at_the_end.append(len(inside))
        time.sleep(0.01)

for _ in range(8):
    assert interrupted(lambda: pool.run(work, 10_000, 4))
assert not any(at_the_end), at_the_end
print("good")
"""

AT_ONCE = """
import ctypes, functools, operator, os, signal, threading, time
import logitless
from logitless._parallel import pool

inside = []
kill, fail = ctypes.CDLL(None).kill, functools.partial(operator.truediv, 1, 0)
interrupt = functools.partial(kill, os.getpid(), 2)

def work(tasks):
    for _ in tasks:
        if threading.current_thread() is threading.main_thread():
            while not inside:
                time.sleep(0.001)
            list(map(operator.call, [interrupt, fail]))  # no bytecode between the two
        inside.append(1)
        try:
            time.sleep(0.3)
        finally:
            inside.pop()

found = []

def handler(number, frame):
    found.append(len(inside))
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, handler)
try:
    try:
        pool.run(work, 10, 3)
    except ZeroDivisionError:
        pass
    time.sleep(1)
except KeyboardInterrupt:
    print(found)
"""

OUTPUT = INTERRUPTS + """
rng = np.random.default_rng(0)
x, w = rng.standard_normal((3000, 64), dtype="f4"), rng.standard_normal((20_000, 64), dtype="f4")
head = ll.LinearHead(w, n_threads=4)
out = np.zeros((len(x), len(w)), "f4")
changed = []

def look():
    before = out.copy()
    time.sleep(0.2)
    changed.append(not np.array_equal(out, before))

def call():
    while True:
        head.predict_proba(x, out=out)

for _ in range(4):
    assert interrupted(call)
assert not any(changed), changed
assert np.allclose(head.predict_proba(x[:5]).sum(1), 1, atol=1e-5)
print("good")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
@pytest.mark.parametrize("signals", [1, 2, 3, 20])
@pytest.mark.parametrize("pause", [0.0002, 0.004])
@pytest.mark.parametrize("code", [POOL, OUTPUT], ids=["pool", "out"])
def test_no_helper_is_left_at_work_by_interrupts(run_python, code, signals, pause):
    """However many come, and however soon after each other."""
    code = code.replace("{pause}", str(pause)).replace("{signals}", str(signals))
    assert run_python(code).split() == ["good"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs operator.call")
def test_no_helper_is_left_at_work_by_an_interrupt_that_comes_with_an_error(run_python):
    assert run_python(AT_ONCE).split() == ["[0]"]
