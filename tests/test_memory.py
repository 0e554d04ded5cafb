"""The logit matrix never exists: what a call takes beside its arguments and results."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.memory import MIB, peak_again

import logitless as ll
from logitless._parallel import pool

ISA = ll.active_isa()
# The full size is quick where the kernels are; elsewhere fewer rows still make a
# logit matrix many times the limit.
ROWS = {"numpy": 48, "scalar": 16}.get(ISA, 2048)

PEAK = f"""
import resource, sys
import numpy as np, logitless as ll

def peak():
    "The most memory the process ever held, in bytes."
    try:
        # ru_maxrss counts what the parent held when it started this process.
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024)

def settle():
    "Have the peak start again from here, where the system can."
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except OSError:
        pass

m, k, n = {ROWS}, 64, 500_000
rng = np.random.default_rng(0)
x, w = np.empty((m, k), "f4"), np.empty((n, k), "f4")
rng.random(out=x, dtype="f4"), rng.random(out=w, dtype="f4")
t = rng.integers(0, n, m)
tiny = ll.LinearHead(w[:3], n_threads=1)
def extra(call, warm):
    warm()
    settle()
    before = peak()
    result = call()
    assert np.isfinite(result).all()
    print(peak() - before, flush=True)
"""


def extra(run_python, code):
    pytest.importorskip("resource")
    return int(run_python(PEAK + code, OMP_NUM_THREADS="1"))


@pytest.mark.slow
def test_loss_of_half_a_million_classes(run_python):
    code = """
head = ll.LinearHead(w, n_threads=1)
extra(lambda: head.loss(x, t), lambda: tiny.loss(x[:2], [0, 1]))
"""
    assert extra(run_python, code) < 16 * MIB


def test_one_shot_loss_packs_no_copy_of_the_weights(run_python):
    code = """
