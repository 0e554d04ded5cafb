"""Threads: how many, and a pool of them that survives fork and Ctrl-C.

The kernels hold no GIL, so plain Python threads run them side by side. The calling thread takes
part in every run: work goes on when the pool is busy or gone, and a call from within a pool, from
several threads at once, or in a forked child needs no special care.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from functools import cache, partial
from sys import exc_info, is_finalizing
from typing import Any

from .cores import usable_cores

MAX_THREADS = 256
Work = Callable[["Tasks"], None]  # what a thread does: it iterates over the tasks it is given

_chosen: ContextVar[int | None] = ContextVar("logitless_threads", default=None)
_helpers: list[Any] = []


def check_threads(n: Any, name: str = "n_threads") -> int:
    """Return a thread count as int, or say what is wrong with it."""
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"`{name}` must be an int, got {type(n).__name__}")
    n = n.__index__()
    if n < 1:
        raise ValueError(f"`{name}` must be at least 1, got {n}")
    return n


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads in calls of this thread or task, for the length of a with block.

    Parameters
    ----------
    n : int
        Number of threads, at least 1. It goes before the default and the environment, and
        after an ``n_threads`` given to a head or a call.

    Yields
    ------
    None
        Nothing: what counts is the block.

    Raises
    ------
    TypeError
        `n` is not an int.
    ValueError
        `n` is below 1.

    Notes
    -----
    Results are the same bits for every number of threads.

    Examples
    --------
    >>> import numpy as np
    >>> import logitless as ll
    >>> with ll.threads(1):
    ...     ll.linear_argmax(np.eye(2), np.eye(2)).tolist()
    [0, 1]
    """
    token = _chosen.set(check_threads(n, "n"))
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve(n_threads: int | None = None) -> int:
    """Threads for a call: its own number, that of `threads`, or the default."""
    if n_threads is None:
        n_threads = _chosen.get()
    if n_threads is None:
        n_threads = default_threads()
    return min(n_threads, MAX_THREADS)


@cache
def default_threads() -> int:
    """LOGITLESS_NUM_THREADS, else OMP_NUM_THREADS, else what the process may use: read once."""
    value = os.environ.get("LOGITLESS_NUM_THREADS")
    if value:
        if not value.strip().isdigit() or int(value) < 1:
            raise ValueError(
                f"LOGITLESS_NUM_THREADS must be an integer of at least 1, got {value!r}"
            )
        return int(value)
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if value.isdigit() and int(value) > 0:
        return int(value)
    return usable_cores()


class _FreshThreads:
    """Helpers where no engine has better ones: threads made for one piece of work."""

    def __init__(self, work: Callable[[], None], help: Callable[[], None],
                 stop: Callable[[], None]):
        self._work, self._help, self._stop = work, help, stop

    def run(self, helpers: list[Any], count: int, hire: Callable[[], Any]) -> None:
        threads = [threading.Thread(target=self._help, daemon=True) for _ in range(count)]
        started = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            self._work()
        finally:
            self._stop()
            for thread in started:
                thread.join()


def wait_with(helper: Callable[[], Any], crew: Callable[..., Any]) -> None:
    """Let helpers wait for work in an engine's own way."""
    global _new_helper, _new_crew
    _new_helper, _new_crew = helper, crew


_new_helper: Callable[[], Any] | None = None
_new_crew: Callable[..., Any] = _FreshThreads


@cache
def _cores() -> int:
    """Cores that may be used, counted once: that reads files of the system."""
    return usable_cores()


def _hire() -> Any:
    """Start one more helper; None where there can be none."""
    if _new_helper is None or len(_helpers) >= MAX_THREADS:
        return None
    helper = _new_helper()
    # In a context of its own: what this caller has set, `np.errstate` say, is not the next one's.
    thread = threading.Thread(target=Context().run, args=(helper.serve,), daemon=True,
                              name=f"logitless_{len(_helpers)}")
    outer = exc_info()[1]
    _helpers.append(helper)  # before it starts: an interrupt may come with that
    try:
        thread.start()
    except BaseException as error:
        if thread.ident is None:
            _helpers.remove(helper)
        if not isinstance(error, RuntimeError):
            raise
        if error.__context__ is outer:  # there are no more threads
            return None
        # An interrupt that came while a Condition waited, and which that made an error of.
        raise (error.__context__ or error) from None
    if len(_helpers) >= _cores():
        for each in _helpers:
            each.turns = 0  # who waits awake would be in the way
    return helper


def _after_fork() -> None:
    """Threads do not survive a fork: the child makes its own."""
    global _helpers
    _helpers = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Tasks:
    """Tasks 0 .. count - 1 for several threads to take, in ascending order.

    Attributes
    ----------
    stopped : bool
        Nothing more should be done: a thread looks at it between two calls of one task.
    error : BaseException or None
        What a helper raised first.
    """

    def __init__(self, work: Work, count: int):
        self._work = work
        self._left = deque(range(count))
        self.stopped = False
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[int]:
        while not self.stopped:
            try:
                yield self._left.popleft()
            except IndexError:
                return

    def lead(self) -> None:
        """Take part in the work, in the calling thread."""
        self._work(self)

    def help(self) -> None:
        """Take part in the work, in a thread of the pool."""
        try:
            if self._left and not self.stopped:
                self._work(self)
        except BaseException as error:
            self.error = self.error or error
            self.stopped = True


def run(work: Work, count: int, n_threads: int) -> None:
    """Call ``work(tasks)`` in up to `n_threads` threads, which share out the tasks.

    Parameters
    ----------
    work : callable
        Iterates over the `Tasks` it is given and does them. What it raises ends the run.
    count : int
        Number of tasks.
    n_threads : int
        Threads including the calling one.

    Notes
    -----
    An exception, KeyboardInterrupt included, leaves the calling thread after the calls that other
    threads are in have returned, however many more come meanwhile.
    """
    tasks = Tasks(work, count)
    stop = partial(setattr, tasks, "stopped", True)
    share(_new_crew(tasks.lead, tasks.help, stop), min(n_threads, count) - 1)
    if tasks.error is not None:
        raise tasks.error


def share(crew: Any, helpers: int) -> None:
    """Let a crew do its work with up to so many helpers; none when the interpreter goes down."""
    crew.run(_helpers, 0 if is_finalizing() else helpers, _hire)
