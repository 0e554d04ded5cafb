"""Options of the loss, alone and together, against the formula in a wider precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.oracle import assert_no_worse, assert_relative, assert_same, assert_same_bits

import logitless as ll

long_double = pytest.mark.skipif(
    not oracle.LONG_IS_WIDER, reason="no type wider than float64 on this platform"
)

# Around the blocks of classes and features, and the tiles of rows.
CLASSES = [1, 2, 3, 15, 16, 17, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097]
FEATURES = [0, 1, 2, 15, 16, 17, 255, 256, 257]
ROWS = [1, 2, 11, 12, 13, 23, 24, 25, 239, 240, 241, 479, 480, 481]


class Formula:
    """Loss of each row and its derivatives by the logits, in the precision of `z` (m, n).

    ``s * (sum(w * ((1 - e) * t + e / n) * -log(p)) + z_loss * lse**2)``. What has weight 0
    counts as 0, whatever it is multiplied with.

    Attributes
    ----------
    rows : (m,)
    d_logits : (m, n)
        Derivatives of the sum of `rows`.
    divisor : float
        Of the mean.
    size : (m,)
        What `rows` is the sum of, without signs.
    taken : (m, n)
        What is subtracted from the softmax.
    """

    def __init__(self, z, target, *, class_weight=None, sample_weight=None, label_smoothing=0.0,
                 z_loss=0.0, ignore_index=-100):
        m, n = z.shape
        real, target = z.dtype.type, np.asarray(target)
        rest = np.arange(n) != z.argmax(axis=1)[:, None]  # all but the largest
        with np.errstate(all="ignore"):
            below = z.max(axis=1, keepdims=True) - z
            log_norm = np.log1p(np.exp(-below, where=rest, out=np.zeros_like(z)).sum(axis=1))
            minus_log_p = below + log_norm[:, None]
            lse = z.max(axis=1) + log_norm
        w = np.ones(n, z.dtype) if class_weight is None else np.asarray(class_weight, z.dtype)
        s = np.ones(m, z.dtype) if sample_weight is None else np.asarray(sample_weight, z.dtype)
        counts = s != 0
        if target.ndim == 2:
            t, self.divisor = target.astype(z.dtype), s.sum()
        else:
            counts &= target != ignore_index
            t = np.zeros_like(z)
            t[counts, target[counts]] = 1
            self.divisor = (s * w[np.where(counts, target, 0)])[counts].sum()
        e = real(label_smoothing)
        self.taken = w * ((1 - e) * t + e / n)
        with np.errstate(all="ignore"):
            terms = np.where(self.taken == 0, 0, self.taken * minus_log_p)
            z_term = real(z_loss) * lse**2 if z_loss else np.zeros(m, z.dtype)
            self.rows = np.where(counts, s * (terms.sum(axis=1) + z_term), 0)
            self.size = np.where(counts, np.abs(s) * (np.abs(terms).sum(axis=1) + z_term), 0)
            mass = self.taken.sum(axis=1) + (2 * real(z_loss) * lse if z_loss else 0)
            d = s[:, None] * (mass[:, None] * np.exp(-minus_log_p) - self.taken)
        self.d_logits = np.where(counts[:, None], d, 0)
        self.lse, self.weight = lse, np.where(counts, s, 0)
        self.m = m

    def reduced(self, reduction):
        by = {"none": 1, "sum": 1, "batch_mean": self.m, "mean": self.divisor}[reduction]
        return self.rows if reduction == "none" else self.rows.sum() / by


def logits_error(x, w, bias, temperature=1.0):
    """A bound for the rounding error of a logit: of a dot product and what is done to it.

    The terms are random, and so are the roundings of their sum.
    """
    reach = (np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)).max(initial=0)
    reach += 0 if bias is None else np.abs(bias[np.isfinite(bias)]).max(initial=0)
    eps = np.finfo(np.result_type(x, w)).eps
    return float((4 * math.sqrt(x.shape[1]) + 8) * eps * (reach + 1) / temperature + 20 * eps)


def loss_error(formula, slack, eps):
    """A bound for the rounding error of the losses `formula.rows`, logits being off by `slack`.

    Every -log p is off by twice that, lse by once; the sum over n classes rounds at each of
    its steps, of which a tree has log2(n).
    """
    n = formula.taken.shape[1]
    weight = np.abs(formula.weight).astype(np.float64)
    size = formula.size.astype(np.float64)
    per_class = np.abs(formula.taken).sum(axis=1).astype(np.float64)
    z_part = 4 * np.abs(formula.lse).astype(np.float64) + 1
    return (2 * weight * (per_class + z_part) * slack
            + (32 + 8 * math.log2(n)) * eps * size + 4 * np.finfo(np.float32).tiny)


@st.composite
def losses(draw, most_rows=20):
    """Inputs and options: (x, weight, bias), target, options of the head, options of the loss."""
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 600)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(0, 100)))
    room = max(1, min(most_rows, 2_000_000 // (n * max(k, 1))))
    m = draw(st.one_of(
        st.sampled_from([r for r in ROWS if r <= room]), st.integers(1, min(20, room))
    ))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.01, 1.0, 8.0]))
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (scale / math.sqrt(max(k, 1)))).astype(dtype)
    bias = draw(st.sampled_from([None, rng.standard_normal(n).astype(dtype)]))
    target = any_target(draw, rng, m, n, dtype)
    of_head = draw(st.fixed_dictionaries({}, optional={
        "softcap": st.sampled_from([0.5, 5.0, 50.0]),
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
    }))
    options = draw(st.fixed_dictionaries({}, optional={
        "class_weight": st.sampled_from([
            (rng.random(n) * 3).astype(dtype),
            (rng.random(n) * rng.integers(0, 2, n)).astype(dtype),
            np.ones(n, dtype),
        ]),
        "sample_weight": st.sampled_from([
            rng.random(m), rng.integers(0, 3, m).astype(np.float32), rng.standard_normal(m),
        ]),
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.625, 1.0]),
        "z_loss": st.sampled_from([0.0, 1e-4, 0.5]),
    }))
    if target.ndim == 1 and draw(st.booleans()):
        options["ignore_index"] = draw(st.sampled_from([-100, -1, n, 0]))
        target[rng.random(m) < 0.3] = options["ignore_index"]
    return (x, w, bias), target, of_head, options


def any_target(draw, rng, m, n, dtype):
    kind = draw(st.sampled_from(["index", "probabilities", "masses", "some one-hot"]))
    if kind == "index":
        return rng.integers(0, n, m)
    if kind == "masses":  # not summing to 1, some classes and rows without any
        return (rng.random((m, n)) * rng.integers(0, 2, (m, n))).astype(dtype)
    t = rng.dirichlet(np.ones(n), m).astype(dtype)
    if kind == "some one-hot":
        t[::2] = np.eye(n, dtype=dtype)[rng.integers(0, n, len(t[::2]))]
    return t


def formula_of(inputs, target, of_head, options):
    x, w, bias = inputs
    z = oracle.logits(x, w, bias, dtype=oracle.wider(x.dtype), **of_head)
    return Formula(z, target, **options)


# Against the formula


@given(losses(), st.booleans())
def test_any_options(case, pack):
    inputs, target, of_head, options = case
    (x, w, bias), dtype = inputs, inputs[0].dtype
    truth = formula_of(inputs, target, of_head, options)
    slack = logits_error(x, w, bias, of_head.get("temperature", 1.0))
    allowed = loss_error(truth, slack, np.finfo(dtype).eps)

    head = ll.LinearHead(w, bias, pack=pack, **of_head)
    loss = head.loss(x, target, **options)
    assert loss.dtype == dtype
    error = np.abs(loss - truth.rows).astype(np.float64)
    assert (error <= allowed).all(), f"{(error / allowed).max():.3f} times the error allowed"

    assert_same(head.score(x, target, **options).loss, loss, "score")
    one_shot = ll.linear_cross_entropy(x, w, target, bias, **of_head, **options)
    assert_same(one_shot, loss, "linear_cross_entropy")
    again = ll.linear_score(x, w, target, bias, **of_head, **options)
    assert_same(again.loss, loss, "linear_score")
    assert_same(ll.cross_entropy(head.logits(x), target, **options), loss, "cross_entropy")


@given(losses(), st.sampled_from(["sum", "mean", "batch_mean"]))
def test_any_reduction(case, reduction):
    inputs, target, of_head, options = case
    (x, w, bias), dtype = inputs, inputs[0].dtype
    truth = formula_of(inputs, target, of_head, options)
    head = ll.LinearHead(w, bias, **of_head)
    rows = head.loss(x, target, **options)
    by = {"sum": 1, "batch_mean": len(x), "mean": float(truth.divisor)}[reduction]
    for call in (
        lambda: head.loss(x, target, reduction=reduction, **options),
        lambda: ll.linear_cross_entropy(
            x, w, target, bias, reduction=reduction, **of_head, **options),
        lambda: ll.cross_entropy(head.logits(x), target, reduction=reduction, **options),
    ):
        if truth.divisor == 0 and reduction == "mean":
            with pytest.warns(RuntimeWarning, match="mean"):
                assert np.isnan(call())
            continue
        result = call()
        assert result.dtype == dtype
        assert result.shape == ()
        # Sums are in float64: what is left is one rounding, and weights that cancel.
        exact = rows.sum(dtype=np.float64) / by
        few = 4 * np.finfo(dtype).eps
        size = np.abs(rows).sum(dtype=np.float64) / abs(by)
        slack = few * abs(exact) + 1e-13 * size
        if not oracle.COMPILED:
            slack += 64 * few * (size + 1)  # another shape, another order of sums
        assert abs(result - exact) <= slack


OPTIONS = {
    "none": {},
    "class weights": {"class_weight": True},
    "sample weights": {"sample_weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-3},
    "all": {"class_weight": True, "sample_weight": True, "label_smoothing": 0.2, "z_loss": 0.01},
}


def with_weights(options, m, n, dtype, seed=5):
    """Options with arrays where they say True."""
    rng, options = np.random.default_rng(seed), dict(options)
    if options.get("class_weight") is True:
        options["class_weight"] = (rng.random(n) * 2).astype(dtype)
    if options.get("sample_weight") is True:
        options["sample_weight"] = rng.random(m).astype(dtype)
    return options


def targets_of(kind, m, n, dtype, seed=6):
    """Class indices, some ignored; or class probabilities."""
    rng = np.random.default_rng(seed)
    if kind == "index":
        target = rng.integers(0, n, m)
        target[::4] = -100
        return target
    t = rng.dirichlet(np.ones(n), m).astype(dtype)
    if kind == "rows of all kinds":
        t[::3] = np.eye(n, dtype=dtype)[rng.integers(0, n, len(t[::3]))]
        t[1::6] *= 3
        t[4::6] = 0
    return t


KINDS = ["index", "probabilities", "rows of all kinds"]
OF_HEAD = [{}, {"softcap": 3.0, "temperature": 0.6}]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of_head", OF_HEAD, ids=["plain", "capped"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "batch_mean"])
def test_each_option(name, kind, of_head, reduction):
    m, n, k = 25, 40, 6
    rng = np.random.default_rng(1)
    x, w, bias = rng.standard_normal((m, k)), rng.standard_normal((n, k)), rng.standard_normal(n)
    target, options = targets_of(kind, m, n, x.dtype), with_weights(OPTIONS[name], m, n, x.dtype)
    truth = formula_of((x, w, bias), target, of_head, options).reduced(reduction)
    ours = ll.linear_cross_entropy(
        x, w, target, bias, reduction=reduction, **of_head, **options)
    np.testing.assert_allclose(ours, truth.astype(np.float64), rtol=1e-13, atol=1e-14)
    z = ll.LinearHead(w, bias, **of_head).logits(x)
    ours = ll.cross_entropy(z, target, reduction=reduction, **options)
    np.testing.assert_allclose(ours, truth.astype(np.float64), rtol=1e-13, atol=1e-14)


def naive_rows(x, w, bias, target, **options):
    """The textbook: log-probabilities in the precision given, then the formula."""
    z = x @ w.T + bias
    top = z.max(axis=1, keepdims=True)
    lse = top + np.log(np.exp(z - top).sum(axis=1, keepdims=True))
    formula = Formula(z, target, **options)
    z_term = z.dtype.type(options.get("z_loss", 0)) * lse[:, 0] ** 2
    return formula.weight * ((formula.taken * (lse - z)).sum(axis=1) + z_term)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
@pytest.mark.parametrize(("m", "n", "k"), [(200, 10, 64), (60, 1000, 257), (20, 4097, 128)])
def test_no_worse_than_naive(name, soft, m, n, k, dtype):
    if dtype == np.float64 and not oracle.LONG_IS_WIDER:
        pytest.skip("no type wider than float64 on this platform")
    rng = np.random.default_rng(m + n + k)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (3 / math.sqrt(k))).astype(dtype)
    bias = rng.standard_normal(n).astype(dtype)
    target = rng.dirichlet(np.ones(n), m).astype(dtype) if soft else rng.integers(0, n, m)
    options = with_weights(OPTIONS[name], m, n, dtype)
    naive = []
    for seed in range(4):  # which errors a product makes depends on the order of the features
        order = np.random.default_rng(seed).permutation(k)
        naive.append(naive_rows(x[:, order], w[:, order], bias, target, **options))
    truth = formula_of((x, w, bias), target, {}, options).rows
    # A sum over the classes averages the errors of the logits away, of ours and theirs:
    # what is left is as much the luck of the sums as anything. One bit for that.
    factor = 2 if soft or "label_smoothing" in options else 1
    head = ll.LinearHead(w, bias)
    assert_no_worse(head.loss(x, target, **options), naive, truth, name, factor)
    assert_no_worse(head.score(x, target, **options).loss, naive, truth, name, factor)


# Values found by hand


def test_cats_cars_and_frogs(dtype):
    """Two samples of the lecture notes of Stanford's CS231n."""
    scores = np.array([[-2.85, 0.86, 0.28], [3.2, 5.1, -1.7]], dtype)
    loss = ll.cross_entropy(scores, [2, 0])
    np.testing.assert_allclose(loss, [1.04, 2.04], atol=5e-3)
    np.testing.assert_allclose(
        ll.softmax(scores), [[0.016, 0.631, 0.353], [0.13, 0.87, 0.00]], atol=5e-3
    )


