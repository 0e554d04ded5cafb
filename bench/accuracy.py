"""The tables of docs/accuracy.md: errors of logitless, NumPy and PyTorch against a wider precision.

`python bench/accuracy.py` prints them, with `--write` they go into the page: each behind its mark.
Ours are the same on every machine, the others' depend on libraries and threads. Needs torch,
ml_dtypes, and a long double that is wider than float64.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from formats import scientific, table

import logitless as ll

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"
LIBRARIES = ("logitless", "NumPy", "PyTorch")
WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
CLASSES_AT_ONCE = 4096
F = torch.nn.functional


def layer(m: int, k: int, n: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Rows and weights whose logits have a standard deviation of 3."""
    rng = np.random.default_rng(k + n)
    x = rng.standard_normal((m, k)).astype(dtype)
    return x, (rng.standard_normal((n, k)) * (3 / np.sqrt(k))).astype(dtype)


def exact_logits(x: np.ndarray, weight: np.ndarray, wide: type) -> np.ndarray:
    """Their product in a wider precision, some classes at a time."""
    x, z = x.astype(wide), np.empty((len(x), len(weight)), wide)
    for lo in range(0, len(weight), CLASSES_AT_ONCE):
        some = slice(lo, lo + CLASSES_AT_ONCE)
        z[:, some] = x @ weight[some].astype(wide).T
    return z


def log_softmax(z: np.ndarray) -> np.ndarray:
    """In the precision of its argument, as it is written anywhere."""
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logsumexp(z: np.ndarray) -> np.ndarray:
    """Likewise."""
    top = z.max(-1)
    return top + np.log(np.exp(z - top[:, None]).sum(-1))


def exact_loss(z: np.ndarray, target: np.ndarray) -> np.ndarray:
    """With the digits of sure rows, in the precision of `z`."""
    at = np.arange(len(z)), z.argmax(-1)
    top = z[at]
    rest = np.exp(z - top[:, None])
    rest[at] = 0
    return top - z[np.arange(len(z)), target] + np.log1p(rest.sum(-1))


def drawn(z: np.ndarray) -> np.ndarray:
    """Targets drawn from the softmax: a model that is as good as it says."""
    noise = np.random.default_rng(len(z)).gumbel(size=z.shape)
    return (z.astype(np.float64) + noise).argmax(-1)


def numpy_loss(z: np.ndarray, target: np.ndarray) -> np.ndarray:
    return logsumexp(z) - z[np.arange(len(z)), target]


def torch_loss(z: np.ndarray, target: np.ndarray) -> np.ndarray:
    return F.cross_entropy(torch.from_numpy(z), torch.from_numpy(target), reduction="none").numpy()


def worst(found: np.ndarray, truth: np.ndarray, beside: float = 1.0) -> str:
    """The largest error, or the part it has of something."""
    return scientific(float(np.abs(found.astype(truth.dtype) - truth).max() / beside))


SHAPES = {"digits": (1024, 64, 10), "imagenet": (256, 2048, 1000), "recsys": (64, 64, 100_000),
          "gpt2": (32, 768, 50_257)}


def shapes() -> str:
    """Losses of a layer by its shape, in both precisions."""
    rows = []
    for name, (m, k, n) in SHAPES.items():
        cells = []
        for dtype in np.float32, np.float64:
            x, weight = layer(m, k, n, dtype)
            z = exact_logits(x, weight, WIDER[np.dtype(dtype)])
            target = drawn(z)
            truth, rounded = exact_loss(z, target), x @ weight.T
            cells += [worst(found, truth) for found in (
                ll.linear_cross_entropy(x, weight, target), numpy_loss(rounded, target),
                torch_loss((torch.from_numpy(x) @ torch.from_numpy(weight).T).numpy(), target))]
        rows.append([f"{name}: {m:,} x {k:,} x {n:,}", *cells])
    return table(("", *(f"{name} {bits}" for bits in ("float32", "float64")
                        for name in LIBRARIES)), rows)


def calls() -> str:
    """What else a call gives, in float32."""
    x, weight = layer(64, 256, 20_000, np.float32)
    z = exact_logits(x, weight, np.float64)
    target, head, plain = drawn(z), ll.LinearHead(weight), x @ weight.T
    other = np.random.default_rng(1).standard_normal(weight.shape).astype(np.float32) / 8
    other_z, other_plain = exact_logits(x, other, np.float64), x @ other.T
    tensor = torch.from_numpy(plain)
    log_p, naive, theirs = log_softmax(z), log_softmax(plain), F.log_softmax(tensor, -1).numpy()
    truth, ours = truth_of_gradient(x, weight, z, target), head.value_and_grad(x, target)[1]
    numpy_grad = gradient(np.exp(naive), x, weight, target)
    torch_grad = torch_gradient(x, weight, target)
    scores = head.score(x, entropy=True)

    def entropy(log_p: np.ndarray) -> np.ndarray:
        return -(np.exp(log_p) * log_p).sum(-1)

    def kl(log_p: np.ndarray, z: np.ndarray) -> np.ndarray:
        log_q = log_softmax(z)
        return (np.exp(log_q) * (log_q - log_p)).sum(-1)

    divergence = kl(log_p, other_z)
    torch_kl = F.kl_div(torch.from_numpy(theirs), F.log_softmax(torch.from_numpy(other_plain), -1),
                        reduction="none", log_target=True).sum(-1).numpy()
    found = [
        ("`loss`, nats", exact_loss(z, target), head.loss(x, target),
         numpy_loss(plain, target), torch_loss(plain, target)),
        ("`logsumexp`, nats", logsumexp(z), scores.lse, logsumexp(plain),
         tensor.logsumexp(-1).numpy()),
        ("`predict_log_proba`, nats", log_p, head.predict_log_proba(x), naive, theirs),
        ("`predict_proba`, of the largest", np.exp(log_p), head.predict_proba(x), np.exp(naive),
         F.softmax(tensor, -1).numpy()),
        ("`score(entropy=True)`, nats", entropy(log_p), scores.entropy, entropy(naive),
         entropy(theirs)),
        ("`kl_div`, nats", divergence, head.kl_div(x, ll.LinearHead(other), x),
         kl(naive, other_plain), torch_kl),
        ("`value_and_grad`: `x`, of the largest", truth[0], ours.x, numpy_grad[0], torch_grad[0]),
        ("`value_and_grad`: `weight`, of the largest", truth[1], ours.weight, numpy_grad[1],
         torch_grad[1]),
    ]
    return table(("", *LIBRARIES), (
        [name, *(worst(one, exact, np.abs(exact).max() if "largest" in name else 1.0)
                 for one in others)] for name, exact, *others in found))


