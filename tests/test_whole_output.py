"""Whatever ends a write early, the old file stands and nothing is left beside it."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pytest
from support.processes import python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")

FULL = """
import errno, os, resource, sys
import numpy as np
from logitless.io import NpzWriter

def write(limit):
    with NpzWriter("out.npz", (40,)) as out:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        for begin in range(0, 40, 10):
            out.append(a=a[begin : begin + 10], b=b[begin : begin + 10])

_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
a, b = np.arange(40.0), np.arange(40 * wide, dtype=np.float32).reshape(40, wide)
failed = 0
for limit in range(0, 200_000, step):
    with open("out.npz", "w") as old:
        old.write("the old file")
    try:
        write(limit)
    except OSError as error:
        assert error.errno == errno.EFBIG, error
        assert error.filename.endswith("out.npz"), error
        failed += 1
        with open("out.npz") as old:
            assert old.read() == "the old file"
    else:
        break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert os.listdir() == ["out.npz"]
with np.load("out.npz") as written:
    assert (written["a"] == a).all() and (written["b"] == b).all()
print(failed)
"""


@pytest.mark.parametrize(("wide", "step"), [(0, 13), (3, 13), (1000, 1999)])
def test_a_disk_that_is_full_at_any_byte(run_python, wide, step):
    assert int(run_python(f"wide, step = {wide}, {step}\n{FULL}")) > 20


STOPPED = """
import os, signal, sys
from logitless import cli
fsync = os.fsync

def stop(fd):
    assert len([name for name in os.listdir() if name.endswith(".tmp")]) == 1
    os.kill(os.getpid(), signal.SIGTERM)
    fsync(fd)

if sys.argv[1] == "end":
    os.fsync = stop
else:
    from logitless.cli import scoring
    scoring.Job.blocks = lambda *args: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(cli.main(["score", "head.npy", "x.npy", "-o", "out.npz"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["begin", "end"])
def test_sigterm_leaves_nothing_behind(tmp_path, monkeypatch, when):
    pytest.importorskip("click")
    pytest.importorskip("rich")
    monkeypatch.chdir(tmp_path)
    np.save("head", np.eye(3, dtype=np.float32))
    np.save("x", np.eye(3, dtype=np.float32))
    (tmp_path / "out.npz").write_text("the old file")
    done = python("-c", STOPPED, when, check=False)
    assert (done.returncode, done.stderr.strip()) == (128 + signal.SIGTERM, "terminated")
    assert sorted(os.listdir()) == ["head.npy", "out.npz", "x.npy"]
    assert (tmp_path / "out.npz").read_text() == "the old file"


def test_the_handler_of_sigterm_is_put_back(capsys):
    cli = pytest.importorskip("logitless.cli")
    pytest.importorskip("rich")
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
