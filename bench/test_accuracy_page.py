"""docs/accuracy.md has the tables of accuracy.py, and in them what logitless gives, to the bit."""

from __future__ import annotations

import accuracy
import pytest

import logitless as ll

PAGE = accuracy.PAGE.read_text("utf-8")
HELD = {found[1]: found[2] for found in accuracy.MARK.finditer(PAGE)}


def column(table: str, name: str) -> list[str]:
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")]
                        for line in table.strip().splitlines())
    return [row[header.index(name)] for row in rows]


def test_the_page_has_all_tables():
    assert list(HELD) == list(accuracy.TABLES)
    assert accuracy.renewed(PAGE, {name: table.rstrip() for name, table in HELD.items()}) == PAGE
    with pytest.raises(ValueError, match="expected marks"):
        accuracy.renewed(PAGE, {})


@pytest.mark.skipif(ll.active_isa() == "numpy", reason="bits of the kernels")
@pytest.mark.parametrize("name", ["sure", "offset"])
def test_errors_are_what_the_page_says(name):
    assert column(accuracy.TABLES[name](), "logitless") == column(HELD[name], "logitless")
