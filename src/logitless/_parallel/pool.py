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
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .cores import usable_cores

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MAX_THREADS = 256
Work = Callable[["Tasks"], None]  # what a thread does: it iterates over the tasks it is given

_chosen: ContextVar[int | None] = ContextVar("logitless_threads", default=None)
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


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


def _executor() -> ThreadPoolExecutor:
    """Return the pool, made when first needed: importing it is not free."""
    global _pool
    with _pool_lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor

            _pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="logitless")
        return _pool


def _after_fork() -> None:
    """Threads do not survive a fork: the child makes its own."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Tasks:
    """Tasks 0 .. count - 1 for several threads to take, in ascending order.

    Attributes
    ----------
    stopped : bool
        Nothing more should be done: a thread looks at it between two calls of one task.
    helpers : int
        Threads that may be at work besides the caller's.
    error : BaseException or None
        What a helper raised first.
    """

    def __init__(self, work: Work, count: int):
        self._work = work
        self._left = deque(range(count))
        self._signing = threading.Lock()
        self._gone: SimpleQueue[None] = SimpleQueue()
        self.stopped = False
        self.helpers = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[int]:
        while not self.stopped:
            try:
                yield self._left.popleft()
            except IndexError:
                return

    def help(self) -> None:
        """Take part in the work, in a thread of the pool."""
        # It signs in before it looks whether there is anything to do; the caller stops first and
        # looks for helpers then: one of the two sees the other.
        self._sign(+1)
        try:
            if self._left and not self.stopped:
                self._work(self)
        except BaseException as error:
            self.error = self.error or error
            self.stopped = True
        finally:
            self._sign(-1)
            self._gone.put(None)

    def _sign(self, change: int) -> None:
        with self._signing:
            self.helpers += change

    def forget(self) -> None:
        """Let go of the work, and of all that it holds: a helper may come late, and hold this."""
        self._work = lambda tasks: None

    def wait(self) -> None:
        """Wait until no helper is at work."""
        while self.helpers:
            with suppress(Empty):  # Ctrl-C on Windows waits for a wait to end
                self._gone.get(timeout=0.1)


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
    try:
        for _ in range(min(n_threads, count) - 1):
            try:
                _executor().submit(tasks.help)
            except (RuntimeError, ImportError):  # the interpreter is going down: no more threads
                break
        work(tasks)
        tasks.wait()
    except BaseException:
        # Without a call outside of `try`: that is where another Ctrl-C would leave from.
        tasks.stopped = True
        while tasks.helpers:
            try:
                tasks.wait()
            except BaseException:  # they have been told already
                continue
        tasks.forget()
        raise
    tasks.forget()
    if tasks.error is not None:
        raise tasks.error