# Logits log 1, log 2, log 3 make probabilities 1/6, 1/3, 1/2, and lse = log 6.
LOG6 = math.log(6)
BY_HAND = {
    "plain": ({}, 1, math.log(3)),
    "class weight": ({"class_weight": [5.0, 0.5, 7.0]}, 1, math.log(3) / 2),
    "sample weight": ({"sample_weight": [3.0]}, 1, 3 * math.log(3)),
    "negative sample weight": ({"sample_weight": [-1.0]}, 1, -math.log(3)),
    "smoothing": (
        {"label_smoothing": 0.3}, 1, 0.7 * math.log(3) + 0.1 * math.log(6 * 3 * 2)
    ),
    "smoothing to the end": ({"label_smoothing": 1.0}, 0, math.log(36) / 3),
    "smoothing and class weights": (
        {"label_smoothing": 0.3, "class_weight": [1.0, 0.0, 2.0]},
        1,
        0.1 * (math.log(6) + 2 * math.log(2)),
    ),
    "z-loss": ({"z_loss": 0.25}, 2, math.log(2) + LOG6**2 / 4),
    "z-loss knows no class weight": (
        {"z_loss": 0.25, "class_weight": [0.0, 0.0, 0.0]}, 2, LOG6**2 / 4
    ),
    "ignored": ({"z_loss": 0.25, "label_smoothing": 0.5, "ignore_index": 2}, 2, 0.0),
    "probabilities": ({}, [0.5, 0.25, 0.25], LOG6 / 2 + math.log(3) / 4 + math.log(2) / 4),
    "masses": ({}, [2.0, 0.0, 4.0], 2 * LOG6 + 4 * math.log(2)),
    "masses and class weights": (
        {"class_weight": [1.0, 9.0, 0.5]}, [2.0, 0.0, 4.0], 2 * LOG6 + 2 * math.log(2)
    ),
    "probabilities, all": (
        {"class_weight": [1.0, 2.0, 0.0], "sample_weight": [2.0], "label_smoothing": 0.3,
         "z_loss": 0.5},
        [0.5, 0.5, 0.0],
        2 * ((0.35 + 0.1) * LOG6 + 2 * (0.35 + 0.1) * math.log(3) + LOG6**2 / 2),
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name, dtype):
    options, target, value = BY_HAND[name]
    z = np.log(np.array([[1, 2, 3]])).astype(dtype)
    head = ll.LinearHead(np.eye(3, dtype=dtype))
    rtol = 1e-14 if dtype == np.float64 else 1e-6
    for loss in (
        head.loss(z, [target], **options),
        head.score(z, [target], **options).loss,
        ll.linear_cross_entropy(z, np.eye(3, dtype=dtype), [target], **options),
        ll.cross_entropy(z, [target], **options),
    ):
        np.testing.assert_allclose(loss, [value], rtol=rtol, atol=1e-30)


def test_softcap_and_temperature_by_hand():
    """softcap 2: 2 tanh(1/2 log 3) = 1, so that the logits 0 and log 3 become 0 and 1."""
    head = ll.LinearHead(np.eye(2), softcap=2.0, temperature=0.5)
    loss = head.loss([[0.0, math.log(3)]], [1], label_smoothing=0.5, class_weight=[2, 1])
    sure, unsure = math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2))
    assert_relative(loss, np.array([0.5 * sure + 0.25 * (sure + 2 * unsure)]), 1e-14)


