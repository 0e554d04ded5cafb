"""Rows scored against some of the classes: a state, which others can be merged with."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from .._arrays.checks import as_array, compute_dtype, plain
from .._arrays.rows import Rows, row_blocks
from .._arrays.sparse import SparseRows
from .._arrays.sparse_x import SparseX
from .._engines.choice import engine
from .._engines.interface import Part, Request
from .batch import ROWS_AT_ONCE
from .objective import Objective, check_options
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
    layer: Any, rows: Rows | SparseX, dtype: np.dtype, first: int, target: object, k: int,
    entropy: bool, target_logit: object, options: LossOptions, n_threads: int | None,
) -> Held:
    """Make the state of rows after the classes of a layer, of which the first is class `first`."""
    n = layer.n_classes
    asked = _PartObjective(target, rows.lead, n, dtype, options, layer.softcap, first)
    known = _check_known(target_logit, asked, rows.lead)
    o, kind = LossOptions(temperature=asked.options.temperature), "none"
    if target is not None:  # else there is no loss to have options
        o, kind = asked.options, "probabilities" if asked.targets.soft else "classes"
    agreed = Agreed(
        rows.lead, dtype, layer.softcap, layer.temperature, k, entropy, kind,
        o.class_weight is not None, o.label_smoothing, o.z_loss, o.entropy_weight,
        asked.target if kind == "classes" else None, o.sample_weight, o.temperature, known)
    request = asked.request(k=k, entropy=entropy)
    if target is None:
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


def _ranking(layer: Any, rows: Rows | SparseX, request: Request, asked: _PartObjective,
             known: np.ndarray | None, n_threads: int | None) -> Request:
    """The same, with ranks counted: logits of the targets must be known before the classes are."""
    logits = target_logits(layer, rows, request, n_threads)
    if known is not None:
        logits = np.where(asked.here(), logits, known)
    assert asked.target is not None  # whose ranks these are
    targets = np.where(asked.target < 0, -1, asked.target - asked.first)
    return replace(request, rank=True, known=logits, targets=targets.reshape(-1, 1))


def target_logits(
    layer: Any, rows: Rows | SparseX, request: Request, n_threads: int | None
) -> np.ndarray:
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
    layer: Any, rows: Rows | SparseX, dtype: np.dtype, first: int, target: object,
    ignore_index: int, temperature: object, n_threads: int | None,
) -> np.ndarray:
    """The same, by the numbering of all classes: the layer's first is class `first`."""
    options = LossOptions(ignore_index, temperature=temperature)
    asked = _PartObjective(target, rows.lead, layer.n_classes, dtype, options, layer.softcap, first)
    if asked.targets.soft:
        raise TypeError("`target` must be class indices, got class probabilities")
    return target_logits(layer, rows, asked.request(), n_threads)


def _joined(rows: Rows | SparseX, request: Request, score: Any) -> Part:
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
