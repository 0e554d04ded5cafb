"""The losses and gradients of PyTorch, scikit-learn and optax, where these are installed."""

from __future__ import annotations

import numpy as np
import pytest
from support.origins import NAMES, Problem, by_logits, close, softmax

import logitless as ll


@pytest.fixture(scope="module")
def p():
    return Problem()


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_optax_classes_left_out(optax, q):
    allowed = np.arange(q.n) != 3
    label = np.where(q.label == 3, 0, q.label)
    theirs = optax.softmax_cross_entropy_with_integer_labels(
        q.logits, label, where=np.broadcast_to(allowed, q.logits.shape))
    bias = np.where(allowed, q.bias, np.float32(-np.inf))
    close32(ll.linear_cross_entropy(q.x, q.weight, label, bias), theirs)
    close32(ll.cross_entropy(np.where(allowed, q.logits, np.float32(-np.inf)), label), theirs)


@pytest.mark.slow
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
