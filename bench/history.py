"""What revisions did to times, of the ratios that `compare --save bench/history.json` has kept.

    python bench/history.py      the table of docs/benchmarks/history.md anew
"""

from __future__ import annotations

import json
from pathlib import Path

from formats import table
from readme import TABLE

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks" / "history.md"
PROVEN = 1.035  # an interval beyond is a change


def load() -> list[dict]:
    """One entry for each pair of revisions, the oldest first."""
    return json.loads((HERE / "history.json").read_text())


def names(entries: list[dict]) -> list[str]:
    """Cases of all entries."""
    return list(dict.fromkeys(name for entry in entries for name in entry["ratios"]))


def steps(entries: list[dict]) -> str:
    """Markdown: times of each case over those of the revision before; bold if that is a change."""
    rows = []
    for name in names(entries):
        found = [entry["ratios"].get(name) for entry in entries]
        rows.append([name, *("-" if f is None else _cell(*f) for f in found)])
    return table(("", *(entry["b"][:7] for entry in entries)), rows)


def _cell(ratio: float, low: float, high: float) -> str:
    told = f"{ratio:.2f}"
    return f"**{told}**" if low > PROVEN or high < 1 / PROVEN else told


def since_the_first(entries: list[dict]) -> dict[str, list[float | None]]:
    """Times of each case at all revisions over those at the first that has it."""
    found = {}
    for name in names(entries):
        line: list[float | None] = [None]
        for entry in entries:
            step = entry["ratios"].get(name)
            if step and line[-1] is None:
                line[-1] = 1.0
            line.append(line[-1] * step[0] if step and line[-1] else None)
        found[name] = line
    return found


def renewed(page: str, entries: list[dict]) -> str:
    """The page with its table made anew."""
    return TABLE.sub(lambda _: f"{steps(entries)}\n", page, count=1)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(), load()))
