"""Pages of benchmarks: their tables are the records, their figures the tables."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import history
import plots
import pytest
import readme
import report
import runner

RECORDS = report.load(runner.HERE)["records"]


@pytest.mark.parametrize("name", readme.PAGES)
def test_a_page_shows_what_was_measured(name):
    page, cuts = (runner.HERE.parent / name).read_text(), readme.PAGES[name]
    assert readme.renewed(page, RECORDS, cuts) == page
    blank = readme.renewed(page, [], cuts)
    before, after = ([found[0] for found in readme.TABLE.finditer(text)] for text in (page, blank))
    measured = re.compile(r"\d (ms|MiB)")
    assert all(measured.search(table) for table in before[: len(cuts)])
    assert not any(measured.search(table) for table in after[: len(cuts)])
    assert before[len(cuts) :] == after[len(cuts) :]
    prose = [readme.TABLE.sub("", text) for text in (page, blank)]
    assert prose[0] == prose[1]


def test_tables_of_another_page_are_not_renewed():
    page = (runner.HERE.parent / "README.md").read_text()
    with pytest.raises(ValueError, match="expected a table of 'screened', found"):
        readme.renewed(page, [], readme.CUTS[2:3])
    with pytest.raises(ValueError, match="expected a page of 2 tables, found 1"):
        readme.renewed(page, [], readme.PAGES["docs/benchmarks/best-classes.md"])


def test_a_table_of_memory_names_the_way_that_takes_the_least():
    made = [{"section": "memory", "op": "loss", "status": "ok", "shape": "n=1,000", "best": best,
             "contender": name, "extra_bytes": extra}
            for name, best, extra in (("NumPy", 1.0, 4 << 20), ("NumPy, row blocks", 2.0, 3 << 20),
                                      ("logitless", 3.0, 1 << 20), ("JAX", 0.5, None))]
    (cut,) = readme.PAGES["docs/benchmarks/memory.md"]
    row = readme.cut_table(cut, made).splitlines()[2]
    assert row == "| n=1,000: 256 x 64 x 1,000 | **1.0 MiB** | 3.0 MiB | - | - | - | - |"


def test_the_bars_of_a_row():
    text = """
|  | logitless | `F.loss` | NumPy | other | head |
| --- | ---: | ---: | ---: | ---: | ---: |
| a | 1 ms | 2 ms | 3 ms | 4 ms | - |
| b | **1,428 ms**, 1.9 MiB | 2.5 s, 8.7e-2 | - | 0.4 MiB: `that` and this | 1 MiB for 2 |
"""
    assert plots.bars(text, "b") == [("logitless", 1.428, "1,428 ms, 1.9 MiB"),
                                     ("F.loss", 2.5, "2.5 s, 8.7e-2"),
                                     ("that and this", 0.4, "0.4 MiB")]


def test_every_page_has_its_figure(tmp_path):
    pages = {path.stem for path in plots.PAGES.glob("*.md")} - {"index"}
    plots.draw_all(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == pages
    for page in pages:
        text = (plots.PAGES / f"{page}.md").read_text()
        assert re.findall(r"figures/([\w-]+)\.svg", text) == [page]
        assert "\n:alt: " in text
        picture = ElementTree.parse(tmp_path / f"{page}.svg").getroot()
        assert float(picture.get("width").removesuffix("pt")) < 400  # legible on a phone
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    plots.draw_all(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


@pytest.mark.parametrize("figure", [f for f in plots.FIGURES if f.limit], ids=lambda f: f.page)
def test_the_limit_is_that_of_the_row(figure):
    found = plots.bars((plots.PAGES / f"{figure.page}.md").read_text(), figure.row)
    limit, times = plots.limit_seconds(figure, RECORDS), [seconds for _, seconds, _ in found]
    assert 0.2 * min(times) < limit < 4 * min(times)  # a screen does what it says
    assert limit < min(seconds for name, seconds, _ in found if name != "screened")


def test_the_history_is_that_of_its_entries():
    entries = [{"a": "r0", "b": "r1", "ratios": {"x": [0.5, 0.4, 0.6], "y": [1.2, 0.9, 1.3]}},
               {"a": "r1", "b": "r2", "ratios": {"x": [1.1, 1.04, 1.2], "z": [1.02, 1, 1.1]}}]
    assert history.since_the_first(entries) == {
        "x": [1, 0.5, 0.55], "y": [1, 1.2, None], "z": [None, 1, 1.02]}
    assert history.steps(entries).splitlines() == [
        "|  | r1 | r2 |", "| --- | ---: | ---: |", "| x | **0.50** | **1.10** |",
        "| y | 1.20 | - |", "| z | - | 1.02 |"]
    entries = history.load()
    assert [entry["b"] for entry in entries[:-1]] == [entry["a"] for entry in entries[1:]]
    page = history.PAGE.read_text()
    assert history.renewed(page, entries) == page
    assert history.renewed(page, entries[:1]) != page
