"""The benchmark itself: rivals agree with ours, wrong ones are found out, numbers add up."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import at_scale
import checks
import numpy as np
import pytest
import readme
import report
import rivals
import runner
import screened
import shapes
import tables
import timing
from click.testing import CliRunner

import logitless as ll

SMALL = shapes.Shape("33x20x17", 33, 20, 17, "")


WIDER = tuple(c for c in runner.CONTENDERS if c not in runner.ONLY_BF16)


@pytest.mark.parametrize(("shape", "dtype", "contenders"), [
    (SMALL, "float32", WIDER), (shapes.Shape("5x9x7", 5, 9, 7, ""), "float64", WIDER),
    (SMALL, "bfloat16", runner.CONTENDERS)],
    ids=["float32", "float64", "bfloat16"])
def test_every_rival_agrees_with_ours(shape, dtype, contenders):
    setting = runner.Setting(dtype=dtype, contenders=contenders, seconds=0, memory=False)
    records = runner.measure(shape, setting)
    offered = [(op, name) for op in shapes.OPS
               for name, c in rivals.all_contenders().items()
               if name in contenders and c.offers(op)]
    assert [(r["op"], r["contender"]) for r in records] == offered
    assert [r for r in records if r["status"] not in ("ok", "skipped")] == []
    assert all("not installed" in r["reason"] or "has no" in r["reason"]
               for r in records if r["status"] == "skipped")
    ours = [r for r in records if r["contender"] == runner.OURS]
    assert [r["times_ours"] for r in ours] == [1.0] * len(shapes.OPS)


def test_a_process_that_fails_is_told(capsys):
    setting = runner.Setting(isa="abacus", ops=("predict",), contenders=("logitless", "NumPy"))
    records = runner.measure(SMALL, setting)
    assert [(r["contender"], r["status"]) for r in records] == [
        ("logitless", "failed"), ("NumPy", "failed")]
    assert "abacus" in records[0]["reason"]
    assert "abacus" in capsys.readouterr().err


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    job = {
        "mode": "time", "shape": dataclasses.asdict(SMALL), "dtype": "float32",
        "out": str(tmp_path / "out.json"), "threads": 1, "ops": ["loss"],
        "contenders": ["logitless"], "seconds": 600, "cpus": [], "parent": os.getpid() + 1,
    }
    described = tmp_path / "job.json"
    described.write_text(json.dumps(job))
    worker = [sys.executable, str(runner.HERE / "worker.py"), str(described)]
    done = subprocess.run(worker, check=False, timeout=60, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")  # left, not failed


@pytest.mark.parametrize("room", [1, 3])
def test_memory_of_each_contender_is_its_own(room, monkeypatch):
    monkeypatch.setattr(runner, "_room", lambda *_: room)
    shape = shapes.Shape("3000x8x900", 3_000, 8, 900, "")
    logits = shape.logit_bytes(4)
    setting = runner.Setting(ops=("loss", "predict_proba"), seconds=0,
                             contenders=("logitless", "logitless, out", "NumPy"))
    records = runner.measure(shape, setting)
    if records[0]["extra_bytes"] is None:
        pytest.skip("this system does not tell how much memory is resident")
    extra = {(r["op"], r["contender"]): r["extra_bytes"] / logits for r in records}
    assert {key for key, part in extra.items() if part < 0.5} == {
        ("loss", "logitless"), ("predict_proba", "logitless, out")}
    held = {r["contender"]: r["held_bytes"] / logits for r in records}
    assert held["logitless, out"] > 0.9 > held["logitless"]


def test_room_is_for_the_largest(monkeypatch):
    shape, setting = shapes.Shape("", 1_000, 10, 1_000, ""), runner.Setting(ops=("loss",))
    monkeypatch.setattr(runner, "available_bytes", lambda: None)
    assert runner._room(shape, setting, ["NumPy"]) == 1
    monkeypatch.setattr(runner, "available_bytes", lambda: 2 * 10 * 1_000 * 1_020 * 4)
    assert runner._room(shape, setting, ["NumPy", "logitless"]) == 2  # 16 MiB for ours
    assert runner._room(shape, setting, ["NumPy"]) == 10


def test_names_are_those_of_the_classes():
    assert tuple(rivals.all_contenders()) == runner.CONTENDERS


@pytest.mark.parametrize("op", shapes.OPS)
def test_a_wrong_result_is_found_out(op):
    problem = shapes.make(SMALL)
    good = rivals.NumPy(problem, 1).to_numpy(rivals.NumPy(problem, 1).operation(op)())
    assert checks.differs(op, good, good, problem) is None
    for i, part in enumerate(good):
        for change in (lambda a: a + 3, lambda a: a.reshape(-1)[:-1]):
            bad = [*good[:i], change(part), *good[i + 1 :]]
            assert "differs" in (told := checks.differs(op, good, bad, problem)) or "shape" in told
    if op != "predict":
        bad = [*good[:-1], np.where(np.arange(good[-1].size).reshape(good[-1].shape), good[-1],
                                    np.nan)]
        assert "differs" in checks.differs(op, good, bad, problem)


def test_bits_are_compared_where_they_must_agree():
    problem = shapes.make(SMALL)
    good = rivals.NumPy(problem, 1).best()
    near = [good[0], good[1].copy()]
    assert checks.differs("best", good, near, problem, "bits") is None
    near[1][3, 4] = np.nextafter(near[1][3, 4], np.float32(9))
    assert checks.differs("best", good, near, problem) is None
    assert "bit" in checks.differs("best", good, near, problem, "bits")


def test_what_is_approximate_is_not_wrong():
    problem = shapes.make(SMALL)
    index, logit = rivals.NumPy(problem, 1).best()
    other = index.copy()
    other[:, 4] = -1
    assert checks.differs("best", (index, logit), (other, logit), problem)
    assert checks.differs("best", (index, logit), (other, logit), problem, "approximate") is None
    assert "shape" in checks.differs("best", (index, logit), (other[1:], logit), problem,
                                     "approximate")
    assert checks.recall(index, other) == pytest.approx(0.9)
    assert checks.recall(index, other[:, ::-1]) == pytest.approx(0.9)
    assert checks.recall(index[:, 0], index[:, 0]) == 1


@pytest.mark.parametrize("part", [1, 2, 3], ids=["x", "weight", "bias"])
def test_a_slightly_wrong_gradient_is_found_out(part):
    problem = shapes.make(shapes.Shape("", 300, 20, 500, ""))
    good = rivals.NumPy(problem, 1).value_and_grad()
    bad = [a.copy() for a in good]
    bad[part] *= 1 + 1e-6
    assert checks.differs("value_and_grad", good, bad, problem) is None
    bad[part][17] *= 1.01
    assert "gradient" in checks.differs("value_and_grad", good, bad, problem)
    bad[part] = None
    assert checks.differs("value_and_grad", good, bad, problem) is None


def test_gradients_in_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(rivals, "BLOCK_BYTES", 10 * SMALL.n * 4)
    problem = shapes.make(SMALL)
    blocks = rivals.NumPyBlocks(problem, 1)
    whole = rivals.NumPy(problem, 1).value_and_grad()
    for _ in range(2):  # the second call writes over what the first left
        assert checks.differs("value_and_grad", whole, blocks.value_and_grad(), problem) is None


def test_classes_of_equal_logits_may_differ():
    problem = shapes.make(SMALL)
    problem.weight[3] = problem.weight[5]
    a = np.full(SMALL.m, 3)
    assert checks.differs("predict", [a], [np.full(SMALL.m, 5)], problem) is None
    assert checks.differs("predict", [a], [np.full(SMALL.m, 4)], problem)


FITTED = shapes.Shape("fitted", 200, 24, 1_400, "", "fitted")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fitted_head(dtype):
    problem, again = shapes.make(FITTED, dtype), shapes.make(FITTED, dtype)
    for name in ("x", "weight", "target"):
        np.testing.assert_array_equal(getattr(problem, name), getattr(again, name))
    assert problem.dtype == problem.weight.dtype == dtype
    z = problem.x @ problem.weight.T
    right = z[np.arange(FITTED.m), problem.target]
    assert np.mean(right == z.max(axis=1)) > 0.5
    assert np.mean(rivals.numpy_loss(z, problem.target)) < 0.4 * np.log(FITTED.n)


@pytest.mark.parametrize("made", ["uniform", "fitted"])
def test_the_section_of_the_screen(made, tmp_path):
    (section,) = (s for s in report.full_sections() if s.name == "screen")
    assert section.shapes == shapes.SCREEN_SHAPES
    shape = dataclasses.replace(FITTED, made=made)
    more = {"section": "screen", "title": section.title}
    setting = dataclasses.replace(section.setting, seconds=0, memory=made == "fitted", more=more)
    records = runner.measure(shape, setting)
    assert {r["op"] for r in records} == set(shapes.SCREEN)
    assert [r for r in records if r["status"] not in ("ok", "skipped")] == []
    for r in records:
        assert ("recall" in r) == (r["contender"] == "FAISS, HNSW" and r["status"] == "ok")
        assert r.get("best_rival") != "FAISS, HNSW"
    of_screen = [r for r in records if r["contender"] == runner.SCREENED]
    compiled = ll.active_isa() != "numpy"
    for r, top in zip(of_screen, (1, 10), strict=True):
        assert r["screened"] == (shape.m if compiled else 0)
        assert not compiled or r["fell_back"] == shape.m or r["rescored"] >= top
        assert r["of_fma_peak"] == r["gflop_s"] / r["limits"]["fma_gflops_float32"]
        assert r["of_weight_read"] > 0
        assert not compiled or r["build_passes"] > 0
    report.store(tmp_path, {"machine": report.machine(), "records": records})
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("| logits a row | rows given up |") == 3
    assert ("logitless, screened: " in text) == compiled
    assert json.loads((tmp_path / "results.json").read_text())["records"] == records


def test_screened_heads_of_every_kind_give_the_same_bits(monkeypatch):
    seen = Counter()
    for batch in range(len(screened.KINDS)):
        assert screened.check(batch, 5, seen) is None
    assert seen["heads"] == len(screened.KINDS) < seen["rows"]
    monkeypatch.setattr(screened, "same", lambda a, b: a.dtype.kind != "f")
    assert screened.check(3, 5, seen).startswith("batch 3: logit of 5 x ")


def test_an_index_that_takes_long_to_make_is_skipped():
    from rivals_faiss import Faiss, FaissHnsw

    assert FaissHnsw.declines(SMALL, 4) is None
    assert "minutes" in FaissHnsw.declines(shapes.ALL["wide"], 4)
    assert "float64" in FaissHnsw.declines(SMALL, 8)
    assert Faiss.declines(shapes.ALL["wide"], 4) is None


def test_samples_are_taken_in_turns():
    order = []
    calls = {name: lambda name=name: (order.append(name), time.sleep(0.006)) for name in "ab"}
    samples = timing.interleave(calls, dict.fromkeys("ab", 0.006), 0, 0)
    assert {name: len(taken) for name, taken in samples.items()} == {"a": 3, "b": 3}
    assert "".join(order) == "ab" + "abbaab"
    assert all(0.005 < t < 0.1 for taken in samples.values() for t in taken)


def test_a_turn_comes_after_a_pause_and_takes_as_long(monkeypatch):
    done = []
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(len(done)))  # a second each
    monkeypatch.setattr(timing.time, "sleep", lambda s: done.extend(["pause"] * bool(s)))
    calls = {name: lambda name=name: done.append(name) for name in "ab"}
    samples = timing.interleave(calls, dict.fromkeys("ab", 0.1), 0, 3)
    turns = "".join(done).replace("pause", " ").split()
    assert turns == ["ab", "aaa", "bbb", "bbb", "aaa", "aaa", "bbb"]
    assert samples == {"a": [1.0] * 9, "b": [1.0] * 9}
    assert timing.settle_seconds(1) == 0 < 0.2 < timing.settle_seconds(2)


def test_slow_calls_are_timed_less_often():
    calls = dict.fromkeys("abcd", lambda: None)
    for first, rounds in (
        ({"a": 0.1, "b": 1.9, "c": 3.0, "d": 9.0}, {"a": 3, "b": 3, "c": 2, "d": 1}),
        ({"a": 6.0, "b": 7.0, "c": 8.5, "d": 9.5}, {"a": 3, "b": 3, "c": 2, "d": 1}),
        ({"a": 20.0, "b": 21.0, "c": 29.0, "d": 31.0}, {"a": 2, "b": 2, "c": 2, "d": 1}),
    ):
        samples = timing.interleave(calls, first, 0, 0)
        assert {name: len(taken) for name, taken in samples.items()} == rounds
        assert samples["d"] == [first["d"]]


def test_memory_of_a_call():
    taken = timing.extra_peak(lambda: np.ones(4 << 20, np.uint8).sum())
    if taken is None:
        pytest.skip("this system does not tell")
    assert 3.5 * 2**20 < taken < 6 * 2**20  # the system counts in batches of pages


def test_what_does_not_fit_is_not_tried():
    if shapes.available_bytes() is None:
        pytest.skip("this system does not tell")
    assert shapes.no_room(1 << 20) is None
    assert "GiB" in shapes.no_room(1 << 50)
    huge = shapes.Shape("huge", 1 << 20, 8, 1 << 20, "")
    assert "GiB" in shapes.no_room(rivals.NumPy.transient(huge, "loss", 4))


def test_rates():
    limits = {"fma_gflops_float32": 100.0, "read_gb_s": 10.0}
    shape, wide = shapes.Shape("", 1000, 100, 500, ""), ("float32", "float32")
    found = runner.rates(shape, "predict", wide, 2e-3, limits)
    assert found["bound"] == "compute"
    assert found["gflop_s"] == pytest.approx(50)
    assert found["fraction"] == pytest.approx(0.5)
    found = runner.rates(shape, "predict_proba", wide, 1e-3, limits)
    assert found["gb_s"] == pytest.approx((1500 * 100 + 1000 * 500) * 4 / 1e6)
    found = runner.rates(shape, "value_and_grad", wide, 6e-3, limits)
    assert found["gflop_s"] == pytest.approx(50)
    moved = 2 * (1500 * 100 + 500) * 4 + 1000 * 8
    assert shape.bytes_moved("value_and_grad", 4) == moved


def records():
    """Made up: we win one shape, lose another, and one rival is missing."""
    limits = {"fma_gflops_float32": 100.0, "read_gb_s": 10.0}
    made = []
    for name, ours, theirs in (("gpt2", 1.0, 2.0), ("tiny", 2e-6, 1e-6)):
        s = shapes.SHAPES[name]
        more = {"section": "main", "title": "made up", "shape": name, "m": s.m, "k": s.k,
                "n": s.n, "op": "loss", "dtype": "float32", "threads": 1, "isa": "scalar",
                "limits": limits, "version": "1", "extra_bytes": 1 << 20}
        some = [more | {"contender": "logitless", "status": "ok", "samples": [ours]},
                more | {"contender": "NumPy", "status": "ok", "samples": [theirs, 9.0]},
                more | {"contender": "JAX", "status": "skipped", "reason": "not installed"}]
        runner.complete(some)
        made += some
    return made


def test_tables_hide_nothing(tmp_path):
    made = records()
    assert made[0]["times_best_rival"] == 0.5
    assert made[1]["times_ours"] == 2
    rows = tables.summary(made).splitlines()
    assert len(rows) == 4
    assert "2.00 |" in rows[2]
    assert "**0.50** behind" in rows[3]
    report.store(tmp_path, {"machine": report.machine(), "records": made})
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("*skipped*: not installed") == 2
    assert text.count("| NumPy | 2,000 | 2.00 |") == 1
    assert json.loads((tmp_path / "results.json").read_text())["records"] == made


def test_readme_shows_the_fastest_way_of_each_library():
    made = records()
    made = [r | {"loss_error": 2e-6} for r in made]
    faster = {**made[1], "contender": "NumPy, row blocks", "best": 0.5, "extra_bytes": 3 << 20}
    loss, *others = readme.tables([*made, faster])
    assert loss.splitlines()[2] == (
        "| gpt2: 2,048 x 768 x 50,257 | 1,000 ms, 1.0 MiB, 2.0e-6 "
        "| **500 ms**, 3.0 MiB, 2.0e-6 | - | - | - | - |")
    assert len(others) == 3
    assert all(" ms" not in table for table in others)


def test_what_the_readme_shows_is_measured():
    measured = {(s.name, op, shape.name, contender) for s in report.shown(report.full_sections())
                for op in s.setting.ops for shape in s.shapes for contender in s.setting.contenders}
    shown = [(cut.section, cut.op, shape, names) for cut in readme.CUTS for shape in cut.shapes
             for names in cut.columns.values()]
    for *where, names in shown:
        assert any((*where, name) in measured for name in names)
    assert {found[:3] for found in measured} == {found[:3] for found in shown}


def test_records_measured_again_replace_the_old_ones():
    made = records()
    again = [made[0] | {"best": 0.25}]
    merged = report.merged(made[::-1], again)
    assert len(merged) == len(made)
    assert [r["shape"] for r in merged] == ["gpt2"] * 3 + ["tiny"] * 3
    assert merged[0]["best"] == 0.25


def test_what_keeps_its_memory_is_timed_alone_where_there_is_no_room(monkeypatch, tmp_path):
    import worker

    class Keeps(rivals.NumPy):
        name = "keeps"
        keeps_memory = True

    monkeypatch.setattr(rivals, "all_contenders", lambda: {
        "logitless": rivals.Logitless, "NumPy": rivals.NumPy, "keeps": Keeps})
    monkeypatch.setattr(shapes, "no_room", lambda needed, reserve=0: (
        "full" if reserve > 2 * SMALL.logit_bytes(4) else None))
    job = {"mode": "time", "shape": dataclasses.asdict(SMALL), "dtype": "float32", "threads": 1,
           "out": str(tmp_path / "out.json"), "ops": ["topk"], "seconds": 0,
           "contenders": ["logitless", "NumPy", "keeps"]}
    timed = worker.Timing(job)
    timed.run()
    assert [(r["contender"], r["status"], r.get("alone")) for r in timed.records] == [
        ("logitless", "ok", None), ("NumPy", "ok", None), ("keeps", "ok", True)]
    assert all(len(r["samples"]) >= 3 for r in timed.records)


def test_what_comes_with_many_rows_has_the_losses_of_float64(monkeypatch):
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    done = CliRunner().invoke(at_scale.main, ["--quick", "--seconds", "0"])
    assert done.exit_code == 0, done.output
    errors = re.findall(r"\d\.\de[-+]\d\d(?=\s*$)", done.output, re.MULTILINE)
    assert len(errors) == 5
    assert max(map(float, errors)) < 1e-4