def test_reductions_by_hand():
    """Four rows, of which one is ignored: the losses are log 6, log 3, log 2."""
    z = np.log(np.tile([[1.0, 2.0, 3.0]], (4, 1)))
    t, w, s = [0, 1, -100, 2], [1.0, 2.0, 4.0], [1.0, 3.0, 9.0, 0.5]
    losses = np.array([LOG6, math.log(3), 0, math.log(2)])
    assert_relative(ll.cross_entropy(z, t, reduction="mean"), losses.sum() / 3, 1e-15)
    assert_relative(ll.cross_entropy(z, t, reduction="batch_mean"), losses.sum() / 4, 1e-15)
    weighted = losses @ [1, 2, 0, 4]
    assert_relative(ll.cross_entropy(z, t, class_weight=w, reduction="sum"), weighted, 1e-15)
    assert_relative(ll.cross_entropy(z, t, class_weight=w, reduction="mean"), weighted / 7, 1e-15)
    weighted = losses @ [1, 2 * 3, 0, 4 * 0.5]
    both = {"class_weight": w, "sample_weight": s}
    assert_relative(ll.cross_entropy(z, t, **both, reduction="mean"), weighted / 9, 1e-15)
    assert_relative(ll.cross_entropy(z, t, **both, reduction="batch_mean"), weighted / 4, 1e-15)
    # Class probabilities: only the weights of the samples count.
    one_hot = np.eye(3)[[0, 1, 0, 2]]
    s[2] = 0.0
    assert_relative(ll.cross_entropy(z, one_hot, **both, reduction="mean"), weighted / 4.5, 1e-15)


