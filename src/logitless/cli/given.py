"""What `score` and `evaluate` are given alike: HEAD, X, TARGET, and the options of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import numpy as np

import logitless as ll

from .files import InputFile, Source, Watch
from .reading import open_head, open_matrix
from .scoring import Job

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--softcap", type=float, metavar="C", help="Logits become C tanh(z / C)."),
    click.option("--temperature", type=float, metavar="T", help="Logits are divided by T."),
    click.option("--ignore-index", type=int, default=-100, show_default=True, metavar="I",
                 help="Rows with this target have loss 0 and do not count."),
    click.option("--shift", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
                 help="X (..., t, k) at a position is scored against TARGET (..., t) S further "
                      "on; the results have t - S positions."),
    click.option("--exclude", type=InputFile(), metavar="FILE",
                 help="Classes that do not count: the entries of a sparse matrix (m, n), as "
                      "scipy.sparse.save_npz writes it, or of all rows alike a bool .npy (n,)."),
    click.option("--threads", type=click.IntRange(min=1), metavar="N",
                 help="As many as the process may use unless given."),
    click.option("--block-rows", type=click.IntRange(min=1), metavar="N",
                 help="Rows read and scored at a time; by the size of HEAD unless given."),
)


def of_scores(command: F) -> F:
    """Give a command the options of scores."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Given:
    """Files and options, opened and watched."""

    def __init__(self, head: Source, x: Source, target: Source | None, options: dict[str, Any]):
        exclude: Source | None = options["exclude"]
        self._files = {"HEAD": head, "X": x, "TARGET": target, "--exclude": exclude}
        self._options = options
        self.watch = Watch(self._files.values())
        scale: Any = {name: options[name] for name in ("softcap", "temperature")
                      if options[name] is not None}
        self._screen = options.get("screen", False)
        self.head = open_head(head, self._screen, n_threads=options["threads"], **scale)
        n, k = self.head.n_classes, self.head.n_features
        self._x = open_matrix(x, "x", self.head.dtype, k, target)
        self._target, self._exclude = (
            None if source is None else open_matrix(source, name, self.head.dtype, n)
            for source, name in ((target, "target"), (exclude, "exclude")))

    def job(self, k: int) -> Job:
        """Check what is given, and make a job of it."""
        return Job(self.head, self._x, self._target, self.watch, k=k, exclude=self._exclude,
                   screen=self._screen,
                   **{name: self._options[name] for name in ("ignore_index", "shift",
                                                             "block_rows")})

    def identity(self, job: Job) -> dict[str, str]:
        """All that the bits of the results depend on, in words."""
        isa = ll.active_isa()
        engine = f"NumPy {np.__version__}" if isa == "numpy" else "compiled"
        options = {name: value for name, value in self._options.items()
                   if name not in ("threads", "block_rows", "exclude")}
        return {
            "version": ll.__version__, "engine": engine,
            **{name: self.watch.identity(source) for name, source in self._files.items() if source},
            **{f"--{name.replace('_', '-')}": str(value) for name, value in options.items()},
            "temperature": str(job.temperature),
            "--topk": str(job.k), "--block-rows": str(job.block_rows),
        }
