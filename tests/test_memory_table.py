"""The promise of memory as a table: every dtype and layout, call, number of rows and of threads.

A few MiB a thread beside the result, where a copy of the weights would take 35 to 70 MiB.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from support.layouts import unaligned
from support.memory import MIB, peak, traced

import logitless as ll

pytestmark = pytest.mark.slow

N, K = 9_000, 1024
ROWS = {"numpy": (1, 16), "scalar": (1, 16)}.get(ll.active_isa(), (1, 16, 1024))
THREADS = (1, 4)


def limit(n_threads):
    return (4 + 8 * n_threads + (8 if ll.active_isa() == "numpy" else 0)) * MIB


def padded(a):
    wide = np.zeros((a.shape[0], a.shape[1] + 3), a.dtype)
    wide[:, :-3] = a
    return wide[:, :-3]


def bfloat16(a):
    return a.astype(pytest.importorskip("ml_dtypes").bfloat16)


KINDS = {
    "float32": lambda a: a.astype("f4"),
    "float64": lambda a: a.astype("f8"),
    "float16": lambda a: a.astype("f2"),
    "bfloat16": bfloat16,
    "int8": lambda a: a.astype("i1"),
    "int32": lambda a: a.astype("i4"),
    "byte-swapped": lambda a: a.astype("f4").astype(np.dtype("f4").newbyteorder()),
    "unaligned": lambda a: unaligned(a.astype("f4")),
    "fortran": lambda a: np.asfortranarray(a.astype("f4")),
    "padded rows": lambda a: padded(a.astype("f4")),
    "reversed": lambda a: a.astype("f4")[::-1, ::-1],
    "swapped columns": lambda a: np.asfortranarray(a.astype(">f4")),
}


def calls_of(head, x, t):
    """Calls by name, and what their results take."""
    m, n = len(x), head.n_classes
    dtype = np.result_type(x, head.dtype)
    d_x = ll.Gradients(np.empty(x.shape, dtype))
    candidates = np.repeat(t[:, None], 3, axis=1)
    named = t[:, None] // 2 + [[0, n // 2]], np.full((m, 2), 0.25)
    mixed = {"temperature": np.linspace(0.5, 2, m), "entropy_weight": 0.1}
    calls = {
        "loss": lambda: head.loss(x, t),
        "predict": lambda: head.predict(x),
        "topk": lambda: head.topk(x, 10),
        "score": lambda: head.score(x, t, k=3, entropy=True),
        "candidates": lambda: head.target_log_prob(x, candidates),
        "first classes": lambda: ll.RowState.of(x, head, target=t, k=3, entropy=True),
        "later classes": lambda: ll.RowState.of(
            x, head, first=n, target=t, k=3, entropy=True, target_logit=np.zeros(m)),
        "smoothed": lambda: head.loss(x, t, label_smoothing=0.1),
        "gradient": lambda: head.value_and_grad(x, t, wrt="x", out=d_x, workspace_bytes=MIB),
        "temperatures": lambda: head.value_and_grad(
            x, t, wrt="x", out=d_x, workspace_bytes=MIB, **mixed),
        "divergence": lambda: head.kl_div(x, head, x, beta=0.5),
        "divergence gradient": lambda: head.kl_div_value_and_grad(
            x, head, x, wrt="x", out=d_x, workspace_bytes=MIB),
        "named classes": lambda: head.topk_kl_div_value_and_grad(
            x, *named, wrt="x", out=d_x, workspace_bytes=MIB),
    }
    if m <= 16:
        probs = np.full((m, n), 1 / n, "f2")
        calls["soft"] = lambda: head.loss(x, probs)
        out = np.empty((m, n), dtype)
        calls["proba"] = lambda: head.predict_proba(x, out=out)
        calls["sample"] = lambda: head.sample(x, 0)
    if m == 1024:  # these are enough, they take their time
        calls = {name: calls[name] for name in ("score", "gradient")}
    return calls


def over_the_limit(make_head, x_kind):
    """All calls that take more than they may."""
    rng = np.random.default_rng(0)
    whole = KINDS[x_kind](rng.integers(-4, 5, (max(ROWS), K)).astype("i1"))
    found = []
    for n_threads in THREADS:
        head = make_head(n_threads)
        for m in ROWS:
            for name, call in calls_of(head, whole[:m], rng.integers(0, N, m)).items():
                bytes_taken = peak(call)
                if bytes_taken > limit(n_threads):
                    found.append(f"{name}, {m} rows, {n_threads} threads: "
                                 f"{bytes_taken / MIB:.1f} MiB")
    return found


@pytest.fixture(scope="module")
def small_integers():
    return np.random.default_rng(1).integers(-4, 5, (N, K)).astype("i1")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_any_kind(small_integers, kind):
    weight = KINDS[kind](small_integers)
    assert not over_the_limit(
        lambda n_threads: ll.LinearHead(weight, pack=False, n_threads=n_threads), "float32")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "unpacked"])
def test_rows_wider_than_the_weights(small_integers, kind, pack):
    weight = KINDS[kind](small_integers)
    assert not over_the_limit(
        lambda n_threads: ll.LinearHead(weight, pack=pack, n_threads=n_threads), "float64")


@pytest.mark.parametrize("kind", ["float32", "float16", "fortran"])
def test_states_of_many_rows(small_integers, kind):
    """Beside the state, of which spans of classes are a part, no more than scores."""
    weight, m = KINDS[kind](small_integers), max(ROWS)
    x = np.random.default_rng(0).integers(-4, 5, (m, K)).astype("f4")
    for n_threads in THREADS:
        call = partial(ll.RowState.of, x, weight, first=N, target=np.arange(m), k=3, entropy=True,
                       n_threads=n_threads)
        assert peak(call) < limit(n_threads)


@pytest.mark.parametrize("x_kind", KINDS)
def test_rows_of_any_kind(small_integers, x_kind):
    weight = small_integers.astype("f4")
    assert not over_the_limit(lambda n_threads: ll.LinearHead(weight, n_threads=n_threads), x_kind)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "fortran"])
def test_making_a_head_takes_its_own_size(small_integers, kind):
    weight = KINDS[kind](small_integers)
    for screen in (None, "int8"):
        head = None

        def make(screen=screen):
            nonlocal head
            head = ll.LinearHead(weight, screen=screen)

        taken = peak(make)
        assert taken < head.nbytes + 12 * MIB, screen


@pytest.mark.compiled_only
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_screened(small_integers, kind):
    rng = np.random.default_rng(2)
    weight = KINDS[kind](small_integers)
    weight += rng.standard_normal(weight.shape).astype(weight.dtype)
    x = rng.standard_normal((max(ROWS), K)).astype(weight.dtype)
    for n_threads in THREADS:
        head = ll.LinearHead(weight, screen="int8", n_threads=n_threads)
        for rows in (x[:m] for m in ROWS):
            for call in (partial(head.predict, rows),
                         partial(head.topk, rows, 10, normalize=False)):
                assert peak(call) < 2 * limit(n_threads), (len(rows), n_threads)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_at_hand(kind):
    z = KINDS[kind](np.random.default_rng(0).integers(-4, 5, (400, 60_000)).astype("i1"))
    t = np.arange(400)
    wide = z[:2].repeat(20, axis=1)  # a row takes as much as all that may be copied
    for n_threads in THREADS:
        with ll.threads(n_threads):
            for call in (partial(ll.logsumexp, z), partial(ll.cross_entropy, z, t),
                         partial(ll.nll, z, t), partial(ll.logsumexp, z, axis=0),
                         partial(ll.logsumexp, wide), partial(ll.cross_entropy, wide, t[:2])):
                assert peak(call) < limit(n_threads)


@pytest.mark.parametrize("kind", ["int8", "float16", "float64"])
def test_distributions_at_hand(kind):
    p = KINDS[kind](np.random.default_rng(0).integers(0, 5, (100, 60_000)).astype("i1"))
    t = (p > 3).astype(p.dtype if p.dtype.kind == "f" else "f2")
    for n_threads in THREADS:
        with ll.threads(n_threads):
            for call in (partial(ll.nll, p, t), partial(ll.cross_entropy, p, t)):
                assert peak(call) < limit(n_threads)


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("n_threads", THREADS)
def test_a_million_rows(n, n_threads):
    """Beside losses of 4 bytes a row no more than labels and weights of other types take."""
    m = 1_000_000
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, 4), np.float32), rng.standard_normal((n, 4), np.float32)
    t, narrow = rng.integers(0, n, m), rng.integers(0, n, m).astype(np.int32)
    weights = {"class_weight": np.ones(n), "sample_weight": np.ones(m, np.float32),
               "label_smoothing": 0.1, "z_loss": 0.1, "entropy_weight": 0.1,
               "temperature": np.full(m, 2, np.float32)}
    head = ll.LinearHead(w, n_threads=n_threads)
    z = head.logits(x)
    for bytes_a_row, call in (
        (4, partial(head.loss, x, t)),
        (4, partial(head.logsumexp, x)),
        (12, partial(head.loss, x, narrow)),
        (36, partial(head.loss, x, narrow, **weights)),
        (4, partial(ll.cross_entropy, z, t)),
        (8, partial(head.target_log_prob, x, t)),
        (4, partial(head.loss, x, t, reduction="mean")),
    ):
        assert peak(call) < limit(n_threads) + bytes_a_row * m
    half = ll.LinearHead(w, n_threads=n_threads).loss(x[::2][1000:], t[::2][1000:])
    assert (half == head.loss(x, t)[::2][1000:]).all()


@pytest.mark.compiled_only
def test_what_is_kept_goes_with_the_threads_in_use_not_with_those_there_are():
    """Memory is kept from call to call; threads of the pool take turns."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 300), np.float32)
    w = rng.standard_normal((3000, 300), np.float32)
    t = rng.integers(0, 3000, 4000)
    ll.linear_cross_entropy(x, w, t, n_threads=8)  # so many threads there are
    with traced() as memory:
        for _ in range(40):
            ll.linear_cross_entropy(x, w, t, n_threads=2)
    assert memory.kept < 9 * MIB
