"""The losses and gradients of other libraries: against them, or against what they publish.

Where a library is not at hand its formula is written out here, from its documentation.
"""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from support.formula import Formula
from support.oracle import says

import logitless as ll

NAMES = ("x", "weight", "bias")
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming-from.md"


class Problem:
    """A layer, its inputs and labels, of which some are -100, and weights."""

    def __init__(self, m=29, n=11, k=7, dtype=np.float64):
        rng = np.random.default_rng(12)
        self.m, self.n, self.k = m, n, k
        self.x = rng.standard_normal((m, k)).astype(dtype)
        self.weight = rng.standard_normal((n, k)).astype(dtype)
        self.bias = rng.standard_normal(n).astype(dtype)
        self.label = rng.integers(0, n, m)
        self.target = self.label.copy()
        self.target[::4] = -100
        self.counts = self.target != -100
        self.soft = rng.dirichlet(np.ones(n), m).astype(dtype)
        self.w = rng.uniform(0.2, 2, n).astype(dtype)
        self.s = rng.uniform(0.2, 2, m).astype(dtype)
        self.logits = self.x @ self.weight.T + self.bias

    def value_and_grad(self, target, **options):
        return ll.linear_cross_entropy_value_and_grad(
            self.x, self.weight, target, self.bias, **options)


@pytest.fixture(scope="module")
def p():
    return Problem()


def by_logits(logits, target, **options):
    """Loss and its gradient by logits at hand."""
    logits = logits.reshape(-1, logits.shape[-1])
    loss, grad = ll.linear_cross_entropy_value_and_grad(
        logits, np.eye(logits.shape[1], dtype=logits.dtype), target, wrt="x", **options)
    return loss, grad.x


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def close(ours, theirs, rtol=1e-12, atol=1e-13):
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


# PyTorch


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def with_torch(torch, function, p, grad_output=None):
    """Loss and gradients of ``function(x, weight, bias)``."""
    tensors = [torch.tensor(a, requires_grad=True) for a in (p.x, p.weight, p.bias)]
    loss = function(*tensors)
    loss.backward(None if grad_output is None else torch.tensor(grad_output))
    return loss.detach().numpy(), [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["index", "ignored", "ignore_index=3", "probabilities", "masses"])
def test_torch_cross_entropy(torch, p, reduction, weighted, smoothing, kind):
    target, options = {
        "index": (p.label, {}),
        "ignored": (p.target, {}),
        "ignore_index=3": (p.label, {"ignore_index": 3}),
        "probabilities": (p.soft, {}),
        "masses": (p.soft * p.s[:, None], {}),
    }[kind]
    options = {**options, "reduction": reduction, "label_smoothing": smoothing}
    upstream = p.s if reduction == "none" else None
    loss, grads = with_torch(torch, lambda x, w, b: torch.nn.functional.cross_entropy(
        x @ w.T + b, torch.tensor(target), weight=torch.tensor(p.w) if weighted else None,
        **options), p, upstream)
    options["class_weight"] = p.w if weighted else None
    ours, grad = p.value_and_grad(target, grad_output=upstream, **options)
    close(ours, loss)
    close(ll.linear_cross_entropy(p.x, p.weight, target, p.bias, **options), loss)
    close(ll.cross_entropy(p.logits, target, **options), loss)
    for name, theirs in zip(NAMES, grads, strict=True):
        close(getattr(grad, name), theirs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("chunks", [False, True], ids=["", "chunks"])
def test_torch_linear_cross_entropy(torch, p, reduction, weighted, chunks):
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this torch has none")
    options = None
    if chunks:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=8, chunking_method=None)
    upstream = p.s if reduction == "none" else None
    loss, grads = with_torch(torch, lambda x, w, b: torch.nn.functional.linear_cross_entropy(
        x, w, torch.tensor(p.target), linear_bias=b, reduction=reduction, options=options,
        weight=torch.tensor(p.w) if weighted else None), p, upstream)
    ours, grad = p.value_and_grad(
        p.target, grad_output=upstream, reduction=reduction, class_weight=p.w if weighted else None)
    close(ours, loss)
    for name, theirs in zip(NAMES, grads, strict=True):
        close(getattr(grad, name), theirs)


