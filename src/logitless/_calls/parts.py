"""Rows scored against some of the classes, and what was found of them put together.

What is ordered (largest logits, best classes, ranks) is reduced at once, as nothing of it is
rounded. Sums are kept span by span until all classes before them are there: then they are merged in
the order in which one head would have met them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays.checks import as_array, compute_dtype, plain
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse import SparseRows
from .._engines.choice import engine
from .._engines.interface import Part, Request, State
from .batch import ROWS_AT_ONCE
from .objective import ALL, Objective, check_options
from .options import LossOptions
from .targets import Targets, read_target

MOST = 1 << 62  # classes there can be
OTHER, NONE = -1, -2  # in place of a class: the row is not one-hot; it has none of the classes


@dataclass(frozen=True, slots=True)
class Agreed:
    """What is the same for all classes, so that states can be merged.

    Attributes
    ----------
    shape : tuple of int
        Of the rows.
    dtype : dtype
    softcap, temperature : float
    k : int
    entropy : bool
    targets : str
        "none", "classes" or "probabilities".
    class_weight : bool
        Whether there are any.
    label_smoothing, z_loss, entropy_weight : float
    target : ndarray of int64, shape (m,), or None
        Classes, -1 where ignored.
    sample_weight, row_temperature : ndarray of float64, shape (m,), or None
    target_logit : ndarray, shape (m,), or None
        As the caller knew them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    softcap: float
    temperature: float
    k: int
    entropy: bool
    targets: str
    class_weight: bool
    label_smoothing: float
    z_loss: float
    entropy_weight: float
    target: np.ndarray | None
    sample_weight: np.ndarray | None
    row_temperature: np.ndarray | None
    target_logit: np.ndarray | None


class Span(NamedTuple):
    """Sums (spans, fields, m) of classes [first, last)."""

    first: int
    last: int
    sums: np.ndarray


@dataclass(frozen=True, slots=True)
class Held:
    """A state: nothing of it changes.

    Attributes
    ----------
    agreed : Agreed
    end : int
        Classes [0, end) are merged.
    folded : ndarray of float64, shape (fields, m), or None
        Their sums.
    apart : tuple of Span
        Those of later classes, in ascending order.
    part : Part
        What is ordered, in the numbering of all classes; its `sums` are empty.
    ranked : bool
        The ranks are those of all rows.
    index : ndarray of int64, shape (m,), or None
        Of class probabilities: the class of one-hot rows, OTHER or NONE.
    weight : ndarray of float64, shape (m,), or None
        Class weight of each row's target, NaN where that is another class.
    """

    agreed: Agreed
    end: int
    folded: np.ndarray | None
    apart: tuple[Span, ...]
    part: Part
    ranked: bool
    index: np.ndarray | None
    weight: np.ndarray | None

    @property
    def m(self) -> int:
        """Number of rows."""
        return len(self.part.max)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Classes that are there, in ascending order."""
        merged = [(0, self.end)] if self.end else []
        return [*merged, *((span.first, span.last) for span in self.apart)]


def nbytes(held: Held) -> int:
    """Bytes of all arrays."""
    arrays = [held.folded, held.index, held.weight, *(span.sums for span in held.apart)]
    arrays += [getattr(held.agreed, field.name) for field in fields(Agreed)]
    arrays += [getattr(held.part, field.name) for field in fields(Part)]
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


class _PartObjective(Objective):
    """Targets and options for some classes; classes of targets are counted from the first of them.

    Attributes
    ----------
    first : int
    target : ndarray of int64, shape (m,), or None
        Classes in the numbering of all; of probabilities as in `Held.index`.
    """

    __slots__ = ("first", "target")

    def __init__(self, target: object, lead: tuple[int, ...], n: int, dtype: np.dtype,
                 options: LossOptions, softcap: float, first: int):
        self.reduction, self.n, self.dtype, self.first = "none", n, dtype, first
        self.options, self.plain = check_options(options, lead, n, dtype, softcap)
        self.target: np.ndarray | None = None
        self.targets = Targets(None, 0, 0)
        if target is None:
            return
        own, counted, probs = read_target(target, lead, n, dtype, options.ignore_index, MOST)
        self.target = own[:, 0].copy()
        if probs is None:
            own = np.where((own >= first) & (own < first + n), own - first, -1)
        else:
            self.target[own[:, 0] >= 0] += first
            self.target[(own[:, 0] < 0) & _is_empty(probs, dtype)] = NONE
        self.targets = Targets(own, len(own), counted, probs, probs is not None)

    def here(self) -> np.ndarray:
        """Which rows have their target among these classes."""
        assert self.targets.index is not None  # whoever asks has targets
        return self.targets.index[:, 0] >= 0

    def elsewhere(self) -> bool:
        """Whether a row that counts has its target, or part of it, among others."""
        here = self.here()
        if self.targets.soft:
            return not bool(here.all())
        return bool(len(here) - self.targets.counted < np.count_nonzero(~here))

    def target_weights(self) -> np.ndarray | None:
        """Class weight of each row's target, NaN where that is none of these classes."""
        if self.options.class_weight is None or self.target is None:
            return None
        here, weight = self.here(), np.full(len(self.target), np.nan)
        weight[here] = self.options.class_weight[self.target[here] - self.first]
        return weight


def _is_empty(probs: Rows | SparseRows, dtype: np.dtype) -> np.ndarray:
    """Which rows of class probabilities have nothing but zeros, in the precision that counts."""
    empty = np.ones(probs.m, bool)
    if isinstance(probs, SparseRows):
        row, _, value = probs.entries(0, probs.n)
        empty[row[value != 0]] = False
        return empty
    for block in row_blocks(probs.m, probs):
        empty[block] = ~plain(probs[block], dtype).any(axis=1)
    return empty


