"""What the arguments of a call have in common, and what each of them may be."""

from __future__ import annotations

import math

import numpy as np

from .draw import FLOATS, INTEGERS, NUMERIC, Read


class Head(dict):
    """Arguments of a LinearHead, which each engine makes for itself."""


class Grads(dict):
    """Arguments of Gradients, likewise."""


class Problem:
    """What the arguments of a call have in common: rows, classes, features, types."""

    def __init__(self, draw):
        self.draw = draw
        self.lead, self.n, self.k = draw.shape(5000 if draw.chance(0.98) else 60_000)
        self.of_x, self.of_weight = draw.pick(NUMERIC), draw.pick(NUMERIC)
        if draw.chance(0.6):
            self.of_x = self.of_weight
        wide = any(np.dtype(t) == np.float64 or (np.dtype(t).kind in "iu" and
                                                 np.dtype(t).itemsize > 2)
                   for t in (self.of_x, self.of_weight))
        self.dtype = np.dtype(np.float64 if wide else np.float32)

    @property
    def m(self):
        return math.prod(self.lead)

    def x(self, *, sparse=True, k=None):
        draw = self.draw
        x = draw.numbers((*self.lead, self.k if k is None else k), self.of_x)
        if sparse and len(self.lead) == 1 and draw.chance(0.1):
            return draw.sparse(np.where(x > 0.5, x, np.zeros(1, x.dtype)))
        if x.ndim > 1 and draw.chance(0.03):
            return Read(x, draw.pick([None, tuple(1 + size // 2 for size in x.shape)]),
                        draw.pick([0, 0, 0, 1]))
        return draw.form(x)

    def bias(self):
        if self.draw.chance(0.5):
            return None
        bias = self.draw.numbers((self.n,), self.draw.pick([self.of_weight, *FLOATS]))
        if bias.dtype.kind == "f" and self.draw.chance(0.1):
            bias[self.draw.below(self.n)] = -np.inf
        return self.draw.form(bias)

    def weight(self, k=None):
        return self.draw.form(self.draw.numbers((self.n, self.k if k is None else k),
                                                self.of_weight, 1 if self.draw.whole else 0.5))

    def options(self):
        """Options of a head."""
        draw, options = self.draw, {}
        if draw.chance(0.2):
            options["softcap"] = draw.pick([1.0, 3.0, 30.0, 1e-3, 2])
        if draw.chance(0.2):
            options["temperature"] = draw.pick([0.5, 2.0, 1e-2, 3, 1e5])
        if draw.chance(0.08):
            options["n_threads"] = draw.pick([1, 2, 3])
        if draw.chance(0.5):
            options["pack"] = draw.chance(0.5)
        if options.get("pack", True) and draw.chance(0.15):
            options["screen"] = "int8"
        return options

    def head(self, k=None):
        return Head(weight=self.weight(k), bias=self.bias(), **self.options())

    def index(self, shape=None, none=0.0):
        dtype = self.draw.pick([np.int64] * 4 + INTEGERS)
        if np.iinfo(dtype).max < self.n + 1 or (none and np.dtype(dtype).kind == "u"):
            dtype = np.int64
        return self.draw.classes(self.lead if shape is None else shape, self.n, dtype, none=none)

    def target(self, soft=True):
        draw = self.draw
        if soft and draw.chance(0.3) and self.m * self.n < 3000:
            dtype = draw.pick([np.float32, np.float32, np.float64, np.float16])
            t = np.abs(draw.numbers((*self.lead, self.n), dtype, 0.5))
            if draw.chance(0.3):
                t[...] = np.arange(self.n) == draw.classes((*self.lead, 1), self.n)
            if draw.chance(0.3):
                return draw.sparse(np.where(t > 0.4, t, 0).reshape(self.m, self.n).astype(dtype))
            return draw.form(t)
        index = self.index()
        if index.size and draw.chance(0.2) and index.dtype.kind == "i":
            index.flat[draw.below(index.size)] = -100
        if index.size and draw.chance(0.02):
            wrong = draw.pick([self.n, -1, 127])
            index.flat[draw.below(index.size)] = wrong if index.dtype.kind == "i" else 255
        return draw.form(index)

    def of_loss(self):
        draw, options = self.draw, {}
        if draw.chance(0.4):
            return options
        if draw.chance(0.2):
            options["ignore_index"] = draw.pick([-100, 0, -1, self.n - 1, 255, 2**40])
        if draw.chance(0.25):
            options["class_weight"] = draw.form(
                np.abs(draw.numbers((self.n,), draw.pick(FLOATS[:11]))))
        if draw.chance(0.25):
            options["sample_weight"] = draw.form(draw.numbers(self.lead, draw.pick(FLOATS[:11])))
        if draw.chance(0.25):
            options["label_smoothing"] = draw.pick([0.1, 1, 0.5, 1e-30, 0])
        if draw.chance(0.2):
            options["z_loss"] = draw.pick([1e-4, 1, 0.0])
        if draw.chance(0.2):
            options["entropy_weight"] = draw.pick([0.1, -0.5, 1])
        if draw.chance(0.2):
            options["temperature"] = draw.form(np.abs(draw.numbers(self.lead, np.float64)) + 0.25)
        if draw.chance(0.08):
            options["shift"] = draw.pick([0, 1, 1, 2])
        return options

    def exclude(self, part=0.25):
        draw = self.draw
        if not draw.chance(part):
            return {}
        share = draw.pick([0.1, 0.5, 0.97])
        if draw.chance(0.5) or self.m * self.n > 3000:
            return {"exclude": draw.form(draw.numbers((self.n,), np.float64) > 2 - 4 * share)}
        return {"exclude": draw.sparse(
            (draw.numbers((self.m, self.n), np.float64) > 2 - 4 * share).astype(np.float32))}

    def out(self, shape, part=0.25):
        draw = self.draw
        if not draw.chance(part):
            return {}
        dtype = self.dtype if draw.chance(0.85) else draw.pick(NUMERIC)
        out = np.full(shape, 7).astype(dtype)
        return {"out": out if draw.chance(0.8) else draw.form(out)}

    def reduced(self):
        reduction = self.draw.pick(["none", "none", "none", "mean", "sum", "batch_mean"])
        return {} if self.draw.chance(0.5) else {
            "reduction": reduction, **self.out(self.lead if reduction == "none" else (), 0.3)}

    def backward(self, k=None):
        """Options of gradients."""
        draw, n, k = self.draw, self.n, self.k if k is None else k
        options = {"reduction": draw.pick(["none", "mean", "sum", "batch_mean"])}
        if draw.chance(0.4):
            options["wrt"] = draw.pick(
                [("weight", "bias"), "x", "weight", "bias", ("x", "bias"), ()])
        if draw.chance(0.3):
            options["grad_output"] = draw.numbers(
                self.lead if options["reduction"] == "none" else (), np.float64)
        if draw.chance(0.3):
            options["workspace_bytes"] = draw.pick([0, 1, 10**4, 10**6, 2**62])
        if draw.chance(0.25):
            options["out"] = Grads(x=np.full((*self.lead, k), 7, self.dtype),
                                   weight=np.full((n, k), 7, self.dtype),
                                   bias=np.full(n, 7, self.dtype))
            if draw.chance(0.3):
                name = draw.pick(["x", "weight", "bias"])
                options["out"][name] = draw.form(options["out"][name])
            options["accumulate"] = draw.chance(0.5)
        return options

    def few(self):
        """Some classes of each row, none twice, and what is left of their probabilities."""
        j = min(self.draw.pick([0, 1, 2, 3, 5]), self.n)
        first = self.draw.classes((*self.lead, 1), self.n)
        index = (first + np.arange(j)) % self.n
        prob = np.abs(self.draw.numbers(index.shape, np.float64, 0.05))
        if self.draw.chance(0.1):
            prob = prob * 5
        return {"index": self.draw.form(index), "prob": self.draw.form(prob)}

    def kl(self):
        options = {}
        if not self.draw.chance(0.3):
            options["beta"] = self.draw.pick([0, 0.0, 1.0, 0.5, 1, 1e-9])
        if self.draw.chance(0.25):
            options["sample_weight"] = self.draw.form(self.draw.numbers(self.lead, np.float32))
        return options

    def best(self):
        return self.draw.pick([1, 1, 2, 3, self.n, self.n, self.n + 1, 0])
