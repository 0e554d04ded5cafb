"""What `logitless score` and `evaluate` do: rows read and scored a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

import logitless as ll

from .._arrays.bfloat16 import is_bfloat16, widened
from ..io import RowsWriter
from .errors import input_errors
from .files import Watch
from .reading import Matrix

# A block of rows is about so much work, or so many bytes to read: the progress is seen to move,
# and where blocks begin depends on nothing but the job. But the weights, which are read once a
# block, are never read for fewer rows than these.
BLOCK_FLOPS = 2e10
MAX_BLOCK_BYTES = 32 << 20
MIN_BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Totals:
    """Sums over the rows: `counted` are those whose target is not ignored."""

    rows: int = 0
    no_softmax: int = 0  # rows of logits that are NaN, +inf, or -inf throughout
    counted: int = 0
    loss: float = 0.0
    correct: int | None = 0  # None with targets that are no single class

    def plus(self, scores: ll.Scores, counts: np.ndarray | bool) -> Totals:
        """These and a block; `counts` tells the rows that do, unless all do."""
        rows = self.rows + scores.predicted.size
        if scores.lse is None:  # screened
            return replace(self, rows=rows)
        has_softmax = np.isfinite(scores.lse)
        no_softmax = self.no_softmax + int(np.count_nonzero(~has_softmax))
        if scores.loss is None:
            return replace(self, rows=rows, no_softmax=no_softmax)
        correct = None
        if scores.target_rank is not None and self.correct is not None:
            hits = (scores.target_rank == 0) & has_softmax & counts
            correct = self.correct + int(np.count_nonzero(hits))
        counted = int(np.count_nonzero(np.broadcast_to(counts, has_softmax.shape)))
        return Totals(rows, no_softmax, self.counted + counted,
                      self.loss + float(scores.loss.sum(dtype=np.float64)), correct)


class Block(NamedTuple):
    """Some rows that are scored."""

    begin: int
    end: int
    scores: ll.Scores
    target: Any  # None, classes, or probabilities
    counts: np.ndarray | bool  # which rows do: not those whose target is ignored


class Job:
    """Rows of X to score with `head`, checked; leading axes are kept in the results."""

    def __init__(self, head: ll.LinearHead, x: Matrix, target: Matrix | None, watch: Watch, *,
                 ignore_index: int, k: int, shift: int = 0, block_rows: int | None = None,
                 exclude: Matrix | None = None, screen: bool = False):
        if len(x.shape) == 0 or x.shape[-1] != head.n_features:
            raise ValueError(f"X must have shape (..., {head.n_features}), which is what HEAD "
                             f"takes, got {x.shape}")
        self.head, self.ignore_index, self.k = head, ignore_index, k
        self.x, self.target, self._watch = x, target, watch
        self.temperature: float | None = None  # if it has been fitted
        self.axes = len(x.shape) - 1
        lead = x.shape[:-1]
        self._positions = _Positions(lead, shift)
        self.leading_shape = self._positions.shape
        self.rows = math.prod(self.leading_shape)
        self.of_classes = target is not None and target.dtype.kind in "iu" \
            and len(target.shape) == self.axes
        if target is not None:
            _check_target(target, lead, head.n_classes)
            if self.of_classes:
                self._check_labels()
        elif shift:
            raise ValueError("--shift is between X and TARGET, got no TARGET")
        if screen and target is not None:
            raise ValueError("--screen finds the best classes alone, got a TARGET")
        self._exclude, self._screen = exclude, screen
        if exclude is not None:
            self._check_exclude(exclude, math.prod(lead))
        self.block_rows = block_rows or self._block_rows()

    def _check_labels(self) -> None:
        # All of them before the first block is scored, by the number of their row in the file.
        n, ignored = self.head.n_classes, self.ignore_index
        assert self.target is not None  # or there are no classes
        found = first_row(self.target, self.axes,
                          lambda t: ((t < 0) | (t >= n)) & (t != ignored))
        if found is not None:
            raise IndexError(f"TARGET must be in [0, {n}) or {ignored} (ignored), got "
                             f"{found[1]} at row {found[0]}")

    def _check_exclude(self, exclude: Matrix, m: int) -> None:
        n, is_sparse = self.head.n_classes, hasattr(exclude, "matrix")
        if exclude.shape != ((m, n) if is_sparse else (n,)) or not (
                is_sparse or exclude.dtype == bool):
            raise ValueError(f"--exclude must be sparse of shape {(m, n)}, or bool of shape "
                             f"({n},), got {exclude.dtype} of shape {exclude.shape}")

    def _excluded(self, begin: int, end: int) -> Any:
        assert self._exclude is not None
        if len(self._exclude.shape) == 1:
            return self._exclude.rows(1, 0, self.head.n_classes)
        return self._positions.read(self._exclude, 1, begin, end, 0)

    def _scores(self, x: Any, target: Any, begin: int, end: int) -> ll.Scores:
        more: Any = {} if self._exclude is None else {"exclude": self._excluded(begin, end)}
        if not self._screen:
            return self.head.score(x, target, k=self.k, ignore_index=self.ignore_index, **more)
        top = self.head.topk(x, max(self.k, 1), normalize=False, **more)
        return ll.Scores(predicted=top.index[:, 0], max_logit=top.logit[:, 0],
                         top=top if self.k else None)

    def fit_temperature(self) -> float:
        """Find the temperature of the least loss, and go on with it."""
        if self.target is None:
            raise ValueError("--fit-temperature is by TARGET, got none")
        if self._exclude is not None:
            raise ValueError("--fit-temperature goes over all classes, got --exclude")
        target = self._positions.read(self.target, self.axes, 0, self.rows, self._positions.shift)
        x: Any = _Slices(self)
        if hasattr(self.x, "matrix"):
            x = self.x_rows(0, self.rows)
        temperature = ll.fit_temperature(self.head, x, target, ignore_index=self.ignore_index)
        self.head, self.temperature = self.head.with_temperature(temperature), temperature
        return temperature

    def x_rows(self, begin: int, end: int) -> Any:
        """Read rows of X, to be used before others are."""
        self._watch.check()
        return self._positions.read(self.x, self.axes, begin, end, 0)

    def _block_rows(self) -> int:
        flops = 2 * self.head.n_classes * max(self.head.n_features, 1)
        row_bytes = self.x.row_bytes + (0 if self.target is None else self.target.row_bytes)
        most = MAX_BLOCK_BYTES // max(row_bytes, 1)
        return max(MIN_BLOCK_ROWS, min(int(BLOCK_FLOPS) // flops, most))

    def blocks(self, begin: int) -> Iterator[Block]:
        """Score block after block of the rows from `begin` on."""
        while True:  # of no rows: one empty block, for the dtypes of the results
            end = min(begin + self.block_rows, self.rows)
            x = self.x_rows(begin, end)
            t = None if self.target is None else self._positions.read(
                self.target, self.axes, begin, end, self._positions.shift)
            with input_errors("" if end - begin == self.rows else
                              f"rows {begin} to {end - 1} (row 0 here is row {begin}): "):
                scores = self._scores(x, t, begin, end)
            yield Block(begin, end, scores, t,
                        t != self.ignore_index if self.of_classes else True)
            begin = end
            if end >= self.rows:
                self._watch.check()
                return


class _Slices:
    """Rows of X as an array (m, k) that is read by slicing."""

    def __init__(self, job: Job):
        self._job = job
        self.shape, self.dtype = (job.rows, job.x.shape[-1]), job.x.dtype

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        rows = where[0].indices(self.shape[0])
        return np.array(self._job.x_rows(rows[0], rows[1])[:, where[1]])


def append_scores(writer: RowsWriter, scores: ll.Scores) -> None:
    """Add to OUT what a block has found."""
    writer.append(predicted=scores.predicted, max_logit=scores.max_logit)
    if scores.lse is not None:
        writer.append(lse=scores.lse)
    if scores.top is not None and scores.top.log_prob is not None:
        writer.append(top_index=scores.top.index, top_log_prob=scores.top.log_prob)
    elif scores.top is not None:
        writer.append(top_index=scores.top.index, top_logit=scores.top.logit)
    if scores.loss is not None:
        writer.append(loss=scores.loss)


class _Positions:
    """Where in the files the rows of results lie: (..., t - shift) of (..., t)."""

    def __init__(self, lead: tuple[int, ...], shift: int):
        self.shift = shift
        if shift and not 0 <= shift <= (lead[-1] if lead else 0):
            raise ValueError(f"--shift must be at most the positions of X {lead}, got {shift}")
        self.there = lead[-1] if lead else 1
        self.left = self.there - shift
        self.shape = (*lead[:-1], self.left) if shift else lead

    def read(self, matrix: Matrix, axes: int, begin: int, end: int, offset: int) -> Any:
        """Rows of X, or with an offset those of TARGET, to rows of results."""
        if not self.shift or begin == end:
            return matrix.rows(axes, begin, end)
        result = np.arange(begin, end)
        row = result // self.left * self.there + result % self.left + offset
        first, last = int(row[0]), int(row[-1]) + 1
        found = matrix.rows(axes, first, last)
        return found if last - first == end - begin else found[row - first]


def first_row(target: Matrix, axes: int, is_bad: Callable[[np.ndarray], np.ndarray]
              ) -> tuple[int, Any] | None:
    """Find the first row whose number is bad, and that number."""
    rows = math.prod(target.shape[:axes])
    for begin in range(0, rows, 1 << 20):
        some = target.rows(axes, begin, min(begin + (1 << 20), rows))
        if is_bfloat16(some.dtype):
            some = widened(some)
        bad = is_bad(some)
        if bad.any():
            return begin + int(bad.argmax()), some[bad.argmax()]
    return None


def _check_target(target: Matrix, lead: tuple[int, ...], n: int) -> None:
    """Refuse what is neither class indices nor class probabilities by what it seems to be."""
    whole, shape, soft = target.dtype.kind in "iu", target.shape, (*lead, n)
    if hasattr(target, "matrix") and shape == soft:
        return  # where it is sparse, classes that count may be whole numbers
    if target.dtype.kind != "b" and shape == (lead if whole else soft):
        return
    what = f"TARGET ({target.dtype}, {shape})"
    if shape == soft:
        raise ValueError(f"{what} must be floats to be class probabilities: "
                         "`.astype(np.float32)`; `.argmax(axis=-1)` makes class indices of "
                         "one-hot rows")
    if shape == lead:
        raise ValueError(f"{what} must be integers to be class indices: {_whole(target)}")
    if len(shape) == len(lead) and shape[1:] == lead[1:]:
        raise ValueError(f"{what} must have a class for each row of X, of which there are "
                         f"{lead[0]}, got {shape[0]}")
    hint = f"; `.reshape({lead})` makes that of it" if math.prod(shape) == math.prod(lead) else ""
    raise ValueError(f"{what} must have shape {lead} for class indices (integers){hint}, or "
                     f"{soft} for class probabilities (floats)")


def _whole(target: Matrix) -> str:
    """Tell how floats or bools become class indices, or why they are none."""
    found = first_row(target, len(target.shape),
                      lambda t: (t != np.floor(t)) | np.isinf(t))  # NaN, too
    if found is None:
        return "`.astype(np.int64)` makes them that"
    return f"got {found[1]} at row {found[0]}"