# What must not matter


@given(losses())
def test_neutral_options_change_no_bit(case):
    (x, w, bias), target, of_head, _ = case
    m, n, dtype = len(x), len(w), x.dtype
    ignored = {"ignore_index": 10**6} if target.ndim == 1 else {}
    head = ll.LinearHead(w, bias, **of_head)
    target = np.where(target < 0, 0, target) % n if target.ndim == 1 else target
    plain = head.loss(x, target, **ignored)
    for neutral in (
        {"class_weight": np.ones(n, dtype)},
        {"class_weight": np.ones(n, np.int8)},
        {"sample_weight": np.ones(m, dtype)},
        {"sample_weight": [1] * m},
        {"label_smoothing": 0.0, "z_loss": 0},
        {"class_weight": [1.0] * n, "sample_weight": np.ones(m), "label_smoothing": 0},
        {"shift": 0},
    ):
        assert_same_bits(head.loss(x, target, **ignored, **neutral), plain, str([*neutral]))
    twice = head.loss(x, target, sample_weight=np.full(m, 2.0), **ignored)
    assert_same_bits(twice, 2 * plain, "doubled")


@given(losses())
def test_one_hot_rows_are_indices(case):
    """Bit for bit, with all options and beside rows that are not one-hot."""
    (x, w, bias), _, of_head, options = case
    options.pop("ignore_index", None)
    m, n, dtype = len(x), len(w), x.dtype
    head = ll.LinearHead(w, bias, **of_head)
    index = np.arange(m) * 7 % n
    one_hot = np.eye(n, dtype=dtype)[index]
    loss = head.loss(x, index, **options)
    for kind in dtype, np.dtype(np.float16), np.dtype(np.float64):
        ours = head.loss(x, one_hot.astype(kind), **options)
        assert_same_bits(ours, loss, f"one-hot {kind}")
    mixed = one_hot.copy()
    mixed[1::3] = 0.75 / n
    ours, rows = head.loss(x, mixed, **options), np.arange(m) % 3 != 1
    assert_same_bits(ours[rows], loss[rows], "beside others")
    z = head.logits(x)
    assert_same_bits(
        ll.cross_entropy(z, one_hot, **options), ll.cross_entropy(z, index, **options), "logits"
    )
    a, b = head.score(x, one_hot, **options), head.score(x, index, **options)
    assert_same_bits(a.loss, b.loss, "score")
    assert_same_bits(a.target_rank, b.target_rank, "rank")


