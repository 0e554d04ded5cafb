"""One pass over the classes: what is asked of which rows, and what is found out."""

from __future__ import annotations

import numpy as np

from ..._arrays.bfloat16 import BFLOAT16
from ..._arrays.checks import plain
from ..._arrays.rows import Rows
from ..._arrays.sparse import SparseRows
from ..._arrays.sparse_x import SparseX
from ..._parallel import pool
from ..interface import NOT_ASKED, Request, State
from . import scratch
from ._core import FIELDS, INT_FIELDS, KC, SMALL_N, Job, field_bits
from .kernels import BF16, KERNELS, has_rows, in_place, type_of
from .layer import Layer
from .plan import COPY_BYTES, Plan, makes_panels, plan, plan_sparse, reads_rows

MAX = FIELDS.index("max")
ARGMAX, RANK = map(INT_FIELDS.index, ("argmax", "rank"))


class _Part:
    """Fields of the kernels' state that a part of a request uses, and what `State` calls them."""

    def __init__(self, **names: str):
        self.bits = field_bits(*names)
        self.names = [(FIELDS.index(field), name) for field, name in names.items() if name]


SUMS = _Part(rest="log_norm", others="rest")
ENTROPY = _Part(moment="entropy")
SQUARE = _Part(second="square")
PROBS = _Part(prob_sum="prob_sum", prob_gap="prob_loss")
SMOOTH = _Part(smooth_sum="", smooth_gap="smooth_loss")


