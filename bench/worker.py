"""One process, one shape: pinned before anything that makes threads is imported.

Started by `runner` with a JSON description of the work; writes its records as JSON to the file
named there, again after every operation, so that what was measured survives a crash.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

SCREENED = "logitless, screened"  # asked for what it is for; the head without, for the rest


def main(path: str) -> None:
    """Do the job described in the file at `path`."""
    job = json.loads(Path(path).read_text())
    if hasattr(os, "sched_setaffinity") and job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    threading.Thread(target=_end_with, args=(job["parent"],), daemon=True).start()
    work = {"time": Timing, "memory": Memory, "model": Model}[job["mode"]]
    work(job).run()


def _end_with(parent: int) -> None:
    """Leave when the process that started this one is gone: nobody waits for the result."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


class Worker:
    """Contenders of one shape, made as they fit in memory."""

    def __init__(self, job: dict):
        import rivals
        import shapes

        self.job = job
        self.shape = shapes.Shape(**job["shape"])
        self.shapes = shapes
        self.classes = {name: c for name, c in rivals.all_contenders().items()
                        if name in job["contenders"]}
        self.itemsize = shapes.ITEMSIZE[job["dtype"]]
        self.records: list[dict] = []
        self.facts: dict = {}
        self.exact = None  # losses in float64, once somebody asks

    def write(self) -> None:
        out = Path(self.job["out"])
        part = out.with_suffix(".part")
        part.write_text(json.dumps({"facts": self.facts, "records": self.records}))
        part.replace(out)

    def record(self, op: str, name: str, status: str, **more) -> dict:
        made = {"op": op, "contender": name, "status": status, **more}
        self.records.append(made)
        return made

    def make(self, name: str, problem):
        """Make a contender, or give a reason why there is none."""
        cls = self.classes[name]
        if reason := cls.missing() or cls.declines(self.shape, self.itemsize):
            return reason
        try:
            return cls(problem, self.job["threads"])
        except Exception as error:
            return _told(error)

    def item(self, cls) -> int:
        """Bytes of the numbers that a contender is given."""
        return cls.itemsize(self.job["dtype"])

    def problem(self):
        most = max([self.itemsize, *(self.item(cls) for cls in self.classes.values())])
        size = self.shape.weight_bytes(most) + self.shape.m * self.shape.k * most
        if reason := self.shapes.no_room(size):
            return reason
        return self.shapes.make(self.shape, self.job["dtype"])