@given(losses(), st.sampled_from(["fortran", "strided", "reversed", "swapped", "lead"]))
def test_layouts(case, layout):
    (x, w, bias), target, of_head, options = case
    head = ll.LinearHead(w, bias, **of_head)
    plain = head.loss(x, target, **options)

    def lay(a):
        if layout == "fortran":
            return np.asfortranarray(a)
        if layout == "swapped":
            return a.astype(a.dtype.newbyteorder())
        if layout == "reversed":
            return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]
        if layout == "lead":
            return a.reshape((1, len(a), 1, *a.shape[1:]))
        wide = np.zeros(tuple(2 * length for length in a.shape), a.dtype)
        wide[(slice(None, None, 2),) * a.ndim] = a
        return wide[(slice(None, None, 2),) * a.ndim]

    laid = dict(options)
    if "sample_weight" in options:
        laid["sample_weight"] = lay(options["sample_weight"])
    if "class_weight" in options and layout != "lead":
        laid["class_weight"] = lay(options["class_weight"])
    ours = head.loss(lay(x), lay(target), **laid)
    assert_same(ours.reshape(-1), plain, layout)
    z = head.logits(x)
    ours = ll.cross_entropy(lay(z), lay(target), **laid)
    assert_same(ours.reshape(-1), ll.cross_entropy(z, target, **options), layout)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.uint16, np.int64,
                                  bool])
def test_types_of_weights(kind, rng, dtype):
    z = rng.standard_normal((6, 5)).astype(dtype)
    t = rng.integers(0, 5, 6)
    w, s = np.array([1, 0, 1, 1, 0], kind), np.array([0, 1, 1, 1, 0, 1], kind)
    plain = ll.cross_entropy(z, t)
    assert_same_bits(ll.cross_entropy(z, t, class_weight=w), (plain * w[t]).astype(dtype))
    assert_same_bits(ll.cross_entropy(z, t, sample_weight=s), (plain * s).astype(dtype))


def test_numbers_of_numpy_as_options():
    z = np.log([[1.0, 2.0, 3.0]])
    ours = ll.cross_entropy(z, [1], label_smoothing=np.float32(0.5), z_loss=np.int64(2))
    assert_same_bits(ours, ll.cross_entropy(z, [1], label_smoothing=0.5, z_loss=2))


def test_inputs_are_left_alone(rng):
    x, w = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    arrays = {
        "x": x, "w": w, "target": rng.integers(0, 5, 4), "class_weight": rng.random(5),
        "sample_weight": rng.random(4), "soft": rng.random((4, 5)),
    }
    before = {name: a.copy() for name, a in arrays.items()}
    for a in arrays.values():
        a.flags.writeable = False
    options = {name: arrays[name] for name in ("class_weight", "sample_weight")}
    for target in arrays["target"], arrays["soft"]:
        for shift in 0, 1:
            ll.linear_cross_entropy(
                x, w, target, label_smoothing=0.1, z_loss=0.1, shift=shift, **options)
    for name, a in arrays.items():
        assert_same_bits(a, before[name], name)


# Weights of zero