def test_torch_places_are_on_the_last_axes(torch):
    rng = np.random.default_rng(3)
    images, label = rng.standard_normal((2, 5, 3, 4)), rng.integers(0, 5, (2, 3, 4))
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(images), torch.tensor(label), reduction="none", label_smoothing=0.1)
    places = np.moveaxis(images, 1, -1)
    close(ll.cross_entropy(places, label, label_smoothing=0.1), theirs.numpy())


def test_torch_nothing_counts(torch, p):
    """NaN both here and there, and gradients of 0."""
    nothing = np.full(p.m, -100)
    loss, grads = with_torch(torch, lambda x, w, b: torch.nn.functional.cross_entropy(
        x @ w.T + b, torch.tensor(nothing)), p)
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        ours, grad = p.value_and_grad(nothing)
    assert np.isnan(loss)
    assert np.isnan(ours)
    for name, theirs in zip(NAMES, grads, strict=True):
        close(getattr(grad, name), np.nan_to_num(theirs))


def test_torch_nll_loss(torch, p):
    probabilities = softmax(p.logits)
    theirs = torch.nn.functional.nll_loss(torch.tensor(np.log(probabilities)),
                                          torch.tensor(p.target))
    close(ll.nll(probabilities, p.target, reduction="mean"), theirs.numpy())


# scikit-learn


@pytest.fixture(scope="module")
def half_multinomial(p):
    loss = pytest.importorskip("sklearn._loss")
    return loss.HalfMultinomialLoss(n_classes=p.n)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample_weight"])
def test_half_multinomial_loss(half_multinomial, p, weighted):
    y, raw = p.label.astype(p.x.dtype), np.ascontiguousarray(p.logits)
    s = p.s if weighted else None
    ours, by_raw = by_logits(raw, p.label, sample_weight=s, reduction="none")
    theirs, gradient = half_multinomial.loss_gradient(y, raw, sample_weight=s)
    close(ours, theirs)
    close(by_raw, gradient)
    close(ll.cross_entropy(raw, p.label, sample_weight=s),
          half_multinomial.loss(y, raw, sample_weight=s))
    close(by_raw, half_multinomial.gradient(y, raw, sample_weight=s))
    gradient, proba = half_multinomial.gradient_proba(y, raw, sample_weight=s)
    close(by_raw, gradient)
    close(ll.softmax(raw), proba)
    close(ll.LinearHead(p.weight, p.bias).predict_proba(p.x), half_multinomial.predict_proba(raw))
    # Called, it is the weighted mean.
    mean, by_raw = by_logits(raw, p.label, sample_weight=s)
    close(mean, half_multinomial(y, raw, sample_weight=s))
    close(by_raw, gradient / (p.m if s is None else s.sum()))


def test_gradient_of_a_linear_model(half_multinomial, p):
    """Coefficients and intercepts, with a penalty on the coefficients."""
    linear_loss = pytest.importorskip("sklearn.linear_model._linear_loss")
    alpha = 0.25
    model = linear_loss.LinearModelLoss(base_loss=half_multinomial, fit_intercept=True)
    coef = np.asfortranarray(np.column_stack([p.weight, p.bias]))
    theirs, gradient = model.loss_gradient(
        coef, p.x, p.label.astype(float), sample_weight=p.s, l2_reg_strength=alpha)
    loss, grad = p.value_and_grad(p.label, sample_weight=p.s, wrt=("weight", "bias"))
    close(loss + alpha / 2 * np.sum(p.weight**2), theirs)
    close(np.column_stack([grad.weight + alpha * p.weight, grad.bias]), gradient)


