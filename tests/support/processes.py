"""Fresh Python processes, and what they find."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]


def python(*words, cwd=None, timeout=240, check=True, stdin=None, stdout=subprocess.PIPE, **env):
    """Run Python in a fresh process and return what it printed, or without `check` all of it.

    The environment is this one's with the given changes; None removes a variable.
    """
    done = subprocess.run(
        [sys.executable, *map(os.fspath, words)],
        env={key: value for key, value in {**os.environ, **env}.items() if value is not None},
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
    if check and done.returncode:
        pytest.fail(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout if check else done


def hashes(module, **env):
    """Hashes of all cases of a module here, as another process finds them."""
    code = (f"import json; from support import exact, {module} as module;"
            "print(json.dumps(exact.hashes(module.cases())))")
    return json.loads(python("-c", code, cwd=TESTS, **env))
