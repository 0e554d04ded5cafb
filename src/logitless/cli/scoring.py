"""What `logitless score` does: rows read, scored and written a block at a time."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click
import numpy as np
from rich.progress import Progress

import logitless as ll

from ..io import NpzWriter

# Unless told otherwise a block of rows grows until it takes about this long, so that the
# progress is seen to move, or is this many bytes to read; but the weights, which are read
# once a block, are never read for fewer rows than these.
BLOCK_SECONDS = (0.1, 0.4)
MIN_BLOCK_ROWS = 1024
MAX_BLOCK_BYTES = 32 << 20


class InputError(click.ClickException):
    """What is wrong with the input, told in one line."""

    exit_code = 2


@contextlib.contextmanager
def input_errors(where: str = "") -> Iterator[None]:
    """Turn what the library says about its input into a line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, TypeError, IndexError, MemoryError, OSError) as error:
        raise InputError(f"{where}{str(error) or type(error).__name__}") from error


@dataclass
class Totals:
    """Sums over the rows: `counted` are those whose target is not ignored."""

    rows: int = 0
    no_softmax: int = 0  # rows of logits that are NaN, +inf, or -inf throughout
    counted: int = 0
    loss: float = 0.0
    correct: int | None = 0  # None with targets that are no single class

    def add(self, scores: ll.Scores, counts: np.ndarray | bool) -> None:
        """Add a block; `counts` tells the rows that do, unless all do."""
        has_softmax = np.isfinite(scores.lse)
        self.rows += has_softmax.size
        self.no_softmax += int(np.count_nonzero(~has_softmax))
        if scores.loss is None:
            return
        self.loss += float(scores.loss.sum(dtype=np.float64))
        self.counted += int(np.count_nonzero(np.broadcast_to(counts, has_softmax.shape)))
        if scores.target_rank is None:
            self.correct = None
        elif self.correct is not None:
            hits = (scores.target_rank == 0) & has_softmax & counts
            self.correct += int(np.count_nonzero(hits))


class Job:
    """Rows of `x` to score with `head`, checked; leading axes are kept in the results."""

    def __init__(self, head: ll.LinearHead, x: np.ndarray, target: np.ndarray | None, *,
                 ignore_index: int, k: int):
        if x.ndim == 0 or x.shape[-1] != head.n_features:
            raise ValueError(f"X must have shape (..., {head.n_features}), which is what HEAD "
                             f"takes, got {x.shape}")
        self.head, self.ignore_index, self.k = head, ignore_index, k
        self.leading_shape = x.shape[:-1]
        self.rows = int(np.prod(self.leading_shape, dtype=np.int64))
        self.x = x.reshape(self.rows, head.n_features)
        self.target = None
        self.of_classes = target is not None and target.dtype.kind in "iu"
        if target is not None:
            tail = () if self.of_classes else (head.n_classes,)
            _check_target(target, self.leading_shape, head.n_classes)
            self.target = target.reshape(self.rows, *tail)
            if self.of_classes:
                self._check_labels(target.reshape(self.rows))

    def _check_labels(self, target: np.ndarray) -> None:
        # All of them before the first block is scored, by the number of their row in the file.
        n, ignored = self.head.n_classes, self.ignore_index
        row = _first_row(target, lambda t: ((t < 0) | (t >= n)) & (t != ignored))
        if row is not None:
            raise IndexError(f"TARGET must be in [0, {n}) or {ignored} (ignored), got "
                             f"{target[row]} at row {row}")

    def run(self, writer: NpzWriter, block_rows: int | None, progress: Progress) -> Totals:
        """Score block after block into `writer`."""
        totals = Totals()
        task = progress.add_task("", total=self.rows)
        step = block_rows or MIN_BLOCK_ROWS
        end = 0
        while True:  # of no rows: one empty block, for the dtypes of the results
            begin, end = end, min(end + step, self.rows)
            start = time.perf_counter()
            with input_errors("" if end - begin == self.rows else
                              f"rows {begin} to {end - 1} (row 0 here is row {begin}): "):
                self._block(slice(begin, end), writer, totals)
            progress.advance(task, end - begin)
            if end == self.rows:
                return totals
            if block_rows is None:
                step = self._next_step(step, time.perf_counter() - start)

    def _next_step(self, step: int, seconds: float) -> int:
        if seconds > BLOCK_SECONDS[1]:
            return max(step // 2, MIN_BLOCK_ROWS)
        row_bytes = self.x[:1].nbytes + (0 if self.target is None else self.target[:1].nbytes)
        if seconds < BLOCK_SECONDS[0] and 2 * step * row_bytes <= MAX_BLOCK_BYTES:
            return 2 * step
        return step

    def _block(self, rows: slice, writer: NpzWriter, totals: Totals) -> None:
        t = None if self.target is None else self.target[rows]
        scores = self.head.score(self.x[rows], t, k=self.k, ignore_index=self.ignore_index)
        writer.append(predicted=scores.predicted, max_logit=scores.max_logit, lse=scores.lse)
        if scores.top is not None and scores.top.log_prob is not None:
            writer.append(top_index=scores.top.index, top_log_prob=scores.top.log_prob)
        if scores.loss is not None:
            writer.append(loss=scores.loss)
        totals.add(scores, t != self.ignore_index if self.of_classes else True)


def _first_row(target: np.ndarray, is_bad: Callable[[np.ndarray], np.ndarray]) -> int | None:
    for begin in range(0, len(target), 1 << 20):
        bad = is_bad(target[begin : begin + (1 << 20)])
        if bad.any():
            return begin + int(bad.argmax())
    return None


def _check_target(target: np.ndarray, lead: tuple[int, ...], n: int) -> None:
    """Refuse what is neither class indices nor class probabilities by what it seems to be."""
    whole, shape, soft = target.dtype.kind in "iu", target.shape, (*lead, n)
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
    hint = f"; `.reshape({lead})` makes that of it" if target.size == math.prod(lead) else ""
    raise ValueError(f"{what} must have shape {lead} for class indices (integers){hint}, or "
                     f"{soft} for class probabilities (floats)")


def _whole(target: np.ndarray) -> str:
    """Tell how floats or bools become class indices, or why they are none."""
    t = target.reshape(-1)
    row = _first_row(t, lambda t: (t != np.floor(t)) | np.isinf(t))  # NaN, too
    if row is None:
        return "`.astype(np.int64)` makes them that"
    return f"got {t[row]} at row {row}"
