"""Bad inputs and options of heads: the kind of error, and what was expected and what came."""

from __future__ import annotations

import numpy as np
import pytest
from support.oracle import says

import logitless as ll

M, N, K = 6, 5, 4


@pytest.fixture
def x():
    return np.ones((M, K), np.float32)


@pytest.fixture
def w():
    return np.arange(N * K, dtype=np.float32).reshape(N, K)


@pytest.fixture
def head(w):
    return ll.LinearHead(w)


@pytest.fixture
def t():
    return np.zeros(M, np.int64)


# Shapes


CALLS_ON_X = ["predict", "predict_proba", "predict_log_proba", "logits", "logsumexp", "score"]


@pytest.mark.parametrize("call", CALLS_ON_X)
def test_features_of_x_and_weight_differ(head, call):
    with says(ValueError, "weight", "x", K, 9):
        getattr(head, call)(np.ones((M, 9), np.float32))


def test_features_differ_with_a_target(head, t):
    for call in head.loss, head.target_log_prob, head.score:
        with says(ValueError, "x", K, 9):
            call(np.ones((M, 9), np.float32), t)
    with says(ValueError, "x", K, 9):
        head.topk(np.ones((M, 9), np.float32), 2)
    with says(ValueError, "x", K, 9):
        head.sample(np.ones((M, 9), np.float32), np.random.default_rng(0))


def test_one_shot_features_differ(w, t):
    bad = np.ones((M, 9), np.float32)
    with says(ValueError, "x", K, 9):
        ll.linear_cross_entropy(bad, w, t)
    for call in ll.linear_softmax, ll.linear_log_softmax, ll.linear_logsumexp, ll.linear_argmax:
        with says(ValueError, "x", K, 9):
            call(bad, w)


@pytest.mark.parametrize("shape", [(), (K,), (2, N, K)])
def test_weight_is_not_a_matrix(shape):
    with says(ValueError, "weight", shape):
        ll.LinearHead(np.ones(shape))


def test_x_is_a_number(head):
    with says(ValueError, "x"):
        head.predict(np.float32(1))


def test_no_classes(x):
    with says(ValueError, "weight", "class"):
        ll.LinearHead(np.ones((0, K)))
    with says(ValueError, "weight", "class"):
        ll.linear_argmax(x, np.ones((0, K), np.float32))
    with pytest.raises(ValueError, match="class"):
        ll.cross_entropy(np.ones((M, 0)), np.zeros(M, int))


@pytest.mark.parametrize("shape", [(), (1,), (N + 1,), (N, 1), (1, N)])
def test_bias_of_another_shape(w, shape):
    with says(ValueError, "bias", N, str(shape)):
        ll.LinearHead(w, np.zeros(shape))


@pytest.mark.parametrize("shape", [(), (M - 1,), (M + 1,), (M, 1), (M, N + 1), (M, N, 1), (1, M)])
def test_target_of_another_shape(head, x, shape):
    with says(ValueError, "target", str(shape)):
        head.loss(x, np.zeros(shape, int))
    with says(ValueError, "target", str(shape)):
        head.score(x, np.zeros(shape, int))
    with says(ValueError, "target", str(shape)):
        ll.cross_entropy(np.zeros((M, N)), np.zeros(shape, int))


@pytest.mark.parametrize("shape", [(M, N - 1), (M, N + 1), (M - 1, N), (M, N, 1)])
def test_distributions_of_another_shape(head, x, shape):
    with says(ValueError, "target", str(shape)):
        head.loss(x, np.full(shape, 0.2))
    with says(ValueError, "target", str(shape)):
        ll.cross_entropy(np.zeros((M, N)), np.full(shape, 0.2))


def test_candidates_of_another_shape(head, x):
    for shape in (M + 1,), (M + 1, 2), (M, 2, 2):
        with says(ValueError, "target", str(shape)):
            head.target_log_prob(x, np.zeros(shape, int))
    with pytest.raises((TypeError, ValueError), match="target"):
        head.target_log_prob(x, np.zeros((M, 2)))


# Types


@pytest.mark.parametrize("kind", ["c8", "c16", "O", "S3", "U3", "M8[s]", "m8[s]", "V4"])
def test_types_that_are_not_numbers(head, w, t, kind):
    bad = np.zeros((M, K), kind)
    with says(TypeError, "x", bad.dtype):
        head.predict(bad)
    with says(TypeError, "weight", bad.dtype):
        ll.LinearHead(bad)
    with says(TypeError, "bias", bad.dtype):
        ll.LinearHead(w, np.zeros(N, kind))
    with says(TypeError, bad.dtype):
        ll.softmax(bad)
    with says(TypeError, bad.dtype):
        ll.cross_entropy(bad, t % K)
    with says(TypeError, bad.dtype):
        ll.nll(bad, t % K)


