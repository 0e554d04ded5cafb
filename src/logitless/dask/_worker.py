"""What holds wherever a task runs: the client's arithmetic, and no more threads than Dask has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .._calls.pickled_parts import made_by
from .._parallel.pool import check_threads, threads


@dataclass(frozen=True)
class Setting:
    """Where a graph was made, and how many threads one of its tasks may use."""

    client: str
    n_threads: int

    @classmethod
    def of(cls, n_threads: int | None) -> Setting:
        """That of this process. Dask runs as many tasks as a worker has threads: one a task."""
        return cls(made_by(), 1 if n_threads is None else check_threads(n_threads))

    @contextmanager
    def of_task(self, first_row: int | None = None) -> Iterator[None]:
        """Run a task in it, or refuse; errors that name a row tell which is the first."""
        if made_by() != self.client:
            raise RuntimeError(f"a worker has {made_by()}, the client {self.client}: all must have "
                               "the same, as results have the same bits only then")
        try:
            with threads(self.n_threads):
                yield
        except (IndexError, ValueError) as error:
            if not first_row:
                raise
            raise type(error)(f"{error} (rows counted from {first_row} on)") from error
