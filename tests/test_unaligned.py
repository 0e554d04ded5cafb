"""Every array that may come in, at addresses that its type does not divide.

NumPy reads such arrays anywhere, C may not: a build with ``LOGITLESS_SANITIZE=undefined`` reports
each number that a kernel reads at a wrong address.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.layouts import unaligned
from support.oracle import assert_same

import logitless as ll

# Rows, classes, features: one for each way to score.
SHAPES = [
    (1, 5, 6), (1, 40, 9), (1, 20, 300),  # one sample
    (3, 1, 4), (40, 7, 3), (40, 16, 40),  # few classes, turned and not
    (3, 37, 23), (29, 37, 23),            # few rows, some
    (5, 20, 270), (29, 600, 9),           # more features than are summed at once, many classes
    (150, 20, 5), (3, 4200, 2),           # more rows than a tile has, more classes than a span
]
TYPES = [("f4", "f4"), ("f8", "f8"), ("f8", "f4"), ("f4", "f8"), ("f2", "f4"), ("f4", "f2"),
         ("i2", "f8"), ("f4", "i4")]
NAMES = ("x", "weight", "bias")

pytestmark = pytest.mark.compiled_only


def numbers(rng, shape, kind):
    if np.dtype(kind).kind == "i":
        return rng.integers(-3, 4, shape).astype(kind)
    return rng.standard_normal(shape).astype(kind)


def problem(rng, m, n, k, x_type, w_type):
    dtype = np.promote_types(np.float32, np.promote_types(x_type, w_type))
    return {
        "x": numbers(rng, (m, k), x_type),
        "weight": numbers(rng, (n, k), w_type),
        "bias": numbers(rng, n, w_type),
        "target": rng.integers(0, n, m),
        "probs": rng.dirichlet(np.ones(n), m).astype(dtype),
        "candidates": rng.integers(0, n, (m, 3)),
        "class_weight": rng.uniform(0.5, 2, n).astype(dtype),
        "sample_weight": rng.uniform(0.5, 2, m).astype(dtype),
        "grad_output": rng.standard_normal(m).astype(dtype),
    }


def losses(head, p, target):
    """All that takes targets and what weighs them, by name."""
    weights = {name: p[name] for name in ("class_weight", "sample_weight")}
    value, grad = head.value_and_grad(
        p["x"], target, reduction="none", grad_output=p["grad_output"], label_smoothing=0.1,
        **weights)
    mean, plain = head.value_and_grad(p["x"], target, filter_eps=1e-3)
    return {
        "loss": head.loss(p["x"], target),
        "weighted": head.loss(p["x"], target, label_smoothing=0.1, z_loss=0.1, **weights),
        "value": value, "mean": mean,
        **{f"grad.{name}": getattr(grad, name) for name in NAMES},
        **{f"plain grad.{name}": getattr(plain, name) for name in NAMES},
    }


def results(p, **options):
    """What every call makes of the arrays, by name."""
    x, target = p["x"], p["target"]
    head = ll.LinearHead(p["weight"], p["bias"], **options)
    k = min(4, head.n_classes)
    s = head.score(x, target, k=k, entropy=True, class_weight=p["class_weight"])
    top = head.topk(x, k)
    out = {
        "predict": head.predict(x),
        "predict_proba": head.predict_proba(x),
        "predict_log_proba": head.predict_log_proba(x),
        "logits": head.logits(x),
        "logsumexp": head.logsumexp(x),
        "target_log_prob": head.target_log_prob(x, target),
        "candidates": head.target_log_prob(x, p["candidates"]),
        "sample": head.sample(x, np.random.default_rng(1), 2),
        "topk": top.log_prob, "topk.index": top.index,
        "score": s.loss, "score.rank": s.target_rank, "score.entropy": s.entropy,
        "score.top": s.top.logit,
        "one-shot": ll.linear_cross_entropy(x, p["weight"], target, p["bias"]),
        "one-shot topk": ll.linear_topk(x, p["weight"], k, p["bias"], normalize=False).logit,
    }
    for name in ("target", "probs"):
        out |= {f"{name}, {key}": a for key, a in losses(head, p, p[name]).items()}
    return out


def assert_as_aligned(make, p, offset):
    """`make` of the arrays where each, and then all, are moved; none is written to."""
    plain = make(p)
    moved = {name: unaligned(a, offset) for name, a in p.items()}
    before = {name: a.tobytes() for name, a in moved.items()}
    for given in [*({**p, name: a} for name, a in moved.items()), moved]:
        ours = make(given)
        for name, expected in plain.items():
            assert_same(ours[name], expected, name)
    assert before == {name: a.tobytes() for name, a in moved.items()}


@pytest.mark.slow
@pytest.mark.parametrize("offset", [1, 4])  # the second suits float32, not float64 and int64
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_every_call(rng, dtype, shape, pack, offset):
    p = problem(rng, *shape, dtype, dtype)
    assert_as_aligned(lambda p: results(p, pack=pack), p, offset)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize(("x_type", "w_type"), TYPES)
@pytest.mark.parametrize("shape", [(1, 5, 6), (40, 7, 3), (29, 37, 23)])
def test_mixed_types(rng, shape, x_type, w_type, pack):
    p = problem(rng, *shape, x_type, w_type)
    assert_as_aligned(lambda p: results(p, pack=pack, softcap=5.0, temperature=0.7), p, 1)


@pytest.mark.parametrize("offset", [1, 4])
@pytest.mark.parametrize(("m", "top"), [(1, 1), (40, 3)])
def test_screen(rng, m, top, offset):
    p = problem(rng, m, 700, 9, "f4", "f4")

    def screened(p):
        head = ll.LinearHead(p["weight"], p["bias"], screen="int8")
        best = head.topk(p["x"], top, normalize=False)
        assert head.screen_stats.rows == m
        return {"predict": head.predict(p["x"]), "logit": best.logit, "index": best.index}

    assert_as_aligned(screened, {name: p[name] for name in NAMES}, offset)


@pytest.mark.parametrize("offset", [1, 4])
@pytest.mark.parametrize("shape", [(40, 7, 3), (29, 600, 9)])
def test_sparse_targets(rng, dtype, shape, offset):
    sparse = pytest.importorskip("scipy.sparse")
    p = problem(rng, *shape, dtype, dtype)
    csr = sparse.csr_array(np.where(p.pop("probs") > 1 / shape[1], dtype.type(0.25), 0))
    p |= {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr}

    def of_sparse(p):
        target = sparse.csr_array(csr.shape, dtype=dtype)
        target.data, target.indices, target.indptr = (
            p[name] for name in ("data", "indices", "indptr"))
        head = ll.LinearHead(p["weight"], p["bias"])
        return losses(head, p, target) | {
            "cross_entropy": ll.cross_entropy(p["x"] @ p["weight"].T, target)}

    assert_as_aligned(of_sparse, p, offset)


@pytest.mark.parametrize("offset", [1, 4])
@pytest.mark.parametrize("shape", [(1, 5), (40, 7), (29, 37), (3, 4200)])
def test_logits_at_hand(rng, dtype, shape, offset):
    m, n = shape
    p = {"logits": numbers(rng, shape, dtype), "target": rng.integers(0, n, m),
         "probs": rng.dirichlet(np.ones(n), m).astype(dtype),
         "class_weight": rng.uniform(0.5, 2, n).astype(dtype),
         "sample_weight": rng.uniform(0.5, 2, m).astype(dtype)}

    def of_logits(p):
        z = p["logits"]
        weights = {name: p[name] for name in ("class_weight", "sample_weight")}
        out = {f"{call.__name__} {axis}": call(z, axis=axis) for axis in (0, 1, (0, 1))
               for call in (ll.softmax, ll.log_softmax, ll.logsumexp)}
        for name in ("target", "probs"):
            out[f"cross_entropy {name}"] = ll.cross_entropy(z, p[name])
            out[f"weighted {name}"] = ll.cross_entropy(z, p[name], **weights)
            out[f"nll {name}"] = ll.nll(p["probs"], p[name])
        return out

    assert_as_aligned(of_logits, p, offset)


@pytest.mark.parametrize("offset", [1, 4])
def test_out(rng, dtype, offset):
    """Losses go into an array at any address; what is larger says what it wants."""
    p = problem(rng, 29, 37, 23, dtype, dtype)
    head = ll.LinearHead(p["weight"], p["bias"])
    expected = head.loss(p["x"], p["target"])
    out = unaligned(np.zeros_like(expected), offset)
    assert head.loss(p["x"], p["target"], out=out) is out
    assert_same(out, expected)
    for call in head.predict_proba, head.predict_log_proba, head.logits:
        out = unaligned(np.zeros((29, 37), dtype), 1)
        with pytest.raises(ValueError, match="aligned"):
            call(p["x"], out=out)
    grads = ll.Gradients(weight=unaligned(np.zeros((37, 23), dtype), 1))
    with pytest.raises(ValueError, match="aligned"):
        head.value_and_grad(p["x"], p["target"], wrt="weight", out=grads)


@pytest.mark.parametrize("offset", [1, 4])
def test_estimators(rng, dtype, offset):
    sklearn = pytest.importorskip("logitless.sklearn")
    p = {"X": numbers(rng, (60, 5), dtype), "y": np.arange(60) % 3,
         "sample_weight": rng.uniform(0.5, 2, 60).astype(dtype)}

    def fitted(p):
        model = sklearn.SoftmaxRegression(max_iter=5, tol=10.0)
        model.fit(p["X"], p["y"], sample_weight=p["sample_weight"])
        model.coef_ = unaligned(model.coef_, offset)
        head = ll.LinearHead.from_estimator(model)
        return {"coef": model.coef_, "proba": model.predict_proba(p["X"]),
                "loss": head.loss(p["X"], p["y"])}

    assert_as_aligned(fitted, p, offset)
