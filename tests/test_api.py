"""What each call gives back: shapes, types, formulas."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import pickle

import numpy as np
import pytest
import scipy.special
from support import oracle
from support.oracle import Truth, assert_same, assert_same_bits

import logitless as ll

M, N, K = 40, 13, 9


@pytest.fixture
def w(rng, dtype):
    return rng.normal(size=(N, K)).astype(dtype)


@pytest.fixture
def x(rng, dtype):
    return rng.normal(size=(M, K)).astype(dtype)


@pytest.fixture
def b(rng, dtype):
    return rng.normal(size=N).astype(dtype)


@pytest.fixture
def t(rng):
    return rng.integers(0, N, M)


@pytest.fixture
def head(w, b):
    return ll.LinearHead(w, b)


@pytest.fixture
def truth(x, w, b):
    return Truth(oracle.logits(x, w, b))


@pytest.fixture
def close(dtype):
    few = 100 * np.finfo(dtype).eps
    return lambda a, b: np.testing.assert_allclose(a, b, rtol=few, atol=few)


def test_public_names():
    for name in [
        "LinearHead",
        "RowState",
        "Scores",
        "TopK",
        "shard_bounds",
        "softmax",
        "log_softmax",
        "logsumexp",
        "cross_entropy",
        "nll",
        "threads",
        "linear_cross_entropy",
        "linear_score",
        "linear_topk",
        "linear_softmax",
        "linear_log_softmax",
        "linear_logsumexp",
        "linear_argmax",
        "available_isas",
        "active_isa",
        "__version__",
    ]:
        assert hasattr(ll, name), name
        assert name in ll.__all__ or name.startswith("__"), name


def test_public_calls_are_documented():
    for name in ll.__all__:
        assert (getattr(ll, name).__doc__ or "").strip(), name
    for cls in ll.LinearHead, ll.RowState:
        for name in vars(cls):
            if not name.startswith("_"):
                assert (inspect.getdoc(getattr(cls, name)) or "").strip(), name


def test_order_of_arguments(head, x, w, b, t):
    """Positional arguments, in the order promised."""
    loss = head.loss(x, t)
    assert_same(ll.linear_cross_entropy(x, w, t, b), loss)
    assert_same(ll.LinearHead(w, b).loss(x, t), loss)
    assert_same(ll.cross_entropy(head.logits(x), t), loss)
    assert list(inspect.signature(ll.LinearHead).parameters) == (
        ["weight", "bias", "softcap", "temperature", "pack", "screen", "n_threads"]
    )
    assert list(inspect.signature(ll.RowState.of).parameters)[:7] == [
        "x", "weight", "bias", "first", "target", "k", "entropy"]
    parameters = inspect.signature(ll.LinearHead.loss).parameters
    assert list(parameters)[:3] == ["self", "x", "target"]
    assert parameters["reduction"].default == "none"
    assert parameters["ignore_index"].default == -100
    assert all(
        parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        for name in ("reduction", "ignore_index", "out")
    )


@pytest.mark.parametrize("pack", [True, False])
def test_attributes(w, dtype, pack):
    head = ll.LinearHead(w, pack=pack)
    assert (head.n_classes, head.n_features, head.dtype) == (N, K, dtype)
    assert isinstance(head.nbytes, int)
    assert head.nbytes >= 0
    for name in "n_classes", "n_features", "dtype", "nbytes":
        with pytest.raises(AttributeError):
            setattr(head, name, 1)


def test_packed_head_owns_its_weights(w, b, x):
    """What is done to the given arrays later changes nothing."""
    head = ll.LinearHead(w, b)
    before = head.logits(x)
    w[...], b[...] = 0, 7
    assert_same_bits(head.logits(x), before)


def test_results_by_the_formulas(head, x, t, truth, close, dtype):
    close(head.logits(x), truth.z)
    close(head.loss(x, t), truth.loss(t))
    close(head.logsumexp(x), truth.lse)
    close(head.predict_proba(x), truth.proba)
    close(head.predict_log_proba(x), -truth.minus_log_proba)
    close(head.target_log_prob(x, t), -truth.loss(t))
    np.testing.assert_array_equal(head.predict(x), truth.argmax)
    assert head.predict(x).dtype == np.intp
    for a in head.logits(x), head.predict_proba(x), head.predict_log_proba(x):
        assert a.shape == (M, N)
        assert a.dtype == dtype
    for a in head.loss(x, t), head.logsumexp(x), head.target_log_prob(x, t):
        assert a.shape == (M,)
        assert a.dtype == dtype


def test_candidates(head, x, truth, close, rng, dtype):
    for j in (0, 1, 3, 20):
        target = rng.integers(0, N, (M, j))
        ours = head.target_log_prob(x, target)
        assert ours.shape == (M, j)
        assert ours.dtype == dtype
        close(ours, np.take_along_axis(-truth.minus_log_proba, target, 1))
    assert_same_bits(head.target_log_prob(x, target[:, 3]), ours[:, 3].copy())


def test_topk(head, x, truth, close, dtype):
    for k in (1, 2, 5, N):
        top = head.topk(x, k)
        assert isinstance(top, ll.TopK)
        assert top.index.dtype.kind == "i"
        assert top.logit.dtype == top.log_prob.dtype == dtype
        order = truth.order(k)
        np.testing.assert_array_equal(top.index, order)
        close(top.logit, np.take_along_axis(truth.z, order, 1))
        close(top.log_prob, np.take_along_axis(-truth.minus_log_proba, order, 1))
        plain = head.topk(x, k, normalize=False)
        assert plain.log_prob is None
        assert_same_bits(plain.index, top.index)
        assert_same_bits(plain.logit, top.logit)


@pytest.mark.parametrize(("n", "k"), [(1000, 1), (1000, 64), (5000, 300), (300, 300)])
def test_topk_of_many_classes(n, k, rng, dtype):
    w = rng.permutation(n).astype(dtype)[:, None]
    top = ll.LinearHead(w).topk(np.array([[1], [-1]], dtype), k)
    order = np.argsort(w[:, 0])
    np.testing.assert_array_equal(top.index, [order[::-1][:k], order[:k]])


def test_score_gives_what_is_asked_for(head, x, t, truth, close):
    s = head.score(x, t, k=3, entropy=True)
    assert isinstance(s, ll.Scores)
    close(s.loss, truth.loss(t))
    close(s.lse, truth.lse)
    close(s.target_logit, truth.z[np.arange(M), t])
    close(s.max_logit, truth.max)
    close(s.entropy, truth.entropy)
    close(s.top.logit, np.take_along_axis(truth.z, truth.order(3), 1))
    np.testing.assert_array_equal(s.target_rank, truth.rank(t))
    np.testing.assert_array_equal(s.predicted, truth.argmax)
    np.testing.assert_array_equal(s.top.index, truth.order(3))


def test_score_is_none_where_not_asked_for(head, x, t):
    s = head.score(x)
    assert s.loss is s.target_logit is s.target_rank is s.entropy is s.top is None
    np.testing.assert_array_equal(s.predicted, head.predict(x))
    assert_same(s.lse, head.logsumexp(x))
    s = head.score(x, t)
    assert s.entropy is s.top is None
    assert s.loss.shape == s.target_rank.shape == (M,)


def test_score_of_distributions(head, x, rng, close, truth):
    soft = rng.dirichlet(np.ones(N), M)
    s = head.score(x, soft)
    close(s.loss, truth.loss(soft))
    assert_same(s.loss, head.loss(x, soft))


def test_scores_are_frozen_dataclasses(head, x, t):
    s = head.score(x, t, k=2)
    for value in s, s.top:
        assert dataclasses.is_dataclass(value) or hasattr(value, "_fields")
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.loss = None
    assert {f.name for f in dataclasses.fields(s)} >= {
        "loss",
        "lse",
        "target_logit",
        "target_rank",
        "predicted",
        "max_logit",
        "entropy",
        "top",
    }


def test_perplexity_and_accuracy(head, x, t, truth):
    s = head.score(x, t)
    assert s.perplexity == pytest.approx(np.exp(truth.loss(t).mean()), rel=1e-5)
    assert s.accuracy == pytest.approx((truth.argmax == t).mean())
    # Ignored rows do not count.
    some = t.copy()
    some[::3] = -100
    s, kept = head.score(x, some), some >= 0
    assert s.perplexity == pytest.approx(np.exp(truth.loss(t)[kept].mean()), rel=1e-5)
    assert s.accuracy == pytest.approx((truth.argmax == t)[kept].mean())


def test_ignored_rows(head, x, t, dtype):
    some = t.copy()
    some[[1, 5]] = -100
    loss, full = head.loss(x, some), head.loss(x, t)
    assert loss[[1, 5]].tolist() == [0, 0]
    kept = some >= 0
    assert_same_bits(loss[kept], full[kept])
    for name in ("mean", "sum"):
        ours = head.loss(x, some, reduction=name)
        assert ours == pytest.approx(getattr(full[kept].astype("f8"), name)(), rel=1e-5)
    assert_same_bits(ll.cross_entropy(head.logits(x), some)[[1, 5]], np.zeros(2, dtype))
    s = head.score(x, some)
    assert s.loss[[1, 5]].tolist() == [0, 0]
    np.testing.assert_array_equal(s.predicted, head.predict(x))
    assert_same(s.lse, head.logsumexp(x))


@pytest.mark.parametrize("value", [3, 255, -1, N])
def test_ignore_index_may_be_any_number(head, x, t, value):
    some = t.copy()
    some[4] = value
    loss = head.loss(x, some, ignore_index=value)
    ignored = some == value
    assert ignored[4]
    assert (loss[ignored] == 0).all()
    assert_same_bits(loss[~ignored], head.loss(x, t)[~ignored])


def test_an_ignored_row_hides_its_nan(head, x, t):
    """A row that does not count does not spoil the mean."""
    x[7], t[7] = np.nan, -100
    assert head.loss(x, t)[7] == 0
    assert np.isfinite(head.loss(x, t, reduction="mean"))


def test_reductions(head, x, t, rng, dtype):
    soft = rng.dirichlet(np.ones(N), M).astype(dtype)
    z = head.logits(x)
    for target in t, soft:
        each = head.loss(x, target).astype(np.float64)
        expected = {"sum": each.sum(), "mean": each.mean(), "batch_mean": each.mean()}
        for name, value in expected.items():
            ours = head.loss(x, target, reduction=name)
            assert np.ndim(ours) == 0
            assert ours.dtype == dtype
            assert ours == pytest.approx(value, rel=8 * float(np.finfo(dtype).eps))
            assert_same(ll.cross_entropy(z, target, reduction=name), ours)
    t[:10] = -100
    total = head.loss(x, t).astype(np.float64).sum()
    mean, batch_mean = (head.loss(x, t, reduction=name) for name in ("mean", "batch_mean"))
    assert mean == pytest.approx(total / (M - 10), rel=1e-5)
    assert batch_mean == pytest.approx(total / M, rel=1e-5)


def test_sums_of_many_rows_keep_their_digits():
    """Two million losses of log 3: adding them one by one in float32 would drift."""
    m = 2_000_000
    head = ll.LinearHead(np.zeros((3, 1), np.float32))
    x = np.broadcast_to(np.float32(0), (m, 1))
    t = np.broadcast_to(np.int64(0), m)
    assert head.loss(x, t, reduction="mean") == pytest.approx(np.log(3), rel=3e-7)
    assert head.loss(x, t, reduction="sum") == pytest.approx(m * np.log(3), rel=3e-7)


def test_mean_of_nothing_is_nan_with_a_warning(head, x):
    nothing = np.full(M, -100)
    for call in (
        lambda: head.loss(x, nothing, reduction="mean"),
        lambda: head.loss(x[:0], nothing[:0], reduction="mean"),
        lambda: ll.cross_entropy(head.logits(x), nothing, reduction="mean"),
    ):
        with pytest.warns(RuntimeWarning):
            assert np.isnan(call())
    assert head.loss(x, nothing, reduction="sum") == 0
    assert head.loss(x, nothing, reduction="batch_mean") == 0


@pytest.mark.parametrize(("softcap", "temperature"), [(2.0, 1.0), (None, 0.5), (3.0, 2.0)])
def test_softcap_then_temperature(x, w, b, t, close, softcap, temperature):
    """Logits ``c * tanh(z / c) / t``, and everything else from those."""
    options = {"softcap": softcap, "temperature": temperature}
    truth = Truth(oracle.logits(x, w, b, **options))
    head = ll.LinearHead(w, b, **options)
    close(head.logits(x), truth.z)
    close(head.loss(x, t), truth.loss(t))
    close(head.logsumexp(x), truth.lse)
    close(head.predict_proba(x), truth.proba)
    np.testing.assert_array_equal(head.predict(x), truth.argmax)
    s = head.score(x, t, entropy=True, k=2)
    close(s.entropy, truth.entropy)
    close(s.max_logit, truth.max)
    close(s.target_logit, truth.z[np.arange(M), t])
    close(s.top.logit, np.take_along_axis(truth.z, truth.order(2), 1))
    assert_same(ll.linear_cross_entropy(x, w, t, b, **options), head.loss(x, t))


def test_softcap_bounds_any_logit(dtype):
    head = ll.LinearHead(np.array([[1e30], [-1e30], [0]], dtype), softcap=30.0)
    assert head.logits(np.ones((1, 1), dtype)).tolist() == [[30, -30, 0]]


def test_one_shot_functions(head, x, w, b, t):
    assert_same(ll.linear_softmax(x, w, bias=b), head.predict_proba(x))
    assert_same(ll.linear_log_softmax(x, w, bias=b), head.predict_log_proba(x))
    assert_same(ll.linear_logsumexp(x, w, bias=b), head.logsumexp(x))
    assert_same(ll.linear_argmax(x, w, bias=b), head.predict(x))
    ours = ll.linear_topk(x, w, 3, bias=b)
    assert_same(ours.index, head.topk(x, 3).index)
    assert_same(ours.log_prob, head.topk(x, 3).log_prob)
    ours = ll.linear_score(x, w, t, bias=b, entropy=True)
    assert_same(ours.loss, head.score(x, t).loss)
    assert_same(ours.entropy, head.score(x, entropy=True).entropy)


# Of a head with weights 0 to 5, as version 0.1.0 pickled it.
OLDER_PICKLE = (
    "fCQCS0RR910001t4s35{X>@F5b8{|eWnpBLj0azGWo=<=Ws@jq0E`MuX>Mg<a!6%iWRr{*Zgp*Nc`jdLZ*pZWZFOvP"
    "X<>45VR?)UUvgz*Z*FsRa&=>Lla!1FZgp*Nd6bL?Ze(F{a$$LsluH1GLjhuxhf*j@0ZRi*0)}V;j0I$Ld2nTul#Bvq"
    "G>M3ZQYcFUi~&59PEJlr|NsC0O8@`=|4RULVu?c-"
    "00000004kL0000$002Nh004kM005vsbYf@$Xah?Cg=hqaQYcFSO9O>y1&jh_IEjddQYcFUXa-JBPD=m(|Nlz=|Ns9>"
    "0CZxBLl^)600000;6DHW000000000000000@V|6oeJG3vb8lvJV_|SdKt2Ef00000j0<#SZE$6BVRUtJWk)~&00000"
    "004{xaA9L>h>QkvV{&C>ZcdB|ZeMh0a%Ev;b53=1QZ4"
)


def test_heads_of_older_pickles():
    old = pickle.loads(base64.b85decode(OLDER_PICKLE))
    head = ll.LinearHead(np.arange(6, dtype=np.float32).reshape(3, 2), [0.5, 0, -1], softcap=30.0,
                         temperature=2.0)
    assert repr(old) == repr(head)
    assert_same_bits(old.loss([[1.0, -2.0]], [1]), head.loss([[1.0, -2.0]], [1]))


@pytest.mark.parametrize("name", ll.__all__)
def test_public_names_say_where_they_are(name):
    public = getattr(ll, name)
    assert f"{public.__module__}.{public.__qualname__}" == f"logitless.{name}"
    assert pickle.loads(pickle.dumps(public)) is public


def test_pickled_head(head, x, t):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(head, protocol))
        assert (again.n_classes, again.n_features, again.dtype) == (N, K, head.dtype)
        assert_same_bits(again.loss(x, t), head.loss(x, t))
    capped = ll.LinearHead(np.eye(3), softcap=2.0, temperature=0.5, pack=False, n_threads=1)
    again = pickle.loads(pickle.dumps(capped))
    assert_same_bits(again.logits(np.eye(3)), capped.logits(np.eye(3)))


AXES = [-1, 0, 1, 2, -2, (0, 1), (0, 2), (1, 2), (0, 1, 2), None]


@pytest.mark.parametrize("axis", AXES)
def test_softmax_and_its_kin_over_any_axis(axis, rng, close, dtype):
    z = (rng.normal(size=(4, 5, 6)) * 10).astype(dtype)
    wide = z.astype(np.float64)
    close(ll.softmax(z, axis=axis), scipy.special.softmax(wide, axis=axis))
    close(ll.log_softmax(z, axis=axis), scipy.special.log_softmax(wide, axis=axis))
    close(ll.logsumexp(z, axis=axis), scipy.special.logsumexp(wide, axis=axis))
    assert ll.softmax(z, axis).dtype == ll.logsumexp(z, axis).dtype == dtype
    assert ll.softmax(z, axis).shape == z.shape


def test_default_axis_is_the_last(rng):
    z = rng.normal(size=(3, 4, 5))
    for call in ll.softmax, ll.log_softmax, ll.logsumexp:
        assert_same_bits(call(z), call(z, axis=2))


def test_nll_shapes_and_types(rng, dtype):
    p = rng.dirichlet(np.ones(5), (2, 3)).astype(dtype)
    t = rng.integers(0, 5, (2, 3))
    ours = ll.nll(p, t)
    assert ours.shape == (2, 3)
    assert ours.dtype == dtype
    few = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(ours, -np.log(np.take_along_axis(p, t[..., None], -1)[..., 0]), few)
    soft = rng.dirichlet(np.ones(5), (2, 3))
    np.testing.assert_allclose(ll.nll(p, soft), -(soft * np.log(p)).sum(-1), rtol=few, atol=few)


def test_distribution_rows_are_used_as_given(head, x, close, truth, dtype):
    """``sum(t) * lse - sum(t * z)``: rows need not sum to one."""
    t = np.zeros((M, N), dtype)
    t[:, 2], t[:, 5] = 3, 0.25
    expected = 3.25 * truth.lse - 3 * truth.z[:, 2] - 0.25 * truth.z[:, 5]
    close(head.loss(x, t) / 10, expected / 10)
    assert head.loss(x, np.zeros((M, N))).tolist() == [0] * M