@pytest.mark.skipif(np.dtype(np.longdouble) == np.float64, reason="long double is float64 here")
def test_long_double(head, t):
    bad = np.zeros((M, K), np.longdouble)
    with says(TypeError, "x", bad.dtype):
        head.loss(bad, t)
    with says(TypeError, "weight", bad.dtype):
        ll.LinearHead(bad)


@pytest.mark.parametrize("kind", ["c16", "O", "U3", "M8[s]"])
def test_targets_that_are_not_numbers(head, x, kind):
    with says(TypeError, "target", np.dtype(kind)):
        head.loss(x, np.zeros(M, kind))
    with says(TypeError, "target", np.dtype(kind)):
        head.loss(x, np.zeros((M, N), kind))


def test_float_labels(head, x):
    """Class indices come as integers; one float a row is neither form."""
    with says(TypeError, "target", "float64"):
        head.loss(x, np.zeros(M))
    with says(TypeError, "target", "float32"):
        ll.cross_entropy(head.logits(x), np.zeros(M, np.float32))


# Labels


@pytest.mark.parametrize("bad", [N, -1, -99, 4321, 2**40])
def test_label_outside_names_the_first_row_and_value(head, x, w, t, bad):
    t[[3, 4]] = bad, 88888
    z = head.logits(x)
    for call in (
        lambda: head.loss(x, t),
        lambda: head.score(x, t),
        lambda: head.target_log_prob(x, t),
        lambda: ll.linear_cross_entropy(x, w, t),
        lambda: ll.cross_entropy(z, t),
        lambda: ll.nll(abs(z), t),
    ):
        with says(IndexError, 3, bad) as caught:
            call()
        assert "88888" not in str(caught.value)


def test_label_outside_in_unsigned_and_small_types(head, x, t):
    huge = t.astype(np.uint64)
    huge[2] = 2**64 - 100  # -100 to whoever forgets the sign
    with says(IndexError, 2, 2**64 - 100):
        head.loss(x, huge)
    small = t.astype(np.int8)
    small[1] = -3
    with says(IndexError, 1, -3):
        head.loss(x, small)
    swapped = t.astype(">i4")
    swapped[5] = 99
    with says(IndexError, 5, 99):
        head.loss(x, swapped)


def test_candidate_outside(head, x):
    candidates = np.zeros((M, 2), int)
    candidates[4, 1] = 5678
    with says(IndexError, 4, 5678):
        head.target_log_prob(x, candidates)


def test_only_ignore_index_is_ignored(head, x, t):
    t[2] = -100
    assert head.loss(x, t)[2] == 0
    with says(IndexError, 2, -100):
        head.loss(x, t, ignore_index=-1)
    t[2] = -1
    with says(IndexError, 2, -1):
        head.loss(x, t)


@pytest.mark.parametrize("bad", [-0.25, np.nan, np.inf, -np.inf])
def test_distributions_are_finite_and_not_negative(head, x, bad):
    soft = np.full((M, N), 0.2)
    soft[3, 1] = bad
    soft[5, 0] = np.nan
    for call in (
        lambda: head.loss(x, soft),
        lambda: head.score(x, soft),
        lambda: ll.cross_entropy(head.logits(x), soft),
        lambda: ll.nll(np.full((M, N), 0.2), soft),
    ):
        with says(ValueError, "target", 3, bad):
            call()
    # The sign of zero is no sign of a fault.
    soft[3, 1], soft[5, 0] = -0.0, 0
    assert np.isfinite(head.loss(x, soft)).all()


# Options


@pytest.mark.parametrize("bad", [0, -1, -0.5, np.nan, np.inf, pytest.param(10**400, id="huge")])
@pytest.mark.parametrize("name", ["softcap", "temperature"])
def test_softcap_and_temperature_are_positive_and_finite(x, w, t, name, bad):
    with says(ValueError, name, bad):
        ll.LinearHead(w, **{name: bad})
    with says(ValueError, name, bad):
        ll.linear_cross_entropy(x, w, t, **{name: bad})