def test_rows_of_weight_zero_have_loss_zero(rng, dtype):
    x = rng.standard_normal((5, 3)).astype(dtype)
    x[1], x[3] = np.nan, np.inf
    head = ll.LinearHead(rng.standard_normal((4, 3)).astype(dtype))
    s, t = [1.0, 0.0, 2.0, -0.0, 1.0], np.array([0, 1, 2, 3, 3])
    good = [0, 2, 4]
    soft = rng.dirichlet(np.ones(4), 5)
    for target in t, soft:
        for options in {}, {"z_loss": 0.1}, {"label_smoothing": 0.1, "class_weight": [1, 2, 0, 3]}:
            loss = head.loss(x, target, sample_weight=s, **options)
            assert loss[[1, 3]].tolist() == [0, 0]
            assert not np.signbit(loss[[1, 3]]).any()
            assert np.isfinite(loss).all()
            for reduction in "sum", "mean":
                ours = head.loss(x, target, sample_weight=s, reduction=reduction, **options)
                left = head.loss(x[good], target[good], sample_weight=[1.0, 2.0, 1.0],
                                 reduction=reduction, **options)
                assert_same(ours, left, reduction)
    assert head.score(x, t, sample_weight=s, z_loss=1.0).loss[[1, 3]].tolist() == [0, 0]


def test_ignored_rows_have_loss_zero(rng, dtype):
    z = rng.standard_normal((3, 4)).astype(dtype)
    z[1] = np.nan
    options = {"class_weight": [1, 2, 3, 4], "sample_weight": [1, 5, 1], "label_smoothing": 0.5,
               "z_loss": 1.0}
    loss = ll.cross_entropy(z, [0, 7, 3], ignore_index=7, **options)
    assert loss[1] == 0
    assert (loss[[0, 2]] > 0).all()


