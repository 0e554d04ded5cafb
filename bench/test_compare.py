"""Two checkouts against each other: what made-up times prove, and a run on this checkout."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import cases
import checkouts
import compare
import compare_worker
import numpy as np
import pytest
from click.testing import CliRunner
from paired import Verdict, interval, rounds

import logitless as ll

THRESHOLD = 0.05
SMALL = ("predict 1x64x10", "topk 256x64x1000", "gradient 2000x64x10")


def made_up(slower: float, seed: int = 0, count: int = 150, spread: float = 0.015):
    """Rounds with noise, and now and then one that something else has disturbed."""
    rng = random.Random(seed)

    def seconds(least):
        disturbed = rng.choice([0] * 9 + [1.5])
        return least * (1 + rng.expovariate(1 / spread) + disturbed)

    return [(seconds(1.0), seconds(slower)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_a_slowdown_of_the_threshold_is_told_from_none(seed):
    assert Verdict.of(made_up(1.0, seed)).change(THRESHOLD) == ""
    assert Verdict.of(made_up(1.06, seed)).change(THRESHOLD) == "slower"
    assert Verdict.of(made_up(1 / 1.06, seed)).change(THRESHOLD) == "faster"
    assert Verdict.of(made_up(1.06, seed)).change(0.2) == ""


def test_what_noise_hides_is_unclear():
    assert Verdict.of(made_up(1.02, count=10, spread=0.2)).change(THRESHOLD) == "unclear"


def test_an_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for count in (11, 60, 400):
        found = [interval(list(rng.exponential(size=count))) for _ in range(150)]
        hit = np.mean([low <= np.log(2) <= high for low, high in found])
        assert hit > 0.97, count
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    low, high = interval(list(range(1001)), 0.5)
    assert 480 < low < 495 < 505 < high < 520


def test_rounds_are_taken_in_turns():
    order = []
    found = rounds(lambda: order.append("a") or len(order), lambda: order.append("b") or 100, 0, 3)
    assert "".join(order) == "abba" "baab" "abba"
    assert found == [(1, 100), (6, 100), (9, 100)]


def takes(*lots):
    """Turns that find these lots of rounds for whatever is asked, and a list of what was."""
    left, asked = list(lots), []

    def take(names, turn):
        asked.append((names, turn))
        for name in names:
            yield {"name": name, "rounds": left.pop(0), "bits": "same", "memory": [1, 1]}

    return take, asked


def test_more_turns_are_taken_while_it_is_unclear(monkeypatch):
    monkeypatch.setattr(compare, "TURNS", (2, 4))
    noise, clear = made_up(1.02, count=10, spread=0.2), made_up(1.0)
    take, asked = takes(noise, clear, noise, clear, made_up(1.5, count=400))
    rows = compare.judged(["x", "y"], take, THRESHOLD)
    assert asked == [(["x", "y"], 0), (["x", "y"], 1), (["x"], 2)]
    assert [row.change(THRESHOLD) for row in rows.values()] == ["slower", ""]
    take, asked = takes(*[noise] * 4)
    assert compare.judged(["x"], take, THRESHOLD)["x"].change(THRESHOLD) == "unclear"
    assert len(asked) == 4


@pytest.mark.parametrize(("again", "change"), [(1.0, ""), (1.06, "slower")])
def test_a_slowdown_has_to_be_found_twice(again, change, monkeypatch):
    monkeypatch.setattr(compare, "TURNS", (1, 1))
    take, asked = takes(made_up(1.0), made_up(1.06), made_up(again))
    x, y = compare.confirmed(["x", "y"], take, THRESHOLD)
    assert asked == [(["x", "y"], 0), (["y"], 0)]
    assert (x.change(THRESHOLD), y.change(THRESHOLD)) == ("", change)
    assert (x.worse(THRESHOLD), y.worse(THRESHOLD)) == (False, bool(change))
    assert y.told(THRESHOLD)[-2:] == [change and f"**{change}**", "same"]


def test_what_is_worse():
    even = made_up(1.0)
    for found, change, worse in (
        ({"rounds": even, "memory": [1000, 2000]}, "", False),
        ({"rounds": even, "memory": [1 << 20, 2 << 20]}, "larger", True),
        ({"rounds": made_up(1.06), "memory": [1 << 20, 2 << 20]}, "slower", True),
        ({"failed": [1]}, "failing", True),
        ({"failed": [0]}, "not to compare", False),
        ({"failed": [0, 1]}, "not to compare", False),
        ({"missing": "scipy"}, "not taken: scipy", False),
        ({}, "failing", True),
    ):
        row = compare.Row("x")
        row.add(found)
        assert (row.change(THRESHOLD), row.worse(THRESHOLD)) == (change, worse)
        assert len(row.told(THRESHOLD)) == len(compare.HEADER)


def test_where_bits_differ():
    a = ll.Gradients(np.float32([[1, 2]]), None, np.float32([0.0, 1.0]))
    assert compare_worker.differing((1.0, a), (1.0, a)) == "same"
    b = ll.Gradients(np.float32([[1, 2]]), None, np.float32([-0.0, 1.0]))
    assert compare_worker.differing((1.0, a), (1.0, b)) == "bias: 1 of 2"
    b = ll.Gradients(np.float64([[1, 2]]), np.zeros(2), a.bias)
    told = compare_worker.differing((1.0, a), (2.0, b))
    assert told == "result[0]: 1 of 1; x: float32 (1, 2), float64 (1, 2); weight only in B"


def test_the_peak_of_a_call():
    assert 1 << 20 <= compare_worker.peak(lambda: np.zeros(1 << 20, np.uint8)[0]) < (1 << 20) + 4096


def copy(folder):
    """The package that is tested, which need not be built where its sources are, as a checkout."""
    shutil.copytree(Path(ll.__file__).parent, folder / "src" / "logitless",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for extension in folder.rglob("_core.*.*"):
        extension.touch()  # as if built from the sources beside it
    return folder


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    return copy(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return checkouts.Checkout(copy(tmp_path_factory.mktemp("here")) / "src")


def run(*arguments):
    return CliRunner().invoke(compare.main, [str(a) for a in arguments])


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(compare, "QUICK_SECONDS", 0)
    monkeypatch.setattr(compare, "TURNS", (1, 1))


pytestmark = pytest.mark.skipif(ll.active_isa() == "numpy", reason="there is nothing compiled")


def test_a_checkout_against_itself(copied, here, hasty, tmp_path):
    history = tmp_path / "history.json"
    same = {"a": str(copied), "b": str(here.src.parent)}
    before = {"ratios": {"loss 1x64x10": [1, 1, 1], SMALL[0]: [2, 2, 2]},
              "other bits": ["loss 1x64x10", SMALL[0]]}
    history.write_text(json.dumps([same | before, {"a": "", "b": ""}]))
    done = run(copied, "--other", here.src.parent, "--quick", "--threshold", 50,
               "--save", history, *SMALL)
    assert done.exit_code == 0, done.output
    rows = [line.split(" | ") for line in done.output.splitlines() if "x64x" in line]
    assert [row[0].removeprefix("| ") for row in rows] == list(SMALL)
    assert {row[-1] for row in rows} == {"same |"}
    other, entry = json.loads(history.read_text())
    assert other == {"a": "", "b": ""}
    assert entry | same == entry
    assert list(entry["ratios"]) == ["loss 1x64x10", *SMALL]
    assert entry["ratios"]["loss 1x64x10"] == [1, 1, 1] != entry["ratios"][SMALL[0]]
    assert entry["other bits"] == ["loss 1x64x10"]


def test_two_packages_in_one_process(copied, here):
    before = {name: module for name, module in sys.modules.items() if "logitless" in name}
    for checkout in (checkouts.Checkout(copied / "src"), here):
        with checkout as package:
            from logitless.calibration import calibration_error
        assert package is checkout.package is not ll
        assert calibration_error.__code__.co_filename.startswith(str(checkout.src))
    assert {name: module for name, module in sys.modules.items() if "logitless" in name} == before


@pytest.mark.parametrize(("b", "found"), [
    (lambda: -np.zeros(10), {"bits": "result: 10 of 10"}),
    (lambda: np.zeros(1 << 20)[:10], {"bits": "same"}),
    (lambda: 1 / 0, {"failed": [1]})])
def test_what_a_worker_finds(copied, here, b, found, monkeypatch):
    monkeypatch.setattr(compare_worker, "SAMPLE_SECONDS", 0)
    pair = checkouts.Checkout(copied / "src"), here
    calls = {pair[0].package: lambda: np.zeros(10), pair[1].package: b}
    monkeypatch.setitem(cases.CASES, "x", lambda: calls.__getitem__)
    got = compare_worker.of_case("x", pair, 0, 0)
    assert found.items() <= got.items()
    if "failed" not in got:
        assert (got["memory"][1] > 1 << 20) == (found["bits"] == "same")
        assert len(got["rounds"]) == 10
    assert "bits" not in compare_worker.of_case("x", pair, 0, 1)


def test_an_import_is_timed_in_fresh_processes(here, monkeypatch):
    monkeypatch.setattr(compare_worker, "IMPORT_ROUNDS", 1)
    found = compare_worker.of_import("logitless", (here, here))
    assert all(0.001 < seconds < 10 for pair in found["rounds"] for seconds in pair)
    assert compare_worker.of_import("logitless.nothing", (here, here)) == {"failed": [0, 1]}


def test_what_cannot_be_compared_is_said_before(tmp_path, hasty):
    done = run("no-such-revision")
    assert (done.exit_code, "no-such-revision" in done.output) == (1, True)
    done = run("HEAD", "nothing")
    assert (done.exit_code, "no case begins so" in done.output) == (2, True)
    (tmp_path / "src").mkdir()
    done = run(tmp_path)
    assert (done.exit_code, "build it first" in done.output) == (1, True)


def test_sources_newer_than_the_extension(copied):
    assert checkouts.built(copied / "src") == copied / "src"
    source = copied / "csrc" / "base" / "later.h"
    source.parent.mkdir(parents=True)
    source.touch()
    with pytest.raises(ValueError, match=r"later\.h has changed"):
        checkouts.built(copied / "src")
    shutil.rmtree(copied / "csrc")


@pytest.mark.parametrize("name", cases.CASES)
def test_every_case_runs(name, here, monkeypatch):
    monkeypatch.setattr(compare_worker, "SAMPLE_SECONDS", 0)
    monkeypatch.setattr(compare_worker, "rounds", lambda a, b, _: rounds(a, b, 0, 1))
    found = compare_worker.of_case(name, (here, here), 0, 0)
    assert found["bits"] == "same"
    assert all(a > 0 and b > 0 for a, b in found["rounds"])
