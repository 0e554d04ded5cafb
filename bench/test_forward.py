"""Every contender on every shape and operation, in pytest-benchmark's table.

A shape is measured by a pinned process with the contenders in turns; the table is made of its
samples, replayed through a clock that stands still but for them.
"""

import pytest

EXTRA = ("m", "k", "n", "dtype", "threads", "isa", "version", "gflop_s", "gb_s", "bound",
         "fraction", "limit_seconds", "limits", "times_ours", "best_rival", "times_best_rival",
         "extra_bytes", "held_bytes", "date", "recall", "screened", "fell_back", "rescored",
         "of_fma_peak", "of_weight_read", "build_seconds", "build_passes", "loss_error",
         "head_bytes")


class Replay:
    """A clock, and a function that seems to take as long as each sample in turn."""

    now = 0.0

    def __init__(self, samples):
        self.samples = iter(samples)

    def __call__(self):
        Replay.now += next(self.samples)

    @staticmethod
    def clock():
        return Replay.now


@pytest.mark.benchmark(timer=Replay.clock)
def test_forward(shape, op, contender, measured, benchmark):
    record = measured(shape)[op, contender]
    if record["status"] == "skipped":
        pytest.skip(f"{contender}: {record['reason']}")
    assert record["status"] == "ok", f"{contender} {record['status']}: {record['reason']}"
    benchmark.group = f"{shape} {op}"
    benchmark.name = contender
    benchmark.extra_info.update({key: record[key] for key in EXTRA if key in record})
    Replay.now = 0.0
    benchmark.pedantic(Replay(record["samples"]), rounds=len(record["samples"]))
    if contender == "logitless":
        assert record["times_ours"] == 1
