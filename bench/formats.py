"""Numbers and tables as they are written down."""

from __future__ import annotations

from collections.abc import Iterable


def scientific(value: float) -> str:
    """Two digits."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def milliseconds(seconds: float) -> str:
    """Three digits."""
    value = seconds * 1e3
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4
    return f"{value:,.{digits}f}"


def mebibytes(count: int | None) -> str:
    """One decimal; a dash where it was not measured."""
    if count is None:
        return "-"
    value = count / 2**20
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """Lines of a Markdown table, the first `left` columns aligned to the left."""
    header = list(header)
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def times(ratio: float) -> str:
    """How many times as long as ours; below 1 we are behind."""
    return f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}** behind"
