"""The losses and gradients of Caffe, MXNet, Cut Cross-Entropy and Liger, by what they publish."""

from __future__ import annotations

import numpy as np
import pytest
from support.formula import Formula
from support.oracle import says
from support.origins import Problem, by_logits, close, softmax

import logitless as ll


@pytest.fixture(scope="module")
def p():
    return Problem()


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
    assert not ours.bias[200:].any()
    assert 24 <= np.count_nonzero(ours.bias) < 100
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