def gradient(p: np.ndarray, x: np.ndarray, weight: np.ndarray,
             target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """That of the mean loss by rows and weights, from the softmax, which is written over."""
    p[np.arange(len(p)), target] -= 1
    p /= len(p)
    return p @ weight, p.T @ x


def truth_of_gradient(x: np.ndarray, weight: np.ndarray, z: np.ndarray,
                      target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return gradient(np.exp(log_softmax(z)), x.astype(z.dtype), weight.astype(z.dtype), target)


def torch_gradient(x: np.ndarray, weight: np.ndarray,
                   target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, layer = (torch.from_numpy(one).requires_grad_() for one in (x, weight))
    F.cross_entropy(rows @ layer.T, torch.from_numpy(target)).backward()
    return rows.grad.numpy(), layer.grad.numpy()


def of_logits(z: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Losses of given logits: the truth, and what each library finds."""
    truth = exact_loss(z.astype(WIDER[z.dtype]), target)
    return truth, [ll.cross_entropy(z, target), numpy_loss(z, target), torch_loss(z, target)]


def sure() -> str:
    """Relative errors of small losses, in float32."""
    rows = []
    z = np.random.default_rng(0).standard_normal((256, 1000)).astype(np.float32)
    target = np.full(len(z), 7)
    for margin in 0, 10, 20, 30, 60, 90:
        z[:, 7] = margin
        truth, found = of_logits(z, target)
        rows.append([f"{margin}", scientific(float(np.median(truth))),
                     *(worst(one / truth, truth / truth) for one in found)])
    return table(("logit of the target", "loss", *LIBRARIES), rows)


def offset() -> str:
    """Errors in nats where all logits have something in common, in float32."""
    rng = np.random.default_rng(0)
    z = np.round(rng.standard_normal((256, 1000)) * 128) / 64  # exact with every offset below
    target, rows = drawn(z), []
    for common in 0, 1000, 100_000:
        truth, found = of_logits((z + common).astype(np.float32), target)
        rows.append([f"{common:,}", *(worst(one, truth) for one in found)])
    return table(("in common", *LIBRARIES), rows)


def many() -> str:
    """Errors of the log-sum-exp of many classes, in float32."""
    rows = []
    for n in 1000, 100_000, 10_000_000:
        z = np.random.default_rng(n).standard_normal((4, n), dtype=np.float32)
        truth = logsumexp(z.astype(np.float64))
        found = ll.logsumexp(z), logsumexp(z), torch.from_numpy(z).logsumexp(-1).numpy()
        rows.append([f"{n:,}", *(worst(one, truth) for one in found)])
    return table(("classes", *LIBRARIES), rows)


def bf16() -> str:
    """Losses of rows and weights of bfloat16, against the truth of the same numbers."""
    rows = []
    for name, (m, k, n) in SHAPES.items():
        x, weight = (one.astype(ml_dtypes.bfloat16) for one in layer(m, k, n, np.float32))
        z = exact_logits(x, weight, np.float64)
        target = drawn(z)
        tensors = [torch.from_numpy(one.view(np.int16)).view(torch.bfloat16) for one in (x, weight)]
        logits = F.linear(*tensors)
        narrow = F.cross_entropy(logits, torch.from_numpy(target), reduction="none")
        found = (ll.linear_cross_entropy(x, weight, target),
                 torch_loss(logits.float().numpy(), target), narrow.float().numpy())
        rows.append([f"{name}: {m:,} x {k:,} x {n:,}",
                     *(worst(one, exact_loss(z, target)) for one in found)])
    return table(("", "logitless", "PyTorch, `cross_entropy` of `logits.float()`",
                  "PyTorch, all in bfloat16"), rows)


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (shapes, calls, sure, offset, many, bf16)}
MARK = re.compile(r"^<!-- bench/accuracy.py: (\w+) -->\n\n((?:\|.*\n)*)", re.M)


def renewed(page: str, made: dict[str, str]) -> str:
    """Give the page with these tables in place of those behind their marks."""
    marks = [found[1] for found in MARK.finditer(page)]
    if marks != list(made):
        raise ValueError(f"expected marks of the tables {list(made)}, found {marks}")
    return MARK.sub(lambda found: f"{found[0][: -len(found[2]) or None]}{made[found[1]]}\n", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the tables of docs/accuracy.md")
    write = parser.parse_args().write
    if np.finfo(np.longdouble).eps > 1e-18:
        parser.error("long double must be wider than float64, on this platform it is not")
    made = {name: make() for name, make in TABLES.items()}
    if write:
        PAGE.write_text(renewed(PAGE.read_text("utf-8"), made), "utf-8")
    else:
        print("\n\n".join(made.values()))


if __name__ == "__main__":
    main()