@pytest.mark.parametrize("name", ["softcap", "temperature"])
@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "i8"])
@pytest.mark.parametrize("side", ["below", "above"])
def test_what_the_precision_cannot_divide_by(name, kind, side):
    """The limits themselves are good, and as good as their logits say."""
    w, x = np.eye(3).astype(kind), np.zeros((1, 3), kind)
    head = ll.LinearHead(w)
    limits = np.finfo(head.dtype)
    limit = float(limits.tiny if side == "below" else limits.max)
    other = limit if name == "temperature" and side == "below" else 1.0
    good = ll.LinearHead(w, **{name: limit}, **({"softcap": other} if other != 1 else {}))
    np.testing.assert_allclose(good.predict_proba(x), 1 / 3, rtol=1e-6)
    with np.errstate(over="ignore"):
        beyond = np.nextafter(limit, 0 if side == "below" else np.inf)
    if np.isfinite(beyond):
        for call in (lambda: ll.LinearHead(w, **{name: beyond}),
                     lambda: ll.linear_argmax(x, w, **{name: beyond})):
            with says(ValueError, name, f"{limit:.8g}", head.dtype, beyond):
                call()


def test_the_largest_capped_logit_is_a_number_of_the_precision():
    with says(ValueError, "softcap / temperature", "float32", "1e-40"):
        ll.LinearHead(np.eye(3, dtype="f4"), softcap=1e-20, temperature=1e20)
    with says(ValueError, "softcap / temperature", "float32"):
        ll.LinearHead(np.eye(3, dtype="f4"), softcap=1e20, temperature=1e-20)


@pytest.mark.parametrize("bad", [-1, 0, 7])
def test_ignore_index_is_not_for_distributions(head, x, w, bad):
    soft = np.full((M, N), 1 / N)
    sparse = pytest.importorskip("scipy.sparse")
    z = head.logits(x)
    for target in soft, np.eye(N)[np.zeros(M, int)], sparse.csr_array(soft):
        for call in (lambda t=target: head.loss(x, t, ignore_index=bad),
                     lambda t=target: head.score(x, t, ignore_index=bad),
                     lambda t=target: head.value_and_grad(x, t, ignore_index=bad),
                     lambda t=target: head.target_log_prob(x, t, ignore_index=bad),
                     lambda t=target: ll.linear_cross_entropy(x, w, t, ignore_index=bad),
                     lambda t=target: ll.cross_entropy(z, t, ignore_index=bad),
                     lambda t=target: ll.nll(abs(z), t, ignore_index=bad)):
            with says(ValueError, "ignore_index", "probabilities", bad):
                call()


@pytest.mark.parametrize("name", ["softcap", "temperature"])
def test_softcap_and_temperature_are_numbers(w, name):
    with says(TypeError, name):
        ll.LinearHead(w, **{name: "warm"})


@pytest.mark.parametrize("bad", ["average", 3, None, ["mean"], np.ones(2), np.zeros(2, "V2")])
def test_unknown_reduction(head, x, t, bad):
    for call in (
        lambda: head.loss(x, t, reduction=bad),
        lambda: ll.cross_entropy(head.logits(x), t, reduction=bad),
        lambda: head.value_and_grad(x, t, reduction=bad),
        lambda: head.kl_div(x, head, x, reduction=bad),
    ):
        with says(ValueError, repr(bad), "none", "sum", "mean", "batch_mean"):
            call()


def test_a_reduction_may_be_any_string(head, x, t):
    same = "".join(["no", "ne"])  # another object of the same letters
    np.testing.assert_array_equal(head.loss(x, t, reduction=same), head.loss(x, t))


@pytest.mark.parametrize("bad", [np.ones(2), np.ma.masked_array([1, 2], [True, False])])
def test_switches_have_a_truth_value(head, x, w, t, bad):
    for name, call in {
        "pack": lambda: ll.LinearHead(w, pack=bad),
        "normalize": lambda: head.topk(x, 2, normalize=bad),
        "entropy": lambda: head.score(x, entropy=bad),
        "accumulate": lambda: head.value_and_grad(x, t, accumulate=bad),
    }.items():
        with says(TypeError, f"`{name}` must be True or False", type(bad).__name__):
            call()
    for name, call in {
        "entropy": lambda: ll.RowState.of(x, head, entropy=bad),
        "accumulate": lambda: head.kl_div_value_and_grad(x, head, x, accumulate=bad),
    }.items():
        with says(TypeError, f"`{name}` must be True or False", type(bad).__name__):
            call()
    assert head.topk(x, 2, normalize=0).log_prob is None
    assert head.score(x, entropy=np.True_).entropy is not None


@pytest.mark.parametrize("k", [0, -1, N + 1])
def test_topk_out_of_range(head, x, w, k):
    for call in head.topk, lambda x, k: ll.linear_topk(x, w, k):
        with says(ValueError, "k", k, N):
            call(x, k)


def test_score_k_out_of_range(head, x):
    for k in -1, N + 1:
        with says(ValueError, "k", k, N):
            head.score(x, k=k)


