"""Every call on fixed inputs: results by case and name, and the golden hashes of some of them."""

from __future__ import annotations

import hashlib

import numpy as np

import logitless as ll

from .exact import Sparse, digest, distributions, exact, labels


def everything(head, x, target, *, soft=None, k=5):
    """All forward results of a head, by name."""
    k = min(k, head.n_classes)
    top = head.topk(x, k)
    plain = head.topk(x, k, normalize=False)
    score = head.score(x, target, k=k, entropy=True)
    out = {
        "loss": head.loss(x, target),
        "predict": head.predict(x),
        "predict_proba": head.predict_proba(x),
        "predict_log_proba": head.predict_log_proba(x),
        "logits": head.logits(x),
        "logsumexp": head.logsumexp(x),
        "target_log_prob": head.target_log_prob(x, target),
        "topk.index": top.index,
        "topk.logit": top.logit,
        "topk.log_prob": top.log_prob,
        "topk.plain.index": plain.index,
        "topk.plain.logit": plain.logit,
        "score.loss": score.loss,
        "score.lse": score.lse,
        "score.target_logit": score.target_logit,
        "score.target_rank": score.target_rank,
        "score.predicted": score.predicted,
        "score.max_logit": score.max_logit,
        "score.entropy": score.entropy,
        "score.top.index": score.top.index,
        "score.top.logit": score.top.logit,
        "score.top.log_prob": score.top.log_prob,
    }
    if soft is not None:
        out["soft"] = head.loss(x, soft)
    return out


def losses(head, x, target, soft, **options):
    """The loss for each kind of target."""
    return {
        "loss": head.loss(x, target, **options),
        "soft": head.loss(x, soft, **options),
        "sparse": head.loss(x, Sparse(soft), **options),
    }


def gradients(head, x, target, **options):
    """The loss of each row and its gradients; sums of losses are NumPy's."""
    options = {"reduction": "none", **options}
    loss, grad = head.value_and_grad(x, target, **options)
    results = {"x": grad.x, "weight": grad.weight, "bias": grad.bias}
    return results | ({"loss": loss} if options["reduction"] == "none" else {})


def from_logits(z, target, soft):
    return {
        "softmax": ll.softmax(z),
        "log_softmax": ll.log_softmax(z),
        "ll.logsumexp": ll.logsumexp(z),
        "cross_entropy": ll.cross_entropy(z, target),
        "cross_entropy.soft": ll.cross_entropy(z, soft),
    }


# Rows, classes, features: around vector widths, register tiles, feature blocks, class spans.
SHAPES = (
    [(3, n, 7) for n in (1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64)]
    + [(2, n, 5) for n in (255, 256, 257, 511, 512, 513, 1021, 4095, 4096, 4097, 8193)]
    + [(4, 10, k) for k in (0, 1, 2, 15, 16, 17, 31, 33, 255, 256, 257, 511, 512, 513, 1600)]
    + [(m, 37, 19) for m in (1, 2, 5, 6, 7, 8, 11, 12, 13, 23, 24, 25, 97, 144, 257)]
    + [(1, 1000, 300), (1, 7, 1031), (70, 7, 130), (13, 600, 270), (1100, 3, 2), (1, 16400, 3)]
)


def cases():
    """Yield (name, results) for the whole battery."""
    for dtype in (np.float32, np.float64):
        tag = np.dtype(dtype).name
        for m, n, k in SHAPES:
            x, w = exact((m, k), 1, dtype), exact((n, k), 2, dtype, 2.0)
            bias = exact((n,), 3, dtype, 4.0)
            head = ll.LinearHead(w, bias)
            t, soft = labels(m, n, 4), distributions(m, n, 5, dtype)
            yield f"{tag}/{m}x{n}x{k}", everything(head, x, t, soft=soft)
        for name, results in options(dtype):
            yield f"{tag}/{name}", results
        for name, results in objectives(dtype):
            yield f"{tag}/{name}", results
        for scale in (1.0, 64.0, 1024.0):
            z = exact((9, 777), 6, dtype, scale)
            yield (
                f"{tag}/logits*{scale:g}",
                from_logits(z, labels(9, 777, 7), distributions(9, 777, 8, dtype)),
            )
        p = (exact((4099,), 9, dtype) + 1) / 2
        yield f"{tag}/nll", {"nll": ll.nll(p[:, None], np.zeros(4099, np.int64))}
    yield from narrow()


