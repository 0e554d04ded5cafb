"""PyTorch: eager, its fused linear loss with and without chunks, and torch.compile."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from contender import Contender
from shapes import TOP


def _functions():
    import torch
    import torch.nn.functional as F

    def loss(x, w, t):
        return F.cross_entropy(F.linear(x, w), t, reduction="none")

    def predict(x, w, t):
        return F.linear(x, w).argmax(1)

    def topk(x, w, t):
        z = F.linear(x, w)
        logit, index = z.topk(min(TOP, len(w)), dim=1)
        return index, logit - z.logsumexp(1, keepdim=True)

    def best(x, w, t):
        logit, index = F.linear(x, w).topk(min(TOP, len(w)), dim=1)
        return index, logit

    def predict_proba(x, w, t):
        return F.linear(x, w).softmax(1)

    def score(x, w, t):
        z = F.linear(x, w)
        logit, index = z.topk(min(TOP, len(w)), dim=1)
        z_target = z.gather(1, t[:, None])
        log_p = z.log_softmax(1)
        lse = logit[:, 0] - log_p.gather(1, index[:, :1])[:, 0]
        entropy = -(log_p.exp() * log_p).sum(1)
        rank = (z > z_target).sum(1)
        return lse - z_target[:, 0], lse, entropy, rank, index, logit - lse[:, None]

    def value_and_grad(x, w, b, t):
        return F.cross_entropy(F.linear(x, w, b), t)  # the mean, to be differentiated

    functions = loss, predict, topk, best, predict_proba, score, value_and_grad
    return torch, {f.__name__: f for f in functions}


class TorchEager(Contender):
    """``linear``, then ``cross_entropy`` and the like; autograd for the gradients."""

    name = "torch"
    packages = ("torch",)
    logit_copies = 2.0
    more_copies: ClassVar = {"score": 2.5, "value_and_grad": 1.0}

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        self.torch, self.functions = _functions()
        self.torch.set_num_threads(threads)
        with self.torch.inference_mode(False):  # autograd takes no others
            x, w, b, t = (self.tensor(a)
                          for a in (self.x, self.weight, self.bias, self.target))
            self.leaves = [a.detach().requires_grad_() for a in (x, w, b)]
        self.arguments = x, w, t
        # Once and for all: entering it for every call would count as torch's time.
        self.mode = self.torch.inference_mode()  # ends with this object
        self.mode.__enter__()

    def tensor(self, a):
        return self.torch.from_numpy(a)

    def function(self, op):
        return self.functions[op]

    def operation(self, op):
        if op == "value_and_grad":
            return partial(self.differentiate, self.function(op))
        return partial(self.function(op), *self.arguments)

    def differentiate(self, mean_loss):
        with self.torch.inference_mode(False):
            loss = mean_loss(*self.leaves, self.arguments[-1])
            return loss.detach(), *self.torch.autograd.grad(loss, self.leaves)

    def to_numpy(self, result):
        return super().to_numpy(
            tuple(a.numpy() for a in result) if isinstance(result, tuple) else result.numpy()
        )


class TorchLinearLoss(TorchEager):
    """``torch.nn.functional.linear_cross_entropy`` without options: nothing is chunked."""

    name = "torch linear_cross_entropy"
    ops = ("loss", "value_and_grad")

    @classmethod
    def missing(cls):
        if reason := super().missing():
            return reason
        import torch

        if hasattr(torch.nn.functional, "linear_cross_entropy"):
            return None
        return f"torch {torch.__version__} has no linear_cross_entropy"

    def options(self):
        return None

    def function(self, op):
        call = partial(self.torch.nn.functional.linear_cross_entropy, options=self.options())
        if op == "loss":
            return partial(call, reduction="none")
        return lambda x, w, b, t: call(x, w, t, linear_bias=b)


class TorchChunked(TorchLinearLoss):
    """The same with ``LinearCrossEntropyOptions()``: the rows in chunks of its choice."""

    name = "torch linear_cross_entropy, options"

    def options(self):
        return self.torch.nn.LinearCrossEntropyOptions()


class TorchCompile(TorchEager):
    """The eager functions through ``torch.compile``."""

    name = "torch.compile"
    compiles = True
    logit_copies = 1.0
    more_copies: ClassVar = {"predict_proba": 2.0, "value_and_grad": 1.0}

    def function(self, op):
        self.torch._dynamo.reset()  # or compilations for other shapes count against this one
        return self.torch.compile(self.functions[op], dynamic=False)


class TorchBf16(TorchEager):
    """Eager as one writes it with a head of bfloat16: logits are widened for the loss."""

    name = "torch bf16"
    ops = ("loss", "predict", "topk", "best")
    takes_bfloat16 = only_bfloat16 = True
    agreement = "16 bits"
    logit_copies = 5.0  # of 2 bytes: the logits, and twice their size in float32

    def tensor(self, a):
        if a.dtype.name != "bfloat16":
            return super().tensor(a)
        return self.torch.from_numpy(a.view(np.int16)).view(self.torch.bfloat16)

    def function(self, op):
        F = self.torch.nn.functional

        def loss(x, w, t):
            return F.cross_entropy(F.linear(x, w).float(), t, reduction="none")

        return loss if op == "loss" else super().function(op)

    def to_numpy(self, result):
        parts = result if isinstance(result, tuple) else (result,)
        return super().to_numpy(tuple(
            a.float() if a.dtype == self.torch.bfloat16 else a for a in parts))


class TorchBf16Logits(TorchBf16):
    """The same with a loss of bfloat16 logits, and in bfloat16."""

    name = "torch bf16, bf16 logits"
    ops = ("loss",)
    logit_copies = 2.0

    def function(self, op):
        return self.functions[op]


class TorchBf16LinearLoss(TorchBf16):
    """``torch.nn.functional.linear_cross_entropy`` of bfloat16, without options."""

    name = "torch bf16 linear_cross_entropy"
    ops = ("loss",)
    logit_copies = 2.0

    @classmethod
    def missing(cls):
        return TorchLinearLoss.missing()

    def function(self, op):
        return partial(self.torch.nn.functional.linear_cross_entropy, reduction="none")
