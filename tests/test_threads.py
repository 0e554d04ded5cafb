"""Threads of ours, threads of others, forks, and Ctrl-C."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.oracle import assert_same, assert_same_bits

import logitless as ll
from logitless._parallel import cores

# JAX, once imported, warns of every fork: of its own threads, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

# Enough work to be split, and how many threads a process started in all.
COUNT = """
import threading
started = 0
start = threading.Thread.start
def counting(self):
    global started
    started += 1
    start(self)
threading.Thread.start = counting
import numpy as np, logitless as ll
x, w = np.ones((600, 64), "f4"), np.ones((9000, 64), "f4")
"""


def started(run_python, code, **env):
    env = {"LOGITLESS_NUM_THREADS": None, "OMP_NUM_THREADS": None} | env
    return int(run_python(COUNT + code + "\nprint(started)", **env))


ONE_CALL = "ll.linear_logsumexp(x, w)"


@pytest.mark.compiled_only
def test_environment_sets_the_number_of_threads(run_python):
    assert started(run_python, ONE_CALL, LOGITLESS_NUM_THREADS="1") == 0
    assert 1 <= started(run_python, ONE_CALL, LOGITLESS_NUM_THREADS="3") <= 3


@pytest.mark.compiled_only
def test_omp_num_threads_is_respected(run_python):
    assert started(run_python, ONE_CALL, OMP_NUM_THREADS="1") == 0
    # Our own variable is the closer one.
    assert started(run_python, ONE_CALL, OMP_NUM_THREADS="1", LOGITLESS_NUM_THREADS="2") > 0


@pytest.mark.compiled_only
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_affinity_is_respected(run_python):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + ONE_CALL
    assert started(run_python, code) == 0


# What /proc and /sys hold of a group and of those above it, and the cores that they leave of 16.
GROUPS = {
    "none": ({}, 16),
    "no quota": ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 16),
    "one and a half": ({"/proc/self/cgroup": "0::/a/b\n",
                        "/sys/fs/cgroup/a/b/cpu.max": "150000 100000\n",
                        "/sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 2),
    "of a group above": ({"/proc/self/cgroup": "0::/a/b\n",
                          "/sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
                          "/sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    "more than there are": ({"/proc/self/cgroup": "0::/\n",
                             "/sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 16),
    "what is none": ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/cpu.max": "\n"}, 16),
    "version 1": ({"/proc/self/cgroup": "3:cpuset:/a\n2:cpu,cpuacct:/a:b\n0::/c\n",
                   "/sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us": "1\n",
                   "/sys/fs/cgroup/cpuset/a/cpu.cfs_period_us": "1\n",
                   "/sys/fs/cgroup/cpu,cpuacct/a:b/cpu.cfs_quota_us": "400000\n",
                   "/sys/fs/cgroup/cpu,cpuacct/a:b/cpu.cfs_period_us": "100000\n"}, 4),
    "version 1, no quota": ({"/proc/self/cgroup": "2:cpu:/a\n",
                             "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                             "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}, 16),
}


@pytest.mark.parametrize(("files", "expected"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("affinity", [True, False])
def test_quotas_of_control_groups_are_respected(monkeypatch, files, expected, affinity):
    def read(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(cores, "_read", read)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 16)
    if affinity:
        monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(16)),
                            raising=False)
    else:
        monkeypatch.delattr(cores.os, "sched_getaffinity", raising=False)
    assert cores.usable_cores() == expected


@pytest.mark.slow
@pytest.mark.compiled_only
def test_threads_context(run_python):
    one, three = f"with ll.threads(1): {ONE_CALL}\n", f"with ll.threads(3): {ONE_CALL}\n"
    assert started(run_python, one, LOGITLESS_NUM_THREADS="3") == 0
    assert started(run_python, three, LOGITLESS_NUM_THREADS="1") > 0
    # It ends with the block, also by an exception.
    failing = "try:\n with ll.threads(3): 1 / 0\nexcept ZeroDivisionError: pass\n"
    assert started(run_python, failing + ONE_CALL, LOGITLESS_NUM_THREADS="1") == 0
    nested = f"with ll.threads(3):\n with ll.threads(1): {ONE_CALL}\n"
    assert started(run_python, nested) == 0


@pytest.mark.compiled_only
def test_small_work_stays_on_the_calling_thread(run_python):
    code = "ll.linear_logsumexp(x[:4], w[:10])"
    assert started(run_python, code, LOGITLESS_NUM_THREADS="3") == 0


@pytest.mark.compiled_only
def test_import_starts_no_thread(run_python):
    assert started(run_python, "", LOGITLESS_NUM_THREADS="3") == 0


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["0", "-1", "many"])
def test_bad_number_of_threads_in_the_environment(run_python, bad):
    # Where there is work to share out: a small call need not ask.
    done = run_python(
        COUNT + ONE_CALL,
        check=False,
        LOGITLESS_NUM_THREADS=bad,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "ValueError" in last
    assert "LOGITLESS_NUM_THREADS" in last
    assert bad in last


def test_threads_context_gives_the_same_results(rng):
    x, w = rng.normal(size=(400, 30)), rng.normal(size=(3000, 30))
    head = ll.LinearHead(w)
    plain = head.logsumexp(x)
    for n in (1, 2, 5):
        with ll.threads(n):
            assert_same(head.logsumexp(x), plain)


# Threads of others


def work(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(20 + 13 * (seed % 7), 40)).astype("f4"), rng.integers(0, 900, 1)[0]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_many_threads_call_one_head(rng, n_threads):
    head = ll.LinearHead(rng.normal(size=(900, 40)).astype("f4"), n_threads=n_threads)

    def call(seed):
        x, label = work(seed)
        s = head.score(x, np.full(len(x), label), k=3, entropy=True)
        return s.loss, s.entropy, s.top.index, head.predict_proba(x)

    expected = [call(seed) for seed in range(60)]
    with ThreadPoolExecutor(6) as pool:
        for ours, plain in zip(pool.map(call, range(60)), expected, strict=True):
            for a, b in zip(ours, plain, strict=True):
                assert_same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_joblib(rng, backend):
    joblib = pytest.importorskip("joblib")
    head = ll.LinearHead(rng.normal(size=(900, 40)).astype("f4"), n_threads=2)
    xs = [work(seed)[0] for seed in range(8)]
    expected = [head.logsumexp(x) for x in xs]
    with joblib.parallel_config(backend=backend, n_jobs=2):
        ours = joblib.Parallel()(joblib.delayed(head.logsumexp)(x) for x in xs)
    for a, b in zip(ours, expected, strict=True):
        assert_same(a, b)


# Forks

FORK = """
import os, sys
import numpy as np, logitless as ll
rng = np.random.default_rng(0)
x, w = rng.normal(size=(300, 50)).astype("f4"), rng.normal(size=(9000, 50)).astype("f4")
head = ll.LinearHead(w, n_threads=3)
before = head.logsumexp(x)
def same():
    return np.array_equal(head.logsumexp(x), before) and np.array_equal(
        ll.linear_logsumexp(x, w, n_threads=2), ll.linear_logsumexp(x, w, n_threads=1))
