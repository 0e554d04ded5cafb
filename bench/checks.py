"""Whether a result is ours, to rounding or to the bit, before anything is timed."""

from __future__ import annotations

import numpy as np

# On logits, losses and log-probabilities: |a - b| <= tolerance * (1 + |a|). Sums of up to 4096
# products in any order stay well within it. Entries of gradients are sums that cancel:
# |a - b| <= tolerance * what the absolute values of their terms sum to.
TOLERANCE = {"float32": 2e-4, "float64": 1e-9, "bfloat16": 2e-4}
TOLERANCE_16 = 0.1  # of logits that have 8 bits: how far off they are is told
CHUNK = 1 << 24
CLASSES = ("predict", "topk", "best")  # whose first result is classes


def differs(op: str, ours, theirs, problem, agreement: str = "rounding") -> str | None:
    """What is wrong with `theirs`, or None.

    Classes may differ from ours where their logits are as close as the tolerance; a rank may be
    off by one class in 10000, for the same reason. A gradient that a rival does not have is None.
    Where the agreement is to be in "bits", nothing may differ; in "16 bits", much; of "approximate"
    results only the form is looked at.
    """
    names = {
        "loss": ("loss",),
        "predict": ("class",),
        "topk": ("class", "log_prob"),
        "best": ("class", "logit"),
        "predict_proba": ("proba",),
        "score": ("loss", "lse", "entropy", "rank", "class", "log_prob"),
        "value_and_grad": ("loss", "gradient of x", "gradient of weight", "gradient of bias"),
    }[op]
    tolerance = TOLERANCE_16 if agreement == "16 bits" else TOLERANCE[problem.dtype.name]
    for name, a, b in zip(names, ours, theirs, strict=True):
        if b is None:
            continue
        if a.shape != b.shape:
            return f"{name} has shape {b.shape}, not {a.shape}"
        if agreement == "approximate":
            continue
        if agreement == "bits":
            if a.dtype != b.dtype or a.tobytes() != b.tobytes():
                return f"{name} is not the same to the bit"
            continue
        if name == "class":
            wrong = _other_classes(a, b, problem, tolerance)
        elif name == "rank":
            wrong = np.abs(a - b).max(initial=0) > 1 + 1e-4 * problem.shape.n
        elif name.startswith("gradient"):
            wrong = _other_gradient(a, b, _allowed(name, ours, problem))
        else:
            relative = name == "proba"
            wrong = _far(a, b, tolerance, relative)
        if wrong:
            return f"{name} differs from ours by more than the tolerance"
    return None


def recall(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Which part of our classes of each row is among theirs."""
    a, b = (c.reshape(len(c), -1) for c in (ours, theirs))
    return float((a[:, :, None] == b[:, None, :]).any(axis=2).mean())


def exact_loss(problem) -> np.ndarray:
    """Loss of each row in float64 throughout, of the numbers as they are."""
    x = problem.x.astype(np.float64)
    best, total = np.full(len(x), -np.inf), np.zeros(len(x))
    step = max(1, CHUNK // max(x.shape))
    for lo in range(0, problem.shape.n, step):
        z = x @ problem.weight[lo : lo + step].astype(np.float64).T
        before, best = best, np.maximum(best, z.max(axis=1))
        z -= best[:, None]
        total = total * np.exp(before - best) + np.exp(z, out=z).sum(axis=1)
    of_target = np.empty(len(x))
    for lo in range(0, len(x), step):
        rows = slice(lo, lo + step)
        weight = problem.weight[problem.target[rows]].astype(np.float64)
        of_target[rows] = np.einsum("ij,ij->i", x[rows], weight)
    return np.log(total) + best - of_target


def _far(a: np.ndarray, b: np.ndarray, tolerance: float, relative: bool) -> bool:
    a, b = a.reshape(-1), b.reshape(-1)
    for lo in range(0, a.size, CHUNK):
        p, q = a[lo : lo + CHUNK], b[lo : lo + CHUNK]
        allowed = tolerance * (np.abs(p) + (1e-30 if relative else 1))
        if not np.all(np.abs(p - q) <= allowed):  # a NaN is far from anything
            return True
    return False


def _allowed(name: str, ours, problem) -> np.ndarray:
    """Difference allowed in each row of a gradient.

    A row of probabilities less its target has absolute values that sum to at most 2; a column, to
    its sum and twice the number of its targets.
    """
    tolerance, shape = TOLERANCE[problem.dtype.name], problem.shape
    if name == "gradient of x":
        return np.full(shape.m, tolerance * 2 / shape.m * _largest(problem.weight))
    counts = np.bincount(problem.target, minlength=shape.n)
    of_bias = tolerance * (np.abs(ours[3]) + 2 / shape.m * counts)
    return of_bias * _largest(problem.x) if name == "gradient of weight" else of_bias


def _largest(a: np.ndarray) -> float:
    return max(float(a.max()), -float(a.min()))


def _other_gradient(a: np.ndarray, b: np.ndarray, allowed: np.ndarray) -> bool:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    step = max(1, CHUNK // a.shape[1])
    for lo in range(0, len(a), step):
        rows = slice(lo, lo + step)
        if not np.all(np.abs(a[rows] - b[rows]) <= allowed[rows, None]):
            return True
    return False


def _other_classes(a: np.ndarray, b: np.ndarray, problem, tolerance: float) -> bool:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    if b.min(initial=0) < 0 or b.max(initial=0) >= problem.shape.n:
        return True
    rows, columns = np.nonzero(a != b)
    x = problem.x[rows].astype(np.float64)
    za, zb = (np.einsum("ij,ij->i", x, problem.weight[c[rows, columns]].astype(np.float64))
              for c in (a, b))
    return bool(np.any(np.abs(za - zb) > tolerance * (1 + np.abs(za))))
