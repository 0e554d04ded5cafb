"""Every call of the system that opens, writes, renames or closes a file fails once.

A job of the command line then ends with one line and exit code 2, or does without; OUT is as it was
or whole, nothing is left beside it, and with --resume it goes on to the same bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.c_programs import TESTS, compiler_named
from support.processes import python

pytest.importorskip("click")
pytest.importorskip("rich")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")

JOBS = """
import contextlib, ctypes, errno, io, json, os, shutil, sys, traceback, warnings
from pathlib import Path
import numpy as np
from logitless import cli
from logitless.cli import commands, part
with contextlib.suppress(ImportError):
    import pyarrow, pyarrow.parquet

warnings.simplefilter("error")
shim = ctypes.CDLL(sys.argv[1])
out, resume, step = sys.argv[2], sys.argv[3] == "resume", int(sys.argv[4])
part.KEEP_SECONDS = 0
words = ["score", "head.npy", "x.npy", "target.npy", "--block-rows", "10", "--topk", "2", "-o"]
more = ["--resume"] if resume else []
FAULTS = {
    "open": ["EMFILE", "EACCES"], "read": ["EIO"], "write": ["ENOSPC", "EIO", "EINTR", None],
    "writev": ["EIO"], "pwrite": ["EIO"], "fsync": ["EIO", "ENOSPC"],
    "close": ["EIO"], "rename": ["EACCES", "ENOSPC"], "unlink": ["EACCES"], "rmdir": ["EBUSY"],
    "mkdir": ["ENOSPC"], "ftruncate64": ["EIO"],
}

def run(name, which, fault):
    "Exit code, what was said, how many such calls there were: of a child, with its fault."
    pid = os.fork()
    if not pid:
        said = io.StringIO()
        sys.stderr = said
        sys.stdout = io.StringIO()
        try:
            shim.fail_next(name.encode(), ctypes.c_long(which),
                           getattr(errno, fault) if fault else 0)
            code = cli.main([*words, out, *more])
        except BaseException:
            code = 99
            said.write(traceback.format_exc())
        seen = shim.calls_seen()
        shim.fail_next(b"", 0, 0)
        Path("../said.json").write_text(json.dumps([code, said.getvalue(), seen]))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, (name, which, fault)
    return json.loads(Path("../said.json").read_text())

assert cli.main([*words, f"../whole-{out}"]) == 0
whole, old = Path(f"../whole-{out}").read_bytes(), b"the old file"
names, found = sorted([*os.listdir(), out]), {}
for name, faults in FAULTS.items():
    for fault in faults:
        which, failed = 1, 0
        while True:
            Path(out).write_bytes(old)
            code, said, seen = run(name, which, fault)
            there, now = sorted(os.listdir()), Path(out).read_bytes()
            case = name, which, fault, code, said, there
            left = [file for file in there if file not in names]
            if code:
                failed += 1
                assert code == 2 and said.count("\\n") == 1 and said.startswith("Error: "), case
                assert now == old or name in ("close", "fsync") and now == whole, case
            else:
                assert not said and now == whole, case
            # What cannot be deleted stays, and a job that is gone on from may leave its part.
            stays = name in ("unlink", "rmdir")
            assert not left or stays or resume and left == [f"{out}.part"], case
            if resume:
                again, text, _ = run("", 0, None)
                assert (again, text) == (0, ""), (case, text)
                assert Path(out).read_bytes() == whole, case
                assert stays or not set(os.listdir()) - set(names), case
            for file in os.listdir():
                if file not in names or file == out:
                    shutil.rmtree(file) if os.path.isdir(file) else os.unlink(file)
            if seen < which:
                break
            which += step
        found[f"{name} {fault}"] = [which, failed]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("preloaded") / "failing_writes.so"
    subprocess.run([compiler_named("gcc"), "-shared", "-fPIC", "-O1", TESTS / "c/failing_writes.c",
                    "-o", path, "-ldl"], check=True, timeout=120)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("resume", ["anew", "resume"])
@pytest.mark.parametrize("out", ["out.npz", "out.parquet"])
def test_each_call_fails_once(library, tmp_path, out, resume):
    if out.endswith("parquet"):
        pytest.importorskip("pyarrow")
    folder = tmp_path / "job"
    folder.mkdir()
    rng = np.random.default_rng(7)
    np.save(folder / "head", rng.standard_normal((7, 5), np.float32))
    np.save(folder / "x", rng.standard_normal((45, 5), np.float32))
    np.save(folder / "target", rng.integers(7, size=45))
    step = 1 if os.environ.get("LOGITLESS_FAULTS") == "all" else 11
    said = python("-W", "ignore", "-c", JOBS, library, out, resume, str(step), cwd=folder,
                  LD_PRELOAD=str(library), LOGITLESS_NUM_THREADS="1")
    found = json.loads(said.splitlines()[-1])
    assert sum(failed for _, failed in found.values()) > 10
