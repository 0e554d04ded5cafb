"""Bad arguments: the kind of error, and a message that says what was expected and what came."""

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


@pytest.mark.parametrize("bad", [0, -1, -0.5, np.nan, np.inf])
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


def test_unknown_reduction(head, x, t):
    for call in (
        lambda: head.loss(x, t, reduction="average"),
        lambda: ll.cross_entropy(head.logits(x), t, reduction="average"),
    ):
        with says(ValueError, "average", "none", "sum", "mean", "batch_mean"):
            call()


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


def test_threads_are_whole(w):
    with says(TypeError, "thread"):
        ll.LinearHead(w, n_threads=1.5)


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
    with pytest.raises(TypeError):
        head.sample(x, "no generator")


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


# Options of the loss


def all_losses(x, w, t, **options):
    """Every call that takes the options of the loss."""
    head = ll.LinearHead(w)
    z = head.logits(x)
    return (
        lambda: head.loss(x, t, **options),
        lambda: head.score(x, t, **options),
        lambda: head.value_and_grad(x, t, **options),
        lambda: ll.linear_cross_entropy(x, w, t, **options),
        lambda: ll.linear_cross_entropy_value_and_grad(x, w, t, **options),
        lambda: ll.linear_score(x, w, t, **options),
        lambda: ll.cross_entropy(z, t, **options),
    )


@pytest.mark.parametrize("shape", [(), (1,), (N - 1,), (N + 1,), (1, N), (N, 1), (M,)])
def test_class_weights_of_another_shape(x, w, t, shape):
    for call in all_losses(x, w, t, class_weight=np.ones(shape)):
        with says(ValueError, "class_weight", (N,), shape):
            call()


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf, -np.inf, 1e300])
def test_class_weights_are_finite_and_not_negative(x, w, t, bad):
    """In float32, the precision of the computation, as 1e300 is not."""
    weight = np.ones(N)
    weight[[2, 4]] = bad, -7
    for call in all_losses(x, w, t, class_weight=weight):
        with says(ValueError, "class_weight", "class 2", bad):
            call()


@pytest.mark.parametrize("shape", [(), (1,), (M - 1,), (M + 1,), (M, 1), (1, M), (N,)])
def test_sample_weights_of_another_shape(x, w, t, shape):
    for call in all_losses(x, w, t, sample_weight=np.ones(shape)):
        with says(ValueError, "sample_weight", (M,), shape):
            call()


def test_sample_weights_have_the_leading_shape(x, w, t):
    for call in all_losses(x.reshape(2, 3, K), w, t.reshape(2, 3), sample_weight=np.ones(M)):
        with says(ValueError, "sample_weight", (2, 3), (M,)):
            call()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sample_weights_are_finite(x, w, t, bad):
    weight = np.ones(M)
    weight[[3, 5]] = bad, np.nan
    for call in all_losses(x, w, t, sample_weight=weight):
        with says(ValueError, "sample_weight", "row 3", bad):
            call()


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
@pytest.mark.parametrize("kind", ["c16", "O", "U3", "M8[s]"])
def test_weights_that_are_not_numbers(x, w, t, name, kind):
    weight = np.zeros(N if name == "class_weight" else M, kind)
    for call in all_losses(x, w, t, **{name: weight}):
        with says(TypeError, name, np.dtype(kind)):
            call()


@pytest.mark.parametrize(("name", "bad"), [
    ("label_smoothing", -0.1), ("label_smoothing", 1.5), ("label_smoothing", np.nan),
    ("label_smoothing", np.inf), ("z_loss", -1e-4), ("z_loss", np.nan), ("z_loss", np.inf),
])
def test_smoothing_and_z_loss_out_of_range(x, w, t, name, bad):
    for call in all_losses(x, w, t, **{name: bad}):
        with says(ValueError, name, bad):
            call()


@pytest.mark.parametrize("name", ["label_smoothing", "z_loss"])
@pytest.mark.parametrize("bad", ["much", None, True, 1j, [0.1]])
def test_smoothing_and_z_loss_are_numbers(x, w, t, name, bad):
    for call in all_losses(x, w, t, **{name: bad}):
        with says(TypeError, name, type(bad).__name__):
            call()


def test_shift_out_of_range(x, w, t):
    for call in all_losses(x, w, t, shift=-1):
        with says(ValueError, "shift", 0, -1):
            call()
    for call in all_losses(x, w, t, shift=M + 1):
        with says(ValueError, "shift", M + 1):
            call()
    for call in all_losses(x[0], w, t[0], shift=1):
        with says(ValueError, "shift", 1):
            call()
    with says(ValueError, "shift", M + 1):
        ll.LinearHead(w).score(x, shift=M + 1)


@pytest.mark.parametrize("bad", [1.0, "one", 2.5])
def test_shift_is_an_integer(x, w, t, bad):
    for call in all_losses(x, w, t, shift=bad):
        with says(TypeError, "shift", type(bad).__name__):
            call()


