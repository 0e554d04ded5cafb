"""What a call on many threads would take, reckoned on one core.

A call is made as it is planned for many threads, but they take turns: only one is at work at any
time, so none slows another down, and each has a clock that shows the work it has done. Whoever's
clock is behind takes the next task, as it would were all of them at work. A run of tasks takes as
long as the clock of its last thread; what lies between runs, one thread does alone. Starting and
awaiting threads is measured apart, on two cores, and added.

What many cores share (memory, caches, a clock rate that sinks) is not in it: this is the speed-up
on cores as fast as this one, the part that the plan of a call decides.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from logitless._parallel import pool

SLOW = 2.0  # seconds


@dataclass
class Costs:
    """What threads of the pool take, in seconds."""

    wake: float  # until one is at work
    submit: float  # that the next one waits for it
    join: float  # from its end to that of the run


@dataclass
class Run:
    """One run of tasks: the clocks of its threads, and how much of them is work."""

    tasks: int
    clocks: list[float]
    work: list[float]


@dataclass
class Phases:
    """What one call came to."""

    alone: float = 0.0  # seconds outside of runs
    runs: list[Run] = field(default_factory=list)

    @property
    def work(self) -> float:
        """Seconds of one thread that does it all."""
        return self.alone + sum(sum(run.work) for run in self.runs)

    @property
    def seconds(self) -> float:
        """Of the call, its threads at work at the same time."""
        return self.alone + sum(max(run.clocks) for run in self.runs)

    @property
    def imbalance(self) -> float:
        """Of all runs, by the work in them: 1 where all threads are always busy."""
        busy = sum(sum(run.work) for run in self.runs)
        longest = sum(max(run.work) * len(run.work) for run in self.runs)
        return longest / busy if busy else 1.0

    def told(self) -> dict:
        """For a record."""
        return {"alone": self.alone, "runs": len(self.runs),
                "tasks": sum(run.tasks for run in self.runs), "work": self.work,
                "longest": sum(max(run.work) for run in self.runs), "seconds": self.seconds,
                "imbalance": self.imbalance}


class _Turns:
    """Threads of one run, of which the one whose clock is behind is at work."""

    def __init__(self, clocks: list[float]):
        self.clocks, self.work = clocks, [0.0] * len(clocks)
        self._lock = threading.Lock()
        self._may = [threading.Semaphore(0) for _ in clocks]
        self._waiting: set[int] = set()
        self._gone = 0
        self._began = 0.0

    def take(self, thread: int) -> None:
        """Wait for this thread's turn."""
        with self._lock:
            self._waiting.add(thread)
            self._hand_on()
        self._may[thread].acquire()
        self._began = time.perf_counter()

    def end(self, thread: int) -> None:
        """End a turn; another is taken, or the thread leaves."""
        seconds = time.perf_counter() - self._began
        self.clocks[thread] += seconds
        self.work[thread] += seconds

    def leave(self) -> None:
        """Take no more turns."""
        with self._lock:
            self._gone += 1
            self._hand_on()

    def alone(self, work: Callable[[], object]) -> None:
        """Do in one thread what all would have equal shares of."""
        start = time.perf_counter()
        work()
        each = (time.perf_counter() - start) / len(self.clocks)
        self.work = [each] * len(self.clocks)
        self.clocks = [clock + each for clock in self.clocks]

    def _hand_on(self) -> None:
        """Give the turn to a thread, once nobody is at work."""
        if self._waiting and len(self._waiting) + self._gone == len(self.clocks):
            behind = min(self._waiting, key=lambda thread: (self.clocks[thread], thread))
            self._waiting.remove(behind)
            self._may[behind].release()


class _Taken:
    """Tasks as one of the threads sees them: each is a turn."""

    def __init__(self, tasks: pool.Tasks, turns: _Turns, thread: int):
        self._tasks, self._turns, self._thread = tasks, turns, thread

    def __iter__(self) -> Iterator[int]:
        for task in self._tasks:
            yield task
            self._turns.end(self._thread)
            self._turns.take(self._thread)

    def __getattr__(self, name: str):
        return getattr(self._tasks, name)


