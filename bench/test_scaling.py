"""Times over threads, and the model of many: numbers that add up, tables of made-up ones, a run."""

import threading
import time

import model
import pytest
import report
import runner
import scaling
import scaling_tables
import shapes

from logitless._parallel import pool

TINY = shapes.Shape("40x9x1300", 40, 9, 1_300, "")
FREE = model.Costs(0.0, 0.0, 0.0)


class Clock:
    """Stands still but for what tasks take."""

    now = 0.0

    @classmethod
    def work(cls, seconds):
        cls.now += seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(Clock, "now", 0.0)
    monkeypatch.setattr(model.time, "perf_counter", lambda: Clock.now)
    return Clock


def call(seconds, n_threads, opening=0.0):
    """A second alone, a run of tasks that take so many seconds, half a second alone."""
    Clock.work(1.0)
    done = []

    def work(tasks):
        Clock.work(opening)
        for task in tasks:
            Clock.work(seconds[task])
            done.append(task)

    pool.run(work, len(seconds), n_threads)
    Clock.work(0.5)
    assert done == list(range(len(seconds)))  # one after the other, whoever does them


def test_a_task_goes_to_the_first_thread_that_is_free(clock):
    with model.phases(FREE) as found:
        call([5.0, 1.0, 1.0, 1.0, 4.0], 2)
    (run,) = found.runs
    assert run.clocks == run.work == [5.0, 7.0]
    assert found.alone == 1.5
    assert found.work == 13.5
    assert found.seconds == 8.5
    assert found.imbalance == pytest.approx(7 / 6)
    assert found.told()["tasks"] == 5


def test_what_threads_cost(clock):
    costs = model.Costs(wake=0.25, submit=0.125, join=0.5)
    with model.phases(costs) as found:
        call([1.0] * 3, 3, opening=2.0)
    (run,) = found.runs
    assert run.clocks == [0.25 + 3, 0.125 + 0.25 + 3 + 0.5, 0.25 + 0.25 + 3 + 0.5]
    assert run.work == [3.0] * 3
    assert found.seconds == 1.5 + 4.0


def test_runs_within_tasks_are_theirs(clock):
    def work(tasks):
        for _ in tasks:
            pool.run(lambda inner: [clock.work(1.0) for _ in inner], 4, 2)

    with model.phases(FREE) as found:
        pool.run(work, 2, 2)
    assert [run.clocks for run in found.runs] == [[4.0, 4.0]]


def test_what_kernels_share_is_taken_for_even(clock, monkeypatch):
    monkeypatch.setattr(pool, "share", lambda crew, helpers: crew(helpers))
    costs = model.Costs(wake=0.25, submit=0.125, join=0.5)
    with model.phases(costs) as found:
        clock.work(1.0)
        pool.share(lambda helpers: clock.work(4.0 if helpers == 0 else 99.0), 1)
    (run,) = found.runs
    assert run.work == [2.0, 2.0]
    assert run.clocks == [2.125, 2.0 + 0.125 + 0.25 + 0.5]
    assert (found.alone, found.seconds) == (1.0, 1.0 + 2.875)


def test_the_pool_is_as_before_and_errors_get_through(clock):
    real, before = (pool.run, pool.share), threading.active_count()

    def work(tasks):
        for task in tasks:
            raise ValueError(task)

    with pytest.raises(ValueError, match="0"), model.phases(FREE):
        pool.run(work, 3, 1)
    assert (pool.run, pool.share) == real
    assert threading.active_count() == before


def test_costs_are_some_microseconds():
    found = model.costs(3)
    assert 0 < found.submit < 0.1
    assert 0 < found.wake <= 0.1
    assert 0 <= found.join < 0.1


def test_a_slow_call_is_modelled_once(monkeypatch):
    calls = []
    monkeypatch.setattr(model, "SLOW", 0.0)
    model.measured(lambda: calls.append(time), FREE, 60.0)
    assert len(calls) == 2  # and once before


