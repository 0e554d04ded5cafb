"""Bad options of losses and gradients: the kind of error, and what was expected and what came."""

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
def t():
    return np.zeros(M, np.int64)


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


@pytest.mark.parametrize("shape", [(1,), (M - 1,), (M + 1,), (M, 1), (1, M), (N,)])
def test_temperatures_of_another_shape(x, w, t, shape):
    for call in (*all_losses(x, w, t, temperature=np.ones(shape)), *all_scores(x, w, t, shape)):
        with says(ValueError, "temperature", (M,), shape):
            call()


def all_scores(x, w, t, shape):
    head, temperature = ll.LinearHead(w), np.ones(shape)
    yield lambda: head.score(x, temperature=temperature)
    yield lambda: head.target_log_prob(x, t, temperature=temperature)
    yield lambda: head.target_log_prob(x, t[:, None], temperature=temperature)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-310])
def test_temperatures_are_positive_and_finite(x, w, t, bad):
    temperature = np.ones(M)
    temperature[[3, 5]] = bad, np.nan
    head = ll.LinearHead(w)
    for call in (
        *all_losses(x, w, t, temperature=temperature),
        lambda: head.score(x, temperature=temperature),
        lambda: head.target_log_prob(x, t[:, None], temperature=temperature),
    ):
        with says(ValueError, "temperature", "row 3", bad):
            call()


def test_temperatures_fit_the_precision_of_the_logits(x, w, t):
    for small, large in (1e-40, 1e300), (1e-46, 1e39):
        for bad in small, large:
            for call in all_losses(x.astype("f4"), w.astype("f4"), t, temperature=np.full(M, bad)):
                with says(ValueError, "temperature", "row 0", "float32", bad):
                    call()


@pytest.mark.parametrize(("softcap", "bad", "dtype", "limit"), [
    (1e-20, 1e20, "f4", "1e-40"), (1e20, 1e-20, "f4", "1e+40"), (1e200, 1e-200, "f8", "inf")])
def test_temperatures_fit_the_softcap(x, w, t, softcap, bad, dtype, limit):
    x, w, temperature = x.astype(dtype), w.astype(dtype), np.ones(M)
    temperature[[3, 5]] = bad
    head = ll.LinearHead(w, softcap=softcap)
    for call in (
        lambda: head.loss(x, t, temperature=temperature),
        lambda: head.value_and_grad(x, t, temperature=temperature),
        lambda: head.score(x, temperature=temperature),
        lambda: head.score(x, t, temperature=temperature),
        lambda: head.target_log_prob(x, t, temperature=temperature),
        lambda: head.target_log_prob(x, t[:, None], temperature=temperature),
        lambda: ll.linear_cross_entropy(x, w, t, softcap=softcap, temperature=temperature),
        lambda: ll.linear_score(x, w, softcap=softcap, temperature=temperature),
    ):
        with says(ValueError, "softcap / temperature", "row 3", limit):
            call()
    assert np.isfinite(ll.linear_cross_entropy(x, w, t, temperature=temperature)).all()


@pytest.mark.parametrize("name", ["class_weight", "sample_weight", "temperature"])
@pytest.mark.parametrize("kind", ["c16", "O", "U3", "M8[s]"])
def test_weights_that_are_not_numbers(x, w, t, name, kind):
    weight = np.zeros(N if name == "class_weight" else M, kind)
    for call in all_losses(x, w, t, **{name: weight}):
        with says(TypeError, name, np.dtype(kind)):
            call()


@pytest.mark.parametrize(("name", "bad"), [
    ("label_smoothing", -0.1), ("label_smoothing", 1.5), ("label_smoothing", np.nan),
    ("label_smoothing", np.inf), ("z_loss", -1e-4), ("z_loss", np.nan), ("z_loss", np.inf),
    pytest.param("z_loss", 10**400, id="z_loss-huge"),
    ("entropy_weight", np.nan), ("entropy_weight", np.inf), ("entropy_weight", -np.inf),
    pytest.param("entropy_weight", -(10**400), id="entropy_weight-huge"),
])
def test_amounts_out_of_range(x, w, t, name, bad):
    for call in all_losses(x, w, t, **{name: bad}):
        with says(ValueError, name, bad):
            call()


@pytest.mark.parametrize("name", ["label_smoothing", "z_loss", "entropy_weight"])
@pytest.mark.parametrize("bad", ["much", None, True, 1j, [0.1]])
def test_amounts_are_numbers(x, w, t, name, bad):
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
    for name in "sample_weight", "temperature":
        for call in all_losses(x, w, t, shift=1, **{name: np.ones(M - 1)}):
            with says(ValueError, name, (M,), (M - 1,)):
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
    for option in "sample_weight", "label_smoothing", "z_loss", "temperature", "shift":
        with says(TypeError, option):
            ll.nll(np.ones((M, N)), t, **{option: 1})
    for option in ("class_weight", "sample_weight", "label_smoothing", "z_loss", "entropy_weight",
                   "shift"):
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