def test_logistic_regression(p):
    linear_model = pytest.importorskip("sklearn.linear_model")
    metrics = pytest.importorskip("sklearn.metrics")
    y = p.label % 3
    fitted = linear_model.LogisticRegression(max_iter=30, tol=1e-2).fit(p.x, y)
    head = ll.LinearHead(fitted.coef_, fitted.intercept_)
    close(head.predict_proba(p.x), fitted.predict_proba(p.x))
    close(head.predict_log_proba(p.x), fitted.predict_log_proba(p.x))
    assert (fitted.classes_[head.predict(p.x)] == fitted.predict(p.x)).all()
    close(head.loss(p.x, y, sample_weight=p.s, reduction="mean"),
          metrics.log_loss(y, fitted.predict_proba(p.x), sample_weight=p.s))
    # Two classes: one row of coefficients, the difference of two.
    fitted = linear_model.LogisticRegression(max_iter=30, tol=1e-2).fit(p.x, p.label % 2)
    head = ll.LinearHead(
        np.vstack([0 * fitted.coef_, fitted.coef_]), np.append(0.0, fitted.intercept_))
    close(head.predict_proba(p.x), fitted.predict_proba(p.x))
    close(head.loss(p.x, p.label % 2, reduction="mean"),
          metrics.log_loss(p.label % 2, fitted.predict_proba(p.x)))


def test_class_weights_of_an_estimator_are_sample_weights(p):
    loss, grad = p.value_and_grad(p.label, class_weight=p.w, sample_weight=p.s)
    ours, other = p.value_and_grad(p.label, sample_weight=p.s * p.w[p.label])
    close(loss, ours)
    for name in NAMES:
        close(getattr(grad, name), getattr(other, name))


# optax


@pytest.fixture(scope="module")
def optax():
    pytest.importorskip("jax")
    return pytest.importorskip("optax")


@pytest.fixture(scope="module")
def q():
    """In float32, the precision JAX is set to."""
    return Problem(dtype=np.float32)


def with_jax(function, q):
    """Value and gradients of ``function(logits)`` by x, weight and bias."""
    import jax

    return jax.value_and_grad(lambda x, w, b: function(x @ w.T + b), argnums=(0, 1, 2))(
        q.x, q.weight, q.bias)


def close32(ours, theirs):
    close(ours, theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["", "where"])
def test_optax_integer_labels(optax, q, masked):
    where = q.counts if masked else None
    target = q.target if masked else q.label
    rows = optax.softmax_cross_entropy_with_integer_labels(q.logits, q.label, where=where)
    close32(ll.cross_entropy(q.logits, target), rows)
    close32(ll.cross_entropy(q.logits, q.label, sample_weight=where), rows)

    def mean(z):
        return optax.softmax_cross_entropy_with_integer_labels(z, q.label, where=where).mean()

    loss, grads = with_jax(mean, q)
    for target_, options in (target, {}), (q.label, {"sample_weight": where}):
        ours, grad = q.value_and_grad(target_, reduction="batch_mean", **options)
        close32(ours, loss)
        for name, theirs in zip(NAMES, grads, strict=True):
            close32(getattr(grad, name), theirs)
    ours = q.value_and_grad(target)[0]
    close32(ours, rows.sum() / (q.m if where is None else where.sum()))


def test_optax_classes_left_out(optax, q):
    allowed = np.arange(q.n) != 3
    label = np.where(q.label == 3, 0, q.label)
    theirs = optax.softmax_cross_entropy_with_integer_labels(
        q.logits, label, where=np.broadcast_to(allowed, q.logits.shape))
    bias = np.where(allowed, q.bias, np.float32(-np.inf))
    close32(ll.linear_cross_entropy(q.x, q.weight, label, bias), theirs)
    close32(ll.cross_entropy(np.where(allowed, q.logits, np.float32(-np.inf)), label), theirs)


def test_optax_soft_labels(optax, q):
    close32(ll.cross_entropy(q.logits, q.soft), optax.softmax_cross_entropy(q.logits, q.soft))
    loss, grads = with_jax(lambda z: optax.softmax_cross_entropy(z, q.soft).mean(), q)
    ours, grad = q.value_and_grad(q.soft)
    close32(ours, loss)
    for name, theirs in zip(NAMES, grads, strict=True):
        close32(getattr(grad, name), theirs)
    smooth = optax.smooth_labels(np.eye(q.n, dtype=np.float32)[q.label], 0.1)
    close32(ll.cross_entropy(q.logits, q.label, label_smoothing=0.1),
            optax.softmax_cross_entropy(q.logits, smooth))


# Caffe: SoftmaxWithLoss