for generation in range(3):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if same() else 3)
        good = same() and os.waitpid(grandchild, 0)[1] == 0
        os._exit(0 if good else 4)
    assert same()
    assert os.waitpid(child, 0)[1] == 0
print("good")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_call_fork_call(run_python):
    assert run_python(FORK, timeout=120).split() == ["good"]


FORK_WHILE_BUSY = """
import os, threading, time
import numpy as np, logitless as ll
x, w = np.ones((1000, 64), "f4"), np.ones((4000, 64), "f4")
head = ll.LinearHead(w, n_threads=2)
want = head.logsumexp(x[:9])
stop = threading.Event()
def busy():
    while not stop.is_set():
        head.logsumexp(x)
other = threading.Thread(target=busy)
other.start()
for _ in range(5):
    time.sleep(0.05)
    child = os.fork()
    if child == 0:
        good = np.array_equal(head.logsumexp(x[:9]), want)
        good = good and len(head.logsumexp(x)) == len(x)
        os._exit(0 if good else 3)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
other.join()
print("good")
"""


@pytest.mark.compiled_only  # a BLAS may not survive this
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_while_another_thread_is_in_a_call(run_python):
    assert run_python(FORK_WHILE_BUSY, timeout=120).split() == ["good"]


# Ctrl-C