def made_up():
    """Ours twice as fast on two threads, the limit 1.8 times; NumPy behind, then ahead."""
    records = []
    for threads, ours, numpy, limit in ((1, 0.010, 0.020, 0.009), (2, 0.005, 0.004, 0.005)):
        base = {"section": "scaling", "title": "over threads", "shape": "tags", "op": "loss",
                "m": 50_000, "k": 300, "n": 23, "threads": threads, "status": "ok", "isa": "scalar"}
        records += [base | {"contender": "logitless", "best": ours, "limit_seconds": limit,
                            "fraction": limit / ours},
                    base | {"contender": "NumPy", "best": numpy * 2, "limit_seconds": limit},
                    base | {"contender": "NumPy, row blocks", "best": numpy,
                            "limit_seconds": limit},
                    base | {"contender": "torch", "status": "skipped",
                            "reason": "torch is not installed"}]
    for threads, seconds, longest, work in (
            (1, 0.010, 0.0, 0.010), (2, 0.0055, 0.005, 0.011), (16, 0.002, 0.001, 0.0132)):
        records.append({
            "section": "model", "title": "a model", "shape": "tags", "op": "loss", "m": 50_000,
            "k": 300, "n": 23, "threads": threads, "contender": "logitless", "status": "ok",
            "isa": "scalar", "alone": 0.0005, "runs": 3, "tasks": 48, "work": work,
            "longest": longest, "seconds": seconds, "imbalance": 1.25})
    return records


def test_tables_of_made_up_numbers(tmp_path):
    records = report.merged(made_up()[::-1], [])
    assert [(r["section"], r["threads"]) for r in records if r["contender"] == "logitless"] == [
        ("scaling", 1), ("scaling", 2), ("model", 1), ("model", 2), ("model", 16)]
    others = [r | {"shape": shape} for r in records for shape in ("2x3x4", "1x2x3")]
    assert [r["shape"] for r in report.merged(records, others)[:24]] == [
        *["tags"] * 8, *["1x2x3"] * 8, *["2x3x4"] * 8]  # those without a name come last
    report.store(tmp_path, {"machine": report.machine(), "records": records})
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| tags | 1 | 1.00 | 10.0 | 0.90 | 1.00 | 20.0 | 2.00 | - |  |\n" in text
    assert "| tags | 2 | 1.80 | 5.00 | 1.00 | 2.00 | 4.00 | **0.80** behind | - |  |" in text
    # 10 ms: 0.5 alone and 1 of tasks leave 0.5 for starting
    assert ("| tags | loss | 10.0 | 1.82 | 2.00 | 3 | 0.5000 | 0.5000 | 1.00 | 1.25 | 1.32 | "
            "5.0 |\n"
            in text)


def test_what_was_not_measured_is_said():
    records = [r for r in made_up() if r["threads"] != 1]
    (*_, table) = scaling_tables.summary([r for r in records if r["section"] == "scaling"], records)
    assert "| tags | 2 | - | 5.00 | 1.00 | - | 4.00 |" in table
    (*_, table) = scaling_tables.model_summary(
        [r for r in records if r["section"] == "model"], records)
    assert "not measured" in table
    failed = [r | {"status": "failed", "reason": "why"} for r in made_up()[:1]]
    (*_, table) = scaling_tables.summary(failed, failed)
    assert "*failed*: why" in table


def test_numbers_of_threads(monkeypatch):
    for cpus, counts in ((0, [1]), (1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])):
        monkeypatch.setattr(scaling, "usable_cpus", lambda cpus=cpus: list(range(cpus)))
        assert scaling.thread_counts() == counts


def test_sections():
    few, many = shapes.SHAPES["tags"], shapes.SHAPES["gpt2"]
    found = scaling.sections((few, many), [1, 2], 16, 0.1)
    assert [(s.name, s.setting.threads) for s in found] == 2 * [
        ("scaling", 1), ("scaling", 2), ("model", 1), ("model", 2), ("model", 16)]
    assert "best" not in found[0].setting.ops
    assert runner.SCREENED not in found[0].setting.contenders
    assert "best" in found[-1].setting.ops
    assert {s.name for s in scaling.sections((few,), [1], 0, 0.1)} == {"scaling"}


@pytest.mark.slow
def test_a_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scaling, "thread_counts", lambda: [1])
    monkeypatch.setattr("sys.argv", ["scaling.py", "--shapes", TINY.name, "--ops", "loss,best",
                                     "--seconds", "1e-9", "--cores", "3", "--out", str(tmp_path)])
    assert scaling.main() == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count(f"| {TINY.name} | 1 | ") == 2
    assert text.count(f"| {TINY.name} | loss | ") == text.count(f"| {TINY.name} | best | ") == 1
    told = capsys.readouterr().out
    assert all(line in told for line in text.splitlines() if line.startswith(f"| {TINY.name}"))