class Timing(Worker):
    """Check every contender against ours, then time all of them in turns."""

    def run(self) -> None:
        problem = self.problem()
        if isinstance(problem, str):
            for op in self.job["ops"]:
                for name, cls in self.classes.items():
                    if cls.offers(op):
                        self.record(op, name, "skipped", reason=problem)
            self.write()
            return
        import logitless as ll

        self.facts = {
            "limits": self.limits(),
            "isa": ll.active_isa(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {},
        }
        made = self.make_all(problem)
        for op in self.job["ops"]:
            self.time(op, made, problem)
            # The best seen before, between and after: a slow moment flatters nobody.
            again = self.limits()
            self.facts["limits"] = {
                key: max(value, again[key]) for key, value in self.facts["limits"].items()}
            self.write()

    def limits(self) -> dict:
        """What the machine can do now."""
        import logitless as ll

        self.settle()
        return asdict(ll.machine_limits(self.job["threads"]))

    def settle(self) -> None:
        """Wait for threads that still spin."""
        from timing import settle_seconds

        time.sleep(settle_seconds(self.job["threads"]))

    def make_all(self, problem) -> dict:
        made = {}
        for name, cls in self.classes.items():
            if not any(op in cls.ops for op in self.job["ops"]):
                continue
            made[name] = (self.shapes.no_room(cls.held(self.shape, self.item(cls)))
                          or self.make(name, problem))
            if not isinstance(made[name], str):
                self.facts["versions"][name] = cls.version()
        return made

    def time(self, op: str, made: dict, problem) -> None:
        """Time contenders in turns; one that keeps its memory and has no room, on its own."""
        calls, first, alone, biggest, reference = {}, {}, [], 0, None
        for name, cls in self.classes.items():
            if op in cls.lacks:
                self.record(op, name, "skipped", reason=cls.lacks[op])
            if op not in cls.ops:
                continue
            contender = made[name]
            if isinstance(contender, str):
                self.record(op, name, "skipped", reason=contender)
            elif cls.keeps_memory and self.no_room(cls, op, biggest):
                alone.append(name)
            else:
                call, result, seconds = self.checked(op, name, contender, problem, reference)
                reference = result if reference is None else reference
                result = None
                if call:
                    calls[name], first[name] = call, seconds
                    biggest = max(biggest, cls.transient(self.shape, op, self.item(cls)))
        self.turns(op, calls, first)
        for name in alone:
            call, _, seconds = self.checked(op, name, made[name], problem, reference)
            if call:
                self.turns(op, {name: call}, {name: seconds})
                self.found(op, name)["alone"] = True

    def checked(self, op: str, name: str, contender, problem, reference) -> tuple:
        """Give a callable whose result is ours, that result and its time; else record why not."""
        from checks import CLASSES, differs, recall

        nothing, cls = (None, None, None), self.classes[name]
        if reason := self.no_room(cls, op):
            self.record(op, name, "skipped", reason=reason)
            return nothing
        try:
            call = contender.operation(op)
            if cls.compiles or cls.keeps_memory:
                call()  # compiles, or takes from the system what later calls find there
            self.settle()
            start = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - start
            result = contender.to_numpy(result)
            more = contender.facts()
            if op == "loss" and self.job["dtype"] != "float64":
                more["loss_error"] = self.loss_error(problem, result[0])
            if reference is not None:
                wrong = differs(op, reference, result, problem, cls.agreement)
                if cls.agreement in ("16 bits", "approximate") and op in CLASSES and not wrong:
                    more["recall"] = recall(reference[0], result[0])
                result = None
                if wrong:
                    self.record(op, name, "wrong", reason=wrong)
                    return nothing
        except Exception as error:
            self.record(op, name, "failed", reason=_told(error))
            return nothing
        self.record(op, name, "ok", **more)
        return call, result, seconds

    def loss_error(self, problem, loss) -> float:
        """How far the loss of some row is off, at most."""
        from checks import exact_loss

        if self.exact is None:
            self.exact = exact_loss(problem)
        return float(abs(loss - self.exact).max())

    def turns(self, op: str, calls: dict, first: dict) -> None:
        from timing import give_memory_back, interleave, settle_seconds

        settle = settle_seconds(self.job["threads"])
        for name, samples in interleave(calls, first, self.job["seconds"], settle).items():
            self.found(op, name)["samples"] = samples
        calls.clear()
        give_memory_back()

    def found(self, op: str, name: str) -> dict:
        return next(r for r in self.records if (r["op"], r["contender"]) == (op, name))

    def no_room(self, cls, op: str, beside: int = 0) -> str | None:
        # Two results are held while they are compared, and a session may hold the weights again.
        item = self.item(cls)
        whole = 2 * self.shape.logit_bytes(item) if op == "predict_proba" else 0
        held = cls.held(self.shape, item) if cls.keeps_memory else 0
        needed = cls.transient(self.shape, op, item) + held
        return self.shapes.no_room(needed, whole + beside)


class Memory(Worker):
    """One contender in a process of its own: what it holds, and what a call takes beyond that."""

    def run(self) -> None:
        from timing import extra_peak, give_memory_back, resident

        (name,) = self.classes
        cls = self.classes[name]
        small = self.shapes.make(
            self.shapes.Shape("warm", min(self.shape.m, 4), self.shape.k, 16, ""),
            self.job["dtype"])
        problem = self.problem()
        warm = self.make(name, small)
        if isinstance(problem, str) or isinstance(warm, str):
            reason = problem if isinstance(problem, str) else warm
            for op in self.job["ops"]:
                self.record(op, name, "skipped", reason=reason)
            self.write()
            return
        given = cls.given(problem)
        for op in self.job["ops"]:
            if op not in cls.ops:
                continue
            needed = (cls.held(self.shape, self.item(cls))
                      + cls.transient(self.shape, op, self.item(cls)))
            if reason := self.shapes.no_room(needed):
                self.record(op, name, "skipped", reason=reason)
                continue
            try:
                warm.operation(op)()
                give_memory_back()
                before = resident()
                contender = cls(given, self.job["threads"])
                call = contender.operation(op)
                if cls.compiles:
                    call()
                give_memory_back()
                held = resident()[0] - before[0] if before else None
                peak = extra_peak(call)
                if peak is not None:
                    peak = max(0, peak - cls.returned(self.shape, op, self.item(cls)))
            except Exception as error:
                self.record(op, name, "failed", reason=_told(error))
                continue
            finally:
                call = contender = None
            self.record(op, name, "ok", extra_bytes=peak,
                        held_bytes=None if cls.compiles else held)
            self.write()
        self.write()


class Model(Worker):
    """What calls of ours on many threads are made of, and what they would come to."""

    def run(self) -> None:
        import model

        import logitless as ll

        self.facts = {"isa": ll.active_isa(),
                      "date": datetime.now().astimezone().isoformat(timespec="seconds")}
        problem, costs = self.problem(), model.costs()
        if self.job["cpus"]:
            os.sched_setaffinity(0, self.job["cpus"][-1:])  # its caches are all it has
        for name in self.classes:
            made = problem if isinstance(problem, str) else self.make(name, problem)
            for op in self.job["ops"]:
                if (op == "best") != (name == SCREENED):
                    continue
                if isinstance(made, str):
                    self.record(op, name, "skipped", reason=made)
                    continue
                phases = model.measured(made.operation(op), costs, self.job["seconds"])
                self.record(op, name, "ok", **phases.told())
                self.write()
        self.write()


def _told(error: Exception) -> str:
    traceback.print_exc()
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


if __name__ == "__main__":
    main(sys.argv[1])
