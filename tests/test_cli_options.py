"""`logitless score` with classes left out, screens, fitted temperatures: what the calls give."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.oracle import assert_same

pytest.importorskip("click")
pytest.importorskip("rich")

import logitless as ll

sparse = pytest.importorskip("scipy.sparse")

M, N, K = 40, 700, 16


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    arrays = {"head": rng.standard_normal((N, K), np.float32),
              "x": rng.standard_normal((M, K), np.float32), "target": rng.integers(N, size=M)}
    for name, array in arrays.items():
        np.save(name, array)
    return arrays


def score(command, *words):
    code, stdout, stderr = command("score", "head.npy", *words, "-o", "out.npz", "--block-rows", 9)
    assert (code, stderr) == (0, "")
    with np.load("out.npz") as out:
        return dict(out), stdout


def same(found, **expected):
    for name, array in expected.items():
        assert_same(found[name], array, name)


@pytest.mark.parametrize("kind", ["rows", "classes"])
def test_excluded_classes(command, files, kind, rng):
    if kind == "rows":
        exclude = sparse.random(M, N, 0.2, "csr", random_state=1)
        sparse.save_npz("exclude.npz", exclude)
    else:
        exclude = rng.random(N) < 0.2
        np.save("exclude.npz", exclude)
        os.rename("exclude.npz.npy", "exclude.npz")
    head = ll.LinearHead(files["head"])
    found, _ = score(command, "x.npy", "target.npy", "--exclude", "exclude.npz", "--topk", 3)
    expected = head.score(files["x"], files["target"], k=3, exclude=exclude)
    same(found, loss=expected.loss, predicted=expected.predicted, lse=expected.lse,
         top_index=expected.top.index, top_log_prob=expected.top.log_prob)
    found, _ = score(command, "x.npy", "--exclude", "exclude.npz", "--topk", 3, "--screen")
    top = head.topk(files["x"], 3, normalize=False, exclude=exclude)
    same(found, top_index=top.index, top_logit=top.logit)


@pytest.mark.parametrize("matrix", [
    sparse.csr_matrix((M, N + 1)), sparse.csr_matrix((M - 1, N)), np.zeros(N),
    np.zeros(N - 1, bool), np.zeros((M, N), bool)], ids=lambda m: str(m.shape))
def test_exclusions_that_do_not_do(command, files, matrix):
    if sparse.issparse(matrix):
        sparse.save_npz("exclude.npz", matrix)
    else:
        np.savez("exclude.npz", matrix)
    code, stdout, stderr = command("score", "head.npy", "x.npy", "-o", "out.npz", "--exclude",
                                   "exclude.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "--exclude must be sparse of shape (40, 700), or bool of shape (700,), got" in stderr


def test_exclusions_are_not_replaced(command, files):
    sparse.save_npz("exclude.npz", sparse.csr_matrix((M, N)))
    before = Path("exclude.npz").read_bytes()
    code, stdout, stderr = command("score", "head.npy", "x.npy", "-o", "exclude.npz", "--exclude",
                                   "exclude.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "exclude.npz: OUT must not be one of the inputs" in stderr
    assert Path("exclude.npz").read_bytes() == before


def test_a_screen_finds_the_same_classes(command, files):
    top = ll.LinearHead(files["head"]).topk(files["x"], 4)
    found, stdout = score(command, "x.npy", "--screen", "--topk", 4)
    assert sorted(found) == ["max_logit", "predicted", "top_index", "top_logit"]
    same(found, top_index=top.index, top_logit=top.logit, predicted=top.index[:, 0],
         max_logit=top.logit[:, 0])
    assert re.search(rf"^rows +{M}$", stdout, re.M)
    found, _ = score(command, "x.npy", "--screen")
    assert sorted(found) == ["max_logit", "predicted"]
    code, _, stderr = command("score", "head.npy", "x.npy", "target.npy", "-o", "out.npz",
                              "--screen")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "--screen finds the best classes alone, got a TARGET" in stderr


@pytest.mark.parametrize("shift", [0, 1])
def test_a_fitted_temperature(command, files, rng, shift):
    head = ll.LinearHead(3 * files["head"])
    np.save("head", 3 * files["head"])
    target = np.where(rng.random(M) < 0.5, head.predict(files["x"]), files["target"])
    np.save("target", target)
    np.save("none", np.zeros(len(files["head"]), bool))
    x, target = files["x"][: M - shift], target[shift:]
    found, stdout = score(command, "x.npy", "target.npy", "--fit-temperature", "--shift", shift)
    best = ll.fit_temperature(head, x, target)
    assert float(re.search(r"^temperature +(\S+)$", stdout, re.M)[1]) == pytest.approx(best, 1e-4)
    np.testing.assert_allclose(found["loss"], head.with_temperature(best).loss(x, target), 1e-4)
    for words, said in ((["x.npy"], "--fit-temperature is by TARGET, got none"),
                        (["x.npy", "target.npy", "--exclude", "x.npy"], "--exclude must be"),
                        (["x.npy", "target.npy", "--exclude", "none.npy"], "got --exclude")):
        code, _, stderr = command("score", "head.npy", *words, "-o", "o.npz", "--fit-temperature")
        assert (code, stderr.count("\n")) == (2, 1)
        assert said in stderr