def caffe(blob, label, ignore_label=None, normalization="VALID", loss_weight=1.0):
    """Blobs (N, C, ...) and (N, ...): the loss, the probabilities, and the gradient."""
    p = softmax(np.moveaxis(blob, 1, -1))
    counts = np.ones(label.shape, bool) if ignore_label is None else label != ignore_label
    index = np.where(counts, label, 0)[..., None]
    picked = np.take_along_axis(p, index, -1)[..., 0]
    normalizer = max(1.0, {
        "FULL": label.size, "VALID": counts.sum(), "BATCH_SIZE": len(label), "NONE": 1,
    }[normalization])
    tiny = np.finfo(np.float32).tiny
    loss = loss_weight * -np.log(np.maximum(picked, tiny))[counts].sum() / normalizer
    d = p.copy()
    np.put_along_axis(d, index, picked[..., None] - 1, -1)
    d[~counts] = 0
    return loss, np.moveaxis(p, -1, 1), np.moveaxis(d, -1, 1) * loss_weight / normalizer


CAFFE = {"VALID": "mean", "FULL": "batch_mean", "BATCH_SIZE": "batch_mean", "NONE": "sum"}


@pytest.mark.parametrize("normalization", CAFFE)
@pytest.mark.parametrize("ignore_label", [None, -100, 3])
def test_caffe_softmax_with_loss(p, normalization, ignore_label):
    label = p.label if ignore_label != -100 else p.target
    loss, proba, d = caffe(p.logits, label, ignore_label, normalization, 0.5)
    index = -100 if ignore_label is None else ignore_label
    ours, grad = p.value_and_grad(
        label, reduction=CAFFE[normalization], ignore_index=index, grad_output=0.5)
    close(0.5 * ours, loss)
    for name, theirs in (("x", d @ p.weight), ("weight", d.T @ p.x), ("bias", d.sum(axis=0))):
        close(getattr(grad, name), theirs)
    close(ll.linear_softmax(p.x, p.weight, p.bias), proba)


@pytest.mark.parametrize("normalization", CAFFE)
def test_caffe_places(normalization):
    rng = np.random.default_rng(3)
    blob, label = rng.standard_normal((2, 5, 3, 4)), rng.integers(0, 5, (2, 3, 4))
    label[0, 1] = 255
    loss, proba, d = caffe(blob, label, 255, normalization)
    places = np.moveaxis(blob, 1, -1)
    reduction, divisor = CAFFE[normalization], 1
    if normalization == "BATCH_SIZE":  # there are 12 places to a sample
        reduction, divisor = "sum", 2
    ours = ll.cross_entropy(places, label, ignore_index=255, reduction=reduction) / divisor
    close(ours, loss)
    close(np.moveaxis(ll.softmax(places), -1, 1), proba)
    _, grad = by_logits(places, label.ravel(), ignore_index=255, reduction=reduction,
                        grad_output=1 / divisor)
    close(grad.reshape(places.shape), np.moveaxis(d, 1, -1))


def test_caffe_at_its_limits(p):
    """What differs: the floor of the probability, and the divisor where nothing counts."""
    z = np.array([[0.0, -200.0]])
    assert caffe(z, np.array([1]))[0] == pytest.approx(87.336544)
    assert ll.cross_entropy(z, [1], reduction="mean") == 200
    assert caffe(p.logits, np.full(p.m, -100), -100)[0] == 0
    with pytest.warns(RuntimeWarning, match="no rows that count"):
        assert np.isnan(ll.cross_entropy(p.logits, np.full(p.m, -100), reduction="mean"))


# MXNet: SoftmaxOutput


def mxnet(data, label, grad_scale=1.0, normalization="null", use_ignore=False, ignore_label=-1,
          smooth_alpha=0.0, out_grad=None):
    """Data (m, n), label (m,) or (m, n): the gradient by the data."""
    p, n = softmax(data), data.shape[1]
    if label.shape == data.shape:
        d = (p - label) * grad_scale
    else:
        t = np.full(data.shape, smooth_alpha / (n - 1))
        ignored = label == ignore_label
        t[np.arange(len(label)), np.where(ignored, 0, label)] = 1 - smooth_alpha
        d = p - t
        if use_ignore:
            d[ignored] = 0
        d *= grad_scale / {
            "null": 1, "batch": len(label), "valid": max(1, np.count_nonzero(~ignored)),
        }[normalization]
    return d if out_grad is None else d * out_grad