def options(dtype):
    """Options, large logits and special values."""
    m, n, k = 9, 131, 40
    x, w, bias = exact((m, k), 11, dtype), exact((n, k), 12, dtype), exact((n,), 13, dtype)
    t, soft = labels(m, n, 14), distributions(m, n, 15, dtype)
    for name, kw in {
        "softcap": {"softcap": 3.0},
        "temperature": {"temperature": 0.37},
        "both": {"softcap": 30.0, "temperature": 1.7},
        "unpacked": {"pack": False},
    }.items():
        yield name, everything(ll.LinearHead(w, bias, **kw), x, t, soft=soft)
    yield "large", everything(ll.LinearHead(w * 64, bias), x, t, soft=soft)
    yield "offset", everything(ll.LinearHead(w, bias + dtype(1e6)), x, t, soft=soft)
    special = bias.copy()
    special[[0, 7, 50, 130]] = -np.inf
    bad = x.copy()
    bad[2, 3] = np.nan
    bad[5, 39] = np.inf
    bad[6] = 0
    yield "minus infinity", everything(ll.LinearHead(w, special), bad, t, soft=soft)
    tiny = dtype(np.finfo(dtype).tiny)
    yield "denormal", everything(ll.LinearHead(w * tiny), x, t, soft=soft)


# Rows, classes, features: around steps and groups of rows, blocks of classes, strips of features.
GRADIENT_SHAPES = [
    *((13, 1, 7), (12, 16, 5), (25, 17, 0), (13, 33, 300), (13, 513, 33), (3, 4097, 5)),
    *((250, 7, 20), (481, 30, 9), (61, 600, 40)),
]


def objectives(dtype):
    """What training asks for: options of the loss, and gradients."""
    m, n, k = 25, 131, 40
    x, w, bias = exact((m, k), 31, dtype), exact((n, k), 32, dtype), exact((n,), 33, dtype)
    t, soft = labels(m, n, 34), distributions(m, n, 35, dtype)
    t[::7] = -100
    head = ll.LinearHead(w, bias)
    weights = {
        "class_weight": np.maximum(exact((n,), 36, dtype, 2.0), 0),
        "sample_weight": np.maximum(exact((m,), 37, np.float64, 4.0), -0.5),
    }
    every = weights | {"label_smoothing": 0.125, "z_loss": 0.0078125}
    yield "plain losses", losses(head, x, t, soft)
    yield "weights", losses(head, x, t, soft, **weights)
    yield "label smoothing", losses(head, x, t, soft, label_smoothing=0.125)
    yield "z-loss", losses(head, x, t, soft, z_loss=0.0078125)
    yield "entropy", losses(head, x, t, soft, entropy_weight=-0.0078125)
    of_rows = {"temperature": exact((m,), 39, np.float64) / 2 + 1}
    yield "temperatures", losses(head, x, t, soft, **of_rows)
    yield "all options", losses(ll.LinearHead(w, bias, softcap=3.0), x, t, soft, **every)

    yield "gradients of means", gradients(head, x, t, reduction="mean")
    factors = exact((m,), 38, np.float64, 2.0)
    yield "gradients, weights", gradients(head, x, t, grad_output=factors, **weights)
    capped = ll.LinearHead(w, bias, softcap=3.0, temperature=0.7)
    for name, target in {"index": t, "soft": soft, "sparse": Sparse(soft)}.items():
        yield f"gradients, all options, {name}", gradients(capped, x, target, **every)
    yield "gradients, entropy", gradients(capped, x, t, entropy_weight=-0.25, **every)
    yield "gradients, entropy alone", gradients(head, x, np.zeros_like(soft), entropy_weight=1.0)
    options = every | of_rows
    yield "gradients, temperatures", gradients(capped, x, t, entropy_weight=0.25, **options)
    sure = x.copy()
    sure[:12] *= 1024
    best = head.predict(sure)
    yield "gradients, filtered", gradients(head, sure, best, filter_eps=2.0**-6)
    bad = x.copy()
    bad[7], bad[3, 0] = np.nan, np.inf
    special = bias.copy()
    special[[0, 50, 130]] = -np.inf
    yield "gradients, special", gradients(ll.LinearHead(w, special), bad, t)
    yield from divergences(dtype)
    for m, n, k in GRADIENT_SHAPES:
        x, w = exact((m, k), 41, dtype), exact((n, k), 42, dtype, 2.0)
        head = ll.LinearHead(w, exact((n,), 43, dtype, 4.0), pack=m % 2 == 0)
        yield f"gradients {m}x{n}x{k}", gradients(head, x, labels(m, n, 44))


