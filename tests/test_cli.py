"""`logitless demo`, `bench`, `info` and the command itself: output, messages, exit status."""

import json
import os
import re
import sys

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from support.oracle import logits_and_log_proba
from support.processes import python

import logitless as ll
from logitless._engines.choice import engine
from logitless._parallel.pool import default_threads
from logitless.cli import bench, demo
from logitless.io import open_packaged
from logitless.limits import MachineLimits


@pytest.fixture
def quick_demo(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(demo, "SECONDS_PER_SHAPE", 0)
    monkeypatch.setattr(demo, "SPIN_SECONDS", 0)
    monkeypatch.setattr(demo, "TILED_ROWS", 2000)


def test_demo(command, quick_demo, monkeypatch):
    fitted, fit = [], demo.fit
    monkeypatch.setattr(demo, "fit", lambda *args: fitted.append(fit(*args)) or fitted[0])
    code, stdout, stderr = command("demo")
    assert (code, stderr) == (0, "")
    model, digits = fitted[0], open_packaged("digits.npz")
    assert model.n_samples_seen_ == 1200
    assert f"by {model.n_iter_[0]} iterations in" in " ".join(stdout.split())
    x, target = digits["x"][1200:] / 16, digits["target"][1200:].astype(int)
    z, log_p = logits_and_log_proba(x, model.coef_, model.intercept_)
    loss = -log_p[np.arange(len(x)), target]
    predicted = z.argmax(axis=1)
    assert f"accuracy    {(predicted == target).mean():.1%}" in stdout
    assert f"mean loss   {loss.mean():.4f} nats" in stdout
    assert f"perplexity  {np.exp(loss.mean()):.4f}" in stdout
    table = re.findall(r"^ *(\d{4}) +(\d) +([\d.]+) +(\d) +([\d.]+) +([\d.]+) *$", stdout, re.M)
    assert [int(row[0]) - 1200 for row in table] == np.argsort(-loss)[:10].tolist()
    for index, label, p, guess, p_guess, row_loss in table:
        i = int(index) - 1200
        assert (int(label), int(guess)) == (target[i], predicted[i])
        assert [p, p_guess] == [f"{v:.3f}" for v in np.exp(log_p[i, [target[i], predicted[i]]])]
        assert row_loss == f"{loss[i]:.2f}"
        assert f"{index}: {label}, not {guess}" in stdout
    assert re.search(r"^ +597 .+x *$", stdout, re.M)
    assert max(map(len, stdout.splitlines())) <= 80


def test_demo_shows_the_fit_on_a_terminal(command, quick_demo, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, _, stderr = command("demo")
    assert code == 0
    assert "Fitting: iteration" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["sklearn", "scipy"])
def test_demo_without_scikit_learn_says_how_to_get_it(missing):
    code = (f"import sys; sys.modules[{missing!r}] = None; from logitless.cli import main;"
            "sys.exit(main(['demo']))")
    done = python("-c", code, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "logitless[cli,sklearn]"' in done.stderr


def test_demo_draws_a_picture_where_it_is_told(command, quick_demo):
    pytest.importorskip("matplotlib")
    code, stdout, _ = command("demo", "--plot", "hard.png")
    assert code == 0
    assert "hard.png" in stdout
    assert os.listdir() == ["hard.png"]
    with open("hard.png", "rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"
    code, _, stderr = command("demo", "--plot", "no/hard.png")
    assert code == 2
    assert "cannot write the picture" in stderr


def test_demo_without_matplotlib_says_how_to_get_it(command, quick_demo, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    code, stdout, _ = command("demo")
    assert code == 0
    assert 'pip install "logitless[plot]"' in stdout
    assert os.listdir() == []


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["20", "40"])
def test_demo_fits_a_narrow_terminal(command, quick_demo, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    code, stdout, _ = command("demo")
    assert code == 0
    assert max(map(len, stdout.splitlines())) <= int(columns)


def test_demo_does_not_time_what_does_not_agree(command, quick_demo, monkeypatch):
    monkeypatch.setattr(demo, "numpy_score", lambda x, w, b, t: (np.ones(len(x)), t))
    code, stdout, stderr = command("demo")
    assert code == 1
    assert "disagree" in stderr
    assert "speedup" not in stdout


@pytest.mark.parametrize(("n_threads", "pause"), [(1, 0.0), (2, 1e-9)])
def test_a_turn_on_several_threads_comes_after_a_pause(monkeypatch, n_threads, pause):
    done = []
    monkeypatch.setattr(demo, "SPIN_SECONDS", 1e-9)
    monkeypatch.setattr(demo.time, "sleep", done.append)
    demo.best_times([lambda: done.append("a"), lambda: done.append("b")], 0, n_threads)
    assert done == [pause, "a", pause, "b"] * 3


@pytest.fixture
def quick_bench(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(bench, "SECONDS_PER_SHAPE", 0)
    monkeypatch.setattr(demo, "SPIN_SECONDS", 0)
    monkeypatch.setattr(bench.ll, "machine_limits",
                        lambda n: MachineLimits(n, 10.0, 5.0, 1.0, 20.0, 40.0))


@pytest.mark.parametrize(("dtype", "peak"), [
    ("float32", 10), ("float64", 5), ("float16", 10), ("bfloat16", 20)])
def test_bench(command, quick_bench, dtype, peak):
    code, stdout, stderr = command("bench", "--shape", "3x5x7", "--shape", "40X8X33",
                                   "--dtype", dtype, "--threads", 1)
    assert (code, stderr) == (0, "")
    rows = re.findall(r"^ *(\S+x\S+) +([\d,.]+) us +([\d,.]+) us +[\d.]+x +\d+% *$", stdout, re.M)
    assert [row[0] for row in rows] == ["3x5x7", "40x8x33"]
    assert dtype in stdout
    told = " ".join(stdout.split())
    assert f" {peak} GFLOP/s" in told
    assert ("widened to float32" in told) == ("16" in dtype)
    assert max(map(len, stdout.splitlines())) <= 80


def test_bench_reckons_what_is_read_and_multiplied(quick_bench):
    """Narrow numbers are half as many bytes; only bfloat16 is multiplied as it is."""
    none_of_bfloat16 = MachineLimits(1, 10.0, 5.0, 1.0, 0.0, 0.0)
    assert bench.gflops_limit(none_of_bfloat16, "bfloat16") == 10
    for dtype, item in (("float32", 4), ("float64", 8), ("float16", 2), ("bfloat16", 2)):
        timed = bench.measure((3, 5, 7), bench.DTYPES[dtype], 1)
        assert timed.read_bytes == (3 + 7) * 5 * item
        assert timed.limit(1e9, 1.0) == timed.read_bytes / 1e9


def test_bench_without_a_shape(command, quick_bench, monkeypatch):
    monkeypatch.setattr(bench, "DEFAULT_SHAPES", ((2, 3, 4),))
    code, stdout, _ = command("bench")
    assert code == 0
    assert "2x3x4" in stdout


@pytest.mark.parametrize("shape", ["3x5", "ax5x7", "0x5x7", "1x-2x3", "3x5x7x9", ""])
def test_bench_says_what_a_shape_is(command, quick_bench, shape):
    code, stdout, stderr = command("bench", "--shape", shape)
    assert (code, stdout) == (2, "")
    assert "MxKxN" in stderr
    assert repr(shape) in stderr


def test_bench_does_not_time_what_does_not_agree(command, quick_bench, monkeypatch):
    monkeypatch.setattr(bench, "numpy_loss", lambda x, w, t: np.ones(len(x)))
    code, stdout, stderr = command("bench", "--shape", "3x5x7")
    assert code == 1
    assert "disagree" in stderr
    assert "speedup" not in stdout


@pytest.mark.slow
def test_info(command):
    code, stdout, _ = command("info")
    assert code == 0
    assert np.__version__ in stdout
    assert ll.active_isa() in stdout
    code, stdout, _ = command("info", "--json")
    facts = json.loads(stdout)
    assert facts["isa"] == ll.active_isa()
    assert facts["isas"] == list(ll.available_isas())
    assert facts["threads"] >= 1
    assert facts["limits"]["read_gb_s"] > 0
    for name, key in (("bf16", "dot_gflops_bfloat16"), ("int8", "dot_gops_int8")):
        assert bool(facts[name]) == (facts["limits"][key] > 0)


def test_info_says_why_that_many_threads(command, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOGITLESS_NUM_THREADS", raising=False)
    monkeypatch.setattr(ll, "machine_limits", lambda: MachineLimits(1, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert json.loads(command("info", "--json")[1])["threads_reason"] == "OMP_NUM_THREADS=1"


@pytest.mark.parametrize("rate", [0.0, 1234.5])
def test_info_tells_peaks_and_what_multiplies(command, monkeypatch, rate):
    monkeypatch.setattr(ll, "machine_limits", lambda: MachineLimits(1, 1.0, 1.0, 1.0, rate, rate))
    monkeypatch.setattr(engine, "bf16_name", lambda: "one way")
    monkeypatch.setattr(engine, "int8_name", lambda: "another")
    lines = [re.split(" {2,}", line) for line in command("info")[1].splitlines()]
    told = dict(line for line in lines if line[0].endswith(("bfloat16 peak", "int8 peak")))
    assert told == {
        "bfloat16 peak": "1,234.5 GFLOP/s (one way)" if rate else "none here",
        "int8 peak": "1,234.5 Gop/s (another)" if rate else "none here"}


@pytest.mark.parametrize("name", ["demo", "bench", "info"])
def test_bad_environment_is_one_message_and_code_2(command, monkeypatch, name):
    monkeypatch.setenv("LOGITLESS_NUM_THREADS", "many")
    default_threads.cache_clear()  # the environment is read once a process
    code, stdout, stderr = command(name)
    assert (code, stdout) == (2, "")
    assert "LOGITLESS_NUM_THREADS" in stderr
    assert "many" in stderr


def test_help_and_version(command):
    code, stdout, _ = command("-h")
    assert code == 0
    assert all(name in stdout for name in ("demo", "score", "bench", "info"))
    for name in ("demo", "score", "bench", "info"):
        assert command(name, "--help")[0] == 0
    code, stdout, _ = command("--version")
    assert code == 0
    assert stdout.startswith("logitless ")
    code, _, stderr = command("scroe")
    assert code == 2
    assert "scroe" in stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_packages_are_one_line_and_code_2(missing):
    code = (f"import sys; sys.modules[{missing!r}] = None; from logitless.cli import main;"
            "sys.exit(main(['info']))")
    done = python("-c", code, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert 'pip install "logitless[cli]"' in done.stderr


def test_python_m_logitless():
    done = python("-m", "logitless", "--version", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("logitless ")