LONG_CALL = """
import sys, time
import numpy as np, logitless as ll
n_threads, call = int(sys.argv[1]), sys.argv[2]
row = np.random.default_rng(0).normal(size=(1, 768)).astype("f4")
x, w = np.broadcast_to(row, (200_000, 768)), np.broadcast_to(row / 30, (50_000, 768))
logits = np.broadcast_to(row, (40_000_000, 768))
small = np.arange(12, dtype="f4").reshape(4, 3)
before = ll.linear_softmax(small, small)
t = np.broadcast_to(np.int64(0), len(x))
calls = {
    "logsumexp": lambda: ll.linear_logsumexp(x, w, n_threads=n_threads),
    "loss": lambda: ll.linear_cross_entropy(x, w, t, n_threads=n_threads),
    "logits": lambda: ll.logsumexp(logits),
}
print("ready", flush=True)
try:
    calls[call]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
else:
    print("finished", flush=True)
assert np.array_equal(ll.linear_softmax(small, small), before)
many = ll.linear_logsumexp(x[:600], w[:600], n_threads=n_threads)
assert many.shape == (600,) and np.ptp(many) < 1e-4 * many[0], "the pool is broken"
print("usable", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
@pytest.mark.parametrize(("n_threads", "call"), [(1, "loss"), (2, "logsumexp"), (1, "logits")])
def test_ctrl_c_ends_a_long_call(n_threads, call):
    """The limits here only tell an interrupt from a hang."""
    env = {k: v for k, v in os.environ.items() if k != "LOGITLESS_NUM_THREADS"}
    child = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL, str(n_threads), call],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert child.stdout.readline().strip() == "ready", child.stderr.read()
        time.sleep(1)
        assert child.poll() is None, child.stderr.read()
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline().strip() == "interrupted"
        delay = time.monotonic() - sent
        rest = child.stdout.read()  # not communicate: it would miss what is buffered
        assert child.wait(timeout=60) == 0, child.stderr.read()
        assert rest.split() == ["usable"]
        assert delay < 2
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def test_head_after_a_round_trip_through_another_process(rng, run_python, tmp_path):
    head = ll.LinearHead(rng.normal(size=(30, 5)), n_threads=2)
    x = rng.normal(size=(7, 5))
    (tmp_path / "head").write_bytes(pickle.dumps((head, x)))
    run_python(
        "import pickle, numpy as np\n"
        "head, x = pickle.load(open('head', 'rb'))\n"
        "np.save('result.npy', head.loss(x, np.zeros(7, int)))"
    )
    assert_same_bits(np.load(tmp_path / "result.npy"), head.loss(x, np.zeros(7, int)))


@pytest.mark.compiled_only
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_of_many_logits_at_hand(dtype):
    # Threads share out the classes here, and there is nothing to pack.
    z = np.random.default_rng(3).standard_normal((2, 600_000)).astype(dtype)
    target = [599_999, 0]
    results = []
    for n in (1, 3):
        with ll.threads(n):
            results.append((ll.logsumexp(z), ll.softmax(z), ll.cross_entropy(z, target)))
    for one, three in zip(*results, strict=True):
        assert_same_bits(one, three)
