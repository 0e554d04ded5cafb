"""OUT.part: what an interrupted job has finished, to go on from.

A folder: the columns of OUT as far as they go, and `state.json`, which says how far that is. The
state is replaced in one step when the columns have reached the disk; what they hold beyond it is
cut off. So whenever the process ends, the folder holds whole blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from .._arrays.spools import Spools
from ..io import naming, replacing
from .scoring import Totals

KEEP_SECONDS = 1.0  # of work that a killed process loses


class Part:
    """The finished blocks of a job.

    Attributes
    ----------
    done : (int, Totals)
        How many rows of the job are, and their totals.
    spools : Spools
    """

    def __init__(self, out: Path, job: dict[str, str]):
        out = Path(os.path.realpath(out))
        self.folder = out.with_name(f"{out.name}.part")
        self._state = self.folder / "state.json"
        self._job = job
        self.done = 0, Totals()
        self._kept = time.monotonic()
        with naming(str(self.folder)):
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder)
            self.spools = Spools(self.folder, kept=True)
            try:
                if self._state.exists():
                    self._restore()
            except BaseException:
                self.spools.close()
                self._lock.close()
                raise

    def _restore(self) -> None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            job, rows, columns = dict(state["job"]), int(state["rows"]), dict(state["columns"])
            totals = Totals(**state["totals"])
            others = [name for name in {**job, **self._job} if job.get(name) != self._job.get(name)]
            if not others:
                for name, (dtype, tail) in columns.items():
                    self._restore_column(name, dtype, tuple(map(int, tail)), rows)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError,
                FileNotFoundError) as error:
            raise ValueError(f"{self.folder}: it is damaged: {error}; delete it") from error
        if others:
            name = others[0]
            raise ValueError(f"{self.folder}: it belongs to another job, whose {name} is "
                             f"{job.get(name)}, here {self._job.get(name)}; delete it, or leave "
                             "out --resume")
        self.done = rows, totals

    def _restore_column(self, name: str, dtype: str, tail: tuple[int, ...], rows: int) -> None:
        kind = np.dtype(dtype)
        if not name.isidentifier() or kind.kind not in "iuf" or min(rows, *tail, 0) < 0:
            raise ValueError(f"a column {name!r} of {rows} rows, dtype {dtype}, shape {tail}")
        self.spools.restore(name, kind, tail, rows)

    def keep(self, rows: int, totals: Totals) -> None:
        """Take note that these rows are done, and every second have that reach the disk."""
        self.done = rows, totals  # in one step: what interrupts may come between two
        if time.monotonic() - self._kept >= KEEP_SECONDS:
            self._save()

    def _save(self) -> None:
        columns = {name: [column.dtype.str, column.tail]
                   for name, column in self.spools.columns.items()}
        rows, totals = self.done
        state = {"job": self._job, "rows": rows, "columns": columns, "totals": asdict(totals)}
        with naming(str(self.folder)):
            self.spools.sync()
            with replacing(self._state) as file:
                file.write(json.dumps(state).encode())
        self._kept = time.monotonic()

    def _remove(self) -> None:
        """Delete what is of jobs, and the folder unless there is more in it."""
        self._state.unlink(missing_ok=True)  # first: it speaks of the others
        for names in "*.rows", ".*.tmp", "lock":
            for path in self.folder.glob(names):
                path.unlink(missing_ok=True)
        self.folder.rmdir()

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self._lock, contextlib.suppress(OSError):  # as on a full disk: what is there counts
            try:
                if kind is not None and self.done[0]:
                    self._save()
                else:  # all is done, or nothing
                    self._remove()
            finally:
                self.spools.close()


def _locked(folder: Path) -> BinaryIO:
    """Keep others out as long as this process runs."""
    file = open(folder / "lock", "ab")  # noqa: SIM115
    try:
        import fcntl
    except ImportError:  # not on this system
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{folder}: another process is at work on it") from None
    except BaseException:
        file.close()
        raise
    return file
