"""The same row gives the same bits, whatever is around it and however it is computed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.battery import everything, from_logits
from support.exact import distributions, exact, labels
from support.layouts import LAYOUTS, as_layout
from support.oracle import assert_same_bits

import logitless as ll

pytestmark = pytest.mark.compiled_only

CLASSES = [
    *(1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 61, 63, 64, 65, 127, 129),
    *(255, 256, 257, 511, 512, 513, 1021, 2047, 2048, 2049, 4095, 4096, 4097),
    *(6143, 8191, 8192, 8193, 12_289, 20_011),
]
FEATURES = [0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 61, 64, 127, 255, 256, 257, 511, 512, 513, 769]
ROWS = [2, 3, 5, 6, 7, 8, 11, 12, 13, 17, 23, 24, 25, 47, 48, 49, 97, 144, 145, 257, 1009, 2017]
# The scalar kernels take some nanoseconds a product.
MOST_PRODUCTS = 600_000


@st.composite
def problems(draw):
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 700)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(1, 300)))
    room = max(2, MOST_PRODUCTS // (n * max(k, 1)))
    m = draw(st.sampled_from([r for r in ROWS if r <= room]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    seed = draw(st.integers(0, 1000))
    scale = draw(st.sampled_from([0.125, 1.0, 16.0]))
    x, w = exact((m, k), seed, dtype), exact((n, k), seed + 1, dtype, scale)
    bias = draw(st.sampled_from([None, exact((n,), seed + 2, dtype, 8.0)]))
    options = {}
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([0.5, 5.0, 50.0]))
    if draw(st.booleans()):
        options["temperature"] = draw(st.sampled_from([0.3, 1.5]))
    return x, w, bias, labels(m, n, seed + 3), distributions(m, n, seed + 4, dtype), options


def assert_all_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert_same_bits(a[name], b[name], name)


@given(problems(), st.data())
def test_batch_may_be_cut_anywhere(problem, data):
    x, w, bias, t, soft, options = problem
    cut = data.draw(st.integers(1, len(x) - 1))
    head = ll.LinearHead(w, bias, **options)
    whole = everything(head, x, t, soft=soft)
    parts = [
        everything(head, x[rows], t[rows], soft=soft[rows])
        for rows in (slice(cut), slice(cut, None))
    ]
    assert_all_same(whole, {key: np.concatenate([p[key] for p in parts]) for key in whole})


@given(problems(), st.randoms(use_true_random=False))
def test_rows_may_be_permuted_and_taken_alone(problem, random):
    x, w, bias, t, soft, options = problem
    order = list(range(len(x)))
    random.shuffle(order)
    head = ll.LinearHead(w, bias, **options)
    whole = everything(head, x, t, soft=soft)
    shuffled = everything(head, x[order], t[order], soft=soft[order])
    assert_all_same({key: a[order] for key, a in whole.items()}, shuffled)
    i = order[:1]
    alone = everything(head, x[i], t[i], soft=soft[i])
    assert_all_same({key: a[i] for key, a in whole.items()}, alone)


@given(problems(), st.sampled_from([2, 3, 4, 7]))
def test_threads(eager, problem, n_threads):
    x, w, bias, t, soft, options = problem
    one = ll.LinearHead(w, bias, n_threads=1, **options)
    more = ll.LinearHead(w, bias, n_threads=n_threads, **options)
    assert_all_same(everything(one, x, t, soft=soft), everything(more, x, t, soft=soft))


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [(1, 1_600_000, 1), (60, 20_000, 33), (90_000, 11, 30), (700, 1300, 40)]
)
@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_on_work_worth_splitting(shape, n_threads, dtype):
    m, n, k = shape
    x, w = exact((m, k), 31, dtype), exact((n, k), 32, dtype)
    bias, t = exact((n,), 33, dtype), labels(m, n, 34)
    one, more = (ll.LinearHead(w, bias, n_threads=threads) for threads in (1, n_threads))
    small = m * n <= 1_000_000
    for name in ("loss", "logsumexp", "predict", "topk", "score") + small * ("predict_proba",):
        args = {"loss": (t,), "topk": (7,), "score": (t,)}.get(name, ())
        options = {"k": 3, "entropy": True} if name == "score" else {}
        a, b = (getattr(head, name)(x, *args, **options) for head in (one, more))
        if name == "topk" or name == "score":
            assert_all_same(vars_of(a), vars_of(b))
        else:
            assert_same_bits(a, b, name)


def vars_of(result):
    """The arrays of a Scores or a TopK by name, nested ones flattened."""
    names = ("loss", "lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy")
    if not hasattr(result, "top"):
        return {name: getattr(result, name) for name in ("index", "logit", "log_prob")}
    return {name: getattr(result, name) for name in names} | vars_of(result.top)


@given(problems())
def test_packed_and_unpacked(problem):
    x, w, bias, t, soft, options = problem
    packed, plain = (ll.LinearHead(w, bias, pack=pack, **options) for pack in (True, False))
    assert_all_same(everything(packed, x, t, soft=soft), everything(plain, x, t, soft=soft))


@given(problems())
def test_one_shot_and_head(problem):
    x, w, bias, t, soft, options = problem
    head = ll.LinearHead(w, bias, **options)
    k = min(5, len(w))
    options = dict(options, bias=bias)
    top, score = ll.linear_topk(x, w, k, **options), ll.linear_score(x, w, t, k=k, **options)
    pairs = {
        "loss": (ll.linear_cross_entropy(x, w, t, **options), head.loss(x, t)),
        "soft": (ll.linear_cross_entropy(x, w, soft, **options), head.loss(x, soft)),
        "softmax": (ll.linear_softmax(x, w, **options), head.predict_proba(x)),
        "log_softmax": (ll.linear_log_softmax(x, w, **options), head.predict_log_proba(x)),
        "logsumexp": (ll.linear_logsumexp(x, w, **options), head.logsumexp(x)),
        "argmax": (ll.linear_argmax(x, w, **options), head.predict(x)),
        "topk.index": (top.index, head.topk(x, k).index),
        "topk.log_prob": (top.log_prob, head.topk(x, k).log_prob),
        "score.loss": (score.loss, head.score(x, t).loss),
        "score.top": (score.top.logit, head.topk(x, k).logit),
    }
    for name, (one_shot, ours) in pairs.items():
        assert_same_bits(one_shot, ours, name)


@given(problems())
def test_what_is_asked_for_beside_changes_nothing(problem):
    x, w, bias, t, soft, options = problem
    head = ll.LinearHead(w, bias, **options)
    r = everything(head, x, t, soft=soft)
    same = [
        ("score.loss", "loss"),
        ("score.lse", "logsumexp"),
        ("score.predicted", "predict"),
        ("score.top.index", "topk.index"),
        ("score.top.logit", "topk.logit"),
        ("score.top.log_prob", "topk.log_prob"),
        ("topk.plain.index", "topk.index"),
        ("topk.plain.logit", "topk.logit"),
    ]
    for a, b in same:
        assert_same_bits(r[a], r[b], f"{a} and {b}")
    assert_same_bits(r["target_log_prob"], 0 - r["loss"], "target_log_prob and -loss")
    assert_same_bits(r["topk.index"][:, 0], r["predict"], "best of topk and predict")
    assert_same_bits(r["topk.logit"][:, 0], r["score.max_logit"], "best of topk and max_logit")
    rows = np.arange(len(x))
    assert_same_bits(r["score.target_logit"], r["logits"][rows, t], "target_logit and logits")
    assert_same_bits(
        r["topk.logit"], np.take_along_axis(r["logits"], r["topk.index"], 1), "topk and logits"
    )
    np.testing.assert_array_equal(r["score.target_rank"] == 0, r["predict"] == t)


@given(problems())
def test_logits_at_hand_and_head(problem):
    x, w, bias, t, soft, options = problem
    head = ll.LinearHead(w, bias, **options)
    z = head.logits(x)
    ours = from_logits(z, t, soft)
    assert_same_bits(ours["cross_entropy"], head.loss(x, t), "cross_entropy")
    assert_same_bits(ours["cross_entropy.soft"], head.loss(x, soft), "cross_entropy.soft")
    assert_same_bits(ours["softmax"], head.predict_proba(x), "softmax")
    assert_same_bits(ours["log_softmax"], head.predict_log_proba(x), "log_softmax")
    assert_same_bits(ours["ll.logsumexp"], head.logsumexp(x), "logsumexp")


@given(problems(), st.sampled_from(LAYOUTS))
def test_layouts(problem, layout):
    x, w, bias, t, soft, options = problem
    lay = partial(as_layout, layout=layout)
    head = ll.LinearHead(w, bias, **options)
    laid = ll.LinearHead(lay(w), bias, **options)
    unpacked = ll.LinearHead(lay(w), bias, pack=False, **options)
    r = everything(head, x, t, soft=soft)
    assert_all_same(r, everything(head, lay(x), t, soft=lay(soft)))
    assert_all_same(r, everything(laid, lay(x), t, soft=soft))
    assert_all_same(r, everything(unpacked, x, t, soft=soft))
