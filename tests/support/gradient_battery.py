"""Gradients on fixed inputs: results by case and name."""

from __future__ import annotations

import numpy as np

import logitless as ll

from .exact import distributions, exact, labels

SHAPES = (
    [(13, n, 7) for n in (1, 2, 3, 5, 8, 12, 15, 16, 17, 31, 33, 49, 64, 255, 256, 257)]
    + [(3, n, 5) for n in (511, 512, 513, 1021, 4095, 4097, 8193)]
    + [(25, 37, k) for k in (0, 1, 2, 15, 16, 17, 33, 255, 256, 257, 513)]
    + [(m, 30, 9) for m in (1, 2, 11, 12, 13, 23, 24, 25, 47, 239, 240, 241, 479, 480, 481, 1009)]
    + [(30, 600, 270), (250, 300, 20)]
)


def any_options(m, n, seed, dtype, which):
    """Exact options of the loss: a bit of `which` for each."""
    options = {}
    if which & 1:
        options["class_weight"] = np.maximum(exact((n,), seed, dtype, 2.0), 0)
    if which & 2:
        options["sample_weight"] = np.maximum(exact((m,), seed + 1, np.float64, 4.0), -0.5)
    if which & 4:
        options["label_smoothing"] = 0.125
    if which & 8:
        options["z_loss"] = 0.0078125
    if which & 16:
        options["entropy_weight"] = -0.0625
    if which & 32:
        options["temperature"] = exact((m,), seed + 2, np.float64) / 2 + 1
    return options


def results(head, x, target, **options):
    """Loss and gradients by name."""
    loss, grad = head.value_and_grad(x, target, **options)
    return {"loss": loss} | {name: getattr(grad, name) for name in ("x", "weight", "bias")}


def cases():
    """Yield (name, results) of each case."""
    for dtype in (np.float32, np.float64):
        for i, (m, n, k) in enumerate(SHAPES):
            x, w = exact((m, k), 1, dtype), exact((n, k), 2, dtype, 2.0)
            target = distributions(m, n, 5, dtype) if i % 3 == 1 else labels(m, n, 4)
            of_head = [{}, {"softcap": 3.0}, {"temperature": 0.37}][i % 3]
            options = any_options(m, n, 6, dtype, i % 16)
            options |= {"filter_eps": 2.0**-8} if i % 5 == 2 else {}
            options |= {"workspace_bytes": 1} if i % 7 == 3 else {}
            head = ll.LinearHead(w, exact((n,), 3, dtype, 4.0), pack=i % 2 == 0, **of_head)
            name = f"{np.dtype(dtype).name}/{m}x{n}x{k}"
            yield name, results(head, x, target, reduction="sum", **options)
        yield f"{np.dtype(dtype).name}/special", special(dtype)


def special(dtype):
    """Values that are not finite, rows that are left out, types that are widened."""
    m, n, k = 30, 131, 40
    x, w, bias = exact((m, k), 11, dtype), exact((n, k), 12, np.float32), exact((n,), 13, dtype)
    bias[[0, 50, 130]] = -np.inf
    x[5, 3], x[7] = np.nan, 1e30
    t = labels(m, n, 14)
    t[5] = -100
    return results(ll.LinearHead(w.astype(np.float16), bias), x, t, sample_weight=np.arange(m) != 7)
