"""Calls drawn from integers: each gives a result or a clear error, and touches nothing."""

from __future__ import annotations

import argparse
import collections
import importlib
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import logitless as ll

pytest.importorskip("scipy.sparse")
batches = pytest.importorskip("fuzz.batches")
SEEDS = 400


def test_calls_of_every_kind(tmp_path):
    counts, complaints = batches.batch(0, SEEDS, math.inf, tmp_path)
    assert complaints == []
    assert sum(counts.values()) == SEEDS
    ends = [end for _, end in counts]
    assert len({name for name, _ in counts}) > 30
    assert {"ok", "ValueError", "TypeError", "IndexError"} <= set(ends)
    assert sum(count for (_, end), count in counts.items() if end == "ok") > SEEDS / 2


def dies_in_case_1500(first, last, until, folder):
    for seed in range(first, last):
        (Path(folder) / str(os.getpid())).write_text(str(seed))
        if seed == 1500:
            os._exit(1)
    return collections.Counter({("a call", "ok"): last - first}), []


@pytest.mark.slow
def test_others_go_on_where_a_process_dies(monkeypatch, tmp_path):
    main = importlib.import_module("fuzz.__main__")
    monkeypatch.setattr(main, "batch", dies_in_case_1500)
    asked = argparse.Namespace(seed=0, cases=2500, seconds=1e9, processes=1)
    counts, complaints = zip(*main.batches(asked, tmp_path), strict=True)
    assert [sum(count.values()) for count in counts] == [1000, 0, 499, 500]
    assert complaints == ([], ["a process has died, in one of the cases 1500"], [], [])


def fail(error):
    raise error


FAULTS = {
    "raised KeyError": lambda x, result: fail(KeyError("x")),
    "does not say what was expected": lambda x, result: fail(ValueError("no")),
    "warns: slow": lambda x, result: warnings.warn("slow", stacklevel=2) or result,
    "has changed": lambda x, result: x.fill(1) or result,
    "other bits": lambda x, result: np.random.default_rng().integers(1 << 60, size=result.shape),
    "plain NumPy: result 0 is": lambda x, result: result + 1,
}


@pytest.mark.compiled_only
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, monkeypatch):
    def wrong(self, x, **options):
        result = right(self, x, **options)
        writeable = isinstance(x, np.ndarray) and x.flags.writeable
        return FAULTS[fault](x if writeable else np.ones(1), result)

    right = ll.LinearHead.predict
    monkeypatch.setattr(ll.LinearHead, "predict", wrong)
    monkeypatch.setattr(batches.check.__globals__["Draw"], "chance", sometimes)
    with batches.listening() as heard:
        seeds = [seed for seed in range(SEEDS) if name_of(seed) == "LinearHead.predict"]
        found = [text for seed in seeds for text in batches.check(seed, heard)[0]]
    assert any(fault in text for text in found)


def sometimes(draw, part):
    """What is done to few cases, to all of them."""
    return draw.random.random() < part or part in (0.25, 0.06)


def name_of(seed):
    checks = batches.check.__globals__
    return checks["case"](checks["Draw"](seed)).name
