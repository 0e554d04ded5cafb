"""The named shapes, what is done with them, and whether it fits in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

FORWARD = ("loss", "predict", "topk", "predict_proba", "score")
SCREEN = ("predict", "best")  # what a screened head is for
OPS = (*FORWARD, "value_and_grad", "best")
ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "int8": 1}
TOP = 10
LOGIT_STD = 2.0  # logits as spread out as those of a fitted model
DISTANCE = 5.0  # of the class means of a fitted head from their middle; the noise has deviation 1
ROWS_A_CLASS = 100  # that the first step of its fit sees
FIT_STEPS, FIT_ROWS, FIT_RATE = 5, 2048, 2e-3  # those that follow


@dataclass(frozen=True)
class Shape:
    """Samples (m) by features (k) by classes (n)."""

    name: str
    m: int
    k: int
    n: int
    what: str
    made: str = "uniform"  # its numbers: "uniform" random ones, or those of a "fitted" head

    def __str__(self) -> str:
        return f"{self.name} {self.m}x{self.k}x{self.n}"

    @property
    def top(self) -> int:
        return min(TOP, self.n)

    def flops(self, op: str) -> int:
        """Those of its products: the logits, and one for the gradients of x and of weight each."""
        return (6 if op == "value_and_grad" else 2) * self.m * self.k * self.n

    def bytes_moved(self, op: str, itemsize: int, weight_itemsize: int | None = None) -> int:
        """Bytes that must cross to or from memory: inputs once, gradients, what has n columns."""
        inputs = self.m * self.k * itemsize + self.weight_bytes(weight_itemsize or itemsize)
        if op in ("loss", "score", "value_and_grad"):
            inputs += 8 * self.m  # targets
        if op == "value_and_grad":
            return inputs + self.n * itemsize + self.gradient_bytes(itemsize)
        return inputs + (self.logit_bytes(max(itemsize, 4)) if op == "predict_proba" else 0)

    def gradient_bytes(self, itemsize: int) -> int:
        return ((self.m + self.n) * self.k + self.n) * itemsize

    def logit_bytes(self, itemsize: int) -> int:
        return self.m * self.n * itemsize

    def weight_bytes(self, itemsize: int) -> int:
        return self.n * self.k * itemsize


_TABLE = (
    Shape("seed", 20_000, 1_600, 7, "few classes, long rows"),
    Shape("digits", 100_000, 64, 10, "few classes, short rows"),
    Shape("million", 1_000_000, 64, 10, "few classes, very many short rows"),
    Shape("tags", 50_000, 300, 23, "words and their parts of speech"),
    Shape("phones", 100_000, 128, 50, "frames of speech and their phonemes"),
    Shape("cifar", 200_000, 32, 100, "a hundred classes, rows of 128 bytes"),
    Shape("intents", 30_000, 48, 3_000, "thousands of classes, short rows"),
    Shape("imagenet", 10_000, 2_048, 1_000, "image classifier"),
    Shape("recsys", 2_048, 64, 100_000, "recommender"),
    Shape("xml", 1_024, 128, 670_091, "extreme classification"),
    Shape("gpt2", 2_048, 768, 50_257, "language model"),
    Shape("gemma2", 512, 2_304, 256_000, "language model, large vocabulary"),
    Shape("llama3", 256, 4_096, 128_256, "language model, long rows"),
    Shape("decode1", 1, 4_096, 32_000, "one token at a time"),
    Shape("decode8", 8, 768, 50_257, "eight tokens at a time"),
    Shape("decode64", 64, 2_048, 32_000, "64 tokens at a time"),
    Shape("tiny", 1, 64, 10, "the cost of a call"),
)
SHAPES = {shape.name: shape for shape in _TABLE}

# Cut down for a run of minutes; their names say that they are not the shapes above.
QUICK = (
    SHAPES["digits"],
    Shape("recsys-cut", 256, 64, 100_000, "recommender, fewer samples"),
    Shape("gpt2-cut", 64, 768, 50_257, "language model, fewer samples"),
    SHAPES["decode8"],
    SHAPES["tiny"],
)
# Memory against n, all else equal.
SWEEP = tuple(Shape(f"n={n:,}", 256, 64, n, "memory against classes")
              for n in (1_000, 10_000, 100_000, 1_000_000))
# For a screened head.
SCREEN_SHAPES = (
    *(SHAPES[name] for name in ("gpt2", "recsys", "decode1", "decode8", "decode64")),
    Shape("wide", 256, 2_304, 128_000, "many features, large vocabulary"),
    Shape("peaked", 10_000, 512, 1_000, "a fitted head", "fitted"),
    Shape("peaked-20k", 2_048, 384, 20_000, "a fitted head, more classes", "fitted"),
)
ALL = SHAPES | {shape.name: shape for shape in (*QUICK, *SWEEP, *SCREEN_SHAPES)}


def parse(text: str) -> Shape:
    """Look a shape up by its name, or make one of ``MxKxN``."""
    if text in ALL:
        return ALL[text]
    try:
        m, k, n = (int(part) for part in text.lower().split("x"))
    except ValueError:
        names = ", ".join(ALL)
        raise ValueError(f"a shape is MxKxN or one of {names}, got {text!r}") from None
    if min(m, k, n) < 1:
        raise ValueError(f"the sizes of a shape must be at least 1, got {text!r}")
    return Shape(text, m, k, n, "")


@dataclass
class Problem:
    """Inputs of one shape: x (m, k), weight (n, k), target (m,) of int64, bias (n,).

    The bias is for value_and_grad; the other operations do without.
    """

    shape: Shape
    x: np.ndarray
    weight: np.ndarray
    target: np.ndarray
    bias: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @cached_property
    def wide(self) -> Problem:
        """The same numbers in float32 where these are of 16 bits, otherwise this."""
        if self.dtype.itemsize > 2:
            return self
        return replace(self, **{name: converted(getattr(self, name), np.float32)
                                for name in ("x", "weight", "bias")})


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Uninitialised memory at a cache line: where it is, JAX takes it without a copy."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(count + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + count].view(dtype).reshape(shape)


def converted(a: np.ndarray, dtype) -> np.ndarray:
    """Give a copy in another type, at a cache line."""
    copy = aligned(a.shape, dtype)
    copy[...] = a
    return copy


def make(shape: Shape, dtype="float32", seed: int = 0) -> Problem:
    """Random inputs, the same for the same arguments; bfloat16 is float32, rounded."""
    if dtype == "bfloat16":
        from ml_dtypes import bfloat16

        wide = make(shape, "float32", seed)
        return replace(wide, **{name: converted(getattr(wide, name), bfloat16)
                                for name in ("x", "weight", "bias")})
    rng = np.random.default_rng([seed, shape.m, shape.k, shape.n])
    x, weight = aligned((shape.m, shape.k), dtype), aligned((shape.n, shape.k), dtype)
    target = aligned((shape.m,), np.int64)
    if shape.made == "fitted":
        _fit(rng, x, weight, target)
    else:
        for a, width in ((x, 2.0), (weight, 2.0 * 3.0 * LOGIT_STD / shape.k**0.5)):
            rng.random(out=a, dtype=a.dtype)
            a -= 0.5
            a *= width  # uniform in (-width / 2, width / 2): variance width^2 / 12
        target[:] = rng.integers(shape.n, size=shape.m)
    bias = aligned((shape.n,), dtype)
    rng.random(out=bias, dtype=bias.dtype)
    return Problem(shape, x, weight, target, bias)


def _fit(rng, x: np.ndarray, weight: np.ndarray, target: np.ndarray) -> None:
    """Fill in rows around the means of their classes, and a softmax head fitted to others.

    Gradient descent from zero. The first step makes the weights of a class the mean of its rows
    less that of all rows; the mean is drawn as such. The others are computed.
    """
    import logitless as ll

    (n, k), dtype = weight.shape, weight.dtype

    def drawn(classes, out):
        rng.standard_normal(out=out, dtype=dtype)
        out += means[classes]
        out *= k**0.5 / np.linalg.norm(out, axis=1, keepdims=True)
        return out

    means = rng.standard_normal((n, k), dtype=dtype)
    means *= DISTANCE / k**0.5
    rng.standard_normal(out=weight, dtype=dtype)
    weight *= ROWS_A_CLASS**-0.5
    weight += means
    weight -= weight.mean(axis=0)
    for _ in range(FIT_STEPS):
        classes = rng.integers(n, size=FIT_ROWS)
        rows = drawn(classes, np.empty((FIT_ROWS, k), dtype))
        _, grad = ll.linear_cross_entropy_value_and_grad(
            rows, weight, classes, reduction="sum", wrt="weight")
        weight -= FIT_RATE * grad.weight
    target[:] = rng.integers(n, size=len(x))
    drawn(target, x)


def available_bytes() -> int | None:
    """Bytes this process may still take without swapping; None where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvail"))
    except (OSError, StopIteration):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def no_room(needed: int, reserve: int = 0) -> str | None:
    """Why `needed` bytes should not be taken, with `reserve` left for others; None if they fit."""
    free = available_bytes()
    if free is None or needed + reserve <= 0.9 * free:
        return None
    return f"needs {(needed + reserve) / 2**30:.1f} GiB, {free / 2**30:.1f} GiB available"
