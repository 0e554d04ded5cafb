"""logitless and its rivals, each as one writes it by hand: ours and NumPy here, others beside."""

from __future__ import annotations

import timeit
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from contender import BLOCK_BYTES, Contender
from rivals_faiss import Faiss, FaissHnsw
from rivals_jax import Jax
from rivals_onnx import OnnxRuntime
from rivals_openvino import OpenVino, OpenVinoBf16, OpenVinoInt8
from rivals_sklearn import ScikitLearn, ScikitLearnLinear
from rivals_torch import (
    TorchBf16,
    TorchBf16LinearLoss,
    TorchBf16Logits,
    TorchChunked,
    TorchCompile,
    TorchEager,
    TorchLinearLoss,
)
from shapes import FORWARD, SCREEN, TOP, converted


class Logitless(Contender):
    """A head made once, its weights packed; the one-shot function for gradients."""

    name = "logitless"
    packages = ("logitless",)
    weight_copies = 1.0
    logit_copies = 0.0
    takes_bfloat16 = True
    options: ClassVar[dict] = {}

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        import logitless as ll

        self.ll, self.head = ll, None

    @classmethod
    def transient(cls, shape, op, itemsize):
        if op == "value_and_grad":
            return (80 << 20) + cls.returned(shape, op, itemsize)
        return (16 << 20) + (shape.logit_bytes(itemsize) if op == "predict_proba" else 0)

    def operation(self, op):
        if self.head is None and op != "value_and_grad":
            self.head = self.ll.LinearHead(self.weight, n_threads=self.threads, **self.options)
        return super().operation(op)

    def facts(self):
        return {} if self.head is None else {"head_bytes": self.head_bytes()}

    def head_bytes(self):
        """Bytes that a head needs, once it is made."""
        return self.head.nbytes

    def loss(self):
        return self.head.loss(self.x, self.target)

    def predict(self):
        return self.head.predict(self.x)

    def topk(self):
        top = self.head.topk(self.x, self.problem.shape.top)
        return top.index, top.log_prob

    def best(self):
        top = self.head.topk(self.x, self.problem.shape.top, normalize=False)
        return top.index, top.logit

    def predict_proba(self):
        return self.head.predict_proba(self.x)

    def score(self):
        s = self.head.score(self.x, self.target, k=self.problem.shape.top, entropy=True)
        return s.loss, s.lse, s.entropy, s.target_rank, s.top.index, s.top.log_prob

    def value_and_grad(self):
        loss, _ = self.ll.linear_cross_entropy_value_and_grad(
            self.x, self.weight, self.target, self.bias, out=self.ll.Gradients(*self.gradients),
            n_threads=self.threads)
        return loss, *self.gradients


class LogitlessUnpacked(Logitless):
    """A head that refers to the weights as they are: what a one-shot call does."""

    name = "logitless, unpacked"
    ops = FORWARD
    weight_copies = 0.0
    options: ClassVar = {"pack": False}

    def head_bytes(self):
        return self.head.nbytes + self.weight.nbytes


class LogitlessWideRows(Logitless):
    """Rows of float32 against the weights of bfloat16, packed."""

    name = "logitless, float32 x"
    ops = FORWARD
    only_bfloat16 = True
    products = ("float32", "bfloat16")

    @classmethod
    def given(cls, problem):
        if problem.x.dtype.itemsize > 2:
            return problem
        return replace(problem, x=converted(problem.x, np.float32))


class LogitlessWide(Logitless):
    """Rows and weights widened to float32 beforehand."""

    name = "logitless, float32"
    ops = FORWARD
    takes_bfloat16 = False
    only_bfloat16 = True


class LogitlessOut(Logitless):
    """A head that writes its probabilities into an array made before."""

    name = "logitless, out"
    ops = ("predict_proba",)

    def operation(self, op):
        super().operation(op)  # makes the head
        out = np.full((self.problem.shape.m, self.problem.shape.n), 0, self.computed)
        return lambda: self.head.predict_proba(self.x, out=out)


class LogitlessScreened(Logitless):
    """A head that looks at a copy of the weights in bytes first."""

    name = "logitless, screened"
    ops = SCREEN
    weight_copies = 1.3
    agreement = "bits"
    options: ClassVar = {"screen": "int8"}

    @classmethod
    def transient(cls, shape, op, itemsize):
        return super().transient(shape, op, itemsize) + (16 << 20)

    @cached_property
    def build_seconds(self) -> float | None:
        """How long it takes to make the bytes from packed weights; None where none are made."""
        from logitless._engines.compiled.screen import Screen

        layer = self.head._layer
        if getattr(layer, "screen", None) is None:
            return None
        return min(timeit.repeat(lambda: Screen(layer), number=1, repeat=3))

    def facts(self):
        stats = self.head.screen_stats
        rescored = None if np.isnan(stats.rescored) else stats.rescored
        return super().facts() | {"screened": stats.rows, "fell_back": stats.fell_back,
                                  "rescored": rescored, "build_seconds": self.build_seconds}


