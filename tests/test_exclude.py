"""Classes that do not count in a row: as if their logits were -inf, and never among the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exclusions import FORMS, PARTS, as_form, best, masks, ranks
from support.layouts import LAYOUTS, as_layout
from support.oracle import assert_same, assert_same_bits, says

import logitless as ll

sparse = pytest.importorskip("scipy.sparse")

CLASSES = [1, 2, 3, 15, 16, 17, 31, 33, 100, 255, 256, 257, 511, 512, 513, 1025, 4097, 8193]
ROWS = [1, 2, 3, 7, 15, 16, 17, 33, 63, 64, 65, 145, 260]
MOST = 150_000  # logits


@st.composite
def problems(draw, least=1):
    n = draw(st.one_of(st.sampled_from([c for c in CLASSES if c >= least]),
                       st.integers(least, 600)))
    m = draw(st.sampled_from([r for r in ROWS if r * n <= MOST]))
    k = draw(st.sampled_from([0, 1, 3, 16, 41]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    x, w = rng.integers(-3, 4, (m, k)).astype(dtype), rng.integers(-3, 4, (n, k)).astype(dtype)
    bias = draw(st.sampled_from([None, rng.integers(-3, 4, n).astype(dtype)]))
    if draw(st.booleans()):  # classes that cannot happen, beside those that are excluded
        bias = np.where(rng.random(n) < 0.5, -np.inf, 0).astype(dtype)
    if draw(st.booleans()) and k:
        w[rng.integers(n), rng.integers(k)] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        x[rng.integers(m), rng.integers(k)] = draw(st.sampled_from([0.0, np.nan, np.inf]))
    options = {
        "softcap": draw(st.sampled_from([None, None, 3.0])),
        "temperature": draw(st.sampled_from([1.0, 0.5])),
        "pack": draw(st.booleans()),
        "n_threads": draw(st.sampled_from([1, 2, 3])),
    }
    mask = masks(m, n, draw(st.integers(0, 1000)), draw(PARTS))
    return x, w, bias, options, *as_form(mask, draw(FORMS)), rng.integers(n, size=m)


def parts_of(scores):
    return {name: getattr(scores, name)
            for name in ("loss", "lse", "target_logit", "predicted", "max_logit", "entropy")}


def of_logits(z, target):
    """The same of logits at hand."""
    own = np.take_along_axis(z, target[:, None], 1)[:, 0]
    return {"loss": ll.cross_entropy(z, target), "lse": nan_without(ll.logsumexp(z), z),
            "target_logit": own, "max_logit": z.max(axis=1)}


def nan_without(values, z):
    """What functions of logits give, where they give what SciPy does in rows without a softmax."""
    values = values.copy()
    values[~np.isfinite(z.max(axis=1))] = np.nan
    return values


@pytest.mark.slow
@settings(max_examples=120)
@given(problems(), st.data())
def test_everything_is_that_of_logits_of_minus_infinity(eager, problem, data):
    x, w, bias, options, exclude, mask, target = problem
    with np.errstate(all="ignore"):
        head = ll.LinearHead(w, bias, **options)
        z = head.logits(x)
        left = np.where(mask, -np.inf, z).astype(z.dtype)
        top = data.draw(st.sampled_from([1, 2, 10, 17, 64, len(w)]).map(lambda k: min(k, len(w))))
        scores = head.score(x, target, k=top, entropy=True, exclude=exclude)
    with np.errstate(all="ignore"):
        for name, value in of_logits(left, target).items():
            assert_same(getattr(scores, name), value.astype(z.dtype), name)
        p, log_p = (f(left.astype(np.float64)) for f in (ll.softmax, ll.log_softmax))
        entropy = -np.where(p == 0, 0, p * log_p).sum(axis=1)
    np.testing.assert_allclose(scores.entropy, entropy, rtol=1e-5, atol=1e-6)
    index, logit = best(z, mask, top)
    np.testing.assert_array_equal(scores.top.index, index)
    assert_same(scores.top.logit, logit)
    np.testing.assert_array_equal(scores.predicted, best(z, mask, 1)[0][:, 0])
    np.testing.assert_array_equal(scores.target_rank, ranks(z, mask, target))
    log_p = nan_without(ll.log_softmax(left), left)
    log_prob = np.take_along_axis(log_p, index, 1)
    assert_same(scores.top.log_prob, np.where(index < 0, -np.inf, log_prob).astype(z.dtype))

    # The same alone, where nothing else is asked for.
    alone = head.topk(x, top, normalize=False, exclude=exclude)
    assert_same_bits(alone.index, scores.top.index)
    assert_same_bits(alone.logit, scores.top.logit)
    assert_same_bits(head.topk(x, top, exclude=exclude).log_prob, scores.top.log_prob)
    assert_same_bits(head.predict(x, exclude=exclude), scores.predicted)
    assert_same_bits(head.loss(x, target, exclude=exclude), scores.loss)
    assert_same_bits(head.logsumexp(x, exclude=exclude), scores.lse)
    assert_same(head.predict_proba(x, exclude=exclude), nan_without(ll.softmax(left), left))
    assert_same(head.predict_log_proba(x, exclude=exclude), log_p)


@pytest.mark.slow
@settings(max_examples=60)
@given(problems(), st.data())
def test_options_of_the_loss(problem, data):
    """Smoothing goes over the classes that are left; all else is as of logits of -inf."""
    x, w, bias, options, exclude, mask, target = problem
    smooth = data.draw(st.sampled_from([0.0, 0.25]))
    weight = data.draw(st.sampled_from([None, np.arange(len(w)) % 3]))
    head = ll.LinearHead(w, bias, **options)
    soft = np.zeros(mask.shape, x.dtype)
    soft[:, :: max(len(w) // 5, 1)] = 0.125
    with np.errstate(all="ignore"):
        z = np.where(mask, -np.inf, head.logits(x)).astype(x.dtype)
    temperature = np.linspace(0.5, 2, len(x))
    assert_same(head.loss(x, soft, class_weight=weight, temperature=temperature, exclude=exclude),
                ll.cross_entropy(z * options["temperature"], soft, class_weight=weight,
                                 temperature=temperature))
    if not smooth:
        return
    log_p = ll.log_softmax(z.astype(np.float64))
    of_class = np.ones(len(w)) if weight is None else weight
    with np.errstate(all="ignore"):
        hard = np.where(of_class[target] == 0, 0,
                        -of_class[target] * log_p[np.arange(len(x)), target])
        terms = np.where(mask | (of_class == 0), 0, -of_class * log_p)
        expected = (1 - smooth) * hard + smooth / (~mask).sum(axis=1) * terms.sum(axis=1)
    losses = head.loss(x, target, label_smoothing=smooth, class_weight=weight, exclude=exclude)
    few = 200 * np.finfo(x.dtype).eps
    np.testing.assert_allclose(losses, nan_without(expected, z), rtol=few, atol=few)


@pytest.mark.parametrize("n", [3, 40, 700])
def test_against_a_softmax_in_numpy(n, dtype, rng):
    x, w = rng.standard_normal((30, 8)).astype(dtype), rng.standard_normal((n, 8)).astype(dtype)
    mask = rng.random((30, n)) < 0.3
    mask[:, 0] = False
    e = np.exp(x.astype(np.float64) @ w.T.astype(np.float64))
    e[mask] = 0
    p = ll.LinearHead(w).predict_proba(x, exclude=sparse.csr_array(mask))
    np.testing.assert_allclose(p, e / e.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7)
    assert (p[mask] == 0).all()


@pytest.mark.parametrize("n", [7, 40, 700])
@pytest.mark.parametrize("form", ["csr", "alike"])
def test_smoothing_goes_over_the_classes_that_are_left(n, form, dtype, rng):
    x, w = rng.standard_normal((20, 5)).astype(dtype), rng.standard_normal((n, 5)).astype(dtype)
    exclude, mask = as_form(masks(20, n, 3, 0.3), form)
    target = np.argmin(mask, axis=1)
    weight = np.arange(n) % 3 + 1
    log_p = ll.log_softmax(np.where(mask, -np.inf, x.astype(np.float64) @ w.T.astype(np.float64)))
    terms = np.where(mask, 0, -weight * log_p)
    expected = (0.75 * terms[np.arange(20), target]
                + 0.25 / (~mask).sum(axis=1) * terms.sum(axis=1))
    losses = ll.LinearHead(w).loss(x, target, label_smoothing=0.25, class_weight=weight,
                                   exclude=exclude)
    np.testing.assert_allclose(losses, expected, rtol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize("n", [9, 60, 700])
def test_ranks_of_what_cannot_happen(n, rng):
    """A target of -inf that is left comes after all others that are, and earlier ones like it."""
    x, w = rng.standard_normal((40, 4)), rng.standard_normal((n, 4))
    impossible = rng.random(n) < 0.4
    impossible[0] = False
    head = ll.LinearHead(w, np.where(impossible, -np.inf, 0))
    exclude, mask = as_form(masks(40, n, 5, 0.3), "csr")
    target = rng.integers(n, size=40)
    assert impossible[target].any()
    scores = head.score(x, target, exclude=exclude)
    np.testing.assert_array_equal(scores.target_rank, ranks(head.logits(x), mask, target))


@pytest.mark.parametrize("n", [3, 16, 40])
@pytest.mark.parametrize("m", [5, 40])
def test_sparse_rows(m, n, dtype, rng):
    """Few classes as many, and as few and as many rows."""
    x = sparse.random_array((m, 30), density=0.2, format="csr", dtype=dtype, rng=rng)
    head = ll.LinearHead(rng.standard_normal((n, 30)).astype(dtype))
    exclude, mask = as_form(masks(m, n, 7, 0.4), "csr")
    target = rng.integers(n, size=m)
    ours, theirs = (head.score(rows, target, entropy=True, exclude=exclude)
                    for rows in (x, x.toarray()))
    for name, value in parts_of(theirs).items():
        assert_same(getattr(ours, name), value, name)
    assert_same_bits(head.topk(x, min(n, 4), exclude=exclude).index,
                     best(head.logits(x.toarray()), mask, min(n, 4))[0])


def test_entries_in_any_order_and_twice(rng):
    x, w = rng.standard_normal((6, 5)), rng.standard_normal((40, 5))
    mask = masks(6, 40, 0, 0.5)
    mask[[2, 5]] = False
    tidy, untidy = (as_form(mask, form)[0] for form in ("csr", "untidy"))
    entries = untidy.indices.copy()
    head, target = ll.LinearHead(w), rng.integers(40, size=6)
    ours, theirs = (head.score(x, target, k=9, exclude=exclude) for exclude in (untidy, tidy))
    assert_same_bits(ours.loss, theirs.loss)
    assert_same_bits(ours.top.index, theirs.top.index)
    assert_same_bits(head.predict_proba(x, exclude=untidy), head.predict_proba(x, exclude=tidy))
    np.testing.assert_array_equal(untidy.indices, entries)  # it stays as it was


@pytest.mark.parametrize("n", [5, 16, 200, 600, 9000])
def test_nothing_excluded_changes_no_bit(n, dtype, rng):
    x, w = rng.standard_normal((70, 9)).astype(dtype), rng.standard_normal((n, 9)).astype(dtype)
    head, target = ll.LinearHead(w), rng.integers(n, size=70)
    plain = head.score(x, target, k=3, entropy=True)
    for exclude in np.zeros(n, bool), sparse.csr_array((70, n)):
        scores = head.score(x, target, k=3, entropy=True, exclude=exclude)
        for name, value in parts_of(plain).items():
            assert_same_bits(getattr(scores, name), value, name)
        assert_same_bits(scores.target_rank, plain.target_rank)
        assert_same_bits(scores.top.log_prob, plain.top.log_prob)


@pytest.mark.parametrize("n", [2, 16, 50, 700, 9000])
def test_a_bias_of_minus_infinity_is_the_same(n, dtype, rng):
    x, w = rng.standard_normal((20, 5)).astype(dtype), rng.standard_normal((n, 5)).astype(dtype)
    mask = rng.random(n) < 0.4
    mask[n // 2] = False
    impossible = ll.LinearHead(w, np.where(mask, -np.inf, 0).astype(dtype))
    head, target = ll.LinearHead(w, np.zeros(n, dtype)), rng.integers(n, size=20)
    for name, value in parts_of(impossible.score(x, target, entropy=True)).items():
        ours = getattr(head.score(x, target, entropy=True, exclude=mask), name)
        assert_same_bits(ours, value, name)


@pytest.mark.parametrize("n", [1, 10, 300, 9000])
@pytest.mark.parametrize("alike", [False, True])
def test_a_row_with_nothing_left(n, alike, rng):
    x, w = rng.standard_normal((3, 4)), rng.standard_normal((n, 4))
    mask = np.ones((3, n), bool)
    exclude = mask[0] if alike else sparse.csr_array(mask)
    head = ll.LinearHead(w)
    top = head.topk(x, 1, exclude=exclude)
    assert (top.index == -1).all()
    assert (top.logit == -np.inf).all()
    assert (top.log_prob == -np.inf).all()
    assert np.isnan(head.loss(x, [0, 0, 0], exclude=exclude)).all()
    assert np.isnan(head.predict_proba(x, exclude=exclude)).all()
    assert (head.predict(x, exclude=exclude) == -1).all()
    assert (head.sample(x, 0, 2, exclude=exclude) == -1).all()
    np.testing.assert_array_equal(head.loss(x, [-100, 0, -100], exclude=exclude), [0, np.nan, 0])


@pytest.mark.parametrize("n", [5, 300])
def test_the_first_class_left_where_none_can_happen(n):
    head = ll.LinearHead(np.ones((n, 4)), np.full(n, -np.inf))
    mask = np.zeros((4, n), bool)
    mask[1, [1, 3]] = mask[2, [0, 1, 3]] = mask[3, :-1] = True
    found = head.predict(np.ones((4, 4)), exclude=sparse.csr_array(mask))
    np.testing.assert_array_equal(found, [0, 0, 2, n - 1])


def test_an_excluded_target_cannot_happen(rng):
    x, w = rng.standard_normal((2, 4)), rng.standard_normal((600, 4))
    exclude = sparse.csr_array(([1.0, 1.0], ([0, 0], [7, 9])), shape=(2, 600))
    scores = ll.LinearHead(w).score(x, [7, 7], exclude=exclude)
    assert scores.loss[0] == np.inf
    assert np.isfinite(scores.loss[1])
    assert scores.target_logit[0] == -np.inf
    assert scores.target_rank[0] == 598


@pytest.mark.parametrize("alike", [False, True])
def test_whole_vectors_of_classes_and_then_some(alike, dtype):
    """More best classes than a vector holds are looked for one by one."""
    mask = np.arange(200) < 150
    mask[155] = True
    exclude = mask if alike else sparse.csr_array(np.tile(mask, (2, 1)))
    head = ll.LinearHead(-np.arange(200, dtype=dtype)[:, None])
    top = head.topk(np.ones((2, 1), dtype), 20, normalize=False, exclude=exclude)
    np.testing.assert_array_equal(top.index, np.tile(np.flatnonzero(~mask)[:20], (2, 1)))


@pytest.mark.slow
@settings(max_examples=60)
@given(problems(least=512), st.sampled_from([1, 3, 10]), st.booleans())
def test_screened(eager, problem, top, repeats):
    """Where most candidates are those that are excluded, too."""
    x, w, bias, options, exclude, mask, _ = problem
    options["pack"] = True
    with np.errstate(all="ignore"):
        head, plain = (ll.LinearHead(w, bias, screen=screen, **options)
                       for screen in ("int8", None))
        if repeats:
            seen = head.topk(x, min(top, len(w)), normalize=False).index
            mask = mask.copy()
            np.put_along_axis(mask, seen, True, 1)
            exclude, mask = as_form(mask, "csr")
    ours, theirs = (h.topk(x, top, normalize=False, exclude=exclude) for h in (head, plain))
    assert_same_bits(ours.index, theirs.index)
    assert_same_bits(ours.logit, theirs.logit)
    assert_same_bits(head.predict(x, exclude=exclude), plain.predict(x, exclude=exclude))


@pytest.mark.compiled_only
def test_screens_count_the_classes_that_are_left(rng):
    x, w = rng.standard_normal((4, 16)), rng.standard_normal((2048, 16))
    head = ll.LinearHead(w, screen="int8")
    for left, screened in (2048, 4), (1280, 4), (1279, 0), (5, 0):
        mask = np.arange(2048) >= left
        for exclude in mask, sparse.csr_array(np.tile(mask, (4, 1))):
            head.topk(x, 10, normalize=False, exclude=exclude)
            assert head.screen_stats.rows == screened


@pytest.mark.compiled_only
@pytest.mark.parametrize("m", [1, 3, 40])
def test_screens_go_round_what_rows_have_seen(m, dtype, rng):
    """Their best classes: without them candidates are as few as ever."""
    x, w = (rng.standard_normal((size, 64)).astype(dtype) for size in (m, 8192))
    head = ll.LinearHead(w, screen="int8")
    seen = head.topk(x, 50, normalize=False).index
    mask = np.zeros((m, 8192), bool)
    np.put_along_axis(mask, seen, True, 1)
    top = head.topk(x, 10, normalize=False, exclude=sparse.csr_array(mask))
    assert head.screen_stats.fell_back == 0
    assert head.screen_stats.rescored < 200
    assert_same_bits(top.index, head.topk(x, 60, normalize=False).index[:, 50:])


def test_sampling(rng):
    head, x = ll.LinearHead(np.zeros((6, 1)), [0, np.nan, 0, 0, np.inf, 0]), np.zeros((3, 1))
    exclude = np.array([False, True, False, True, True, False])
    drawn = head.sample(x, 0, 200, exclude=exclude)
    assert set(drawn.ravel().tolist()) == {0, 2, 5}
    rows = sparse.csr_array(np.array([exclude, np.ones(6, bool), ~(np.arange(6) == 3)]))
    drawn = head.sample(x, 0, 200, exclude=rows)
    assert set(drawn[0].tolist()) == {0, 2, 5}
    assert set(drawn[1].tolist()) == {-1}
    assert set(drawn[2].tolist()) == {3}
    with says(ValueError, "row 0"):
        head.sample(x, 0, exclude=~exclude)


def test_leading_shapes_and_shift(dtype, rng):
    x = rng.standard_normal((2, 5, 4)).astype(dtype)
    head = ll.LinearHead(rng.standard_normal((30, 4)).astype(dtype))
    mask = rng.random((10, 30)) < 0.3
    target = rng.integers(30, size=(2, 5))
    top = head.topk(x, 3, exclude=sparse.csr_array(mask))
    flat = head.topk(x.reshape(10, 4), 3, exclude=sparse.csr_array(mask))
    assert_same_bits(top.index.reshape(10, 3), flat.index)
    kept = np.arange(10).reshape(2, 5)[:, :3].ravel()
    expected = head.loss(x[:, :3].reshape(6, 4), target[:, 2:].ravel(),
                         exclude=sparse.csr_array(mask[kept]))
    shifted = head.loss(x, target, shift=2, exclude=sparse.csr_array(mask))
    assert_same_bits(shifted.ravel(), expected)
    single = head.predict(x[0, 0], exclude=sparse.csr_array(mask[:1]))
    assert single == flat.index[0, 0]


@pytest.mark.parametrize("name", ["linear_cross_entropy", "linear_score", "linear_topk",
                                  "linear_softmax", "linear_log_softmax", "linear_logsumexp",
                                  "linear_argmax"])
def test_functions_without_a_head(name, rng):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((20, 3))
    exclude, target = rng.random(20) < 0.5, rng.integers(20, size=4)
    exclude[3] = False
    args = {"linear_cross_entropy": (target,), "linear_score": (target,), "linear_topk": (2,)}
    methods = {"linear_cross_entropy": "loss", "linear_softmax": "predict_proba",
               "linear_log_softmax": "predict_log_proba", "linear_argmax": "predict"}
    method = methods.get(name, name.removeprefix("linear_"))
    ours = getattr(ll, name)(x, w, *args.get(name, ()), exclude=exclude)
    theirs = getattr(ll.LinearHead(w, pack=False), method)(x, *args.get(name, ()), exclude=exclude)
    for a, b in zip(*(vars_of(r) for r in (ours, theirs)), strict=True):
        assert_same_bits(a, b)


def vars_of(result):
    if isinstance(result, np.ndarray):
        return [result]
    fields = [getattr(result, name) for name in ("index", "logit", "loss", "lse", "predicted")
              if getattr(result, name, None) is not None]
    assert fields
    return fields


def bad_calls():
    one = sparse.csr_array((np.ones(2), ([0, 1], [1, 2])), shape=(3, 5))
    damaged = one.copy()
    damaged.indices = np.array([1, 7])
    below = one.copy()
    below.indices = np.array([-1, 2])
    short = one.copy()
    short.indptr = np.array([0, 1, 9, 2])
    return [
        (np.zeros(4, bool), ValueError, ("`exclude`", "(5,)", "(4,)")),
        (np.zeros((3, 5), bool), ValueError, ("`exclude`", "(5,)", "(3, 5)", "sparse")),
        (np.zeros(5), TypeError, ("`exclude`", "bool", "float64")),
        ([0, 1], TypeError, ("`exclude`", "bool", "int64")),
        (one[:2], ValueError, ("`exclude`", "(3, 5)", "(2, 5)")),
        (damaged, IndexError, ("`exclude`", "[0, 5)", "7", "row 1")),
        (below, IndexError, ("`exclude`", "[0, 5)", "-1", "row 0")),
        (short, ValueError, ("`exclude.indptr`", "fall")),
    ]


@pytest.mark.parametrize(("exclude", "error", "words"), bad_calls())
def test_bad_exclusions(exclude, error, words):
    head, x = ll.LinearHead(np.eye(5)), np.zeros((3, 5))
    out = np.full((3, 5), 7.0)
    for call in (lambda: head.topk(x, 2, exclude=exclude), lambda: head.predict(x, exclude=exclude),
                 lambda: head.loss(x, [0, 1, 2], exclude=exclude),
                 lambda: head.score(x, exclude=exclude),
                 lambda: head.sample(x, 0, exclude=exclude),
                 lambda: head.logsumexp(x, exclude=exclude),
                 lambda: head.predict_proba(x, out=out, exclude=exclude),
                 lambda: head.topk(x, 2, candidates=[[0]] * 3, exclude=exclude)):
        with says(error, *words):
            call()
    assert (out == 7).all()


def test_gradients_take_none():
    head = ll.LinearHead(np.eye(5), pack=False)
    with says(TypeError, "value_and_grad", "exclude"):
        head.value_and_grad(np.zeros((1, 5)), [0], exclude=np.zeros(5, bool))


@pytest.mark.slow
@settings(max_examples=80)
@given(problems(), st.data())
def test_candidates(eager, problem, data):
    x, w, bias, options, exclude, mask, _ = problem
    n, m = len(w), len(x)
    if data.draw(st.booleans()):
        exclude, mask = None, np.zeros((m, n), bool)
    j = data.draw(st.sampled_from([0, 1, 2, 5, 30]))
    candidates = np.random.default_rng(j).integers(-1, n, (m, j))  # some of them twice
    top = data.draw(st.integers(1, min(n, 40)))
    with np.errstate(all="ignore"):
        head = ll.LinearHead(w, bias, **options)
        z = head.logits(x)
        ours = head.topk(x, top, candidates=candidates, exclude=exclude)
        alone = head.topk(x, top, candidates=candidates, exclude=exclude, normalize=False)
    index, logit = best(z, mask, top, candidates)
    np.testing.assert_array_equal(ours.index, index)
    assert_same(ours.logit, logit)
    log_prob = np.take_along_axis(head.predict_log_proba(x, exclude=exclude), index, 1)
    assert_same(ours.log_prob, np.where(index < 0, -np.inf, log_prob).astype(z.dtype))
    assert_same_bits(alone.index, ours.index)
    assert_same(alone.logit, ours.logit)
    assert alone.log_prob is None


@pytest.mark.parametrize("candidates", [np.int32([[1, 2], [-1, 0]]), [[1, 2], [-1, 0]]])
def test_candidates_of_any_integers(candidates):
    top = ll.LinearHead(np.eye(3)).topk(np.eye(3)[:2], 1, candidates=candidates)
    np.testing.assert_array_equal(top.index, [[1], [0]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("excluded", [False, True])
def test_candidates_in_any_layout(layout, excluded, rng):
    head, x = ll.LinearHead(rng.standard_normal((129, 8))), rng.standard_normal((3, 8))
    candidates = rng.integers(-1, 129, (3, 40))
    exclude = {"exclude": np.arange(129) % 3 == 0} if excluded else {}
    plain = head.topk(x, 20, candidates=candidates, **exclude)
    other = head.topk(x, 20, candidates=as_layout(candidates, layout), **exclude)
    for name in "index", "logit", "log_prob":
        assert_same_bits(getattr(other, name), getattr(plain, name))


@pytest.mark.parametrize("held", [np.float16, np.float32])
@pytest.mark.parametrize("pack", [False, True])
def test_candidates_of_weights_that_must_be_copied(held, pack, rng):
    w = np.asfortranarray(rng.standard_normal((900, 7))).astype(held)
    x = rng.standard_normal((40, 7))[:, ::-1]
    head, candidates = ll.LinearHead(w, pack=pack), rng.integers(900, size=(40, 6))
    index, logit = best(head.logits(x), np.zeros((40, 900), bool), 4, candidates)
    top = head.topk(x, 4, candidates=candidates, normalize=False)
    np.testing.assert_array_equal(top.index, index)
    assert_same(top.logit, logit)


@pytest.mark.parametrize(("candidates", "error", "words"), [
    ([[0, 1], [5, -1]], IndexError, ("`candidates`", "[0, 5) or -1", "5", "row 1")),
    ([[0, 1], [-2, -1]], IndexError, ("`candidates`", "[0, 5) or -1", "-2", "row 1")),
    ([[0, 1]], ValueError, ("`candidates`", "(2, j)", "(1, 2)")),
    ([0, 1], ValueError, ("`candidates`", "(2, j)", "(2,)")),
    ([[0.0, 1.0], [1.0, 1.0]], TypeError, ("`candidates`", "integers", "float64")),
])
def test_bad_candidates(candidates, error, words):
    with says(error, *words):
        ll.LinearHead(np.eye(5)).topk(np.zeros((2, 5)), 1, candidates=candidates)


def test_no_rows_and_no_candidates():
    head = ll.LinearHead(np.eye(5))
    assert head.topk(np.zeros((0, 5)), 2, exclude=sparse.csr_array((0, 5))).index.shape == (0, 2)
    assert head.predict(np.zeros((0, 5)), exclude=np.ones(5, bool)).shape == (0,)
    assert head.topk(np.zeros((0, 5)), 2, candidates=np.zeros((0, 3), int)).index.shape == (0, 2)
    top = head.topk(np.zeros((2, 5)), 3, candidates=[[], []])
    assert (top.index == -1).all()


@pytest.mark.compiled_only
@pytest.mark.parametrize(("m", "top"), [(1, 65), (1, 1024), (50, 65), (50, 200)])
def test_screens_of_many_best_classes(m, top, rng, monkeypatch):
    x, w = (rng.standard_normal((size, 40)).astype(np.float32) for size in (m, 128 * top + 999))
    head, plain = ll.LinearHead(w, screen="int8"), ll.LinearHead(w)
    exclude = sparse.random_array((m, len(w)), density=0.001, format="csr", rng=rng)
    expected = [plain.topk(x, top, normalize=False, **o) for o in ({}, {"exclude": exclude})]
    assert_same_bits(head.topk(x, top, normalize=False).index, expected[0].index)
    assert head.screen_stats.rows == (1 if m == 1 else 0)  # where it would not pay
    monkeypatch.setattr("logitless._engines.compiled.screen.MACS_PER_BEST", 0)
    for options, theirs in zip(({}, {"exclude": exclude}), expected, strict=True):
        ours = head.topk(x, top, normalize=False, **options)
        assert (head.screen_stats.rows, head.screen_stats.fell_back) == (m, 0)
        assert_same_bits(ours.index, theirs.index)
        assert_same_bits(ours.logit, theirs.logit)
    assert head.topk(x, 1025, normalize=False).index.shape == (m, 1025)
    assert head.screen_stats.rows == 0