MXNET = {"null": "sum", "batch": "batch_mean", "valid": "mean"}


@pytest.mark.parametrize("normalization", MXNET)
@pytest.mark.parametrize("use_ignore", [False, True])
@pytest.mark.parametrize("smooth_alpha", [0.0, 0.1, 0.75])
def test_mxnet_softmax_output(p, normalization, use_ignore, smooth_alpha):
    label = p.target if use_ignore else p.label
    d = mxnet(p.logits, label, 0.25, normalization, use_ignore, -100, smooth_alpha)
    options = {"reduction": MXNET[normalization], "grad_output": 0.25}
    # Spread over the others rather than over all: the target keeps 1 - alpha either way.
    smoothing = smooth_alpha * p.n / (p.n - 1)
    _, grad = by_logits(p.logits, label, label_smoothing=smoothing, **options)
    close(grad, d)
    _, grad = p.value_and_grad(label, label_smoothing=smoothing, **options)
    for name, theirs in (("x", d @ p.weight), ("weight", d.T @ p.x), ("bias", d.sum(axis=0))):
        close(getattr(grad, name), theirs)
    # The same written as class probabilities, which nothing but a weight leaves out.
    t = np.full((p.m, p.n), smooth_alpha / (p.n - 1))
    t[np.arange(p.m), np.maximum(label, 0)] = 1 - smooth_alpha
    _, grad = by_logits(p.logits, t, sample_weight=label >= 0, **options)
    close(grad, d)


def test_mxnet_smoothing_beyond_what_label_smoothing_can(p):
    """More for each of the others than for the target."""
    alpha = 0.97
    assert alpha * p.n / (p.n - 1) > 1
    d = mxnet(p.logits, p.label, smooth_alpha=alpha)
    t = np.full((p.m, p.n), alpha / (p.n - 1))
    t[np.arange(p.m), p.label] = 1 - alpha
    _, grad = by_logits(p.logits, t, reduction="sum")
    close(grad, d)
    with says(ValueError, "label_smoothing"):
        by_logits(p.logits, p.label, label_smoothing=alpha * p.n / (p.n - 1))


@pytest.mark.parametrize("normalization", MXNET)
def test_mxnet_class_probabilities(p, normalization):
    """There `normalization` has no say."""
    d = mxnet(p.logits, p.soft, 0.25, normalization)
    _, grad = by_logits(p.logits, p.soft, reduction="sum", grad_output=0.25)
    close(grad, d)
    # Masses other than 1 are another matter.
    masses = p.soft * p.s[:, None]
    _, grad = by_logits(p.logits, masses, reduction="sum")
    close(grad - mxnet(p.logits, masses), (p.s - 1)[:, None] * softmax(p.logits))


def test_mxnet_out_grad(p):
    """The same factor for all classes of a sample is a factor of the sample."""
    d = mxnet(p.logits, p.label, out_grad=np.repeat(p.s[:, None], p.n, axis=1))
    _, grad = by_logits(p.logits, p.label, reduction="none", grad_output=p.s)
    close(grad, d)


def test_mxnet_multi_output():
    """Classes on axis 1, places behind; "null" divides by the places of a sample."""
    rng = np.random.default_rng(3)
    data, label = rng.standard_normal((2, 5, 6)), rng.integers(0, 5, (2, 6))
    label[0, :2] = -1
    places, rows = np.moveaxis(data, 1, -1), label.ravel()
    d = softmax(places) - np.eye(5)[np.maximum(label, 0)]
    d[label == -1] = 0
    for divisor, reduction, factor in (
        (6, "sum", 1 / 6), (2 * 6, "batch_mean", 1), (10, "mean", 1),
    ):
        _, grad = by_logits(places, rows, ignore_index=-1, reduction=reduction, grad_output=factor)
        close(grad.reshape(places.shape), d / divisor)


# Cut Cross-Entropy


