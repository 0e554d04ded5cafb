"""`logitless score --resume`: whatever ends a job, it goes on to the same bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damage import damaged, damages
from support.processes import python

pytest.importorskip("click")
pytest.importorskip("rich")

from logitless import cli
from logitless.cli import commands, part, reading

M, N, K = 45, 7, 5
WORDS = ["score", "head.npy", "x.npy", "target.npy", "--block-rows", "10", "--topk", "2"]


def make(folder):
    rng = np.random.default_rng(7)
    np.save(folder / "head", rng.standard_normal((N, K), np.float32))
    np.save(folder / "x", rng.standard_normal((M, K), np.float32))
    np.save(folder / "target", rng.integers(N, size=M))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part, "KEEP_SECONDS", 0)
    monkeypatch.setattr(os, "fsync", lambda number: None)  # what is killed here is no machine
    make(tmp_path)
    return tmp_path


@pytest.fixture
def resume(command):
    return lambda *more, out="out.npz": command(*WORDS, "-o", out, "--resume", *more)


@pytest.fixture
def whole(command, folder):
    """What an uninterrupted job writes, without --resume."""
    assert command(*WORDS, "-o", "whole.npz")[0] == 0
    return (folder / "whole.npz").read_bytes()


def at_block(monkeypatch, number, do):
    """Have this done before a block, counted from 1, is added to the results."""
    seen, append_scores = [], commands.append_scores

    def append(writer, scores):
        seen.append(scores)
        if len(seen) == number:
            do()
        append_scores(writer, scores)

    monkeypatch.setattr(commands, "append_scores", append)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("out", ["out.npz", "out.parquet"])
@pytest.mark.parametrize("block", [1, 2, 5])
def test_an_interrupted_job_goes_on(command, folder, resume, monkeypatch, out, block):
    if out == "out.parquet":
        pytest.importorskip("pyarrow")
    assert command(*WORDS, "-o", f"whole-{out}")[0] == 0
    before = sorted(os.listdir())
    with monkeypatch.context() as patch:
        at_block(patch, block, interrupt)
        assert resume(out=out)[0] == 130
        assert sorted(os.listdir()) == sorted([*before, *([f"{out}.part"] if block > 1 else [])])
    rows = []
    with monkeypatch.context() as patch:
        append_scores = commands.append_scores
        patch.setattr(commands, "append_scores", lambda writer, scores: (
            rows.append(len(scores.lse)), append_scores(writer, scores)))
        code, stdout, stderr = resume(out=out)
    assert (code, stderr) == (0, "")
    assert sum(rows) == M - 10 * (block - 1)  # those that were done are not scored again
    assert ("resumed" in stdout) == (block > 1)
    assert re.search(rf"^rows +{M}$", stdout, re.M)
    assert Path(out).read_bytes() == Path(f"whole-{out}").read_bytes()
    assert sorted(os.listdir()) == sorted([*before, out])


@pytest.mark.parametrize("where", ["before a block is added", "after that"])
def test_what_is_said_is_of_all_rows(command, folder, resume, monkeypatch, where):
    said = command(*WORDS, "-o", "out.npz")[1]
    with monkeypatch.context() as patch:
        at_block(patch, 4, interrupt)
        if where == "after that":
            blocks, keep = count(1), part.Part.keep
            patch.setattr(part.Part, "keep", lambda *args: (
                interrupt() if next(blocks) == 3 else keep(*args)))
        assert resume()[0] == 130
    again = resume()[1]
    for name in "rows", "mean loss", "perplexity", "accuracy":
        line = re.compile(rf"^{name} .*$", re.M)
        assert line.search(again)[0] == line.search(said)[0]


def test_files_of_others_stay(folder, resume, whole):
    os.mkdir("out.npz.part")
    Path("out.npz.part", "notes.txt").write_text("of someone")
    assert resume()[0] == 0
    assert Path("out.npz").read_bytes() == whole
    assert os.listdir("out.npz.part") == ["notes.txt"]


KILLED = """
import os, signal, sys
from pathlib import Path
from logitless import cli
from logitless.cli import commands, part

part.KEEP_SECONDS = 0
words, whole = sys.argv[1:], Path("whole.npz").read_bytes()

def run(deadly):
    pid = os.fork()
    if not pid:
        left = deadly
        def counted(call):
            def wrapped(*args, **kwargs):
                nonlocal left
                result = call(*args, **kwargs)
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result
            return wrapped
        os.replace, os.unlink = counted(os.replace), counted(os.unlink)
        os.fsync = counted(lambda number: None)  # what is killed here is no machine
        commands.append_scores = counted(commands.append_scores)
        part.Part.keep = counted(part.Part.keep)
        os.rmdir = counted(os.rmdir)
        sys.stdout = open(os.devnull, "w")
        os._exit(cli.main(words))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

