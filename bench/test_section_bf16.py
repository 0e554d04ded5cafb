"""The benchmark's section of bfloat16: what is compared with what, and how far off it is."""

import dataclasses

import checks
import numpy as np
import pytest
import readme
import report
import rivals
import runner
import shapes

SMALL = shapes.Shape("33x20x17", 33, 20, 17, "")
FITTED = shapes.Shape("fitted", 200, 24, 1_400, "", "fitted")


def test_what_is_for_bfloat16_alone_says_so():
    for name, contender in rivals.all_contenders().items():
        told = contender.declines(SMALL, 4)
        assert (told is not None) == (name in runner.ONLY_BF16)
        assert told is None or "it is for bfloat16" in told


def test_16_bits_are_far_off_but_not_anywhere():
    problem = shapes.make(SMALL, "bfloat16").wide
    good = [rivals.NumPy(problem, 1).loss()]
    near, far = ([good[0] * (1 + by)] for by in (0.02, 0.5))
    assert checks.differs("loss", good, near, problem)
    assert checks.differs("loss", good, near, problem, "16 bits") is None
    assert checks.differs("loss", good, far, problem, "16 bits")
    index, logit = rivals.NumPy(problem, 1).best()
    other = (index + 7) % SMALL.n
    assert checks.differs("best", (index, logit), (other, logit), problem, "16 bits")


def test_losses_in_float64(monkeypatch):
    problem = shapes.make(SMALL, "bfloat16")
    monkeypatch.setattr(checks, "CHUNK", 5 * SMALL.m)  # classes and rows in blocks of five
    z = problem.x.astype(float) @ problem.weight.astype(float).T
    right = np.log(np.exp(z).sum(axis=1)) - z[np.arange(SMALL.m), problem.target]
    np.testing.assert_allclose(checks.exact_loss(problem), right, rtol=1e-13)


def test_numbers_of_16_bits_are_the_same_for_all():
    problem, before = shapes.make(SMALL, "bfloat16"), shapes.make(SMALL)
    assert problem.dtype == problem.weight.dtype == problem.bias.dtype == "bfloat16"
    for name in ("x", "weight", "bias"):
        wide = getattr(problem.wide, name)
        assert wide.dtype == np.float32
        np.testing.assert_array_equal(wide, getattr(problem, name).astype(np.float32))
        np.testing.assert_allclose(wide, getattr(before, name), rtol=2.0**-8)
    assert problem.wide.wide is problem.wide is rivals.NumPy(problem, 1).problem
    assert before.wide is before
    assert rivals.Logitless(problem, 1).problem is problem


def test_the_section_of_bfloat16(tmp_path):
    (section,) = (s for s in report.full_sections() if s.name == "bf16")
    assert [s.name for s in section.shapes] == ["gpt2", "llama3", "imagenet", "decode1", "decode8"]
    more = {"section": "bf16", "title": section.title}
    setting = dataclasses.replace(section.setting, seconds=0, memory=False, more=more)
    records = runner.measure(FITTED, setting)
    assert {r["contender"] for r in records} == set(runner.BF16_CONTENDERS)
    assert [r for r in records if r["status"] not in ("ok", "skipped")] == []
    timed = [r for r in records if r["status"] == "ok"]
    assert all(("loss_error" in r) == (r["op"] == "loss") for r in timed)
    narrow = {name for name, c in rivals.all_contenders().items()
              if c.agreement in ("16 bits", "approximate")}
    for r in timed:
        assert r.get("best_rival") != "OpenVINO int8"
        assert ("head_bytes" in r) == r["contender"].startswith("logitless")
        assert ("recall" in r) == (r["contender"] in narrow and r["op"] != "loss")
        if r["op"] == "loss":
            assert r["loss_error"] < (0.5 if r["contender"] in narrow else 1e-5)
            # The processor may not have what OpenVINO multiplies bfloat16 with.
            assert r["loss_error"] > 1e-4 or r["contender"] not in narrow - {"OpenVINO bf16"}
    report.store(tmp_path, {"machine": report.machine(), "records": records})
    text = (tmp_path / "RESULTS.md").read_text()
    assert "GFLOP/s of products of bfloat16" in text
    assert text.count("| loss error |") == 2  # of the summary, and of the loss
    assert "- **loss error**" in text


def test_rates_are_held_against_what_is_multiplied():
    limits = {"fma_gflops_float32": 100.0, "fma_gflops_float64": 50.0, "read_gb_s": 10.0,
              "dot_gflops_bfloat16": 200.0, "dot_gops_int8": 400.0}
    peaks = {"logitless": 200, "logitless, unpacked": 200, "logitless, float32 x": 100,
             "logitless, float32": 100, "torch": 100, "torch bf16": 200, "OpenVINO": 100,
             "OpenVINO bf16": 200, "OpenVINO int8": 400}
    item = {"logitless, float32": 4, "torch": 4, "OpenVINO": 4, "OpenVINO int8": 1}
    many, one = shapes.Shape("", 1000, 1000, 1000, ""), shapes.Shape("", 1, 1000, 1000, "")
    for name, peak in peaks.items():
        products = rivals.all_contenders()[name].multiplied("bfloat16")
        found = runner.rates(many, "predict", products, 1.0, limits)
        assert found["limit_seconds"] == pytest.approx(2 / peak)
        found = runner.rates(one, "predict", products, 1.0, limits)
        assert found["limit_seconds"] == pytest.approx(item.get(name, 2) * 1e6 / 1e10, rel=4e-3)
    assert runner.peak(("float64", "float64"), limits) == 50
    assert runner.peak(("bfloat16", "bfloat16"), limits | {"dot_gflops_bfloat16": 0.0}) == 100


def test_readme_shows_errors_beside_times():
    def record(contender, best, error, **more):
        return {"section": "bf16", "op": "loss", "shape": "gpt2", "status": "ok", "best": best,
                "contender": contender, "loss_error": error} | more

    made = [record("logitless", 0.5, 2.04e-6, head_bytes=75 << 20),
            record("logitless, float32", 1.0, 2e-6, head_bytes=150 << 20),
            record("torch bf16", 2.0, 0.0137), record("torch bf16, bf16 logits", 1.5, 0.07)]
    (table,) = (t for t in readme.tables(made) if " ms" in t)
    assert table.splitlines()[0].endswith("| torch eager bf16 | head |")
    assert table.splitlines()[2] == ("| gpt2: 2,048 x 768 x 50,257 | **500 ms**, 2.0e-6 | - | - "
                                     "| 1,500 ms, 7.0e-2 | 75.0 MiB for 150 |")