@pytest.mark.parametrize("bad", [None, 0.0, "", False])
def test_a_shift_that_looks_like_zero(x, w, t, bad):
    """Of these only False is an integer."""
    for call in all_losses(x, w, t, shift=bad):
        if bad is False:
            call()
        else:
            with says(TypeError, "shift", type(bad).__name__):
                call()


def test_shift_and_other_shapes(x, w, t):
    for call in all_losses(x, w, t[1:], shift=1):
        with says(ValueError, "target", (M,), (M - 1,)):
            call()
    for call in all_losses(x, w, t, shift=1, sample_weight=np.ones(M - 1)):
        with says(ValueError, "sample_weight", (M,), (M - 1,)):
            call()


def test_label_outside_after_a_shift(x, w, t):
    t[4] = 77
    for call in all_losses(x, w, t, shift=1):
        with says(IndexError, 77):
            call()


@pytest.mark.parametrize("bad", [None, 1.5, "none"])
def test_ignore_index_is_an_integer(x, w, t, bad):
    for call in all_losses(x, w, t, ignore_index=bad):
        with says(TypeError, "ignore_index", type(bad).__name__):
            call()


def test_options_that_do_not_exist_are_refused(x, w, t):
    for call in all_losses(x, w, t, smoothing=0.1):
        with says(TypeError, "smoothing"):
            call()
    # What knows no weights refuses them.
    for option in "sample_weight", "label_smoothing", "z_loss", "shift":
        with says(TypeError, option):
            ll.nll(np.ones((M, N)), t, **{option: 1})
    for option in "class_weight", "sample_weight", "label_smoothing", "z_loss", "shift":
        with says(TypeError, option):
            ll.LinearHead(w).target_log_prob(x, t, **{option: 1})


# Gradients


@pytest.fixture
def gradients(w):
    """Call for the gradients, of the head and in one shot."""
    def call(*args, **options):
        return (
            lambda: ll.LinearHead(w, pack=False).value_and_grad(*args, **options),
            lambda: ll.LinearHead(w).value_and_grad(*args, **options),
            lambda: ll.linear_cross_entropy_value_and_grad(args[0], w, *args[1:], **options),
        )
    return call


def full_out(**changes):
    arrays = {"x": np.full((M, K), 7, np.float32), "weight": np.full((N, K), 7, np.float32),
              "bias": np.full(N, 7, np.float32)}
    return ll.Gradients(**{**arrays, **changes})


def test_gradients_of_what_does_not_fit(gradients, x, t):
    for call in gradients(np.ones((M, 9), np.float32), t):
        with says(ValueError, "x", K, 9):
            call()
    for call in gradients(x, t[1:]):
        with says(ValueError, "target", (M - 1,)):
            call()
    for call in gradients(x, np.ones(M)):
        with says(TypeError, "target", "float64"):
            call()
    t[3] = N
    for call in gradients(x, t):
        with says(IndexError, 3, N):
            call()
    soft = np.full((M, N), 0.2)
    soft[4, 1] = -1
    for call in gradients(x, soft):
        with says(ValueError, "target", 4, -1):
            call()
    for call in gradients(x, soft, reduction="average"):
        with says(ValueError, "average", "none", "sum", "mean", "batch_mean"):
            call()


@pytest.mark.parametrize("bad", ["w", ("x", "y"), [0], ("x", None)])
def test_wrt_names_inputs(gradients, x, t, bad):
    for call in gradients(x, t, wrt=bad):
        with says(ValueError, "wrt", "x", "weight", "bias"):
            call()


@pytest.mark.parametrize(("reduction", "shape"), [
    ("none", ()), ("none", (1,)), ("none", (M - 1,)), ("none", (M, 1)), ("mean", (M,)),
    ("mean", (1,)), ("sum", (M,)), ("batch_mean", (M,)),
])
def test_grad_output_of_another_shape(gradients, x, t, reduction, shape):
    for call in gradients(x, t, reduction=reduction, grad_output=np.ones(shape)):
        with says(ValueError, "grad_output", shape, reduction, (M,) if reduction == "none" else ()):
            call()


def test_grad_output_is_of_numbers(gradients, x, t):
    for call in gradients(x, t, grad_output="1"):
        with says(TypeError, "grad_output"):
            call()
    for call in gradients(x, t, reduction="none", grad_output=np.ones(M, complex)):
        with says(TypeError, "grad_output", "complex128"):
            call()


def test_workspace_is_a_number_of_bytes(gradients, x, t):
    for bad in 0, -5:
        for call in gradients(x, t, workspace_bytes=bad):
            with says(ValueError, "workspace_bytes", 1, bad):
                call()
    for bad in 1e6, None, "64 MiB":
        for call in gradients(x, t, workspace_bytes=bad):
            with says(TypeError, "workspace_bytes", type(bad).__name__):
                call()