deaths = 0
for step in 1, 3, 5, 8, 13, 21, 34, *range(48, 68, 2):
    runs = 0
    while code := run(step if runs < 4 else 0):
        assert code == -signal.SIGKILL, code
        deaths, runs = deaths + 1, runs + 1
        assert not os.path.exists("out.npz") or Path("out.npz").read_bytes() == whole
    assert Path("out.npz").read_bytes() == whole
    assert not [name for name in os.listdir() if name.endswith((".part", ".tmp"))]
    os.unlink("out.npz")
print(deaths)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
def test_a_job_that_is_killed_anywhere_goes_on(folder, whole):
    deaths = python("-W", "ignore", "-c", KILLED, *WORDS, "-o", "out.npz", "--resume",
                    LOGITLESS_NUM_THREADS="1")
    assert int(deaths) > 30


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("out", ["out.npz", "out.parquet"])
def test_a_disk_that_is_full(command, folder, resume, out):
    import resource

    if out == "out.parquet":
        pytest.importorskip("pyarrow")
    assert command(*WORDS, "-o", f"whole-{out}")[0] == 0
    Path(out).write_text("the old file")
    size = Path(f"whole-{out}").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 100, 300, 500, 700, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            code, stdout, stderr = resume(out=out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert re.match(rf"Error: .*File too large: .*{out}", stderr), stderr
        assert Path(out).read_text() == "the old file"
    assert resume(out=out)[0] == 0
    assert Path(out).read_bytes() == Path(f"whole-{out}").read_bytes()
    assert not os.path.exists(f"{out}.part")


@pytest.mark.parametrize(("change", "message"), [
    (["--temperature", "2"], "whose --temperature is None, here 2.0"),
    (["--topk", "3"], "whose --topk is 2, here 3"),
    (["--block-rows", "9"], "whose --block-rows is 10, here 9"),
    ("x", r"whose X is x.npy of \d+ bytes .*, here x.npy of \d+ bytes"),
    ("target", "whose TARGET is target.npy of"),
    ("head", "whose HEAD is head.npy of"),
    ("version", "whose version is .*, here another"),
], ids=str)
def test_another_job_is_refused(folder, resume, monkeypatch, change, message):
    with monkeypatch.context() as patch:
        at_block(patch, 3, interrupt)
        resume()
    more = change
    if change == "version":
        monkeypatch.setattr("logitless.__version__", "another")
        more = []
    elif isinstance(change, str):
        np.save(change, np.load(f"{change}.npy"))
        os.utime(f"{change}.npy", (1, 1))
        more = []
    code, stdout, stderr = resume(*more)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert re.search(f"out.npz.part: it belongs to another job, {message}.*; delete it", stderr)
    assert os.path.exists("out.npz.part")
    assert not os.path.exists("out.npz")


@settings(max_examples=60)
@given(name=st.sampled_from(["state.json", "loss.rows", "lse.rows"]), hurts=damages)
def test_a_damaged_part_is_one_line_or_goes_on(tmp_path, monkeypatch, capsys, name, hurts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(part, "KEEP_SECONDS", 0)
    monkeypatch.setattr(os, "fsync", lambda number: None)
    if not os.path.exists("head.npy"):
        make(tmp_path)
        with monkeypatch.context() as patch:
            at_block(patch, 3, interrupt)
            assert cli.main([*WORDS, "-o", "out.npz", "--resume"]) == 130
        shutil.copytree("out.npz.part", "kept")
    shutil.rmtree("out.npz.part", ignore_errors=True)
    shutil.copytree("kept", "out.npz.part")
    capsys.readouterr()
    file = Path("out.npz.part", name)
    file.write_bytes(damaged(file.read_bytes(), hurts))
    code = cli.main([*WORDS, "-o", "out.npz", "--resume"])
    _, stderr = capsys.readouterr()
    assert code in (0, 2)
    assert stderr.count("\n") == (code == 2), stderr
    assert os.path.exists("out.npz") == (code == 0)
    if code == 0:
        os.remove("out.npz")


@pytest.mark.parametrize("state", [
    {}, [], 3, {"job": 1}, {"job": {}, "rows": "x", "columns": {}, "totals": {}},
    {"rows": 10, "columns": {"../x": ["<f4", []]}},
    {"rows": 10, "columns": {"loss": ["O", []]}},
    {"rows": -1}, {"rows": 10, "columns": {"loss": ["<f4", [-1]]}},
    {"rows": 1000}, {"rows": 10, "totals": {"rows": 1, "no": 2}},
], ids=str)
def test_a_state_that_cannot_be(folder, resume, monkeypatch, state):
    with monkeypatch.context() as patch:
        at_block(patch, 3, interrupt)
        resume()
    path = Path("out.npz.part", "state.json")
    if isinstance(state, dict) and "rows" in state and "job" not in state:
        state = {**json.loads(path.read_text()), **state}
    path.write_text(json.dumps(state))
    code, stdout, stderr = resume()
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "out.npz.part: it is damaged" in stderr


def test_one_process_at_a_time(folder, resume):
    pytest.importorskip("fcntl")
    with part.Part(folder / "out.npz", {}):
        code, _, stderr = resume()
        assert (code, stderr.count("\n")) == (2, 1)
        assert "out.npz.part: another process is at work on it" in stderr
    assert resume()[0] == 0


def test_a_lock_that_cannot_be_had_is_closed(folder, resume, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    held = []

    def fail(file, how):
        held.append(file)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    code, _, stderr = resume()
    assert (code, stderr.count("\n")) == (2, 1)
    assert os.strerror(errno.ENOLCK) in stderr
    assert held[0].closed


def parquet(name, array):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({f"f{i}": column for i, column in enumerate(array.T)})
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet").write_table(table, name, row_group_size=10)
    elif name.endswith("arrow"):
        pytest.importorskip("pyarrow.feather").write_feather(table, name, "uncompressed",
                                                             chunksize=10)
    else:
        pytest.importorskip("pyarrow.csv").write_csv(table, name)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot become smaller there")
@pytest.mark.parametrize("change", ["shrink", "grow", "touch"])
@pytest.mark.parametrize("name", ["x.npy", "f.npy", "target.npy", "head.npy", "x.parquet",
                                  "x.arrow", "x.csv"])
def test_inputs_that_change_in_mid_job(command, folder, resume, monkeypatch, name, change):
    monkeypatch.setattr(reading, "HELD_BYTES", 0)
    x = np.load("x.npy")
    if name == "f.npy":
        np.save(name, np.asfortranarray(x))
    elif not name.endswith("npy"):
        parquet(name, x)
    words = [name if word == "x.npy" and name[0] in "xf" else word for word in WORDS]
    before, size, times = sorted(os.listdir()), os.path.getsize(name), count(1)

    def alter():
        if change == "touch":
            os.utime(name, ns=(next(times), next(times)))
        else:
            os.truncate(name, size // 2 if change == "shrink" else size + 8)

    for more in [], ["--resume"]:
        with monkeypatch.context() as patch:
            at_block(patch, 2, alter)
            code, stdout, stderr = command(*words, "-o", "out.npz", *more)
        assert (code, stdout, stderr.count("\n")) == (2, "", 1)
        assert re.match(rf"Error: {name}: ", stderr), stderr
        assert "changed while it was read" in stderr
        assert sorted(os.listdir()) == sorted([*before, *(["out.npz.part"] if more else [])])
        if change == "shrink":
            break
        os.truncate(name, size)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot become smaller there")
@pytest.mark.parametrize("name", ["x.npy", "f.npy", "target.npy", "x.arrow"])
def test_inputs_that_shrink_under_a_block(command, folder, monkeypatch, name):
    """Between a check and a read: an error still, as nothing of these is mapped."""
    monkeypatch.setattr(reading, "HELD_BYTES", 0)
    x = np.load("x.npy")
    if name == "f.npy":
        np.save(name, np.asfortranarray(x))
    elif not name.endswith("npy"):
        parquet(name, x)
    words = [name if word == "x.npy" and name[0] in "xf" else word for word in WORDS]
    monkeypatch.setattr("logitless.cli.files.Watch.check", lambda self: None)
    monkeypatch.setattr(reading, "check_mapped", lambda *array_and_name: None)
    at_block(monkeypatch, 2, lambda: os.truncate(name, 140))
    code, stdout, stderr = command(*words, "-o", "out.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"Error: {name}: ")
    assert not os.path.exists("out.npz")


def test_progress_of_a_resumed_job(folder, resume, monkeypatch):
    with monkeypatch.context() as patch:
        at_block(patch, 3, interrupt)
        resume()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, _, stderr = resume()
    assert "44 %" in stderr
    assert "100 %" in stderr
