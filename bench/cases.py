"""Small calls that between them run every kernel, each on inputs that two packages share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import shapes

Call = Callable[[], object]
Case = Callable[[], Callable[[ModuleType], Call]]  # makes inputs; then a call of a package on them


def _head(method: str, m: int, k: int, n: int, /, *, dtype: str = "float32", targets: bool = False,
          options: dict | None = None, **given) -> Case:
    """A method of a head made beforehand."""

    def case():
        p = shapes.make(shapes.Shape("", m, k, n, ""), dtype)
        inputs = (p.x, p.target) if targets else (p.x,)

        def make(package: ModuleType) -> Call:
            head = package.LinearHead(p.weight, p.bias, **(options or {}))
            return partial(getattr(head, method), *inputs, **given)

        return make

    return case


def _loss(m: int, k: int, n: int, /, **given) -> Case:
    return _head("loss", m, k, n, targets=True, **given)


def _gradient(m: int, k: int, n: int, /, **given) -> Case:
    return _head("value_and_grad", m, k, n, targets=True, options={"pack": False}, **given)


def _probabilities(m: int, k: int, n: int) -> Case:
    """Written into one array, so that no call waits for fresh memory."""

    def case():
        p, out = shapes.make(shapes.Shape("", m, k, n, "")), np.zeros((m, n), np.float32)
        return lambda package: partial(package.LinearHead(p.weight).predict_proba, p.x, out=out)

    return case


def _distributions(m: int, k: int, n: int) -> Case:
    def case():
        p = shapes.make(shapes.Shape("", m, k, n, ""))
        q = np.random.default_rng(0).dirichlet(np.ones(n), m).astype(np.float32)
        return lambda package: partial(package.LinearHead(p.weight).loss, p.x, q)

    return case


def _excluding(m: int, k: int, n: int) -> Case:
    def case():
        from scipy import sparse

        p = shapes.make(shapes.Shape("", m, k, n, ""))
        seen = sparse.random_array((m, n), density=20 / n, format="csr", dtype=np.float32, rng=0)
        return lambda package: partial(
            package.LinearHead(p.weight).topk, p.x, 10, normalize=False, exclude=seen)

    return case


def _sparse(method: str, m: int, k: int, n: int, entries: int) -> Case:
    def case():
        from scipy import sparse

        weight = shapes.make(shapes.Shape("", 1, k, n, "")).weight
        target = np.random.default_rng(0).integers(n, size=m)
        x = sparse.random_array((m, k), density=entries / k, format="csr", dtype=np.float32, rng=0)
        return lambda package: partial(
            getattr(package.LinearHead(weight, pack=False), method), x, target)

    return case


def _divergence(m: int, k: int, n: int) -> Case:
    def case():
        p, q = (shapes.make(shapes.Shape("", m, k, n, ""), seed=seed) for seed in (0, 1))

        def make(package: ModuleType) -> Call:
            student, teacher = package.LinearHead(p.weight), package.LinearHead(q.weight)
            return partial(student.kl_div, p.x, teacher, q.x)

        return make

    return case


def _logits(function: str, m: int, n: int, targets: bool) -> Case:
    def case():
        rng = np.random.default_rng(0)
        z, target = rng.standard_normal((m, n), np.float32), rng.integers(n, size=m)
        return lambda package: partial(getattr(package, function), z, *([target] * targets))

    return case


def _states(m: int, k: int, n: int) -> Case:
    """Two halves of the classes, merged."""

    def case():
        p = shapes.make(shapes.Shape("", m, k, n, ""))

        def make(package: ModuleType) -> Call:
            half = int(package.shard_bounds(n, 2)[1])

            def call():
                first = package.RowState.of(p.x, p.weight[:half], target=p.target, k=3)
                return first.merge(package.RowState.of(
                    p.x, p.weight[half:], first=half, target=p.target, k=3)).scores()

            return call

        return make

    return case


def _pack(k: int, n: int) -> Case:
    def case():
        p = shapes.make(shapes.Shape("", 1, k, n, ""))

        def make(package: ModuleType) -> Call:
            def call():
                package.LinearHead(p.weight)

            return call

        return make

    return case


SCREEN = {"screen": "int8"}
CASES: dict[str, Case] = {
    "loss 1x64x10": _loss(1, 64, 10),
    "predict 1x64x10": _head("predict", 1, 64, 10),
    "loss 1x1024x8192": _loss(1, 1024, 8192),
    "loss 8x768x8192": _loss(8, 768, 8192),
    "loss 64x768x2048": _loss(64, 768, 2048),
    "loss 256x64x1000": _loss(256, 64, 1000),
    "loss 256x64x1000 unpacked": _loss(256, 64, 1000, options={"pack": False}),
    "loss 256x64x1000 float64": _loss(256, 64, 1000, dtype="float64"),
    "loss 5000x64x10": _loss(5000, 64, 10),
    "loss 500x1600x7": _loss(500, 1600, 7),
    "loss 256x64x1000 smoothed, softcap": _loss(256, 64, 1000, label_smoothing=0.1, z_loss=1e-4,
                                                options={"softcap": 30.0}),
    "loss 256x64x1000 of probabilities": _distributions(256, 64, 1000),
    "predict 256x64x1000": _head("predict", 256, 64, 1000),
    "topk 256x64x1000": _head("topk", 256, 64, 1000, k=10),
    "topk 64x256x10000 screened": _head("topk", 64, 256, 10_000, k=10, normalize=False,
                                        options=SCREEN),
    "predict 1x256x20000 screened": _head("predict", 1, 256, 20_000, options=SCREEN),
    "topk 256x64x2000 excluding": _excluding(256, 64, 2000),
    "predict_proba 256x64x1000": _probabilities(256, 64, 1000),
    "score 256x64x1000": _head("score", 256, 64, 1000, targets=True, k=5, entropy=True),
    "states 128x64x8192": _states(128, 64, 8192),
    "gradient 256x64x1000": _gradient(256, 64, 1000),
    "gradient 256x64x1000 float64": _gradient(256, 64, 1000, dtype="float64"),
    "gradient 2000x64x10": _gradient(2000, 64, 10),
    "gradient 64x512x1024": _gradient(64, 512, 1024),
    "gradient 256x64x1000 filtered": _gradient(256, 64, 1000, filter_eps=1e-3),
    "kl_div 64x64x2000": _divergence(64, 64, 2000),
    "loss 128x512x2048 bfloat16": _loss(128, 512, 2048, dtype="bfloat16"),
    "loss 1x1024x8192 bfloat16": _loss(1, 1024, 8192, dtype="bfloat16"),
    "gradient 64x256x1000 bfloat16": _gradient(64, 256, 1000, dtype="bfloat16"),
    "loss 1000x20000x50 sparse": _sparse("loss", 1000, 20_000, 50, 20),
    "gradient 500x2000x50 sparse": _sparse("value_and_grad", 500, 2000, 50, 20),
    "softmax 1000x1000": _logits("softmax", 1000, 1000, False),
    "cross_entropy 1000x1000": _logits("cross_entropy", 1000, 1000, True),
    "packing 512x4096": _pack(512, 4096),
}