def cce(e, c, targets, bias=None, softcap=None, shift=0, ignore_index=-100, reduction="mean"):
    """Loss, log-sum-exp, and derivatives by the uncapped logits of what is scored."""
    e, targets = e[..., : e.shape[-2] - shift, :], targets[..., shift:]
    a = e @ c.T + (0 if bias is None else bias)
    z = a if softcap is None else softcap * np.tanh(a / softcap)
    lse = np.log(np.exp(z).sum(axis=-1))
    counts = targets != ignore_index
    index = np.where(counts, targets, 0)[..., None]
    nll = np.where(counts, lse - np.take_along_axis(z, index, -1)[..., 0], 0)
    d = np.exp(z - lse[..., None])
    np.put_along_axis(d, index, np.take_along_axis(d, index, -1) - 1, -1)
    d *= counts[..., None]
    if softcap is not None:
        d *= 1 - np.tanh(a / softcap) ** 2
    if reduction == "mean":
        return nll.sum() / counts.sum(), lse, d / counts.sum()
    return (nll.sum() if reduction == "sum" else nll), lse, d


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(5)
    targets = rng.integers(0, 300, (3, 8))
    targets[0, 3:5], targets[2, 7] = -100, -100
    return (rng.standard_normal((3, 8, 6)), rng.standard_normal((300, 6)), targets,
            rng.standard_normal(300))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_cut_cross_entropy(sequences, reduction, softcap, shift):
    e, c, targets, bias = sequences
    loss, lse, d = cce(e, c, targets, bias, softcap, shift, reduction=reduction)
    ours = ll.linear_cross_entropy(
        e, c, targets, bias, softcap=softcap, shift=shift, reduction=reduction)
    close(ours, loss)
    scores = ll.linear_score(e, c, targets, bias, softcap=softcap, shift=shift)
    close(scores.lse, lse)
    _, grad = ll.linear_cross_entropy_value_and_grad(
        e, c, targets, bias, softcap=softcap, shift=shift, reduction=reduction)
    scored = e[:, : 8 - shift]
    close(grad.x[:, : 8 - shift], d @ c)
    assert not grad.x[:, 8 - shift :].any()
    close(grad.weight, np.einsum("btv,btk->vk", d, scored))
    close(grad.bias, d.sum(axis=(0, 1)))
    assert ll.linear_cross_entropy(e, c, targets, shift=True).shape == (3, 7)


def test_cut_cross_entropy_z_loss(sequences):
    """The mean of the squared log-sum-exp; its helper counts ignored targets in its own way."""
    e, c, targets, _ = sequences
    loss, lse, _ = cce(e, c, np.abs(targets))
    ours = ll.linear_cross_entropy(e, c, np.abs(targets), z_loss=1e-2, reduction="mean")
    close(ours, loss + 1e-2 * np.mean(lse**2))
    loss, lse, _ = cce(e, c, targets)
    counts = targets != -100
    compute_z_loss = np.where(counts, lse**2, 0).mean() * (counts.sum() / counts.size)
    ours = ll.linear_cross_entropy(
        e, c, targets, z_loss=1e-2 * np.mean(counts) ** 2, reduction="mean")
    close(ours, loss + 1e-2 * compute_z_loss)


def test_cut_cross_entropy_filter():
    """Nothing that is left out has reached `filter_eps`."""
    rng = np.random.default_rng(5)
    c, targets = rng.standard_normal((600, 40)), rng.integers(0, 200, (3, 8))
    c *= 6 / np.linalg.norm(c, axis=1, keepdims=True)
    e = c[targets]  # sure of a class, which is not that of the label
    exact = ll.linear_cross_entropy_value_and_grad(e, c, 199 - targets, reduction="sum")[1]
    eps = 2.0**-8 / 32  # of bfloat16, as "auto" has it
    ours = ll.linear_cross_entropy_value_and_grad(
        e, c, 199 - targets, reduction="sum", filter_eps=eps)[1]
    assert (np.abs(ours.bias - exact.bias) <= targets.size * eps).all()
    assert (np.abs(ours.x - exact.x) <= eps * np.abs(c).sum(axis=0)).all()
    assert not ours.bias[256:].any()
    assert ours.bias[:256].all()
    assert exact.bias.all()


# Liger Kernel: the fused linear cross entropy


