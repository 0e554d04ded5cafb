"""States of some of the classes put together, and made into results when all are there.

What is ordered (largest logits, best classes, ranks) is reduced at once, as nothing of it is
rounded. Sums are kept span by span until all classes before them are there: then they are merged in
the order in which one head would have met them.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._engines.choice import engine
from .._engines.interface import Part, Request, State
from .objective import ALL, Objective
from .options import LossOptions
from .parts import NONE, OTHER, Agreed, Held
from .targets import Targets


def merge(a: Held, b: Held) -> Held:
    """Make one state of two."""
    _check_agreed(a, b)
    _check_apart(a, b)
    end, folded = max((a.end, a.folded), (b.end, b.folded), key=lambda one: one[0])
    left = sorted((*a.apart, *b.apart))
    request = _request(a, asked_only=True)
    while left and left[0].first == end:
        folded = engine.fold(request, folded, left[0].sums)
        end = left.pop(0).last
    known = a.agreed if a.agreed.target_logit is not None else b.agreed
    return Held(known, end, folded, tuple(left), _merged_part(a.part, b.part),
                a.ranked and b.ranked, _merged_index(a.index, b.index),
                None if a.weight is None or b.weight is None
                else np.where(np.isnan(a.weight), b.weight, a.weight))


def _check_agreed(a: Held, b: Held) -> None:
    for field in fields(Agreed):
        ours, others = getattr(a.agreed, field.name), getattr(b.agreed, field.name)
        if field.name == "target_logit" and (ours is None or others is None):
            continue  # who has all its targets need not be told
        name = {"row_temperature": "temperature"}.get(field.name, field.name)
        if isinstance(ours, np.ndarray) and isinstance(others, np.ndarray):
            same = (ours == others) | ((ours != ours) & (others != others))
            if not same.all():
                i = int(same.argmin())
                raise ValueError(f"states must have the same `{name}` to be merged, "
                                 f"got {ours[i]} and {others[i]} in row {i}")
        elif isinstance(ours, np.ndarray) or isinstance(others, np.ndarray):
            raise ValueError(f"states must have the same `{name}` to be merged, "
                             "got one of them with it and one without")
        elif ours != others:
            raise ValueError(f"states must have the same `{name}` to be merged, "
                             f"got {ours} and {others}")


def _check_apart(a: Held, b: Held) -> None:
    for first, last in a.ranges:
        for other_first, other_last in b.ranges:
            lo, hi = max(first, other_first), min(last, other_last)
            if lo < hi:
                raise ValueError("states must be of different classes to be merged, both have "
                                 f"[{lo}, {hi})")


def _merged_part(a: Part, b: Part) -> Part:
    """What is ordered of both."""
    nan_a, nan_b = np.isnan(a.max), np.isnan(b.max)
    ahead = (b.max > a.max) | (nan_b & ~nan_a)
    tied = (b.max == a.max) | (nan_a & nan_b)
    part = Part(
        a.sums,
        np.where(ahead | (tied & (b.argmax < a.argmax)), b.max, a.max),
        np.where(tied, np.minimum(a.argmax, b.argmax), np.where(ahead, b.argmax, a.argmax)),
    )
    if a.rank is not None and b.rank is not None:
        part.rank = a.rank + b.rank
    if a.target_logit is not None:
        part.target_logit = np.where(np.isnan(a.target_logit), b.target_logit, a.target_logit)
    if a.top_logit is not None:
        part.top_logit, part.top_index = engine.merge_top(a, b)
    return part


def _merged_index(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """Classes of rows that are one-hot: nothing but zeros is left to the other."""
    if a is None or b is None:
        return None
    return np.where(a == NONE, b, np.where(b == NONE, a, OTHER))


def _request(held: Held, asked_only: bool = False) -> Request:
    """What was asked, without what belongs to classes: of sums alone, or all of it."""
    agreed, m = held.agreed, held.m
    probs = np.empty((m, 0), agreed.dtype) if agreed.targets == "probabilities" else None
    request = Request(agreed.dtype, probs=probs, smooth=agreed.label_smoothing > 0,
                      entropy=agreed.entropy or agreed.entropy_weight != 0)
    if asked_only or agreed.targets == "none":
        return request if asked_only else replace(request, k=agreed.k)
    index = held.index if agreed.targets == "probabilities" else agreed.target
    assert index is not None  # there are targets
    return replace(request, targets=index.reshape(-1, 1), rank=held.ranked, k=agreed.k)


class _Finished(Objective):
    """Targets and options when all classes are there."""

    __slots__ = ("_weight",)

    def __init__(self, held: Held, n: int, targets: Targets):
        a = held.agreed
        self.reduction, self.n, self.dtype, self.targets = "none", n, a.dtype, targets
        self.exclude = None
        self.options = LossOptions(sample_weight=a.sample_weight, z_loss=a.z_loss,
                                   label_smoothing=a.label_smoothing,
                                   entropy_weight=a.entropy_weight)
        self._weight = held.weight
        self.plain = (held.weight is None and a.sample_weight is None
                      and not (a.label_smoothing or a.z_loss or a.entropy_weight))

    def target_weight(self, rows: slice) -> np.ndarray | None:
        if self._weight is None or self.targets.index is None:
            return None
        return np.where(self.targets.index[rows, 0] >= 0, self._weight[rows], 1)


class Results(NamedTuple):
    """The state of all classes, and what targets make of it; None where there are none."""

    state: State
    loss: np.ndarray | None
    target_logit: np.ndarray | None
    target_rank: np.ndarray | None


def finish(held: Held) -> Results:
    """Make results of a state of all classes."""
    n, agreed = _check_whole(held), held.agreed
    request = _request(held)
    targets = None
    if request.targets is not None:
        targets = _all_targets(request.targets, n, agreed.targets == "probabilities", request.probs)
    assert held.folded is not None  # all classes are merged
    state = engine.finish(request, n, held.folded, held.part)
    if targets is None:
        return Results(state, None, None, None)
    loss = _Finished(held, n, targets).losses(state, ALL)
    if targets.probs is not None:
        return Results(state, loss, None, None)
    return Results(state, loss, state.target_logit[:, 0],
                   state.target_rank if held.ranked else None)


def _all_targets(index: np.ndarray, n: int, soft: bool, probs: Any) -> Targets:
    """Targets of m rows, which are classes there are."""
    high = index[:, 0] >= n
    if high.any():
        row = int(high.argmax())
        raise IndexError(f"`target` must hold classes in [0, {n}), those that states have been "
                         f"merged of, got {index[row, 0]} in row {row}")
    m, counted = len(index), int(np.count_nonzero(index >= 0))
    if soft:
        return Targets(index, m, m, None if counted == m else probs, soft=True)
    return Targets(index, m, counted)


def _check_whole(held: Held) -> int:
    """Check that no classes are missing, and give their number."""
    if held.apart:
        raise ValueError(f"classes [{held.end}, {held.apart[0].first}) are missing: states of all "
                         "classes from 0 on must be merged before their scores are known")
    if held.agreed.k > held.end:
        raise ValueError(f"`k` must be at most the number of classes ({held.end}), "
                         f"got {held.agreed.k}")
    return held.end
