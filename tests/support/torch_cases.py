"""Calls of `linear_cross_entropy` for tests, made from random numbers, and their results."""

from __future__ import annotations

import torch

from logitless import functional

M, K, C = 6, 4, 5
F64 = torch.float64
PLACES = {"unbatched": (), "rows": (), "1-d": (3,), "2-d": (2, 2)}
OPTIONS = {
    "plain": {},
    "weighted": {"weight": True},
    "smooth": {"label_smoothing": 0.3},
    "all": {"weight": True, "label_smoothing": 0.2, "linear_bias": True, "ignore_index": 2},
}


def case(gen, form="rows", soft=False, dtype=F64, m=M, **options):
    """Positional and keyword arguments of a call: x, weight and bias require grad."""
    lead = () if form == "unbatched" else (m,)
    places = PLACES[form]

    def normal(*shape):
        return torch.randn(shape, dtype=F64, generator=gen).to(dtype).requires_grad_()

    x, weight = normal(*lead, K), normal(C, *places, K)
    if soft:
        target = torch.rand((*lead, C, *places), dtype=F64, generator=gen).to(dtype)
    else:
        target = torch.randint(C, (*lead, *places), generator=gen)
    if "linear_bias" in options:
        options["linear_bias"] = normal(C, *places)
    if "weight" in options:
        options["weight"] = (torch.rand(C, dtype=F64, generator=gen) + 0.1).to(dtype)
    if soft:
        options.pop("ignore_index", None)
    return (x, weight, target), options


def converted(args, options, dtype):
    """The same numbers as leaves of another dtype."""

    def convert(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value.detach().to(dtype).requires_grad_(value.requires_grad)

    return [convert(a) for a in args], {name: convert(v) for name, v in options.items()}


def results(function, args, options, factor=None):
    """Loss, and gradients of its sum weighted by `factor`, of all that requires grad."""
    leaves = [t for t in (*args, *options.values())
              if isinstance(t, torch.Tensor) and t.requires_grad]
    loss = function(*args, **options)
    return loss, torch.autograd.grad(loss, leaves, factor)


def assert_same(ours, theirs, **tolerance):
    for a, b in zip((ours[0], *ours[1]), (theirs[0], *theirs[1]), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def calls(monkeypatch):
    """Record calls of the functions of arrays: name, positional and keyword arguments."""
    seen = []

    def spied(name):
        function = getattr(functional, name)

        def spy(*args, **kwargs):
            seen.append((name, args, kwargs))
            return function(*args, **kwargs)

        monkeypatch.setattr(functional, name, spy)

    spied("linear_cross_entropy")
    spied("linear_cross_entropy_value_and_grad")
    return seen
