"""`logitless score`: what it computes and writes, what it says, how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from support.oracle import logits_and_log_proba

import logitless as ll
from logitless.cli import commands

M, N, K = 37, 7, 5


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A head, samples and targets in the current folder, which is made empty for the test."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    arrays = {"weight": rng.standard_normal((N, K), np.float32),
              "bias": rng.standard_normal(N, np.float32),
              "x": rng.standard_normal((M, K), np.float32),
              "target": rng.integers(N, size=M)}
    np.savez("head.npz", weight=arrays["weight"], bias=arrays["bias"])
    np.save("x.npy", arrays["x"])
    np.save("target.npy", arrays["target"])
    return arrays


def load(path="out.npz"):
    with np.load(path) as written:
        return dict(written)


def assert_truth(out, logits, log_p, target=None):
    rows = np.arange(len(logits))
    np.testing.assert_array_equal(out["predicted"], logits.argmax(axis=1))
    np.testing.assert_allclose(out["max_logit"], logits.max(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out["lse"], np.logaddexp.reduce(logits, axis=1), rtol=1e-5)
    if target is not None:
        np.testing.assert_allclose(out["loss"], -log_p[rows, target], rtol=1e-5)


@pytest.mark.parametrize("block_rows", [None, 1, 5, M])
def test_score(command, files, block_rows):
    more = [] if block_rows is None else ["--block-rows", block_rows]
    code, stdout, stderr = command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz",
                                   *more)
    assert (code, stderr) == (0, "")
    out = load()
    assert sorted(out) == ["loss", "lse", "max_logit", "predicted"]
    z, log_p = logits_and_log_proba(files["x"], files["weight"], files["bias"])
    assert_truth(out, z, log_p, files["target"])
    mean = -log_p[np.arange(M), files["target"]].mean()
    said = dict(re.split(r"  +", line, maxsplit=1) for line in stdout.splitlines())
    assert said["rows"] == str(M)
    assert float(said["mean loss"].removesuffix(" nats")) == pytest.approx(mean, rel=1e-5)
    assert float(said["perplexity"]) == pytest.approx(np.exp(mean), rel=1e-5)
    assert said["accuracy"] == f"{(z.argmax(axis=1) == files['target']).mean():.2%}"
    assert said["written to"] == "out.npz"
    assert sorted(os.listdir()) == ["head.npz", "out.npz", "target.npy", "x.npy"]


def test_blocks_do_not_change_the_bits(command, files):
    if ll.active_isa() == "numpy":
        pytest.skip("BLAS may add in another order for another batch")
    for name, rows in (("a.npz", 3), ("b.npz", M)):
        assert command("score", "head.npz", "x.npy", "target.npy", "-o", name,
                       "--block-rows", rows, "--topk", 3)[0] == 0
    a, b = load("a.npz"), load("b.npz")
    assert all(a[key].tobytes() == b[key].tobytes() for key in a)


def test_score_without_target_and_with_top_k(command, files):
    code, stdout, _ = command("score", "head.npz", "x.npy", "-o", "out.npz", "--topk", 3,
                              "--block-rows", 10, "--threads", 1)
    assert code == 0
    assert "loss" not in stdout
    assert "accuracy" not in stdout
    out = load()
    assert sorted(out) == ["lse", "max_logit", "predicted", "top_index", "top_log_prob"]
    z, log_p = logits_and_log_proba(files["x"], files["weight"], files["bias"])
    assert_truth(out, z, log_p)
    best = np.argsort(-z, axis=1)[:, :3]
    np.testing.assert_array_equal(out["top_index"], best)
    np.testing.assert_allclose(out["top_log_prob"], np.take_along_axis(log_p, best, 1), rtol=1e-5)


def test_ignored_rows_do_not_count(command, files):
    target = files["target"].copy()
    target[::3] = 2
    np.save("target.npy", target)
    code, stdout, _ = command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz",
                              "--ignore-index", 2)
    assert code == 0
    z, log_p = logits_and_log_proba(files["x"], files["weight"], files["bias"])
    counts = target != 2
    assert (load()["loss"][~counts] == 0).all()
    assert re.search(rf"^counted +{counts.sum()}$", stdout, re.M)
    right = (z.argmax(axis=1) == target)[counts].mean()
    assert re.search(rf"^accuracy +{right:.2%}$", stdout, re.M)
    mean = -log_p[np.arange(M), target][counts].mean()
    said = float(re.search(r"^mean loss +(\S+) nats$", stdout, re.M)[1])
    assert said == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("head", ["h.safetensors", "h.safetensors:lm_head.weight", "h.json",
                                  "h.json:lm_head.weight", "a:b.npz", "a:b.npz:weight"])
def test_heads_in_files_of_any_kind(command, files, head):
    bf16 = pytest.importorskip("ml_dtypes").bfloat16
    safetensors = pytest.importorskip("safetensors.numpy")
    narrow = {name: files[name].astype(bf16) for name in ("weight", "bias", "x")}
    safetensors.save_file({"lm_head.weight": narrow["weight"], "lm_head.bias": narrow["bias"],
                           "other": narrow["x"]}, "h.safetensors")
    with open("h.json", "w") as file:
        json.dump({"weight_map": dict.fromkeys(["lm_head.weight", "lm_head.bias"],
                                               "h.safetensors")}, file)
    with open("a", "w"), open("a:b.npz", "wb") as file:
        np.savez(file, **{name: narrow[name].astype("f4") for name in ("weight", "bias")})
    safetensors.save_file({"hidden": narrow["x"], "x": narrow["x"][:1]}, "x.safetensors")
    safetensors.save_file({"labels": files["target"]}, "t.safetensors")
    assert command("score", head, "x.safetensors:hidden", "t.safetensors", "-o", "out.npz")[0] == 0
    wide = {name: array.astype("f4") for name, array in narrow.items()}
    assert_truth(load(), *logits_and_log_proba(wide["x"], wide["weight"], wide["bias"]),
                 files["target"])


def test_keys_that_are_not_there(command, files):
    for words, said in (
        (["head.npz:w", "x.npy"], "head.npz: expected an array named 'w', found 'weight' (7, 5) "),
        (["head.npz", "x.npy:x"], "x.npy: expected no key, as a .npy file holds one array"),
        (["head.npz", "head.npz:y"], "head.npz: expected an array named 'y', found"),
        (["no.npz:w", "x.npy"], "File 'no.npz:w' does not exist"),
    ):
        code, _, stderr = command("score", *words, "-o", "out.npz")
        assert code == 2
        assert said in stderr


def test_all_rows_ignored(command, files):
    np.save("target.npy", np.full(M, -100))
    code, stdout, _ = command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz")
    assert code == 0
    assert re.search(r"^counted +0$", stdout, re.M)
    assert "mean loss" not in stdout


def test_targets_that_are_probabilities(command, files):
    t = np.random.default_rng(1).dirichlet(np.ones(N), M).astype(np.float32)
    np.save("target.npy", t)
    code, stdout, _ = command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz",
                              "--block-rows", 8)
    assert code == 0
    _, log_p = logits_and_log_proba(files["x"], files["weight"], files["bias"])
    np.testing.assert_allclose(load()["loss"], -(t * log_p).sum(axis=1), rtol=1e-5)
    assert "mean loss" in stdout
    assert "accuracy" not in stdout


def test_softcap_and_temperature_are_read_and_overridden(command, files):
    np.savez("head.npz", weight=files["weight"], bias=files["bias"], softcap=2.0,
             temperature=0.5)
    for args, options in (((), {"softcap": 2.0, "temperature": 0.5}),
                          (("--softcap", 3, "--temperature", 2),
                           {"softcap": 3.0, "temperature": 2.0})):
        assert command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz", *args)[0] == 0
        z, log_p = logits_and_log_proba(files["x"], files["weight"], files["bias"], **options)
        assert_truth(load(), z, log_p, files["target"])


@pytest.mark.parametrize("layout", ["fortran", "npz", "big-endian", "float16", "uint8"])
def test_layouts_of_x(command, files, layout):
    x = files["x"]
    if layout == "npz":
        np.savez("x.npz", x=x, other=np.zeros(3))
        os.remove("x.npy")
    else:
        x = {"fortran": np.asfortranarray, "big-endian": lambda a: a.astype(">f4"),
             "float16": lambda a: a.astype(np.float16),
             "uint8": lambda a: (abs(a) * 3).astype(np.uint8)}[layout](x)
        np.save("x.npy", x)
    code, _, stderr = command("score", "head.npz", "x.npz" if layout == "npz" else "x.npy",
                              "target.npy", "-o", "out.npz", "--block-rows", 8)
    assert (code, stderr) == (0, "")
    assert_truth(load(), *logits_and_log_proba(x, files["weight"], files["bias"]), files["target"])


def test_head_of_weights_only_and_leading_axes(command, files):
    np.save("head.npy", files["weight"])
    np.save("x.npy", files["x"][:36].reshape(3, 12, K))
    np.save("target.npy", files["target"][:36].reshape(3, 12))
    code, _, _ = command("score", "head.npy", "x.npy", "target.npy", "-o", "out.npz",
                         "--topk", 2, "--block-rows", 5)
    assert code == 0
    out = load()
    assert out["loss"].shape == (3, 12)
    assert out["top_index"].shape == (3, 12, 2)
    out = {key: value.reshape(36, *value.shape[2:]) for key, value in out.items()}
    assert_truth(out, *logits_and_log_proba(files["x"][:36], files["weight"]), files["target"][:36])


def test_no_rows(command, files):
    np.save("x.npy", files["x"][:0])
    np.save("target.npy", files["target"][:0])
    code, _, stderr = command("score", "head.npz", "x.npy", "target.npy", "-o", "out.npz",
                              "--topk", 2)
    assert (code, stderr) == (0, "")
    assert load()["loss"].shape == (0,)
    assert load()["top_index"].shape == (0, 2)


def bad_label(files):
    files["target"][20] = N
    np.save("target.npy", files["target"])


def bad_probability(files):
    t = np.full((M, N), 1 / N)
    t[20, 1] = -1
    np.save("target.npy", t)


def save(name, array):
    return lambda files: np.save(name, array)


@pytest.mark.parametrize(("spoil", "args", "message"), [
    (None, ["nothing.npy"], r"TARGET.*nothing.npy"),
    (save("target.npy", np.zeros(M + 1, int)), [],
     r"TARGET \(int64, \(38,\)\) must have a class for each row of X.* 37, got 38"),
    (save("target.npy", np.zeros(M)), [],
     r"TARGET \(float64, \(37,\)\) must be integers to be class indices: `.astype\(np.int64\)`"),
    (bad_label, ["--block-rows", "8"], r"\[0, 7\).*-100.* 7 at row 20"),
    (bad_probability, ["--block-rows", "8"],
     r"rows 16 to 23 \(row 0 here is row 16\): .*-1.*row 4"),
    (save("x.npy", np.zeros((M, K + 1))), [], r"X must have shape \(\.\.\., 5\).*\(37, 6\)"),
    (save("x.npy", np.zeros((M, K), "S3")), [], r"S3"),
    (save("head.npz.npy", np.zeros(3)), ["HEAD", "head.npz.npy"], r"weight.*\(3,\)"),
    (None, ["--temperature", "0"], r"temperature.*0"),
    (None, ["--softcap", "-1"], r"softcap.*-1"),
    (None, ["--topk", "8"], r"8"),
    (None, ["--threads", "0"], r"--threads"),
    (None, ["-o", "out.txt"], r"out.txt: expected a name that ends in .npz"),
    (None, ["-o", "no/out.npz"], r"its folder does not exist"),
    (None, ["-o", "head.npz"], r"head.npz: OUT must not be one of the inputs"),
])
def test_bad_input_is_one_message_and_code_2(command, files, spoil, args, message):
    if spoil is not None:
        spoil(files)
    words = ["score", "head.npz", "x.npy", "target.npy", "-o", "out.npz"]
    if args[:1] == ["HEAD"]:
        words[1] = args[1]
    elif args and not args[0].startswith("-"):
        words[3] = args[0]
    else:
        words += args
    before = sorted(os.listdir())
    code, stdout, stderr = command(*words)
    assert (code, stdout) == (2, "")
    assert re.search(message, stderr), stderr
    assert "Traceback" not in stderr
    assert sorted(os.listdir()) == before


def test_standard_error_may_be_closed(command, files, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert command("score", "head.npz", "x.npy", "-o", "out.npz")[0] == 0
    assert os.path.exists("out.npz")


def test_old_result_stands_until_the_new_one_is_complete(command, files, monkeypatch):
    with open("out.npz", "w") as old:
        old.write("the old result")
    blocks = []

    def append(writer, scores):
        blocks.append(scores)
        with open("out.npz") as old:
            assert old.read() == "the old result"
        if len(blocks) == 3:
            raise KeyboardInterrupt
        append_scores(writer, scores)

    append_scores = commands.append_scores
    monkeypatch.setattr(commands, "append_scores", append)
    before = sorted(os.listdir())
    assert command("score", "head.npz", "x.npy", "-o", "out.npz", "--block-rows", 9)[0] == 130
    assert len(blocks) == 3
    assert sorted(os.listdir()) == before
    with open("out.npz") as old:
        assert old.read() == "the old result"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_leaves_no_trace(files, tmp_path, pytestconfig):
    np.save("x.npy", np.zeros((4_000_000, K), np.uint8))
    before = sorted(os.listdir())
    code = ("import signal, sys; from logitless import cli;"
            "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background job
            "print('ready', flush=True); sys.exit(cli.main(sys.argv[1:]))")  # would ignore it
    words = ["score", tmp_path / "head.npz", tmp_path / "x.npy", "-o", tmp_path / "out.npz",
             "--block-rows", "1"]
    with subprocess.Popen([sys.executable, "-c", code, *words], text=True,
                          cwd=pytestconfig.invocation_params.dir,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        assert process.poll() is None
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - start < 5
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert sorted(os.listdir()) == before


def test_progress_is_shown_on_a_terminal_only(command, files, monkeypatch):
    quiet = command("score", "head.npz", "x.npy", "-o", "out.npz", "--block-rows", 1)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = command("score", "head.npz", "x.npy", "-o", "out.npz", "--block-rows", 1)
    assert quiet[2] == ""
    assert "100 %" in shown[2]
    assert "rows/s" in shown[2]