def score_part(
    layer: Any, rows: Rows, dtype: np.dtype, first: int, target: object, k: int, entropy: bool,
    target_logit: object, options: LossOptions, n_threads: int | None,
) -> Held:
    """Make the state of rows after the classes of a layer, of which the first is class `first`."""
    n = layer.n_classes
    asked = _PartObjective(target, rows.lead, n, dtype, options, layer.softcap, first)
    known = _check_known(target_logit, asked, rows.lead)
    o, kind = asked.options, "none"
    if target is not None:
        kind = "probabilities" if asked.targets.soft else "classes"
    agreed = Agreed(
        rows.lead, dtype, layer.softcap, layer.temperature, k, entropy, kind,
        o.class_weight is not None, o.label_smoothing, o.z_loss, o.entropy_weight,
        asked.target if kind == "classes" else None, o.sample_weight, o.temperature, known)
    request = asked.request(k=k, entropy=entropy)
    if target is None:  # there is no loss
        request = Request(dtype, k=k, entropy=entropy, temperature=o.temperature)
    ranked = target is not None and (known is not None or not asked.elsewhere())
    if ranked:
        request = _ranking(layer, rows, request, asked, known, n_threads)
    part = _joined(rows, request, lambda x, own: engine.part(layer, x, own, first > 0, n_threads))
    sums = part.sums
    part.sums = sums[:0]
    part.argmax += first
    if part.top_index is not None:
        part.top_index[part.top_index >= 0] += first
    if part.target_logit is not None:
        part.target_logit[~asked.here()] = np.nan
    span = Span(first, first + n, sums)
    return Held(agreed, 0 if first else n, None if first else sums[0], (span,) if first else (),
                part, ranked, asked.target if asked.targets.soft else None,
                asked.target_weights())


def _check_known(target_logit: object, asked: _PartObjective, lead: tuple[int, ...]
                 ) -> np.ndarray | None:
    """Check logits of the targets that the caller knows."""
    if target_logit is None:
        return None
    if asked.target is None or asked.targets.soft:
        raise ValueError("`target_logit` needs a `target` of class indices, got "
                         + ("none" if asked.target is None else "class probabilities"))
    known = as_array(target_logit, "target_logit")
    compute_dtype(known.dtype, "target_logit")
    if known.shape != lead:
        raise ValueError(f"`target_logit` must have shape {lead}, got {known.shape}")
    return plain(known, asked.dtype).reshape(-1).copy()


def _ranking(layer: Any, rows: Rows, request: Request, asked: _PartObjective,
             known: np.ndarray | None, n_threads: int | None) -> Request:
    """The same, with ranks counted: logits of the targets must be known before the classes are."""
    logits = target_logits(layer, rows, request, n_threads)
    if known is not None:
        logits = np.where(asked.here(), logits, known)
    assert asked.target is not None  # whose ranks these are
    targets = np.where(asked.target < 0, -1, asked.target - asked.first)
    return replace(request, rank=True, known=logits, targets=targets.reshape(-1, 1))


def target_logits(layer: Any, rows: Rows, request: Request, n_threads: int | None) -> np.ndarray:
    """Logits of those targets that are classes of the layer, (m,); NaN for others."""
    found = np.full(rows.m, np.nan, request.dtype)
    assert request.targets is not None  # whose logits these are
    for block in row_blocks(rows.m, rows, most=ROWS_AT_ONCE):
        here = np.flatnonzero(request.targets[block, 0] >= 0)
        if len(here) == 0:
            continue
        x = rows[block]
        all_here = len(here) == len(x)
        own = block if all_here else here + block.start
        temperature = None if request.temperature is None else request.temperature[own]
        found[own] = engine.target_logits(
            layer, x if all_here else x[here],
            Request(request.dtype, sums=False, targets=request.targets[own],
                    temperature=temperature), n_threads)
    return found


def logits_of_targets(
    layer: Any, rows: Rows, dtype: np.dtype, first: int, target: object, ignore_index: int,
    temperature: object, n_threads: int | None,
) -> np.ndarray:
    """The same, by the numbering of all classes: the layer's first is class `first`."""
    options = LossOptions(ignore_index, temperature=temperature)
    asked = _PartObjective(target, rows.lead, layer.n_classes, dtype, options, layer.softcap, first)
    if asked.targets.soft:
        raise TypeError("`target` must be class indices, got class probabilities")
    return target_logits(layer, rows, asked.request(), n_threads)


def _joined(rows: Rows, request: Request, score: Any) -> Part:
    """Make one part of those of some rows after the other."""
    copied = [a for a in (rows, request.probs) if type(a) is Rows and a.whole is None]
    blocks = list(row_blocks(rows.m, *copied, most=ROWS_AT_ONCE)) or [slice(0, 0)]
    if len(blocks) == 1:
        found: Part = score(rows[blocks[0]], request.rows(blocks[0]))
        return found
    joined: dict[str, np.ndarray] = {}
    for block in blocks:
        part = score(rows[block], request.rows(block))
        for field in fields(Part):
            values = getattr(part, field.name)
            if values is None:
                continue
            at = (..., block) if field.name == "sums" else block
            if block.start == 0:
                shape = ((*values.shape[:-1], rows.m) if field.name == "sums"
                         else (rows.m, *values.shape[1:]))
                joined[field.name] = np.empty(shape, values.dtype)
            joined[field.name][at] = values
    return Part(**joined)


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
