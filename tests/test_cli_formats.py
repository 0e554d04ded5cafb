"""`logitless score` on the files people have: each gives the arrays that .npy files give."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.damage import damaged, damages
from support.oracle import COMPILED, assert_same

pytest.importorskip("click")
pytest.importorskip("rich")
from logitless import cli
from logitless.cli import reading, tables, writing
from logitless.cli.files import Source

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")
csv = pytest.importorskip("pyarrow.csv")
sparse = pytest.importorskip("scipy.sparse")

M, N, K = 37, 7, 5


@pytest.fixture
def arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    arrays = {"head": rng.standard_normal((N, K), np.float32),
              "x": rng.standard_normal((M, K), np.float32), "target": rng.integers(N, size=M)}
    for name, array in arrays.items():
        np.save(name, array)
    return arrays


def load(path):
    if path.endswith(".npz"):
        with np.load(path) as written:
            return dict(written)
    table = parquet.read_table(path)
    return {name: column.combine_chunks().flatten().to_numpy().reshape(
                len(column), column.type.list_size)
            if hasattr(column.type, "value_type") else column.to_numpy()
            for name, column in zip(table.schema.names, table.columns, strict=True)}


def score(command, *words, out="out.npz"):
    code, _, stderr = command("score", *words, "-o", out, "--topk", 2, "--block-rows", 8)
    assert (code, stderr) == (0, "")
    return load(out)


def same(found, expected, rtol=0):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        if rtol:
            np.testing.assert_allclose(found[name], array, rtol=rtol, atol=rtol)
        else:
            assert_same(found[name], array, name)


@pytest.fixture
def expected(command, arrays):
    return score(command, "head.npy", "x.npy", "target.npy")


def lists(x, fixed=True):
    flat = pa.array(x.reshape(-1))
    if fixed:
        return pa.FixedSizeListArray.from_arrays(flat, x.shape[1])
    return pa.ListArray.from_arrays(np.arange(len(x) + 1, dtype=np.int32) * x.shape[1], flat)


def columns(x):
    return {f"f{i}": x[:, i] for i in range(x.shape[1])}


def write(table, name):
    if name.endswith(".parquet"):
        parquet.write_table(table, name, row_group_size=10)
    elif name.endswith(".csv"):
        csv.write_csv(table, name)
    else:
        feather.write_feather(table, name, chunksize=10,
                                      compression="lz4" if name.endswith("feather") else None)


@pytest.mark.parametrize(("name", "kind"), [
    *((name, kind) for name in ("t.parquet", "t.arrow", "t.feather")
      for kind in ("columns", "fixed lists", "lists", "two files")),
    ("t.csv", "columns"), ("t.csv", "two files")])
def test_tables(command, arrays, expected, name, kind):
    x, target = arrays["x"], arrays["target"]
    if kind == "columns":
        content = {"id": [f"row {i}" for i in range(M)], **columns(x)}
    elif kind == "two files":
        content = columns(x)
        write(pa.table({"labels": target}), f"labels.{name[2:]}")
    else:
        content = {"n": np.arange(M), "x": lists(x, kind == "fixed lists")}
    write(pa.table({**content, **({} if kind == "two files" else {"target": target})}), name)
    words = [name, f"labels.{name[2:]}" if kind == "two files" else name]
    same(score(command, "head.npy", *words), expected)
    if kind != "two files":
        same(score(command, "head.npy", words[0], f"{words[1]}:target"), expected)
        same(score(command, "head.npy", f"{name}:x" if "x" in content else name, "target.npy")
             if kind != "columns" else expected, expected)


def test_out_as_a_table(command, arrays, expected, monkeypatch):
    monkeypatch.setattr(writing, "GROUP_ROWS", 10)
    same(score(command, "head.npy", "x.npy", "target.npy", out="out.parquet"), expected)
    first = Path("out.parquet").read_bytes()
    assert parquet.read_metadata("out.parquet").num_row_groups == 4
    score(command, "head.npy", "x.npy", "target.npy", out="out.parquet")
    assert Path("out.parquet").read_bytes() == first
    np.save("x", arrays["x"][:36].reshape(3, 12, K))
    code, _, stderr = command("score", "head.npy", "x.npy", "-o", "out.parquet")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "X of shape (3, 12, 'k') more axes than that" in stderr


def test_no_rows_in_tables(command, arrays):
    write(pa.table({**columns(arrays["x"][:0]), "target": arrays["target"][:0]}), "t.parquet")
    found = score(command, "head.npy", "t.parquet", "t.parquet", out="out.parquet")
    assert found["loss"].shape == (0,)
    write(pa.table({"x": pa.array([], pa.list_(pa.float32())),
                    "target": pa.array([], pa.list_(pa.float32()))}), "t.parquet")
    found = score(command, "head.npy", "t.parquet", "t.parquet", out="out.parquet")
    assert found["top_index"].shape == (0, 2)


def test_the_index_of_a_frame_is_no_column_of_numbers(command, arrays, expected):
    pandas = pytest.importorskip("pandas")
    index = pandas.Index(np.arange(M)[::-1], name="user")
    pandas.DataFrame(columns(arrays["x"]), index=index).to_parquet("x.parquet")
    pandas.DataFrame({"labels": arrays["target"]}, index=index.rename(None)).to_parquet("t.parquet")
    pandas.DataFrame(columns(arrays["head"]), index=np.arange(N)[::-1]).to_parquet("h.parquet")
    same(score(command, "h.parquet", "x.parquet", "t.parquet"), expected)
    code, _, stderr = command("score", "h.parquet", "x.parquet:user", "-o", "out.npz")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "got (37, 1)" in stderr  # whoever names it means it


def test_truth_values_in_texts(command, arrays):
    x = np.where(arrays["x"] > 0, 1, 0).astype(np.float32)
    np.save("x", x)
    for name in "x.csv", "x.parquet":
        write(pa.table({**columns(x), "f1": x[:, 1] > 0, "f3": x[:, 3] > 0}), name)
        same(score(command, "head.npy", name), score(command, "head.npy", "x.npy"))


def test_columns_of_one_name(command, arrays, expected):
    names = ["f", "f", "g", "g", "h"]
    for name in "x.csv", "x.parquet":
        write(pa.table(list(columns(arrays["x"]).values()), names), name)
    same(score(command, "head.npy", "x.parquet", "target.npy"), expected)
    code, stdout, stderr = command("score", "head.npy", "x.csv", "-o", "out.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert "x.csv: expected one column of each name, found several named 'f'" in stderr


@pytest.mark.parametrize("name", ["h.parquet", "h.arrow", "h.csv"])
def test_heads_in_tables(command, arrays, name):
    bias = np.arange(N, dtype=np.float32)
    np.savez("head.npz", weight=arrays["head"], bias=bias)
    expected = score(command, "head.npz", "x.npy", "target.npy")
    write(pa.table({**columns(arrays["head"]), "bias": bias}), name)
    same(score(command, name, "x.npy", "target.npy"), expected)
    if name != "h.csv":
        write(pa.table({"w": lists(arrays["head"]), "bias": bias}), name)
        same(score(command, name, "x.npy", "target.npy"), expected)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_x_and_targets(command, arrays, kind):
    x = np.where(arrays["x"] > 0.3, arrays["x"], 0).astype(np.float32)
    np.save("x", x)
    expected = score(command, "head.npy", "x.npy", "target.npy")
    sparse.save_npz("x.npz", getattr(sparse, f"{kind}_matrix")(x))
    same(score(command, "head.npy", "x.npz", "target.npy"), expected, 0 if COMPILED else 1e-5)
    probs = np.eye(N, dtype=np.float32)[arrays["target"]]
    np.save("probs", probs)
    expected = score(command, "head.npy", "x.npy", "probs.npy")
    sparse.save_npz("probs.npz", getattr(sparse, f"{kind}_matrix")(probs))
    same(score(command, "head.npy", "x.npy", "probs.npz"), expected)
    code, _, stderr = command("score", "x.npz", "x.npy", "-o", "out.npz")
    assert code == 2
    assert "expected HEAD to be dense" in stderr


def test_probabilities_in_a_column_of_lists(command, arrays):
    probs = np.random.default_rng(1).dirichlet(np.ones(N), M).astype(np.float32)
    np.save("probs", probs)
    write(pa.table({"probs": lists(probs)}), "t.parquet")
    same(score(command, "head.npy", "x.npy", "t.parquet"),
         score(command, "head.npy", "x.npy", "probs.npy"))


@settings(max_examples=40)
@given(data=st.data(), m=st.integers(0, 40), k=st.integers(1, 6), name=st.sampled_from(
    ["t.parquet", "t.arrow", "t.csv"]), batch=st.sampled_from([1, 64, 8 << 20]))
def test_any_rows_of_any_table(tmp_path, data, m, k, name, batch):
    """Ranges in any order, over batches of any length, are those of the array."""
    rng = np.random.default_rng(m * 7 + k)
    x = rng.standard_normal((m, k)).astype(np.float32)
    of_lists = name != "t.csv" and data.draw(st.booleans())
    content = {"x": lists(x, data.draw(st.booleans()) or not m)} if of_lists else columns(x)
    path = tmp_path / name
    write(pa.table(content), str(path))
    before, tables.BATCH_BYTES = tables.BATCH_BYTES, batch
    try:
        rows = tables.open_rows(Source(path, None), "x", x.dtype, x.shape[1], None)
        assert rows.shape == (m, k)
        for _ in range(4):
            begin = data.draw(st.integers(0, m))
            end = data.draw(st.integers(begin, m))
            np.testing.assert_array_equal(rows.rows(1, begin, end), x[begin:end])
    finally:
        tables.BATCH_BYTES = before


@pytest.mark.parametrize(("content", "message"), [
    ({"x": [[1.0, 2], None]}, "column 'x' has nothing in row 1$"),
    ({"x": [[1.0, 2], [1, None]]}, "column 'x' has nothing in row 1$"),
    ({"x": [[1.0, 2], [1]]}, r"rows 0 to 1: .*lists must be equally long, got 1 to 2"),
    ({"a": [1.0, 2], "b": [3, None]}, "column 'b' has nothing in row 1$"),
    ({"a": ["u", "v"]}, "expected columns of numbers, or one of lists, .* found nothing"),
    ({"a": [[1.0]] * 2, "b": [[1.0]] * 2}, r"or several with one named 'x', found 'a' \(lists\)"),
    ({"a": [1.0, 2], "b": [3, 4.0], "c": [5, 6.0]}, r"X must have shape \(..., 2\).*\(2, 3\)"),
], ids=str)
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_tables_that_do_not_do(command, arrays, content, message, name):
    np.save("head", arrays["head"][:, :2])
    write(pa.table(content), name)
    code, stdout, stderr = command("score", "head.npy", name, "-o", "out.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert re.search(message, stderr, re.M), stderr


@pytest.mark.parametrize(("content", "key", "message"), [
    ({"target": [1, None]}, "", "column 'target' has nothing in row 1"),
    ({"target": [1.0, 2.0]}, "", "must be integers to be class indices"),
    ({"a": [1, 2], "b": [1, 2]}, "", "expected one column, or several with one named 'target'"),
    ({"a": [1, 2], "b": [1, 2]}, ":c", "named 'c', found 'a', 'b'"),
    ({"a": [1, 9]}, "", r"TARGET must be in \[0, 7\) or -100 \(ignored\), got 9 at row 1"),
], ids=str)
@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_labels_that_do_not_do(command, arrays, content, key, message, name):
    np.save("x", arrays["x"][:2])
    table = pa.table(content)
    if name == "t.csv" and table.schema.types[0] == pa.float64():
        table = pa.table({"target": [1.5, 2.5]})
    write(table, name)
    code, stdout, stderr = command("score", "head.npy", "x.npy", f"{name}{key}", "-o", "out.npz")
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert re.search(message, stderr), stderr


TABLES = {}


def table_bytes(name, tmp_path):
    if name not in TABLES:
        rng = np.random.default_rng(7)
        content = columns(rng.standard_normal((30, 3)).astype(np.float32))
        if name == "t.npz":
            sparse.save_npz(tmp_path / name, sparse.random(30, 3, 0.5, "csr"))
        else:
            write(pa.table(content), str(tmp_path / name))
        TABLES[name] = (tmp_path / name).read_bytes()
    return TABLES[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what other libraries say on their way to an error
@settings(max_examples=100)
@given(name=st.sampled_from(["t.parquet", "t.arrow", "t.feather", "t.csv", "t.npz"]), hurts=damages)
def test_damaged_tables_end_with_one_line(tmp_path, monkeypatch, capsys, name, hurts):
    monkeypatch.chdir(tmp_path)
    np.save("head", np.eye(3, dtype=np.float32))
    (tmp_path / name).write_bytes(damaged(table_bytes(name, tmp_path), hurts))
    code = cli.main(["score", "head.npy", name, "-o", "out.npz"])
    _, stderr = capsys.readouterr()
    assert code in (0, 2)
    assert stderr.count("\n") == (code == 2), stderr
    assert os.path.exists("out.npz") == (code == 0)
    if code == 0:
        os.remove("out.npz")


@pytest.mark.parametrize(("missing", "name", "extra"), [
    ("pyarrow", "t.parquet", "arrow"), ("scipy.sparse", "t.npz", "sklearn")])
def test_a_missing_extra_is_one_line(command, arrays, monkeypatch, missing, name, extra, tmp_path):
    (tmp_path / name).write_bytes(table_bytes(name, tmp_path))
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, stderr = command("score", "head.npy", name, "-o", "out.npz")
    assert (code, stderr.count("\n")) == (2, 1)
    assert f'pip install "logitless[cli,{extra}]"' in stderr
    if missing == "pyarrow":
        for more in [], ["--resume"]:
            before = sorted(os.listdir())
            code, _, stderr = command("score", "head.npy", "x.npy", "-o", "out.parquet", *more)
            assert (code, stderr.count("\n")) == (2, 1)
            assert 'pip install "logitless[cli,arrow]"' in stderr
            assert sorted(os.listdir()) == before


def test_shift(command, arrays):
    """Positions are scored against later targets, over the ends of blocks, of sequences."""
    x, target = arrays["x"][:36].reshape(3, 12, K), arrays["target"][:36].reshape(3, 12)
    np.save("x", x[:, :9])
    np.save("target", target[:, 3:])
    expected = score(command, "head.npy", "x.npy", "target.npy")
    np.save("x", x)
    np.save("target", target)
    same(score(command, "head.npy", "x.npy", "target.npy", "--shift", 3), expected)
    np.save("x", x[0])
    write(pa.table({"target": target[0]}), "t.parquet")
    found = score(command, "head.npy", "x.npy", "t.parquet", "--shift", 3)
    same(found, {name: array[0] for name, array in expected.items()})
    for words, said in ((["x.npy", "--shift", 1], "--shift is between X and TARGET"),
                        (["x.npy", "t.parquet", "--shift", 13], "must be at most the positions")):
        code, _, stderr = command("score", "head.npy", *words, "-o", "out.npz")
        assert code == 2
        assert said in stderr


def test_large_heads_are_read_a_piece_at_a_time(command, arrays, expected, monkeypatch):
    monkeypatch.setattr(reading, "HELD_BYTES", 0)
    same(score(command, "head.npy", "x.npy", "target.npy"), expected)
    with open("index.json", "w") as file:
        json.dump({"weight_map": {"weight": "there.safetensors", "b": "not.safetensors"}}, file)
    pytest.importorskip("safetensors.numpy").save_file({"weight": arrays["head"]},
                                                       "there.safetensors")
    same(score(command, "index.json", "x.npy", "target.npy"), expected)


def test_rows_before_a_range_of_none_in_a_later_group(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_BYTES", 1)
    x = np.arange(30, dtype=np.float32).reshape(30, 1)
    write(pa.table(columns(x)), str(tmp_path / "t.parquet"))
    rows = tables.open_rows(Source(tmp_path / "t.parquet", None), "x", x.dtype, x.shape[1], None)
    for begin, end in (20, 30), (19, 19), (0, 30):
        np.testing.assert_array_equal(rows.rows(1, begin, end), x[begin:end])
