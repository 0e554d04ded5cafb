"""`logitless evaluate`: its numbers are those of the formulas."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from support.oracle import logits_and_log_proba

pytest.importorskip("click")
pytest.importorskip("rich")

M, N, K = 53, 12, 5


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rng = np.random.default_rng(7)
    arrays = {"head": 2 * rng.standard_normal((N, K), np.float32),
              "x": rng.standard_normal((M, K), np.float32), "target": rng.integers(N, size=M)}
    arrays["target"][::7] = -100
    for name, array in arrays.items():
        np.save(name, array)
    return arrays


def evaluated(command, *more):
    code, stdout, stderr = command("evaluate", "head.npy", "x.npy", "target.npy", "--json",
                                   "--block-rows", 10, *more)
    assert (code, stderr) == (0, "")
    return json.loads(stdout)


def calibration_error(confidence, hit, bins=15):
    """By the definition, a bin after the other."""
    error = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        within = (confidence > low) & (confidence <= high)
        if within.any():
            error += abs(confidence[within].mean() - hit[within].mean()) * within.mean()
    return error


def test_classes(command, files):
    found = evaluated(command, "--topk", 2, "--topk", 5, "--hardest", 4)
    z, log_p = logits_and_log_proba(files["x"], files["head"])
    rows = np.flatnonzero(files["target"] >= 0)
    target, log_p, z = files["target"][rows], log_p[rows], z[rows]
    loss = -log_p[np.arange(len(rows)), target]
    rank = (z > z[np.arange(len(rows)), target][:, None]).sum(axis=1)
    assert (found["rows"], found["counted"], found["no_softmax"]) == (M, len(rows), 0)
    assert found["mean_loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(loss.mean()), rel=1e-5)
    assert found["accuracy"] == pytest.approx((rank == 0).mean())
    assert found["mean_rank"] == pytest.approx(rank.mean() + 1)
    assert found["calibration_error"] == pytest.approx(
        calibration_error(np.exp(log_p.max(axis=1)), rank == 0), abs=1e-5)
    for k in 2, 5:
        for name in "topk_accuracy", "recall":
            assert found[name][str(k)] == pytest.approx((rank < k).mean())
        gain = np.where(rank < k, 1 / np.log2(rank + 2), 0)
        assert found["ndcg"][str(k)] == pytest.approx(gain.mean())
    hardest = np.argsort(-loss)[:4]
    assert [row["row"] for row in found["hardest"]] == rows[hardest].tolist()
    for row, i in zip(found["hardest"], hardest, strict=True):
        assert (row["target"], row["predicted"]) == (target[i], z[i].argmax())
        assert row["loss"] == pytest.approx(loss[i], rel=1e-5)
        assert row["p_target"] == pytest.approx(np.exp(-loss[i]), rel=1e-4)
        assert row["p_predicted"] == pytest.approx(np.exp(log_p[i].max()), rel=1e-4)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_probabilities(command, files, kind):
    """Several classes a row, as of items that a user has taken: some rows have none."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    t = (rng.random((M, N)) * (rng.random((M, N)) < 0.2)).astype(np.float32)
    t[5] = 0
    if kind == "dense":
        np.save("target", t)
    else:
        sparse = pytest.importorskip("scipy.sparse")
        sparse.save_npz("target.npz", sparse.csr_matrix(t))
        os.replace("target.npz", "target.npy")
    found = evaluated(command, "--topk", 1, "--topk", 4)
    z, _ = logits_and_log_proba(files["x"], files["head"])
    loss = t.sum(axis=1) * np.logaddexp.reduce(z, axis=1) - (t * z).sum(axis=1)
    assert found["mean_loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert "accuracy" not in found
    some = (t > 0).any(axis=1)
    for k in 1, 4:
        best = np.argsort(-z[some], axis=1)[:, :k]
        hits = np.take_along_axis(t[some] > 0, best, 1).sum(axis=1)
        assert found["topk_accuracy"][str(k)] == pytest.approx((hits > 0).mean())
        assert found["recall"][str(k)] == pytest.approx((hits / (t[some] > 0).sum(axis=1)).mean())
        assert found["ndcg"][str(k)] == pytest.approx(
            sklearn.ndcg_score(t[some], z[some], k=k), rel=1e-5)
    assert [row["row"] for row in found["hardest"]] == np.argsort(-loss)[:10].tolist()


def test_entries_that_are_there_twice_are_one_class(command, files):
    sparse = pytest.importorskip("scipy.sparse")
    t = np.zeros((M, N), np.float32)
    t[:, 2], t[:, 5] = 1, 0.5
    index, starts = np.tile([5, 2, 2], M), 3 * np.arange(M + 1)
    twice = sparse.csr_matrix((np.full(3 * M, 0.5, np.float32), index, starts), t.shape)
    found = []
    for matrix in sparse.csr_matrix(t), twice:
        sparse.save_npz("target.npz", matrix)
        os.replace("target.npz", "target.npy")
        found.append(evaluated(command))
    for name in "topk_accuracy", "recall", "ndcg":
        assert found[1][name] == pytest.approx(found[0][name])


def test_probabilities_in_bfloat16(command, files):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    safetensors = pytest.importorskip("safetensors.numpy")
    t = (np.random.default_rng(1).random((M, N)) < 0.3).astype(np.float32)
    np.save("target", t)
    expected = evaluated(command)
    safetensors.save_file({"t": t.astype(ml_dtypes.bfloat16), "x": t[:, 0].astype(
        ml_dtypes.bfloat16)}, "target.safetensors")
    code, stdout, stderr = command("evaluate", "head.npy", "x.npy", "target.safetensors:t",
                                   "--json", "--block-rows", 10)
    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == expected
    code, _, stderr = command("evaluate", "head.npy", "x.npy", "target.safetensors:x")
    assert code == 2
    assert "must be integers to be class indices: `.astype(np.int64)` makes" in stderr


@pytest.mark.parametrize("kind", ["classes", "dense", "sparse"])
def test_classes_left_out_are_not_found(command, files, kind):
    """Rows have 0 to 3 classes left: what is asked for beyond these is nothing."""
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(1)
    left = np.argsort(rng.random((M, N)), axis=1) < (np.arange(M) % 4)[:, None]
    sparse.save_npz("exclude.npz", sparse.csr_matrix(~left))
    if kind == "classes":
        counted = files["target"] >= 0
        t = np.eye(N, dtype=np.float32)[files["target"] % N] * counted[:, None]
    else:
        t = (rng.random((M, N)) < 0.3).astype(np.float32)
        counted = t.any(axis=1)
        np.save("target", t)
        if kind == "sparse":
            sparse.save_npz("target.npz", sparse.csr_matrix(t))
            os.replace("target.npz", "target.npy")
    found = evaluated(command, "--topk", 1, "--topk", 5, "--exclude", "exclude.npz")
    z, _ = logits_and_log_proba(files["x"], files["head"])
    order = np.argsort(np.where(left, -z, np.inf), axis=1)
    gains = np.take_along_axis(t * left, order, 1)[counted]
    discount = 1 / np.log2(np.arange(N) + 2)
    for k in 1, 5:
        hits, relevant = gains[:, :k].sum(axis=1), t[counted].sum(axis=1)
        ideal = [discount[: min(k, int(many))].sum() for many in relevant]
        assert found["topk_accuracy"][str(k)] == pytest.approx((hits > 0).mean())
        assert found["recall"][str(k)] == pytest.approx((hits / relevant).mean())
        assert found["ndcg"][str(k)] == pytest.approx((gains[:, :k] @ discount[:k] / ideal).mean())
    if kind == "classes":
        assert found["accuracy"] == found["topk_accuracy"]["1"]
        some = left.any(axis=1)[counted]
        p = np.where(left, np.exp(z), 0)[counted][some]
        assert found["calibration_error"] == pytest.approx(
            calibration_error(p.max(axis=1) / p.sum(axis=1), gains[some, 0] > 0), abs=1e-5)


def test_what_is_printed(command, files):
    code, stdout, stderr = command("evaluate", "head.npy", "x.npy", "target.npy")
    assert (code, stderr) == (0, "")
    for words in ("mean loss", "perplexity", "accuracy", "mean rank", "calibration error",
                  "top-k accuracy", "recall at k", "NDCG at k", "p predicted"):
        assert words in stdout
    assert max(map(len, stdout.splitlines())) <= 80


def test_rows_that_have_no_softmax_and_none_that_count(command, files):
    files["x"][3] = np.nan
    np.save("x", files["x"])
    found = evaluated(command)
    assert found["no_softmax"] == 1
    assert found["mean_loss"] is None  # as JSON has no NaN
    assert found["hardest"][0]["row"] == 3
    assert 0 < found["accuracy"] < 1
    np.save("target", np.full(M, -100))
    found = evaluated(command)
    assert (found["counted"], found["accuracy"], found["calibration_error"]) == (0, None, None)
    assert (found["mean_rank"], found["recall"]["1"], found["hardest"]) == (None, None, [])
    assert "nan" in command("evaluate", "head.npy", "x.npy", "target.npy")[1]


def test_more_classes_than_there_are(command, files):
    code, stdout, stderr = command("evaluate", "head.npy", "x.npy", "target.npy", "--topk", 13)
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "--topk must be at most the classes of HEAD, 12, got 13" in stderr