class Scoring:
    """What is asked of which rows, and how it is cut: nothing of it changes once it is made.

    Attributes
    ----------
    m, n, k : int
        Rows, classes, features (0 where logits are at hand).
    copies : bool
        Weights, logits or target distributions come as copies, of some classes at a time.
    copied_probs : ndarray, Rows or None
        Target distributions that do.
    direct : bool
        All that is read lies where it can be read.
    fields : int
        The bits of the fields of the kernels' state that the request uses.
    kept_row : int
        Reals to a row in a block of classes whose logits are kept.
    """

    __slots__ = ("class_weight", "copied_probs", "copies", "cut", "direct", "dtype", "fields", "k",
                 "kept_row", "kernels", "m", "n", "parts", "request", "softcap", "temperature")
    copies: bool
    cut: Plan
    direct: bool

    def __init__(self, request: Request, m: int, n: int, k: int, softcap: float = 0.0,
                 temperature: float = 1.0):
        self.request, self.dtype = request, request.dtype
        self.parts, self.fields = [], 0
        for asked, part in ((request.sums, SUMS), (request.entropy, ENTROPY),
                            (request.square, SQUARE), (request.probs is not None, PROBS),
                            (request.smooth, SMOOTH)):
            if asked:
                self.parts.append(part)
                self.fields |= part.bits
        self.m, self.n, self.k = m, n, k
        self.kernels = KERNELS[request.dtype]
        self.kept_row = self.kernels.keep_size(1, min(n, self.kernels.block))
        self.softcap, self.temperature = softcap, temperature
        self.class_weight = request.class_weight
        if self.class_weight is not None:
            idle = -len(self.class_weight) % self.kernels.lanes
            self.class_weight = np.append(self.class_weight, np.zeros(idle, self.dtype))
        probs = request.probs
        self.copied_probs = None if isinstance(probs, SparseRows) or (
            isinstance(probs, np.ndarray) and in_place(probs, self.dtype)) else probs

    def room_for_state(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        """Make room for the values and integers of a state that the request uses."""
        *more, stride = shape
        values = max(self.fields.bit_length(), MAX + 1)
        return (np.empty((*more, values, stride), self.dtype),
                np.empty((*more, RANK + self.request.rank, stride), np.int64))

    def product(self, lo: int, hi: int) -> Job:
        """A job of rows [lo, hi) that asks nothing yet."""
        job = Job(self.kernels, hi - lo, self.n, self.k, self.softcap, self.temperature)
        if self.request.temperature is not None:
            job.temperatures(self.request.temperature[lo:hi])
        return job

    def job(self, block: Block, lo: int, hi: int) -> Job:
        """What is to be found out about rows [lo, hi) of a block, and where it goes."""
        q, first = self.request, block.first
        job = self.product(lo, hi)
        if block.probs is not None:
            job.probs(block.probs[lo - first : hi - first], 0)
        elif isinstance(q.probs, SparseRows):
            probs = q.probs[lo:hi]
            job.sparse(probs.start, probs.index, probs.value)
        elif isinstance(q.probs, np.ndarray) and self.copied_probs is None:
            job.probs(q.probs[lo:hi], 0)
        if self.class_weight is not None:
            job.class_weights(self.class_weight)
        if q.exclude is not None:
            excluded = q.exclude[lo:hi]
            job.exclude(excluded.start, excluded.index, excluded.alike)
        job.ask(
            self.fields,
            q.rank,
            None if q.targets is None else q.targets[lo:hi],
            q.k,
            None if q.out is None else q.out[lo:hi],
            q.write,
        )
        if block.kept is not None:
            job.keep(block.kept, (lo - block.room.start) * self.kept_row, len(block.room), 0)
        lo, hi = lo - first, hi - first
        job.remember(
            block.values[:, lo:],
            None if block.wide is None else block.wide[:, lo:],
            block.ints[:, lo:],
            None if block.target_logit is None else block.target_logit[lo:hi],
        )
        if q.k:
            log_prob = block.top_log_prob
            job.best(block.top_logit[lo:hi], block.top_index[lo:hi],
                     None if log_prob is None else log_prob[lo:hi])
        return job

    def open(self, job: Job, lo: int, hi: int, packed: np.ndarray | None = None) -> None:
        """Give a job of rows [lo, hi) what it reads of all classes, and its rows packed."""
        raise NotImplementedError

    def see(self, job: Job, lo: int, hi: int) -> bool:
        """Let a job see its rows and all weights; returns whether rows are to be packed."""
        raise NotImplementedError

    def give(self, job: Job, block: Block, lo: int, hi: int, first: int, last: int) -> None:
        """Give a job of rows [lo, hi) what is copied of classes [first, last) alone."""
        if isinstance(self.copied_probs, np.ndarray) and block.probs is None:
            job.probs(plain(self.copied_probs[lo:hi, first:last], self.dtype), first)

    def share(self, lo: int, hi: int) -> np.ndarray | None:
        """Pack rows for several jobs."""
        return None

    def target_logits(self, block: Block, lo: int, hi: int) -> None:
        """Find logits of the targets, before the classes are gone through: ranks need them.

        None are asked for of logits at hand.
        """
        raise NotImplementedError


class Block:
    """Rows of a scoring from `first` on, and where what is found out about them goes.

    Threads share it: nothing of it changes while they run but what the arrays hold.

    Attributes
    ----------
    values, ints : ndarray, shape (statistics, m rounded up)
    wide : ndarray or None
        The state of several spans, in double.
    target_logit, target_loss, top_logit, top_index, top_log_prob : ndarray (m, j), or None
    probs : ndarray, shape (m, n), or None
        Target distributions, where they have been copied for all jobs.
    kept : ndarray or None
        Where the logits of all classes are kept.
    room : range
        The rows whose logits are kept there, or in a window; these are some of them.
    """

    __slots__ = ("first", "ints", "kept", "m", "probs", "room", "target_logit", "target_loss",
                 "top_index", "top_log_prob", "top_logit", "values", "wide")

    def __init__(self, scoring: Scoring, first: int, m: int, kept: np.ndarray | None = None,
                 probs: np.ndarray | None = None, room: range | None = None):
        self.first, self.m, self.kept, self.probs = first, m, kept, probs
        self.room = range(first, first + m) if room is None else room
        q, dtype = scoring.request, scoring.dtype
        lanes = scoring.kernels.lanes
        self.values, self.ints = scoring.room_for_state(-(-max(m, 1) // lanes) * lanes)
        self.wide: np.ndarray | None = None
        if scoring.n > scoring.kernels.span:
            self.wide = self.values if dtype == np.float64 else np.empty(self.values.shape)
        self.target_logit = self.target_loss = NOT_ASKED
        if q.targets is not None:
            shape = m, q.targets.shape[1]
            self.target_logit = np.empty(shape, dtype)
            self.target_loss = np.empty(shape, dtype) if q.sums else None
        self.top_logit = self.top_index = self.top_log_prob = NOT_ASKED
        if q.k:
            self.top_logit = scratch.aligned((m, q.k), dtype)
            self.top_index = scratch.aligned((m, q.k), np.dtype(np.int64))
            self.top_log_prob = scratch.aligned((m, q.k), dtype) if q.sums else None

    def forget_best(self, lo: int, hi: int) -> None:
        """Let rows [lo, hi) of the block have met no class."""
        self.top_logit[lo:hi] = np.nan
        self.top_index[lo:hi] = -1

    def state(self, scoring: Scoring) -> State:
        """Everything that was asked."""
        m, values = self.m, self.values
        state = State(
            values[MAX, :m],
            self.ints[ARGMAX, :m].astype(np.intp, copy=False),
            target_logit=self.target_logit,
            target_loss=self.target_loss,
            target_rank=self.ints[RANK, :m] if scoring.request.rank else NOT_ASKED,
            top_index=self.top_index,
            top_logit=self.top_logit,
            top_log_prob=self.top_log_prob,
        )
        for part in scoring.parts:
            for place, name in part.names:
                setattr(state, name, values[place, :m])
        return state


class LinearScoring(Scoring):
    """Rows of x against a layer.

    Attributes
    ----------
    x : ndarray (m, k), or Rows, or SparseX in `dtype`
    x_dtype, w_dtype : dtype
        As the kernels read them: `dtype`; rows BFLOAT16 where weights are, too; weights as a
        layer holds them.
    small : bool
        Classes are few, or rows sparse: rows are read where they are, not packed.
    panels : bool
        Weights are packed on the way for sparse rows.
    weight : ndarray or None
        Weights the kernels can read where they are; else they come piece by piece.

    Blocks are cut for some rows at a time where `rows` are given, whose logits are kept if `keeps`.
    The ways of fewer classes than `least` are left to others.
    """

    __slots__ = ("bias", "copies_rows", "layer", "packed", "panels", "small", "w_dtype",
                 "weight", "x", "x_dtype")

    def __init__(self, layer: Layer, x: np.ndarray | Rows | SparseX, request: Request,
                 n_threads: int | None, rows: int | None = None, keeps: bool = False,
                 least: int = 1):
        m = len(x) if isinstance(x, np.ndarray) else x.m
        super().__init__(request, m, max(layer.n_classes, least), layer.n_features, layer.softcap,
                         layer.temperature)
        dtype = self.dtype
        self.layer = layer
        self.x: np.ndarray | Rows | SparseX = x.of(dtype) if isinstance(x, SparseX) else x
        self.bias = layer.bias_in(dtype)
        self.w_dtype = layer.held if layer.dtype == dtype else dtype
        self.x_dtype = BFLOAT16 if x.dtype == self.w_dtype == BFLOAT16 else dtype
        few = self.n <= SMALL_N
        self.small = isinstance(x, SparseX) or (
            (few or reads_rows(m, self.n, self.k)) and self.x_dtype == dtype)
        self.weight, self.packed = layer.weight, False
        if layer.packed is not None and layer.dtype == dtype:
            self.weight, self.packed = layer.packed.reshape(1, -1), True
        elif few and self.weight is not None and layer.dtype != dtype:
            self.weight = plain(self.weight, dtype)
        elif not (few or (self.weight is not None and in_place(self.weight, self.w_dtype))):
            self.weight = None
        self.copies = self.weight is None or self.copied_probs is not None
        self.panels = isinstance(x, SparseX) and not self.packed and makes_panels(
            x.entries, m if rows is None else rows, m, self.k)
        self.copies_rows = isinstance(x, Rows) or (
            isinstance(x, np.ndarray) and not has_rows(x, self.x_dtype))
        self.direct = not (self.copies or self.copies_rows)
        if isinstance(x, SparseX):
            self.cut = plan_sparse(
                self.kernels, m if rows is None else rows, self.n, self.k, x.entries / max(m, 1),
                n_threads=pool.resolve(n_threads), panels=self.panels,
                copies_weights=self.weight is None,
                copies_values=self.copied_probs is not None, keeps=keeps)
            return
        self.cut = plan(
            self.kernels, m if rows is None else rows, self.n, self.k,
            small_n=self.small,
            tiles_rows=not (self.small or self.packed or keeps) and self.k > KC,
            n_threads=pool.resolve(n_threads),
            packs_weights=not self.small and not self.packed,
            copies_rows=self.copies_rows,
            copies_weights=self.weight is None,
            copies_values=self.copied_probs is not None,
            keeps=keeps,
        )

    def rows(self, lo: int, hi: int) -> np.ndarray:
        """Rows of x as the kernels read them; they are dense."""
        assert not isinstance(self.x, SparseX)
        x = self.x[slice(lo, hi)]
        return plain(x, self.x_dtype) if self.copies_rows else x

    def real_rows(self, lo: int, hi: int) -> np.ndarray:
        """Rows of x in the precision of the computation."""
        x = self.rows(lo, hi)
        return x if self.x_dtype == self.dtype else plain(x, self.dtype)

    def read(self, job: Job, lo: int, hi: int) -> None:
        """Let a job see its rows."""
        if self.x_dtype == BFLOAT16:
            job.multiply_by(BF16)
        if isinstance(self.x, SparseX):
            job.sparse_rows(self.x.start[lo : hi + 1], self.x.index, self.x.value, self.panels)
        else:
            job.rows(self.rows(lo, hi))

    def open(self, job: Job, lo: int, hi: int, packed: np.ndarray | None = None) -> None:
        if self.weight is not None:
            job.weights(self.weight, self.bias, self.packed, 0, type_of(self.w_dtype))
        if packed is not None:
            if self.x_dtype == BFLOAT16:
                job.multiply_by(BF16)
            job.packed_rows(packed)
            return
        self.read(job, lo, hi)
        if not self.small:
            job.pack_rows(self.room_for_rows(hi - lo))

    def see(self, job: Job, lo: int, hi: int) -> bool:
        self.give_weights(job, 0, self.n)
        self.read(job, lo, hi)
        return not self.small

    def room_for_rows(self, count: int) -> np.ndarray:
        """Make room for packed rows."""
        if self.x_dtype == BFLOAT16:
            return scratch.aligned((BF16.row_bytes(count, self.k),), np.dtype(np.uint8))
        return np.empty(count * self.k + self.kernels.lanes, self.dtype)

    def share(self, lo: int, hi: int) -> np.ndarray | None:
        if isinstance(self.x, SparseX):
            return None
        job = self.product(lo, hi)
        packed = self.room_for_rows(hi - lo)
        self.read(job, lo, hi)
        job.pack_rows(packed)
        return packed

    def give(self, job: Job, block: Block, lo: int, hi: int, first: int, last: int) -> None:
        super().give(job, block, lo, hi, first, last)
        if self.weight is None:
            self.give_weights(job, first, last)

    def give_weights(self, job: Job, first: int, last: int) -> None:
        """Give a job the weights of a range of classes, or all where it can read them."""
        if self.weight is not None:
            job.weights(self.weight, self.bias, self.packed, 0, type_of(self.w_dtype))
            return
        bias = None if self.bias is None else self.bias[first:last]
        job.weights(self.layer.classes(first, last, self.w_dtype), bias, False, first,
                    type_of(self.w_dtype))

    def target_logits(self, block: Block, lo: int, hi: int) -> None:
        step = max(hi - lo, 1)
        if self.weight is None:
            step = max(COPY_BYTES // (max(self.k, 1) * self.dtype.itemsize), 1)
        for first in range(lo, hi, step):
            self._target_logits(block, first, min(first + step, hi))

    def _target_logits(self, block: Block, lo: int, hi: int) -> None:
        assert self.request.targets is not None  # whose logits are asked for
        targets, logits = self.request.targets[lo:hi], block.target_logit[lo - block.first :]
        job = self.job(block, lo, hi)
        self.read(job, lo, hi)
        if self.weight is not None:
            job.weights(self.weight, self.bias, self.packed, 0, type_of(self.w_dtype))
        for column in range(targets.shape[1]):
            if self.weight is not None:
                job.target_logits(column)
                continue
            index = np.maximum(targets[:, column], 0)
            weight = self.layer.targets(index, self.w_dtype)
            bias = None if self.bias is None else self.bias[index]
            own, found = np.arange(hi - lo)[:, None], np.empty((hi - lo, 1), self.dtype)
            job.ask(0, True, own.astype(np.int64), 0, None, None)
            job.look_for(found)
            job.weights(weight, bias, False, 0, type_of(self.w_dtype))
            job.target_logits(0)
            logits[: hi - lo, column] = found[:, 0]
