"""Whether a rival's result is ours, to rounding, before anything is timed."""

from __future__ import annotations

import numpy as np

# On logits, losses and log-probabilities: |a - b| <= tolerance * (1 + |a|). Sums of up to 4096
# products in any order stay well within it.
TOLERANCE = {"float32": 2e-4, "float64": 1e-9}
CHUNK = 1 << 24


def differs(op: str, ours, theirs, problem) -> str | None:
    """What is wrong with `theirs`, or None.

    Classes may differ from ours where their logits are as close as the tolerance; a rank may be
    off by one class in 10000, for the same reason.
    """
    names = {
        "loss": ("loss",),
        "predict": ("class",),
        "topk": ("class", "log_prob"),
        "predict_proba": ("proba",),
        "score": ("loss", "lse", "entropy", "rank", "class", "log_prob"),
    }[op]
    tolerance = TOLERANCE[problem.dtype.name]
    for name, a, b in zip(names, ours, theirs, strict=True):
        if a.shape != b.shape:
            return f"{name} has shape {b.shape}, not {a.shape}"
        if name == "class":
            wrong = _other_classes(a, b, problem, tolerance)
        elif name == "rank":
            wrong = np.abs(a - b).max(initial=0) > 1 + 1e-4 * problem.shape.n
        else:
            relative = name == "proba"
            wrong = _far(a, b, tolerance, relative)
        if wrong:
            return f"{name} differs from ours by more than the tolerance"
    return None


def _far(a: np.ndarray, b: np.ndarray, tolerance: float, relative: bool) -> bool:
    a, b = a.reshape(-1), b.reshape(-1)
    for lo in range(0, a.size, CHUNK):
        p, q = a[lo : lo + CHUNK], b[lo : lo + CHUNK]
        allowed = tolerance * (np.abs(p) + (1e-30 if relative else 1))
        if not np.all(np.abs(p - q) <= allowed):  # a NaN is far from anything
            return True
    return False


def _other_classes(a: np.ndarray, b: np.ndarray, problem, tolerance: float) -> bool:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if b.min(initial=0) < 0 or b.max(initial=0) >= problem.shape.n:
        return True
    rows, columns = np.nonzero(a != b)
    x = problem.x[rows].astype(np.float64)
    za, zb = (np.einsum("ij,ij->i", x, problem.weight[c[rows, columns]]) for c in (a, b))
    return bool(np.any(np.abs(za - zb) > tolerance * (1 + np.abs(za))))
