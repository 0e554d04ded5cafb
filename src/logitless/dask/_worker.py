"""What holds wherever a task runs: the client's arithmetic, and no more threads than Dask has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .. import __version__, active_isa
from .._parallel.pool import check_threads, threads


def _here() -> str:
    """What gives results the same bits, as far as it is not checked by the results themselves."""
    engine = "plain NumPy" if active_isa() == "numpy" else "compiled kernels"
    return f"logitless {__version__} with {engine}"


@dataclass(frozen=True)
class Setting:
    """Where a graph was made, and how many threads one of its tasks may use."""

    client: str
    n_threads: int

    @classmethod
    def of(cls, n_threads: int | None) -> Setting:
        """That of this process. Dask runs as many tasks as a worker has threads: one a task."""
        return cls(_here(), 1 if n_threads is None else check_threads(n_threads))

    @contextmanager
    def of_task(self, first_row: int | None = None) -> Iterator[None]:
        """Run a task in it, or refuse; errors that name a row tell which is the first."""
        if _here() != self.client:
            raise RuntimeError(f"a worker has {_here()}, the client {self.client}: all must have "
                               "the same, as their results have the same bits only then")
        try:
            with threads(self.n_threads):
                yield
        except (IndexError, ValueError) as error:
            if not first_row:
                raise
            raise type(error)(f"{error} (rows counted from {first_row} on)") from error