def test_topk_k_is_an_integer(head, x):
    with says(TypeError, "k"):
        head.topk(x, 2.5)


@pytest.mark.parametrize("bad", [0, -2])
def test_threads_are_at_least_one(w, bad):
    with says(ValueError, "thread", bad):
        ll.LinearHead(w, n_threads=bad)
    with says(ValueError, 1, bad), ll.threads(bad):
        pass


@pytest.mark.parametrize("bad", [1.5, "2", True])
def test_threads_are_whole(w, bad):
    with says(TypeError, "`n` must be an int", type(bad).__name__), ll.threads(bad):
        pass
    with says(TypeError, "`n_threads` must be an int", type(bad).__name__):
        ll.LinearHead(w, n_threads=bad)


@pytest.mark.parametrize(
    "name", ["k", "size", "ignore_index", "workspace_bytes", "axis", "first", "bins", "n"])
def test_switches_are_no_counts(head, x, w, t, name):
    calls = {
        "k": lambda: head.topk(x, True),
        "size": lambda: head.sample(x, np.random.default_rng(0), size=True),
        "ignore_index": lambda: head.loss(x, t, ignore_index=False),
        "workspace_bytes": lambda: head.value_and_grad(x, t, workspace_bytes=True),
        "axis": lambda: ll.softmax(x, axis=True),
        "first": lambda: ll.RowState.of(x, w, target=t, first=False),
        "bins": lambda: ll.calibration_error(np.ones(M), t == 0, bins=True),
        "n": lambda: ll.shard_bounds(True, 1),
    }
    with says(TypeError, f"`{name}` must be an integer, got bool"):
        calls[name]()


def test_masked_arrays(head, x, w):
    with says(TypeError, "`x` must be a plain array", "masked"):
        head.predict(np.ma.masked_less(x, 0))
    with says(TypeError, "`weight` must be a plain array", "masked"):
        ll.LinearHead(np.ma.masked_less(w, 0))


def test_gradients_are_named_in_a_sequence(head, x, t):
    with says(TypeError, "`wrt` must be a sequence", "'weight'", "int"):
        head.value_and_grad(x, t, wrt=1)


def test_scores_without_a_target(head, x):
    scores = head.score(x)
    with says(ValueError, "`perplexity` needs scores made with a target"):
        _ = scores.perplexity
    with says(ValueError, "`accuracy` needs scores made with one target class a row"):
        _ = scores.accuracy


@pytest.mark.parametrize("bad", ["int4", "INT8", True, 8])
def test_screen(w, bad):
    with says(ValueError, "screen", "int8", bad):
        ll.LinearHead(w, screen=bad)


def test_screen_needs_packed_weights(w):
    with says(ValueError, "screen", "pack"):
        ll.LinearHead(w, screen="int8", pack=False)


def test_sample_size_and_generator(head, x):
    rng = np.random.default_rng(0)
    with says(ValueError, "size", -1):
        head.sample(x, rng, size=-1)
    with says(ValueError, "size", 2**63):
        head.sample(x, rng, size=2**63)
    for bad in "no generator", 1.5, 1j:
        with says(TypeError, "`rng` must be", "Generator", repr(bad)):
            head.sample(x, bad)
    with says(ValueError, "`rng` must be", "not negative", -1):
        head.sample(x, -1)


@pytest.mark.parametrize("axis", [2, -3])
def test_axis_out_of_range(axis):
    for call in ll.softmax, ll.log_softmax, ll.logsumexp:
        with says(ValueError, axis):  # NumPy's AxisError is one
            call(np.ones((2, 3)), axis=axis)


# Other libraries


class Tensor:
    """What a torch tensor that requires grad does when it is asked for its numbers."""

    requires_grad = True

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_something_that_requires_grad_says_detach(head, t):
    with pytest.raises((TypeError, RuntimeError, ValueError), match="detach"):
        head.loss(Tensor(), t)
    with pytest.raises((TypeError, RuntimeError, ValueError), match="detach"):
        ll.LinearHead(Tensor())


def test_a_torch_tensor_that_requires_grad_says_detach(head, t):
    torch = pytest.importorskip("torch")
    bad = torch.ones((M, K), requires_grad=True)
    with pytest.raises((TypeError, RuntimeError, ValueError), match="detach"):
        head.loss(bad, t)
    with pytest.raises((TypeError, RuntimeError, ValueError), match="detach"):
        ll.LinearHead(bad)


def test_ragged_lists(head):
    with says(ValueError, "x"):
        head.predict([[1, 2, 3, 4], [1, 2]])