def test_a_nan_row_that_counts_is_nan(rng, dtype):
    z = rng.standard_normal((3, 4)).astype(dtype)
    z[1, 2] = np.nan
    for options in ({"class_weight": np.ones(4)}, {"sample_weight": [1, 2, 3]},
                    {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        loss = ll.cross_entropy(z, [0, 0, 0], **options)
        assert np.isnan(loss).tolist() == [False, True, False]


def impossible(dtype):
    """A head and rows for which class 2 cannot happen."""
    head = ll.LinearHead(np.eye(4, dtype=dtype), np.array([0, 0, -np.inf, 0], dtype))
    return head, np.array([[1, 2, 3, 4], [0, 0, 0, 0]], dtype)


def test_impossible_classes(dtype):
    head, x = impossible(dtype)
    kept = ll.LinearHead(np.eye(4, dtype=dtype)[[0, 1, 3]])
    few = 8 * np.finfo(dtype).eps
    options = {"class_weight": [1.0, 2.0, 0.0, 3.0], "label_smoothing": 0.4, "z_loss": 0.1}
    # The smoothing goes over 4 classes, of which one has no weight.
    same = kept.loss(x, [1, 2], class_weight=[1.0, 2.0, 3.0], label_smoothing=0.0)
    spread = kept.loss(x, np.ones((2, 3)), class_weight=[1.0, 2.0, 3.0])
    expected = 0.6 * same + 0.1 * spread + 0.1 * kept.logsumexp(x) ** 2
    assert_relative(head.loss(x, [1, 3], **options), expected, few)
    # As a target it costs everything, unless it has no weight.
    assert head.loss(x, [2, 2]).tolist() == [np.inf, np.inf]
    assert head.loss(x, [2, 2], class_weight=[1, 1, 0.5, 1]).tolist() == [np.inf, np.inf]
    assert head.loss(x, [2, 2], class_weight=[1, 1, 0, 1]).tolist() == [0, 0]
    assert head.loss(x, [2, 2], sample_weight=[0, 1]).tolist() == [0, np.inf]
    assert head.loss(x, [0, 0], label_smoothing=0.1).tolist() == [np.inf, np.inf]
    ours = head.loss(x, [2, 2], class_weight=[1, 1, 0, 1], label_smoothing=0.5)
    spread = kept.loss(x, np.ones((2, 3)))
    assert_relative(ours, spread / 8, few)


def test_impossible_classes_and_probabilities(dtype):
    head, x = impossible(dtype)
    kept = ll.LinearHead(np.eye(4, dtype=dtype)[[0, 1, 3]])
    few = 8 * float(np.finfo(dtype).eps)
    t = np.array([[0.5, 0.25, 0.0, 0.25], [0.0, 0.5, 0.0, 0.5]], dtype)
    assert_relative(head.loss(x, t), kept.loss(x, t[:, [0, 1, 3]]), few)
    t[:, 2] = 0.5
    assert head.loss(x, t).tolist() == [np.inf, np.inf]
    w = [1.0, 2.0, 0.0, 1.0]
    expected = kept.loss(x, t[:, [0, 1, 3]], class_weight=[1.0, 2.0, 1.0])
    assert_relative(head.loss(x, t, class_weight=w), expected, few)
    spread = kept.loss(x, np.ones((2, 3)), class_weight=[1.0, 2.0, 1.0])
    assert_relative(head.loss(x, t, label_smoothing=1.0, class_weight=w), spread / 4, few)


def test_smoothing_to_the_end_forgets_the_target(rng, dtype):
    """Even one that is impossible."""
    head, x = impossible(dtype)
    w = [1.0, 1.0, 0.0, 1.0]
    a = head.loss(x, [0, 1], class_weight=w, label_smoothing=1.0)
    b = head.loss(x, [2, 2], class_weight=w, label_smoothing=1.0)
    assert_same_bits(a, b)


def test_mean_of_nothing_that_counts(dtype):
    z = np.zeros((2, 3), dtype)
    head = ll.LinearHead(np.eye(3, dtype=dtype))
    cases = [
        ([-100, -100], {}),
        ([-100, -100], {"class_weight": [1, 2, 3], "z_loss": 1.0}),
        ([0, 1], {"sample_weight": [0, 0]}),
        ([0, 1], {"class_weight": [0, 0, 5]}),
        ([-100, 1], {"sample_weight": [3, 0]}),
        ([[0.5, 0.5, 0.0]] * 2, {"sample_weight": [0, 0]}),
    ]
    for target, options in cases:
        for call in (
            lambda t, o: head.loss(z, t, reduction="mean", **o),
            lambda t, o: ll.cross_entropy(z, t, reduction="mean", **o),
            lambda t, o: ll.linear_cross_entropy(
                z, np.eye(3, dtype=dtype), t, reduction="mean", **o),
            lambda t, o: head.value_and_grad(z, t, **o)[0],
        ):
            with pytest.warns(RuntimeWarning, match="no rows that count"):
                loss = call(target, options)
            assert np.isnan(loss)
            assert loss.dtype == dtype
        # The others have an answer.
        for reduction in "sum", "batch_mean":
            loss = head.loss(z, target, reduction=reduction, **options)
            assert np.isfinite(loss)
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        assert np.isnan(head.loss(z[:0], [], reduction="mean"))
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        assert np.isnan(head.loss(z[:0], [], reduction="batch_mean"))
    assert head.loss(z[:0], [], reduction="sum") == 0


def test_the_warning_names_the_line_of_the_caller():
    z, eye = np.zeros((1, 3)), np.eye(3)
    head = ll.LinearHead(eye)
    for call in (
        lambda: head.loss(z, [-100], reduction="mean"),
        lambda: head.value_and_grad(z, [-100]),
        lambda: ll.linear_cross_entropy(z, eye, [-100], reduction="mean"),
        lambda: ll.linear_cross_entropy_value_and_grad(z, eye, [-100]),
        lambda: ll.cross_entropy(z, [-100], reduction="mean"),
        lambda: ll.nll(z, [-100], reduction="mean"),
    ):
        with pytest.warns(RuntimeWarning, match="no rows that count") as caught:
            call()
        line = call.__code__.co_firstlineno
        assert [(w.filename, w.lineno) for w in caught] == [(__file__, line)]


# Sure models


@pytest.mark.parametrize("options", [
    {},
    {"class_weight": [1.0, 1.0, 1.0]},
    {"sample_weight": [1.0] * 30},
    {"class_weight": [3.0, 0.1, 7.0]},
    {"sample_weight": [0.3] * 30},
    {"class_weight": [3.0, 0.1, 7.0], "sample_weight": [1.7] * 30},
], ids=str)
def test_sure_models_keep_their_digits(options, dtype):
    """A loss of 1e-12 times a weight has the digits of both."""
    gap = np.arange(10, 70, 2).astype(dtype)
    z = -np.stack([gap, np.zeros_like(gap), gap], axis=1)
    wide = gap.astype(oracle.wider(dtype))
    cw = np.asarray(options.get("class_weight", [1.0] * 3), dtype).astype(wide.dtype)
    s = np.asarray(options.get("sample_weight", [1.0] * 30), wide.dtype)
    minus_log_p = np.log1p(2 * np.exp(-wide))
    truth = s * cw[1] * minus_log_p
    assert truth.min() < 1e-26
    few = 1e-6 if dtype == np.float32 else 1e-14
    head, target = ll.LinearHead(np.eye(3, dtype=dtype)), np.ones(30, int)
    for loss in (
        head.loss(z, target, **options),
        head.loss(z, np.eye(3)[target], **options),
        head.score(z, target, **options).loss,
        ll.cross_entropy(z, target, **options),
    ):
        assert_relative(loss, truth, few)
    # A target that is almost one-hot: what is not is small, and not lost.
    t = np.tile(np.array([2.0**-60, 1, 0], dtype), (30, 1))
    truth += s * cw[0] * 2.0**-60 * (wide + minus_log_p)
    assert_relative(head.loss(z, t, **options), truth, few)


# Shift


@pytest.mark.parametrize("shift", [1, 2, 5])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "probabilities"])
def test_shift_pairs_rows_with_later_targets(shift, soft, rng, dtype):
    lead, n, k = (3, 5), 7, 4
    x = rng.standard_normal((*lead, k)).astype(dtype)
    head = ll.LinearHead(rng.standard_normal((n, k)).astype(dtype))
    t = rng.dirichlet(np.ones(n), lead) if soft else rng.integers(0, n, lead)
    s = rng.random(lead)
    if not soft:
        t[1, 3] = -100
    cut_x, cut_t, cut_s = x[:, : 5 - shift], t[:, shift:], s[:, shift:]
    options = {"class_weight": rng.random(n), "label_smoothing": 0.1, "z_loss": 0.1}
    ours = head.loss(x, t, shift=shift, sample_weight=s, **options)
    assert ours.shape == (3, 5 - shift)
    assert_same(ours, head.loss(cut_x, cut_t, sample_weight=cut_s, **options), "loss")
    score = head.score(x, t, shift=shift, sample_weight=s, k=2, **options)
    cut = head.score(cut_x, cut_t, sample_weight=cut_s, k=2, **options)
    for name in "loss", "lse", "predicted", "max_logit", "target_logit", "target_rank":
        a, b = getattr(score, name), getattr(cut, name)
        if a is not None:
            assert_same(a, b, name)
    assert score.top.index.shape == (3, 5 - shift, 2)
    z = head.logits(x)
    assert_same(ll.cross_entropy(z, t, shift=shift, sample_weight=s, **options), ours, "logits")
    assert_same(
        ll.linear_cross_entropy(x, head.logits(np.eye(k)).T.astype(dtype), t, shift=shift,
                                sample_weight=s, **options), ours, "linear_cross_entropy")
    if shift < 5:
        mean = head.loss(x, t, shift=shift, sample_weight=s, reduction="mean", **options)
        cut = head.loss(cut_x, cut_t, sample_weight=cut_s, reduction="mean", **options)
        assert_same(mean, cut, "mean")
        out = np.empty((3, 5 - shift), dtype)
        assert head.loss(x, t, shift=shift, sample_weight=s, out=out, **options) is out
        assert_same_bits(out, ours)


