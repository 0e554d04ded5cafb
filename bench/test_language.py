"""The benchmark of language models' losses: ways agree, and what is measured adds up."""

from __future__ import annotations

from dataclasses import replace

import language
import pytest
from language_ways import INPUTS, WAYS, Case

SMALL = (Case("head", "Gemma", 16, 8, 700, "float32", softcap=2.0),
         Case("head", "Llama", 16, 8, 700, "float32"),
         Case("two heads", "KL", 16, 8, 700, "float32", teacher=12),
         Case("model", "Llama", 16, 16, 700, "float32"))


@pytest.mark.parametrize("case", SMALL, ids=language.label)
def test_ways_agree(case):
    if case.kind == "model":
        pytest.importorskip("transformers")
    losses = {}
    for way, make in WAYS[case.kind].items():
        if way != "torch.compile" and "losses of both" not in way:
            loss = make(case, INPUTS[case.kind](case, True))
            if loss is not None:
                losses[way] = float(loss().detach())
    assert len(losses) == (4 if case.name == "Llama" and case.kind == "head" else 2)
    assert list(losses.values()) == pytest.approx([losses["torch"]] * len(losses), rel=1e-5)


def test_one_process_sees_the_logits():
    case = replace(SMALL[1], m=512, n=50_000)
    found = {way: language.started(case, way, "forward", 1) for way in ("logitless", "torch")}
    assert found["torch"]["loss"] == pytest.approx(found["logitless"]["loss"], rel=1e-5)
    if found["torch"]["extra_bytes"] is not None:
        assert found["torch"]["extra_bytes"] >= 4 * case.m * case.n
        assert found["logitless"]["extra_bytes"] < case.m * case.n
    assert found["torch"]["seconds"] > 0


def test_a_way_that_fails_says_why():
    case = replace(SMALL[0], dtype="float33")
    assert "float33" in language.started(case, "torch", "forward", 1)["failed"]