def test_filter_eps_is_a_probability(gradients, x, t):
    for bad in -1e-9, 1, 1.5, np.nan, np.inf:
        for call in gradients(x, t, filter_eps=bad):
            with says(ValueError, "filter_eps", bad):
                call()
    for bad in None, "auto", True:
        for call in gradients(x, t, filter_eps=bad):
            with says(TypeError, "filter_eps", type(bad).__name__):
                call()


def test_accumulate_needs_something_to_add_to(gradients, x, t):
    for call in gradients(x, t, accumulate=True):
        with says(ValueError, "accumulate", "out"):
            call()


def test_out_is_gradients(gradients, x, t):
    for bad in np.zeros((M, K), np.float32), (None, None, None), {}:
        for call in gradients(x, t, out=bad):
            with says(TypeError, "out", type(bad).__name__):
                call()


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_out_has_all_of_wrt(gradients, x, t, name):
    for call in gradients(x, t, out=full_out(**{name: None})):
        with says(ValueError, f"out.{name}", "None"):
            call()
    others = tuple({"x", "weight", "bias"} - {name})
    for call in gradients(x, t, out=full_out(**{name: None}), wrt=others):
        call()


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_arrays_of_out_are_as_the_gradients(gradients, x, t, name):
    good = getattr(full_out(), name)
    shape = good.shape
    read_only, wide = good.copy(), np.zeros((2 * shape[0], *shape[1:]), np.float32)
    read_only.flags.writeable = False
    for bad, error, words in (
        (good.tolist(), TypeError, ["list"]),
        (good.astype(np.float64), TypeError, ["float32", "float64"]),
        (good.astype(">f4"), (TypeError, ValueError), []),
        (good[:-1], ValueError, [shape]),
        (good[..., None], ValueError, [shape]),
        (read_only, ValueError, ["writeable"]),
        (wide[::2], ValueError, ["contiguous"]),
    ):
        for call in gradients(x, t, out=full_out(**{name: bad})):
            with says(error, f"out.{name}", *words):
                call()


def test_out_does_not_overlap_what_is_read(x, w, t):
    bias = np.zeros(N, np.float32)
    head = ll.LinearHead(w, bias, pack=False)
    for name, array in (("x", x), ("weight", w), ("bias", bias)):
        before = array.copy()
        with says(ValueError, f"out.{name}", "overlap"):
            head.value_and_grad(x, t, out=full_out(**{name: array}))
        assert (array == before).all()
    # A packed head has its own weights.
    ll.LinearHead(w, bias).value_and_grad(x, t, out=full_out(weight=w, bias=bias))
    assert not (bias == 0).all()
    # Targets and weights are read to the end, too.
    memory = np.zeros(64 * N)
    labels, weights = memory.view(np.int64)[:M], memory[:M]
    soft, factors = memory[: M * N].reshape(M, N), memory.view(np.float32)[:N]
    out = full_out(bias=memory.view(np.float32)[:N])
    for target, options in (
        (labels, {}), (soft, {}), (t, {"sample_weight": weights}),
        (soft, {"class_weight": np.ones(N, np.float32)}),
    ):
        with says(ValueError, "out.bias", "overlap"):
            head.value_and_grad(x, target, out=out, **options)
    with says(ValueError, "out.bias", "overlap"):
        head.value_and_grad(x, t, out=out, class_weight=factors, label_smoothing=0.1)


def test_errors_come_before_anything_is_written(gradients, x, t):
    wrong, soft = t.copy(), np.full((M, N), 0.2)
    wrong[-1], soft[-1, -1] = N, np.nan
    for target, options in (
        (wrong, {}),
        (soft, {}),
        (t, {"reduction": "average"}),
        (t, {"class_weight": -np.ones(N)}),
        (t, {"sample_weight": np.full(M, np.nan)}),
        (t, {"label_smoothing": 2}),
        (t, {"z_loss": -1}),
        (t, {"shift": 99}),
        (t, {"grad_output": np.ones(M)}),
        (t, {"filter_eps": 2}),
        (t, {"workspace_bytes": 0}),
        (t, {"wrt": ("x", "weight", "bias", "y")}),
        (t, {"smoothing": 1}),
    ):
        out = full_out()
        for call in gradients(x, target, out=out, **options):
            with pytest.raises((ValueError, TypeError, IndexError)):
                call()
        # Nor is one array written when another does not fit.
        for name in "x", "weight", "bias":
            assert (getattr(out, name) == 7).all()
    out = full_out(bias=np.zeros(N + 1, np.float32))
    for call in gradients(x, t, out=out):
        with says(ValueError, "out.bias"):
            call()
    assert (out.x == 7).all()
    assert (out.weight == 7).all()
