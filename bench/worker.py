"""One process, one shape: pinned before anything that makes threads is imported.

Started by `runner` with a JSON description of the work; writes its records as JSON to the file
named there, again after every operation, so that what was measured survives a crash.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import datetime
from pathlib import Path


def main(path: str) -> None:
    """Do the job described in the file at `path`."""
    job = json.loads(Path(path).read_text())
    if hasattr(os, "sched_setaffinity") and job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    work = {"time": Timing, "memory": Memory}[job["mode"]]
    work(job).run()


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
        self.itemsize = 8 if job["dtype"] == "float64" else 4
        self.records: list[dict] = []
        self.facts: dict = {}

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
        if reason := self.classes[name].missing():
            return reason
        try:
            return self.classes[name](problem, self.job["threads"])
        except Exception as error:
            return _told(error)

    def problem(self):
        size = self.shape.weight_bytes(self.itemsize) + self.shape.m * self.shape.k * self.itemsize
        if reason := self.shapes.no_room(size):
            return reason
        return self.shapes.make(self.shape, self.job["dtype"])


class Timing(Worker):
    """Check every contender against ours, then time all of them in turns."""

    def run(self) -> None:
        problem = self.problem()
        if isinstance(problem, str):
            for op in self.job["ops"]:
                for name in self.classes:
                    self.record(op, name, "skipped", reason=problem)
            self.write()
            return
        import logitless as ll
        from dataclasses import asdict

        self.facts = {
            "limits": asdict(ll.machine_limits(self.job["threads"])),
            "isa": ll.active_isa(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": {},
        }
        made = self.make_all(problem)
        for op in self.job["ops"]:
            self.time(op, made, problem)
            self.write()

    def make_all(self, problem) -> dict:
        made = {}
        for name, cls in self.classes.items():
            biggest = max(cls.transient(self.shape, op, self.itemsize)
                          for op in self.job["ops"] if op in cls.ops) if self.offers(cls) else 0
            needed = cls.held(self.shape, self.itemsize)
            made[name] = (self.shapes.no_room(needed, min(biggest, 1 << 30))
                          or self.make(name, problem))
            if not isinstance(made[name], str):
                self.facts["versions"][name] = cls.version()
        return made

    def offers(self, cls) -> bool:
        return any(op in cls.ops for op in self.job["ops"])

    def time(self, op: str, made: dict, problem) -> None:
        from timing import give_memory_back, interleave

        calls, records, reference = {}, {}, None
        for name, contender in made.items():
            cls = self.classes[name]
            if op not in cls.ops:
                continue
            reason = contender if isinstance(contender, str) else self.no_room(cls, op)
            if reason:
                self.record(op, name, "skipped", reason=reason)
                continue
            try:
                call = contender.operation(op)
                result = contender.to_numpy(call())
                if reference is None and name.startswith("logitless"):
                    reference = result
                elif reference is not None and (wrong := self.differs(op, reference, result,
                                                                      problem)):
                    self.record(op, name, "wrong", reason=wrong)
                    continue
                result = None
                call()
            except Exception as error:
                self.record(op, name, "failed", reason=_told(error))
                continue
            calls[name] = call
            records[name] = self.record(op, name, "ok")
        result = reference = None
        settle = 0.0 if self.job["threads"] == 1 else 0.03
        for name, samples in interleave(calls, self.job["seconds"], settle).items():
            records[name]["samples"] = samples
        calls.clear()
        give_memory_back()

    def differs(self, op, ours, theirs, problem):
        from checks import differs

        return differs(op, ours, theirs, problem)

    def no_room(self, cls, op):
        # The reference result is held while this one is checked, and a session may hold weights.
        whole = 2 * self.shape.logit_bytes(self.itemsize) if op == "predict_proba" else 0
        held = cls.held(self.shape, self.itemsize) if cls.name == "ONNX Runtime" else 0
        return self.shapes.no_room(cls.transient(self.shape, op, self.itemsize) + held, whole)


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
        for op in self.job["ops"]:
            if op not in cls.ops:
                continue
            needed = (cls.held(self.shape, self.itemsize)
                      + cls.transient(self.shape, op, self.itemsize))
            if reason := self.shapes.no_room(needed):
                self.record(op, name, "skipped", reason=reason)
                continue
            try:
                warm.operation(op)()
                give_memory_back()
                before = resident()
                contender = cls(problem, self.job["threads"])
                call = contender.operation(op)
                if cls.compiles:
                    call()
                give_memory_back()
                held = resident()[0] - before[0] if before else None
                peak = extra_peak(call)
            except Exception as error:
                self.record(op, name, "failed", reason=_told(error))
                continue
            finally:
                call = contender = None
            self.record(op, name, "ok", extra_bytes=peak,
                        held_bytes=None if cls.compiles else held)
            self.write()
        self.write()


def _told(error: Exception) -> str:
    traceback.print_exc()
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"


if __name__ == "__main__":
    main(sys.argv[1])