f = ll.linear_cross_entropy
extra(lambda: f(x[:16], w, t[:16], n_threads=1), lambda: f(x[:2], w[:3], [0, 1], n_threads=1))
"""
    assert extra(run_python, code) < 16 * MIB


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_the_measure_sees_a_logit_matrix(run_python):
    """The other tests here mean something: 16 rows of logits are 32 MB."""
    code = "extra(lambda: x[:16] @ w.T, lambda: x[:2] @ w[:3].T)"
    assert extra(run_python, code) > 24 * MIB


@pytest.mark.parametrize("call", ["loss", "soft", "topk", "score", "predict", "target_log_prob"])
def test_no_call_builds_the_logit_matrix(call, rng):
    """Of 300 x 60,000 logits (72 MB in float32)."""
    m, n, k = 300, 60_000, 8
    x, w = rng.random((m, k), np.float32), rng.random((n, k), np.float32)
    t = rng.integers(0, n, m)
    head = ll.LinearHead(w, n_threads=1)
    calls = {
        "loss": lambda: head.loss(x, t),
        "soft": lambda: head.loss(x, np.broadcast_to(np.float32(1 / n), (m, n))),
        "topk": lambda: head.topk(x, 5),
        "score": lambda: head.score(x, t, k=3, entropy=True),
        "predict": lambda: head.predict(x),
        "target_log_prob": lambda: head.target_log_prob(x, t[:, None]),
    }
    assert peak_again(calls[call]) < 16 * MIB


def test_sampling_builds_no_logit_matrix(rng):
    m, n = 60, 60_000
    x, w = rng.random((m, 2), np.float32), rng.random((n, 2), np.float32)
    head = ll.LinearHead(w, n_threads=1)
    # Neither of the 14 MB of logits, nor of three times that in noise.
    assert peak_again(lambda: head.sample(x, np.random.default_rng(0), size=3)) < 16 * MIB


@pytest.mark.parametrize("call", ["predict_proba", "predict_log_proba", "logits"])
def test_results_with_a_column_for_each_class_take_their_own_size(call, rng):
    m, n = 300, 30_000
    head = ll.LinearHead(rng.random((n, 8), np.float32), n_threads=1)
    x = rng.random((m, 8), np.float32)
    assert peak_again(lambda: getattr(head, call)(x)) < 4 * m * n + 16 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float16, np.int8, np.int64, ">f4"])
def test_what_must_be_converted_is_converted_a_block_at_a_time(kind, rng):
    """Of 64 MB in float32 no more than a block exists."""
    x = rng.integers(0, 9, (250_000, 64)).astype(kind)
    head = ll.LinearHead(rng.random((3, 64), np.float32), n_threads=1)
    assert peak_again(lambda: head.logsumexp(x)) < 24 * MIB
    strided = x[::-1, ::2]
    head = ll.LinearHead(rng.random((3, 32), np.float32), n_threads=1)
    assert peak_again(lambda: head.predict(strided)) < 24 * MIB


def test_unpacked_head_holds_no_copy(rng):
    w = rng.random((1000, 50), np.float32)
    assert ll.LinearHead(w, pack=False).nbytes < w.nbytes / 4


def test_reductions_of_logits_at_hand(rng):
    z = np.broadcast_to(rng.random((1, 2000), np.float32), (20_000, 2000))
    t = np.zeros(20_000, int)
    assert peak_again(lambda: ll.logsumexp(z)) < 16 * MIB
    assert peak_again(lambda: ll.cross_entropy(z, t)) < 16 * MIB


def test_soft_targets_in_another_precision_are_copied_in_small_blocks():
    m, n = 200, 20_000
    rng = np.random.default_rng(5)
    head = ll.LinearHead(rng.standard_normal((n, 8)).astype("f4"), n_threads=1)
    x, p = rng.standard_normal((m, 8)).astype("f4"), rng.random((m, n))
    z = head.logits(x)
    for call in (lambda: head.loss(x, p), lambda: ll.cross_entropy(z, p)):
        assert peak_again(call) < 9 * MIB  # all of them: 15 MiB in float32


def gradient_problem(probs_dtype):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(20, 101, 8)).astype("f4"), rng.normal(size=(9000, 8)).astype("f4")
    t = rng.random((20, 101, 9000), dtype="f4").astype(probs_dtype)
    out = ll.Gradients(np.empty_like(x), np.empty_like(w), np.empty(9000, "f4"))
    return x, w, t, out


@pytest.mark.slow
@pytest.mark.parametrize("probs_dtype", ["f4", "f8"])
def test_gradients_copy_class_probabilities_a_block_at_a_time(probs_dtype):
    x, w, t, out = gradient_problem(probs_dtype)
    # Under a shift neither rows nor probabilities can be seen as a matrix without a copy.
    peak = peak_again(lambda: ll.linear_cross_entropy_value_and_grad(
        x, w, t, shift=1, out=out, workspace_bytes=MIB, n_threads=1))
    assert peak < 0.7 * x[..., 0].size * 9000 * 4  # the logits; a block has 240 of 2,000 rows


def test_gradients_stay_within_the_workspace():
    x, w, t, out = gradient_problem("f4")
    index = t[..., 0].astype(np.int64)
    peaks = [peak_again(lambda w_b=w_b: ll.linear_cross_entropy_value_and_grad(
        x, w, index, out=out, workspace_bytes=w_b, n_threads=1)) for w_b in (MIB, 16 * MIB)]
    assert peaks[0] < 6 * MIB
    assert peaks[1] < 24 * MIB


@pytest.mark.slow
@pytest.mark.compiled_only
@pytest.mark.parametrize(
    ("m", "n", "k", "workspace", "n_threads", "copied"),
    [
        (1920, 500, 3000, 16, 1, "rows"),
        (2000, 6000, 10, 32, 1, "probabilities"),
        (1200, 100, 9000, 4, 4, "nothing"),  # packed rows take more than logits
        (1920, 65_000, 1, 64, 2, "nothing"),  # logits take more than gradients of the weights
    ],
)
def test_gradients_take_a_few_mebibytes_a_thread_beside_the_workspace(
        m, n, k, workspace, n_threads, copied):
    x, w, t = np.ones((m, k), "f4"), np.ones((n, k), "f4"), np.zeros(m, np.int64)
    if copied == "rows":
        x = np.asfortranarray(x)
    if copied == "probabilities":
        t = np.broadcast_to(np.array(1 / n, "f2"), (m, n))
    out = ll.Gradients(np.empty((m, k), "f4"), np.empty((n, k), "f4"), np.empty(n, "f4"))
    peak = peak_again(lambda: ll.linear_cross_entropy_value_and_grad(
        x, w, t, out=out, workspace_bytes=workspace * MIB, n_threads=n_threads))
    assert peak < (workspace + 4 + 4 * n_threads) * MIB


@pytest.mark.compiled_only
def test_every_block_of_rows_has_scratch_memory_enough(eager, monkeypatch):
    """The first that a thread takes need not be its largest."""
    from logitless._engines.compiled import scratch

    taken, share = [], pool.share

    def take(nbytes):
        taken.append(np.full(nbytes + MIB, 7, np.uint8))
        return taken[-1][:nbytes]

    monkeypatch.setattr(scratch, "take", take)
    monkeypatch.setattr(pool, "share", lambda crew, helpers: share(crew, 0))  # one takes all
    x, w = (np.ones((rows, 300), "f4", order="F") for rows in (721, 600))
    ll.LinearHead(w, pack=False, n_threads=16).loss(x, np.zeros(721, int))
    assert taken
    assert all((memory[-MIB:] == 7).all() for memory in taken)