def numpy_topk(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index and logit of the best classes of each row, best first."""
    top = min(TOP, z.shape[1])
    some = np.argpartition(z, z.shape[1] - top, axis=1)[:, -top:]
    logit = np.take_along_axis(z, some, 1)
    order = np.argsort(-logit, axis=1)
    return np.take_along_axis(some, order, 1), np.take_along_axis(logit, order, 1)


def numpy_lse(z: np.ndarray) -> np.ndarray:
    """Log of the sum of exp of each row; overwrites z with exp(z - max)."""
    best = z.max(axis=1)
    z -= best[:, None]
    np.exp(z, out=z)
    return np.log(z.sum(axis=1)) + best


def numpy_softmax(z: np.ndarray) -> np.ndarray:
    """Softmax of each row in place."""
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def numpy_loss(z: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Loss of each row; overwrites z."""
    z_target = z[np.arange(len(z)), target]
    return numpy_lse(z) - z_target


def numpy_top(z: np.ndarray) -> tuple[np.ndarray, ...]:
    """Best classes and their log-probabilities; overwrites z."""
    index, logit = numpy_topk(z)
    return index, logit - numpy_lse(z)[:, None]


def numpy_score(z: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, ...]:
    """Everything; overwrites z."""
    index, logit = numpy_topk(z)
    z_target = z[np.arange(len(z)), target]
    rank = (z > z_target[:, None]).sum(axis=1)
    best = logit[:, 0]
    z -= best[:, None]
    p = np.exp(z)
    total = p.sum(axis=1)
    log_total = np.log(total)
    entropy = log_total - np.einsum("ij,ij->i", p, z) / total
    lse = log_total + best
    return lse - z_target, lse, entropy, rank, index, logit - lse[:, None]


def numpy_loss_gradient(z: np.ndarray, target: np.ndarray, m: int) -> float:
    """Part of the mean loss of m rows; overwrites z with its gradient."""
    rows = np.arange(len(z))
    z_target = z[rows, target]
    best = z.max(axis=1)
    z -= best[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    z *= (1 / (m * total))[:, None]
    z[rows, target] -= 1 / m
    return (np.log(total) + best - z_target).sum() / m


class NumPy(Contender):
    """BLAS for the logits, then in place."""

    name = "NumPy"
    packages = ("numpy",)

    def logits(self):
        return self.x @ self.weight.T

    def loss(self):
        return numpy_loss(self.logits(), self.target)

    def predict(self):
        return self.logits().argmax(axis=1)

    def topk(self):
        return numpy_top(self.logits())

    def best(self):
        return numpy_topk(self.logits())

    def predict_proba(self):
        return numpy_softmax(self.logits())

    def score(self):
        return numpy_score(self.logits(), self.target)

    def value_and_grad(self):
        z = self.logits()
        z += self.bias
        loss = numpy_loss_gradient(z, self.target, len(z))
        of_x, of_weight, of_bias = self.gradients
        np.matmul(z, self.weight, out=of_x)
        np.matmul(z.T, self.x, out=of_weight)
        z.sum(axis=0, out=of_bias)
        return loss, of_x, of_weight, of_bias


class NumPyBlocks(Contender):
    """The same in blocks of rows whose logits take at most 64 MiB.

    The gradient of weight is added up in place, which takes the gemm of SciPy.
    """

    name = "NumPy, row blocks"
    packages = ("numpy", "scipy.linalg.blas")

    @classmethod
    def transient(cls, shape, op, itemsize):
        whole = shape.logit_bytes(itemsize) if op == "predict_proba" else 0
        whole += cls.returned(shape, op, itemsize)
        return whole + 4 * max(BLOCK_BYTES, shape.n * itemsize)

    def blocks(self):
        m, n = len(self.x), len(self.weight)
        step = max(1, min(m, BLOCK_BYTES // (n * self.x.itemsize)))
        buffer = np.empty((step, n), self.x.dtype)
        for lo in range(0, m, step):
            rows = slice(lo, min(lo + step, m))
            z = buffer[: rows.stop - lo]
            yield rows, np.matmul(self.x[rows], self.weight.T, out=z)

    def joined(self, parts):
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def loss(self):
        return np.concatenate([numpy_loss(z, self.target[rows]) for rows, z in self.blocks()])

    def predict(self):
        return np.concatenate([z.argmax(axis=1) for _, z in self.blocks()])

    def topk(self):
        return self.joined([numpy_top(z) for _, z in self.blocks()])

    def best(self):
        return self.joined([numpy_topk(z) for _, z in self.blocks()])

    def predict_proba(self):
        m, n = len(self.x), len(self.weight)
        step = max(1, BLOCK_BYTES // (n * self.x.itemsize))
        out = np.empty((m, n), self.x.dtype)
        for lo in range(0, m, step):
            rows = slice(lo, lo + step)
            numpy_softmax(np.matmul(self.x[rows], self.weight.T, out=out[rows]))
        return out

    def score(self):
        return self.joined([numpy_score(z, self.target[rows]) for rows, z in self.blocks()])

    def value_and_grad(self):
        from scipy.linalg.blas import get_blas_funcs

        (gemm,) = get_blas_funcs(("gemm",), (self.x,))
        m, loss, (of_x, of_weight, of_bias) = len(self.x), 0.0, self.gradients
        for rows, z in self.blocks():
            z += self.bias
            loss += numpy_loss_gradient(z, self.target[rows], m)
            np.matmul(z, self.weight, out=of_x[rows])
            first = rows.start == 0
            gemm(1.0, self.x[rows].T, z.T, beta=0.0 if first else 1.0, c=of_weight.T, trans_b=True,
                 overwrite_c=True)
            of_bias[:] = z.sum(axis=0) + (0 if first else of_bias)
        return np.asarray(loss, self.x.dtype), of_x, of_weight, of_bias


def all_contenders() -> dict[str, type[Contender]]:
    """Every contender by name, ours first, whether it can run here or not."""
    found = (Logitless, LogitlessUnpacked, LogitlessOut, LogitlessScreened, NumPy, NumPyBlocks,
             TorchEager, TorchLinearLoss, TorchChunked, TorchCompile, Jax, ScikitLearn, OnnxRuntime,
             OpenVino, ScikitLearnLinear, Faiss, FaissHnsw, LogitlessWideRows, LogitlessWide,
             TorchBf16, TorchBf16Logits, TorchBf16LinearLoss, OpenVinoBf16, OpenVinoInt8)
    return {contender.name: contender for contender in found}
