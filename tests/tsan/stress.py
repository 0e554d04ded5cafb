"""Threads of callers and of the pool side by side, for ThreadSanitizer to watch.

``run`` builds the extension for it and runs this twice: ``stress.py race`` has two callers write
into one array, which must be seen; ``stress.py`` does what callers may, of which nothing may be.
Results are compared with those of one thread, which is a check of its own.
"""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
from scipy import sparse
from support.faults import as_bytes, problem

import logitless as ll
from logitless._engines.compiled import divergence, gradient_plan, plan, sharing, sparse_gradient
from logitless._parallel import pool

ROUNDS = int(os.environ.get("STRESS_ROUNDS", "3"))
CALLERS = 4


def share_out_everything():
    """Threads are put to work of any size, and packed rows and kept logits are cut small."""
    plan.FLOPS_PER_THREAD = plan.FLOPS_PER_SHARE = gradient_plan.FLOPS_PER_THREAD = 1
    sparse_gradient.FLOPS_PER_THREAD = 1
    sharing.TARGET_ROWS = 24
    divergence.BLOCK_ROWS = 24
    sys.setswitchinterval(1e-5)


def few_entries(x):
    return sparse.csr_array(np.where(np.abs(x) > 1, x, 0))


def calls_of_heads():
    """Calls by name, each of a number of threads; heads are shared by all callers."""
    x, w, t = problem(90, 5000, 20)
    few, v, s = problem(3, 17_000, 20, 1)
    wide, teacher, _ = problem(90, 5000, 12, 2)
    spread, mask = few_entries(x), sparse.random_array(
        (90, 5000), density=0.01, format="csr", random_state=np.random.default_rng(0))
    soft = np.abs(x[:, :1] * w[:, 0]) + 0.1
    heads = {"packed": ll.LinearHead(w), "mapped": ll.LinearHead(w, pack=False),
             "halves": ll.LinearHead(w.astype(np.float16), pack=False),
             "columns": ll.LinearHead(np.asfortranarray(w), pack=False)}
    screened, many = ll.LinearHead(w, screen="int8"), ll.LinearHead(v, pack=False)
    other = ll.LinearHead(teacher)
    calls = {}
    for name, head in heads.items():
        calls |= {
            f"{name} loss": lambda head=head: head.loss(x, t),
            f"{name} score": lambda head=head: head.score(x, t, k=3, entropy=True),
            f"{name} soft": lambda head=head: head.loss(x, soft),
            f"{name} proba": lambda head=head: head.predict_proba(x[:30]),
            f"{name} gradients": lambda head=head: head.value_and_grad(x, t),
            f"{name} windows": lambda head=head: head.value_and_grad(
                x, t, workspace_bytes=1 << 18, filter_eps=1e-3),
        }
    packed = heads["packed"]
    return calls | {
        "few": lambda: many.score(few, s, k=5, entropy=True),
        "one": lambda: many.topk(few[:1], 4),
        "in blocks": lambda: packed.score(few[:2, :20], s[:2] % 5000, k=2),
        "predict": lambda: packed.predict(x),
        "excluded": lambda: packed.topk(x, 5, exclude=mask),
        "candidates": lambda: packed.topk(x, 2, candidates=np.tile(t[:8], (90, 1))),
        "targets": lambda: packed.target_log_prob(x, np.tile(t[:8], (90, 1))),
        "sample": lambda: packed.sample(x[:9], np.random.default_rng(1)),
        "screened": lambda: screened.topk(x, 5, normalize=False),
        "screened few": lambda: screened.predict(x[:2]),
        "sparse": lambda: packed.score(spread, t, k=2),
        "sparse gradients": lambda: packed.value_and_grad(spread, t),
        "sparse windows": lambda: packed.value_and_grad(spread, t, workspace_bytes=1 << 18),
        "divergence": lambda: packed.kl_div(x, other, wide, beta=0.5),
        "divergences": lambda: packed.kl_div_value_and_grad(x, other, wide),
        "few classes": lambda: ll.linear_cross_entropy_value_and_grad(x, w[:7], t % 7),
        "state": lambda: ll.RowState.of(few, v, first=0, target=s).scores(),
        "softmax": lambda: ll.softmax(soft),
    }


def shuffled(names, seed):
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def callers():
    """Callers with different calls of the same heads at a time; each uses the pool."""
    calls = calls_of_heads()
    with ll.threads(1):
        expected = {name: as_bytes(call()) for name, call in calls.items()}
    wrong = []

    def call_all(seed):
        with ll.threads(1 + seed % 4):
            for name in shuffled(list(calls), seed):
                if as_bytes(calls[name]()) != expected[name]:
                    wrong.append(name)

    for turn in range(ROUNDS):
        side_by_side([lambda seed=turn * CALLERS + i + 1: call_all(seed) for i in range(CALLERS)])
    assert not wrong, sorted(set(wrong))


def work_of_python():
    """Tasks in Python, begun and taken back, by more callers than there are helpers."""
    def call():
        for i in range(50 * ROUNDS):
            done = []
            pool.run(lambda tasks, done=done: done.extend(tasks), i % 5, 4)
            assert sorted(done) == list(range(i % 5))

    side_by_side([call] * 5)


def forks():
    """A child of a process whose other threads are in calls."""
    x, w, _ = problem(300, 3000, 20)
    head, stop = ll.LinearHead(w, n_threads=2), threading.Event()
    want = head.logsumexp(x)

    def busy():
        while not stop.is_set():
            head.logsumexp(x)

    other = threading.Thread(target=busy)
    other.start()
    for _ in range(ROUNDS):
        child = os.fork()
        if not child:
            os._exit(0 if np.array_equal(head.logsumexp(x), want) else 3)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    other.join()


def race():
    """Two callers write into one array: no call may do that, and it must be seen."""
    x, w, _ = problem(400, 3000, 20)
    head, out = ll.LinearHead(w, n_threads=1), np.empty((400, 3000), np.float32)
    side_by_side([lambda: head.predict_proba(x, out=out)] * 2)


def side_by_side(works):
    failed = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


if __name__ == "__main__":
    share_out_everything()
    for part in [race] if sys.argv[1:] == ["race"] else [callers, work_of_python, forks]:
        part()
        print(part.__name__, flush=True)
