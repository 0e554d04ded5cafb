"""The `logitless` command: where it starts, and what it exits with."""

from __future__ import annotations

import sys

_PACKAGES = {"click", "rich"}


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
        missing; 130 after Ctrl-C.
    """
    try:
        try:
            from ._commands import run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _PACKAGES:
                raise
            print(f'the logitless command needs {error.name}: pip install "logitless[cli]"',
                  file=sys.stderr)
            return 2
        return run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
