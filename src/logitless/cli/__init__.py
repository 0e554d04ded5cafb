"""The `logitless` command: where it starts, and what it exits with."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

_PACKAGES = {"click", "rich"}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which leaves no more behind than Ctrl-C does."""


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args : list of str, optional
        The words after the command's name; those of the process by default.

    Returns
    -------
    int
        0 when all went well; 1 where the demo's results do not agree; 2 for
        input that cannot be used, with a line on stderr that says why, and
        where the packages of the extra `cli`, or for the demo scikit-learn, are
        missing; 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        try:
            from .commands import run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _PACKAGES:
                raise
            print(f'the logitless command needs {error.name}: pip install "logitless[cli]"',
                  file=sys.stderr)
            return 2
        with _sigterm_raises():
            return run(args)
    except Terminated:
        print("terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # only the main thread may ask for signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
