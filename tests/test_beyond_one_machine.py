"""The page "Beyond one machine": its blocks run, its links lead somewhere."""

from __future__ import annotations

import pathlib
import re

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "beyond-one-machine.md"


@pytest.fixture
def page():
    if not PAGE.exists():
        pytest.skip("no documentation beside these tests")
    return PAGE.read_text(encoding="utf-8")


def test_blocks_of_the_page_run(page, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("dask.array")
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", page, re.M | re.S))
    for block in blocks:
        line = page.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    assert len(blocks) == page.count("```") / 2
    assert len(blocks) > 6


def test_links_of_the_page(page):
    anchors = {"#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
               for title in re.findall(r"^## (.*)$", page, re.M)}
    assert set(re.findall(r"\]\((#[^)]*)\)", page)) == anchors