def liger(p, ce_weight=None, lse_square_scale=0.0, label_smoothing=0.0, softcap=None,
          reduction="mean", use_token_scaling=False):
    """Loss, z-loss, token accuracy, predicted tokens, and derivatives by the uncapped logits."""
    a, n = p.logits, p.n
    h = 0 if softcap is None else np.tanh(a / softcap)
    z = a if softcap is None else softcap * h
    w = np.ones(n) if ce_weight is None else ce_weight
    y, counts = np.where(p.counts, p.target, 0), p.counts
    ce = Formula(z, p.target, class_weight=w, label_smoothing=label_smoothing)
    zl = Formula(z, p.target, class_weight=0 * w, z_loss=lse_square_scale)
    scale = softmax(z)[np.arange(p.m), y] if use_token_scaling else np.ones(p.m)
    by_weight, by_count = (w[y][counts].sum(), counts.sum()) if reduction == "mean" else (1, 1)
    loss = ((ce.rows / by_weight + zl.rows / by_count) * scale).sum()
    d = (ce.d_logits / by_weight + zl.d_logits / by_count) * scale[:, None] * (1 - h**2)
    best = z.argmax(axis=1)
    accuracy = (best == p.target)[counts].sum() / counts.sum()
    return loss, (zl.rows * scale).sum() / by_count, accuracy, np.where(counts, best, -1), d


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("options", [
    {}, {"lse_square_scale": 0.05}, {"label_smoothing": 0.2}, {"softcap": 2.0},
    {"ce_weight": True}, {"ce_weight": True, "label_smoothing": 0.2},
    {"ce_weight": True, "label_smoothing": 0.2, "softcap": 2.0, "lse_square_scale": 0.05},
], ids=str)
def test_liger_fused_linear_cross_entropy(p, reduction, options):
    options = dict(options)
    if "ce_weight" in options:
        options["ce_weight"] = p.w
    loss, z_loss, accuracy, predicted, d = liger(p, reduction=reduction, **options)
    z_scale = options.get("lse_square_scale", 0.0)
    ours = {"class_weight": options.get("ce_weight"), "softcap": options.get("softcap"),
            "label_smoothing": options.get("label_smoothing", 0.0), "z_loss": z_scale}
    if "ce_weight" in options and reduction == "mean":
        # There the z-loss is divided by the number of targets, not by their weights.
        ours["z_loss"] *= np.mean(p.w[p.target[p.counts]])
    value, grad = p.value_and_grad(p.target, reduction=reduction, **ours)
    close(value, loss)
    for name, theirs in (("x", d @ p.weight), ("weight", d.T @ p.x), ("bias", d.sum(axis=0))):
        close(getattr(grad, name), theirs)
    scores = ll.linear_score(p.x, p.weight, p.target, p.bias, **ours)
    lse = scores.lse[p.counts]
    close(z_scale * (np.mean(lse**2) if reduction == "mean" else np.sum(lse**2)), z_loss)
    assert scores.accuracy == pytest.approx(accuracy)
    assert (np.where(p.counts, scores.predicted, -1) == predicted).all()


def test_liger_token_scaling(p):
    loss, _, _, _, d = liger(p, use_token_scaling=True)
    proba = np.exp(ll.LinearHead(p.weight, p.bias).target_log_prob(p.x, p.target))
    value, grad = p.value_and_grad(
        p.target, sample_weight=proba / p.counts.sum(), reduction="sum")
    close(value, loss)
    close(grad.weight, d.T @ p.x)


# The page


def blocks():
    """Runnable blocks of the page, each with the line it begins in."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text.count("\n", 0, block.start(1)) + 1, block[1])
            for block in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)]


@pytest.fixture(scope="module")
def page():
    if not PAGE.exists():
        pytest.skip("no documentation beside these tests")
    return PAGE.read_text(encoding="utf-8")


def test_blocks_of_the_page_run(page):
    names = {}
    for line, block in blocks():
        exec(compile("\n" * (line - 1) + block, str(PAGE), "exec"), names)
        assert np.isfinite(names.get("loss", 0.0)).all()
    assert all(np.isfinite(getattr(names["grad"], name)).all() for name in ("weight", "bias"))


def test_links_of_the_page(page):
    anchors = {"#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
               for title in re.findall(r"^#+ (.*)$", page, re.M)}
    links = re.findall(r"\]\((#[^)]*)\)", page)
    assert len(links) >= 7
    assert set(links) <= anchors
