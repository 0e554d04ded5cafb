"""What `logitless score` says of inputs that are not what they should be, and of rows without
a softmax.
"""

import os
import re

import numpy as np
import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

from support.processes import python

from logitless import cli

M, N, K = 37, 7, 5


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Score these arrays in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    arrays = {"head": rng.standard_normal((N, K), np.float32),
              "x": rng.standard_normal((M, K), np.float32), "target": rng.integers(N, size=M)}

    def run(*options, **changed):
        words = []
        for name, array in {**arrays, **changed}.items():
            if array is not None:
                np.save(name, array)
                words.append(f"{name}.npy")
        code = cli.main(["score", *words, "-o", "out.npz", *map(str, options)])
        return (code, *capsys.readouterr())

    run.arrays = arrays
    return run


def refused(score, message, *options, **changed):
    code, stdout, stderr = score(*options, **changed)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert re.search(message, stderr), stderr
    assert not os.path.exists("out.npz")


LABELS = np.arange(M) % N


@pytest.mark.parametrize(("target", "message"), [
    (LABELS.astype(np.float64), r"\(float64, \(37,\)\) must be integers.*`.astype\(np.int64\)`"),
    (LABELS + 0.5, r"must be integers.* got 0.5 at row 0"),
    (np.where(np.arange(M) == 5, np.nan, LABELS), r"must be integers.* got nan at row 5"),
    (np.where(np.arange(M) == 5, np.inf, LABELS), r"must be integers.* got inf at row 5"),
    (LABELS > 3, r"\(bool, \(37,\)\) must be integers.*`.astype\(np.int64\)`"),
    (LABELS.astype(str), r"target.npy: .*numbers.*'<U\d+'.*return_inverse"),
    (LABELS.astype(object), r"target.npy: .*numbers.*'\|O'.*astype"),
    (np.eye(N, dtype=int)[LABELS],
     r"\(int64, \(37, 7\)\) must be floats.*`.astype\(np.float32\)`.*`.argmax\(axis=-1\)`"),
    (np.eye(N, dtype=bool)[LABELS], r"\(bool, \(37, 7\)\) must be floats.*argmax"),
    (LABELS[:-1], r"\(int64, \(36,\)\) .* each row of X, of which there are 37, got 36"),
    (LABELS[:, None], r"\(37, 1\)\) must have shape \(37,\) .*`.reshape\(\(37,\)\)`"),
    (np.full((M + 1, N), 1 / N), r"\(38, 7\)\) must have shape .*\(37, 7\) for class probab"),
    (np.full((M, N + 1), 1 / N), r"\(37, 8\)\) must have shape .*\(37, 7\) for class probab"),
    (np.int64(3), r"\(int64, \(\)\) must have shape \(37,\)"),
    (np.where(np.arange(M) == 4, -1, LABELS), r"\[0, 7\) or -100 \(ignored\), got -1 at row 4"),
], ids=lambda v: "" if isinstance(v, str) else None)
def test_targets_are_named_for_what_they_are(score, target, message):
    refused(score, message, target=target)


def test_labels_of_more_axes_than_one(score):
    x = np.zeros((3, 4, K), np.float32)
    refused(score, r"\(3, 4\)\) must be integers.*astype", x=x, target=np.zeros((3, 4)))
    refused(score, r"\(12,\)\) must have shape \(3, 4\).*reshape\(\(3, 4\)\)", x=x,
            target=np.zeros(12, int))
    refused(score, r"\(2, 4\)\) .* each row of X, of which there are 3, got 2", x=x,
            target=np.zeros((2, 4), int))


def test_a_row_of_a_block_can_be_found(score):
    target = np.full((M, N), np.float32(1 / N))
    target[20, 1] = -1
    refused(score, r"rows 16 to 23 \(row 0 here is row 16\): .* row 4, class 1", "--block-rows", 8,
            target=target)


def said(stdout):
    return dict(re.split(r"  +", line, maxsplit=1) for line in stdout.splitlines())


@pytest.mark.parametrize("block_rows", [4, M])
def test_rows_without_a_softmax_are_told_and_are_no_hits(score, block_rows):
    x = score.arrays["x"].copy()
    x[3], x[9] = np.nan, np.inf
    x[11] = -np.inf  # all its logits are -inf
    head = abs(score.arrays["head"])
    logits = x @ head.T
    has_softmax = np.isfinite(logits).all(axis=1)
    assert np.flatnonzero(~has_softmax).tolist() == [3, 9, 11]
    target = np.where(has_softmax, logits.argmax(axis=1), 0)  # 0 is what argmax says of NaN
    target[5] = -100
    code, stdout, stderr = score("--block-rows", block_rows, x=x, head=head, target=target)
    assert (code, stderr) == (0, "")
    found = said(stdout)
    assert found["no softmax"] == "3 rows"
    assert found["counted"] == str(M - 1)
    assert found["mean loss"] == "nan nats"
    assert found["perplexity"] == "nan"
    assert found["accuracy"] == f"{(M - 4) / (M - 1):.2%}"


def test_ignored_rows_without_a_softmax_do_not_count(score):
    x, target = score.arrays["x"].copy(), score.arrays["target"].copy()
    x[3], target[3] = np.nan, -100
    code, stdout, _ = score(x=x, target=target)
    found = said(stdout)
    assert (code, found["no softmax"], found["counted"]) == (0, "1 rows", str(M - 1))
    assert np.isfinite(float(found["mean loss"].removesuffix(" nats")))


def test_rows_without_a_softmax_beside_probabilities_or_no_target(score):
    x = score.arrays["x"].copy()
    x[3] = np.nan
    for target in np.full((M, N), 1 / N), np.eye(N)[LABELS], None:
        code, stdout, _ = score(x=x, target=target)
        assert (code, said(stdout)["no softmax"]) == (0, "1 rows")
        assert "counted" not in said(stdout)
    assert "no softmax" not in said(score()[1])


def test_shapes_that_no_memory_holds(capsys):
    assert cli.main(["bench", "--shape", "99999999999999999999x2x3"]) == 2
    assert "must fit into memory, got '99999999999999999999x2x3'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["info"], ["--help"], ["--version"]])
def test_standard_output_that_is_full(words):
    with open("/dev/full", "w") as full:
        done = python("-m", "logitless", *words, stdout=full, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert os.strerror(28) in done.stderr