def test_shift_of_one_sequence(rng):
    x, t = rng.standard_normal((6, 3)), rng.integers(0, 4, 6)
    head = ll.LinearHead(rng.standard_normal((4, 3)))
    assert_same(head.loss(x, t, shift=2), head.loss(x[:-2], t[2:]))
    assert head.loss(x, t, shift=6).shape == (0,)
    # The first target is scored by no row, so it may be anything; but the others may not.
    t[0] = 99
    assert np.isfinite(head.loss(x, t, shift=1)).all()
    with pytest.raises(IndexError, match="99"):
        head.loss(x, t)


def test_shift_without_target_drops_the_last_rows(rng):
    x = rng.standard_normal((6, 3))
    head = ll.LinearHead(rng.standard_normal((4, 3)))
    assert_same(head.score(x, shift=2).lse, head.logsumexp(x[:4]))


# Scores


def test_score_keeps_what_options_do_not_change(rng, dtype):
    x = rng.standard_normal((9, 6)).astype(dtype)
    t = rng.integers(0, 20, 9)
    head = ll.LinearHead(rng.standard_normal((20, 6)).astype(dtype))
    plain = head.score(x, t, k=3, entropy=True)
    options = with_weights(OPTIONS["all"], 9, 20, dtype)
    ours = head.score(x, t, k=3, entropy=True, **options)
    for name in ("lse", "target_logit", "target_rank", "predicted", "max_logit", "entropy"):
        assert_same(getattr(ours, name), getattr(plain, name), name)
    assert_same(ours.top.log_prob, plain.top.log_prob)
    assert ours.accuracy == plain.accuracy
    assert_same(ours.loss, head.loss(x, t, **options))


def test_perplexity_is_exp_of_the_mean_loss(rng):
    x, t = rng.standard_normal((9, 6)), rng.integers(0, 20, 9)
    t[[2, 5]] = -100
    head = ll.LinearHead(rng.standard_normal((20, 6)))
    for options in {}, {"label_smoothing": 0.1}, {"z_loss": 0.01}:
        mean = head.loss(x, t, reduction="mean", **options)
        assert head.score(x, t, **options).perplexity == pytest.approx(np.exp(mean), rel=1e-14)


# Overflow and size


def test_large_weights(dtype):
    big = np.finfo(dtype).max
    z = np.array([[0, 0]], dtype)
    loss = ll.cross_entropy(z, [0], class_weight=np.array([big, 1], dtype))
    assert loss[0] == pytest.approx(float(big) * math.log(2), rel=1e-6)
    if dtype == np.float32:
        # Sample weights are in float64, and only the loss must fit.
        loss = ll.cross_entropy(z, [0], sample_weight=[1e30], class_weight=np.array([1e-30, 1]))
        assert loss[0] == pytest.approx(math.log(2), rel=1e-6)
    assert np.isinf(ll.cross_entropy(z, [0], sample_weight=[1e308], z_loss=1e300)).all()


@long_double
def test_many_classes_smoothed(rng, dtype):
    """The smoothed loss of 50,000 classes, all but one of them far below."""
    n = 50_000
    z = np.full((1, n), -30, dtype)
    z[0, 7] = 10
    truth = Formula(z.astype(oracle.wider(dtype)), np.array([7]), label_smoothing=0.1).rows
    assert_relative(ll.cross_entropy(z, [7], label_smoothing=0.1), truth, 8 * np.finfo(dtype).eps)