def divergences(dtype):
    """Two heads: how far they are apart, and gradients."""
    for m, n, k in ((25, 131, 40), (13, 7, 20), (13, 4097, 5)):
        x, y = exact((m, k), 51, dtype), exact((m, 9), 52, dtype)
        student = ll.LinearHead(exact((n, k), 53, dtype, 2.0), exact((n,), 54, dtype, 4.0))
        teacher = ll.LinearHead(exact((n, 9), 55, dtype, 2.0), softcap=3.0, temperature=0.7)
        x[2] = y[3] = np.nan
        for beta in (0.0, 1.0, 0.25):
            value, grad = student.kl_div_value_and_grad(
                x, teacher, y, beta=beta, reduction="none",
                sample_weight=np.maximum(exact((m,), 56, np.float64, 2.0), -0.5))
            yield f"divergence {beta}, {m}x{n}x{k}", {
                "value": value, "apart": student.kl_div(x, teacher, y, beta=beta),
                "x": grad.x, "weight": grad.weight, "bias": grad.bias,
            }


DIVERGENCES = [f"divergence {beta}, {shape}" for shape in ("25x131x40", "13x7x20", "13x4097x5")
               for beta in (0.0, 1.0, 0.25)]


def values_of(kind, shape, seed):
    """Whole numbers every type can hold, negative ones where there are any."""
    v = np.floor(exact(shape, seed, np.float64, 64.0))
    if kind == "?":
        v = v % 2
    elif kind[0] == "u":
        v = v + 64
    return v.astype(kind)


def narrow():
    """Types that are widened on the way."""
    for kind in ("f2", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">f4", ">f8"):
        x, w = values_of(kind, (7, 33), 21), exact((19, 33), 22, np.float32, 0.125)
        yield f"x {kind}", everything(ll.LinearHead(w), x, labels(7, 19, 23))
        w, x = values_of(kind, (19, 33), 24), exact((7, 33), 25, np.float32, 0.125)
        yield f"weight {kind}", everything(ll.LinearHead(w), x, labels(7, 19, 26))


def results():
    return {f"{name}/{key}": a for name, res in cases() for key, a in res.items()}


GOLDEN = [
    *("3x1x7", "3x7x7", "3x17x7", "2x513x5", "2x8193x5", "4x10x0", "4x10x1600", "97x37x19"),
    *("1x1000x300", "1x7x1031", "70x7x130", "13x600x270", "softcap", "temperature", "large"),
    *("offset", "minus infinity", "denormal", "logits*1", "logits*64", "nll"),
    *("plain losses", "weights", "label smoothing", "z-loss", "all options"),
    *("gradients of means", "gradients, weights", "gradients, all options, index"),
    *("gradients, all options, soft", "gradients, all options, sparse", "gradients, filtered"),
    *("entropy", "gradients, entropy", "gradients, entropy alone"),
    *("temperatures", "gradients, temperatures"),
    *DIVERGENCES,
    *("gradients, special", *(f"gradients {m}x{n}x{k}" for m, n, k in GRADIENT_SHAPES)),
]


def golden():
    """One hash for each golden case, over all its results."""
    hashes = {}
    for name, res in cases():
        if name.partition("/")[2] in GOLDEN:
            together = " ".join(f"{key} {digest(a)}" for key, a in sorted(res.items()))
            hashes[name] = hashlib.sha256(together.encode()).hexdigest()[:16]
    return hashes
