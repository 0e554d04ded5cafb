"""JAX: the functions through ``jax.jit``."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from contender import Contender
from shapes import TOP


class Jax(Contender):
    """Arrays on the device beforehand; a call ends when its results are there."""

    name = "JAX"
    packages = ("jax",)
    logit_copies = 2.0
    more_copies: ClassVar = {"score": 2.5, "value_and_grad": 2.0}
    compiles = True

    def __init__(self, problem, threads):
        super().__init__(problem, threads)
        import jax

        jax.config.update("jax_enable_x64", problem.dtype == np.float64)
        self.jax = jax
        target = self.target.astype(np.int32)  # what JAX counts with unless told otherwise
        self.arguments = [jax.device_put(a) for a in (self.x, self.weight, target, self.bias)]

    def operation(self, op):
        function = self.jax.jit(getattr(self, f"_{op}"))
        arguments = self.arguments if op == "value_and_grad" else self.arguments[:3]
        wait = self.jax.block_until_ready
        return lambda: wait(function(*arguments))

    def _loss(self, x, w, t):
        log_p = self.jax.nn.log_softmax(x @ w.T)
        return -self.jax.numpy.take_along_axis(log_p, t[:, None], 1)[:, 0]

    def _predict(self, x, w, t):
        return (x @ w.T).argmax(1)

    def _topk(self, x, w, t):
        z = x @ w.T
        logit, index = self.jax.lax.top_k(z, min(TOP, len(w)))
        return index, logit - self.jax.nn.logsumexp(z, axis=1, keepdims=True)

    def _best(self, x, w, t):
        logit, index = self.jax.lax.top_k(x @ w.T, min(TOP, len(w)))
        return index, logit

    def _predict_proba(self, x, w, t):
        return self.jax.nn.softmax(x @ w.T)

    def _score(self, x, w, t):
        z = x @ w.T
        logit, index = self.jax.lax.top_k(z, min(TOP, len(w)))
        z_target = self.jax.numpy.take_along_axis(z, t[:, None], 1)
        rank = (z > z_target).sum(1)
        log_p = self.jax.nn.log_softmax(z)
        lse = self.jax.nn.logsumexp(z, axis=1)
        entropy = -(self.jax.numpy.exp(log_p) * log_p).sum(1)
        return lse - z_target[:, 0], lse, entropy, rank, index, logit - lse[:, None]

    def _value_and_grad(self, x, w, t, b):
        def mean_loss(x, w, b):
            log_p = self.jax.nn.log_softmax(x @ w.T + b)
            return -self.jax.numpy.take_along_axis(log_p, t[:, None], 1).mean()

        loss, gradients = self.jax.value_and_grad(mean_loss, argnums=(0, 1, 2))(x, w, b)
        return loss, *gradients