@contextmanager
def phases(costs: Costs) -> Iterator[Phases]:
    """Take turns in all runs within, and tell what they and the time between them came to."""
    found, inside, real_run, real_share = Phases(), threading.local(), pool.run, pool.share

    @contextmanager
    def a_run(tasks: int, n: int) -> Iterator[_Turns]:
        nonlocal began
        found.alone += time.perf_counter() - began
        turns, inside.a_run = _Turns(_started(n, costs)), True
        try:
            yield turns
        finally:
            inside.a_run = False
        found.runs.append(Run(tasks, _awaited(turns.clocks, costs), turns.work))
        began = time.perf_counter()

    def run(work: pool.Work, count: int, n_threads: int) -> None:
        if getattr(inside, "a_run", False):  # of a task: its thread does it alone
            real_run(work, count, 1)
            return
        with a_run(count, max(1, min(n_threads, count))) as turns:
            real_run(lambda tasks: _in_turns(turns, inside, work, tasks), count, 1)

    def share(crew, helpers: int) -> None:
        """What kernels share out among themselves is seen as a whole, and taken for even."""
        if getattr(inside, "a_run", False):
            real_share(crew, 0)
            return
        with a_run(0, helpers + 1) as turns:
            turns.alone(lambda: real_share(crew, 0))

    pool.run, pool.share = run, share
    began = time.perf_counter()
    try:
        yield found
        found.alone += time.perf_counter() - began
    finally:
        pool.run, pool.share = real_run, real_share


def _started(n: int, costs: Costs) -> list[float]:
    """When so many threads are at work, the caller, who starts the others, first."""
    return [costs.submit * (n - 1), *(costs.submit * i + costs.wake for i in range(1, n))]


def _awaited(clocks: list[float], costs: Costs) -> list[float]:
    return [clocks[0], *(clock + costs.join for clock in clocks[1:])]


def _in_turns(turns: _Turns, inside: threading.local, work: pool.Work, tasks: pool.Tasks) -> None:
    def thread(i: int) -> None:
        inside.a_run = True
        turns.take(i)
        try:
            work(_Taken(tasks, turns, i))
        finally:
            turns.end(i)
            turns.leave()
            inside.a_run = False

    others = [threading.Thread(target=thread, args=(i,)) for i in range(1, len(turns.clocks))]
    for other in others:
        other.start()
    thread(0)
    for other in others:
        other.join()


def measured(call: Callable[[], object], costs: Costs, seconds: float) -> Phases:
    """Make a call some times, once if it is slow, and give its best."""
    call()
    best, end = None, time.perf_counter() + seconds
    while best is None or (time.perf_counter() < end and best.work < SLOW):
        with phases(costs) as found:
            call()
        if best is None or found.seconds < best.seconds:
            best = found
    return best


def costs(rounds: int = 100) -> Costs:
    """Measure what threads of the pool cost, by two of them; needs two cores."""
    wakes, joins, submits = [], [], []
    for _ in range(rounds):
        found = _two_threads()
        wakes.append(found[0])
        joins.append(found[1])
        began = time.perf_counter()
        pool.run(lambda tasks: None, 9, 9)
        submits.append((time.perf_counter() - began) / 8)
        time.sleep(1e-3)
    return Costs(*map(statistics.median, (wakes, submits, joins)))


def _two_threads() -> tuple[float, float]:
    """Seconds until the second thread is at work, and from its end to that of the run."""
    caller, times = threading.get_ident(), {}
    there = threading.Event()

    def work(tasks: pool.Tasks) -> None:
        for _ in tasks:
            if threading.get_ident() == caller:
                there.wait(0.1)  # and leaves first
                continue
            times["begun"] = time.perf_counter()
            there.set()
            while time.perf_counter() < times["begun"] + 3e-4:
                pass
            times["ended"] = time.perf_counter()

    began = time.perf_counter()
    pool.run(work, 2, 2)
    ended = time.perf_counter()
    if "ended" not in times:  # the caller did both
        return 0.1, 0.0
    return times["begun"] - began, max(0.0, ended - times["ended"])
