"""Who is told of a fit: whoever reads `verbose`, and the callbacks of scikit-learn 1.9 and newer.

These are told as by its LogisticRegression: a task "fit", and in it an "lbfgs-iter" for each
iteration and an empty one, which begins before it is known that the last iteration was the last.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]  # in place of the import
        """What an older scikit-learn has: no callbacks."""


class Tasks:
    """What is told of one fit, on to its end."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, max_iter: int):
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._given = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._fit = estimator._init_callback_context(max_subtasks=max_iter + 1)
        self._fit.call_on_fit_task_begin(**self._given)

    def begin(self, fitted: Callable[[], dict[str, Any]]) -> None:
        """An iteration begins, where `fitted` gives the attributes of a fitted estimator."""
        self._iteration = self._fit.subcontext(task_name="lbfgs-iter")
        self._iteration.call_on_fit_task_begin(**self._given, reconstruction_attributes=fitted)

    def next(self, fitted: Callable[[], dict[str, Any]]) -> bool:
        """It has come to here, and the next one begins; give whether a callback wants to stop."""
        stop = self._iteration.call_on_fit_task_end(**self._given, reconstruction_attributes=fitted)
        self.begin(fitted)
        return stop

    def end(self) -> None:
        """The fit is over, and the estimator is fitted."""
        self._iteration.call_on_fit_task_end(estimator=self._given["estimator"])
        self._fit.call_on_fit_task_end(**self._given, reconstruction_attributes={})


class NoTasks:
    """Nobody to tell: an older scikit-learn."""

    def begin(self, fitted: Callable[[], dict[str, Any]]) -> None:
        """Nothing."""

    def next(self, fitted: Callable[[], dict[str, Any]]) -> bool:
        """Never stop."""
        return False

    def end(self) -> None:
        """Nothing."""


def tasks(estimator: Any, X: Any, y: Any, sample_weight: Any, max_iter: int) -> Tasks | NoTasks:
    """Whoever listens to `estimator` is told that a fit begins."""
    if hasattr(estimator, "set_callbacks"):
        return Tasks(estimator, X, y, sample_weight, max_iter)
    return NoTasks()


@contextmanager
def reporting(verbose: Any) -> Iterator[Callable[[int, float], object]]:
    """Give what is to be called after each iteration."""
    if callable(verbose) or not verbose:
        yield verbose or (lambda *_: None)
        return
    start = time.perf_counter()
    end = "\r" if sys.stderr.isatty() else "\n"

    def line(iteration: int, objective: float) -> None:
        print(f"iteration {iteration}   mean loss + penalty {objective:.6f}   "
              f"{time.perf_counter() - start:.1f} s", end=end, file=sys.stderr, flush=True)

    try:
        yield line
    finally:
        if end == "\r":
            print(file=sys.stderr)
