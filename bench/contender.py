"""What every contender is, made from a problem: it gives a call for each operation it has.

Conversions to its own arrays happen as it is made, outside the timing. What a callable returns is
in the contender's own arrays; `to_numpy` makes it comparable, outside the timing.

The operations return
    loss            (m,)
    predict         (m,) classes
    topk            (index, log_prob), each (m, 10)
    best            (index, logit), each (m, 10)
    predict_proba   (m, n)
    score           (loss, lse, entropy, rank, index, log_prob): everything from one pass
    value_and_grad  (mean loss, gradients of x, weight and bias)
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import numpy as np
from shapes import ITEMSIZE, OPS, Problem, Shape

BLOCK_BYTES = 64 << 20  # of logits, where a contender works in blocks


class Contender:
    """Base of all contenders."""

    name = ""
    packages: tuple[str, ...] = ()  # modules it needs; the first one's version is told
    ops: tuple[str, ...] = OPS
    lacks: ClassVar[dict[str, str]] = {}  # operations one may look for in vain, and why
    compiles = False  # the first call of a shape compiles: memory is taken on the second
    keeps_memory = False  # holds on to what a call took, and to weights for each operation
    weight_copies = 0.0  # held beside the weights given
    logit_copies = 1.0  # (m, n) arrays of the problem's dtype at the worst moment
    agreement = "rounding"  # with ours, in "bits", or of "16 bits"; "approximate" ones in nothing
    takes_bfloat16 = False  # else it is given the same numbers in float32
    only_bfloat16 = False  # there is no point in it elsewhere
    products: tuple[str, str] | None = None  # types of rows and weights; those given, unless named
    counts = True  # as somebody's best rival
    more_copies: ClassVar[dict[str, float]] = {  # and beyond those in some operations
        "topk": 2.0, "best": 2.0, "score": 2.0, "value_and_grad": 1.0}

    def __init__(self, problem: Problem, threads: int):
        self.problem = problem = self.given(problem)
        self.threads = threads
        self.x, self.weight, self.target = problem.x, problem.weight, problem.target
        self.bias = problem.bias

    @cached_property
    def gradients(self) -> tuple[np.ndarray, ...]:
        """Arrays for the gradients of x, weight and bias, used by every call anew."""
        return tuple(np.empty(a.shape, self.computed) for a in (self.x, self.weight, self.bias))

    @property
    def computed(self) -> np.dtype:
        """Type of results: 16 bits are summed in float32."""
        return self.x.dtype if self.x.dtype.itemsize > 2 else np.dtype(np.float32)

    @classmethod
    def offers(cls, op: str) -> bool:
        """Whether there is something to tell about an operation."""
        return op in cls.ops or op in cls.lacks

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot run here, or None."""
        for package in cls.packages:
            try:
                importlib.import_module(package)
            except ImportError:
                return f"{package} is not installed"
        return None

    @classmethod
    def declines(cls, shape: Shape, itemsize: int) -> str | None:
        """Why it cannot be made for a shape, or None."""
        if cls.only_bfloat16 and itemsize != 2:
            return "it has no place beside wider numbers: it is for bfloat16"
        return None

    @classmethod
    def given(cls, problem: Problem) -> Problem:
        """The problem as it takes it."""
        return problem if cls.takes_bfloat16 else problem.wide

    @classmethod
    def itemsize(cls, dtype: str) -> int:
        """Bytes of the numbers it is given, of a problem in some dtype."""
        return ITEMSIZE[dtype] if cls.takes_bfloat16 else max(ITEMSIZE[dtype], 4)

    @classmethod
    def multiplied(cls, dtype: str) -> tuple[str, str]:
        """Types of rows and of weights as it multiplies them, of a problem in some dtype."""
        given = "float32" if dtype == "bfloat16" and not cls.takes_bfloat16 else dtype
        return cls.products or (given, given)

    @classmethod
    def version(cls) -> str:
        """Version of what it is made of."""
        if not cls.packages:
            return np.__version__
        module = importlib.import_module(cls.packages[0].partition(".")[0])
        return module.__version__

    @classmethod
    def held(cls, shape: Shape, itemsize: int) -> int:
        """Bytes it keeps between calls, about."""
        return int(cls.weight_copies * shape.weight_bytes(itemsize))

    @classmethod
    def transient(cls, shape: Shape, op: str, itemsize: int) -> int:
        """Bytes a call takes, about."""
        copies = cls.logit_copies + cls.more_copies.get(op, 0.0)
        return int(copies * shape.logit_bytes(itemsize)) + cls.returned(shape, op, itemsize)

    @classmethod
    def returned(cls, shape: Shape, op: str, itemsize: int) -> int:
        """Bytes of the result that do not count as extra memory: gradients."""
        return shape.gradient_bytes(itemsize) if op == "value_and_grad" else 0

    def operation(self, op: str) -> Callable[[], object]:
        """Give the callable that is timed."""
        return getattr(self, op)

    def facts(self) -> dict:
        """More for the record of an operation, after a call of it."""
        return {}

    def to_numpy(self, result) -> tuple[np.ndarray, ...]:
        """Give the result of a callable as NumPy arrays."""
        return tuple(np.asarray(a) for a in (result if isinstance(result, tuple) else (result,)))
