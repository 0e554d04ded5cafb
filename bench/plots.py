"""One figure for each page of benchmarks: a row of its first table that has this name, drawn.

    python bench/plots.py OUT      writes SVG files to a folder, as the site does when it is built

What is drawn stands on the page; only the limit of the machine is taken from the records.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import history

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "docs" / "benchmarks"
OURS, OTHERS, LIMIT, INK = "#0a7d55", "#aab4bf", "#c2410c", "#1f2933"
NOT_RIVALS = ("head",)  # columns that are no time
OURS_BEGIN = ("logitless", "screened", "without")  # names of what is ours
CHANGED = 0.1  # what the history draws
UNITS = {"ms": 1e-3, "s": 1.0, "MiB": 1.0}
CELL = re.compile(r"([\d,.]+) (ms|s|MiB)(?:, ([^:]+))?(?:: (.+))?$")


@dataclass(frozen=True)
class Figure:
    """A row of the table of a page; `limit` is a section and an operation of records, or flops."""

    page: str
    row: str
    title: str
    limit: tuple[str, str] | float | None = None


def _gpt2(page: str, title: str, *limit: str) -> Figure:
    return Figure(page, "gpt2: 2,048 x 768 x 50,257", title, limit or None)


FIGURES = (
    _gpt2("losses", "Losses of 2,048 tokens, 50,257 classes", "main", "loss"),
    Figure("few-classes", "digits: 100,000 x 64 x 10", "Losses of 100,000 rows, 10 classes",
           ("main", "loss")),
    Figure("few-rows", "decode8: 8 x 768 x 50,257", "Losses of 8 tokens, 50,257 classes",
           ("main", "loss")),
    _gpt2("best-classes", "Ten best of 50,257 classes, 2,048 rows", "screen", "best"),
    _gpt2("probabilities", "Probabilities of 50,257 classes, 2,048 rows", "main", "predict_proba"),
    _gpt2("gradients", "Loss and gradients, 2,048 tokens, 50,257 classes", "gradient",
          "value_and_grad"),
    _gpt2("sixteen-bits", "Losses in bfloat16: time, largest error", "bf16", "loss"),
    Figure("memory", "n=1,000,000: 256 x 64 x 1,000,000", "Memory of losses, 1,000,000 classes"),
    _gpt2("many-cores", "Losses of 2,048 tokens on two threads", "threads", "loss"),
    Figure("language-models", "loss and gradients, 65,536 classes, float32",
           "Loss and gradients in PyTorch, 65,536 classes", 6.0 * 1024 * 1024 * 65_536),
    Figure("fit", "60,000 x 784 x 10", "A logistic regression, 60,000 x 784 x 10"),
    Figure("at-scale", "losses, 20,000 sparse rows x 100,000 x 1,000, 100 entries a row",
           "Losses of 20,000 sparse rows, 1,000 classes"),
)


def bars(text: str, row: str) -> list[tuple[str, float, str]]:
    """Name, length in seconds or MiB, and label of each cell of a row of a page's table."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| {row} |"))
    rule = next(i for i in range(at, 0, -1) if lines[i].startswith("| ---"))
    header, cells = ([cell.strip().replace("`", "") for cell in lines[i].strip("| ").split(" | ")]
                     for i in (rule - 1, at))
    found = []
    for name, cell in zip(header[-len(cells) + 1 :], cells[1:], strict=True):
        match = CELL.match(cell.replace("*", ""))
        if match and name not in NOT_RIVALS:
            number, unit, beside, called = match.groups()
            label = f"{number} {unit}" + (f", {beside}" if beside else "")
            found.append((called or name, float(number.replace(",", "")) * UNITS[unit], label))
    return found


def limit_seconds(figure: Figure, records: list[dict]) -> float | None:
    """The least time that the machine allows, where it is known."""
    if isinstance(figure.limit, float):
        peak = max(r["limits"]["fma_gflops_float32"] for r in records
                   if r["threads"] == 1 and r.get("limits"))
        return figure.limit / peak / 1e9
    if figure.limit is None:
        return None
    shape = figure.row.partition(":")[0]
    return next(r["limit_seconds"] for r in records
                if (r["section"], r["op"]) == figure.limit and r["shape"] == shape
                and r["contender"] == "logitless")


def draw(figure: Figure, records: list[dict], out: Path) -> None:
    """Bars of a row, the shortest first, ours marked; a line where the limit is."""
    found = sorted(bars((PAGES / f"{figure.page}.md").read_text(), figure.row), key=lambda b: b[1])
    limit = limit_seconds(figure, records)
    line = (limit, f"dashed: the machine's limit, {_told(limit)}") if limit else None
    _draw(out / f"{figure.page}.svg", figure.title, found, line)


def draw_history(out: Path) -> None:
    """Bars of the cases that changed since the first revision, those that gained most first."""
    lines = history.since_the_first(history.load())
    found = sorted(((name, line[-1], f"{line[-1]:.2f}") for name, line in lines.items()
                    if line[-1] is not None and abs(line[-1] - 1) >= CHANGED), key=lambda b: b[1])
    _draw(out / "history.svg", "Time over that at the first revision", found,
          (1.0, "dashed: as long as then"), own=True)


def _draw(path: Path, title: str, found: list[tuple[str, float, str]],
          line: tuple[float, str] | None, *, own: bool = False) -> None:
    """Horizontal bars with names and labels, ours or all in our colour; a line, and what it is."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    names, lengths, labels = zip(*found, strict=True)
    ours = [own or name.startswith(OURS_BEGIN) for name in names]
    told = [fill(name, 18, break_long_words=False) for name in names]
    height = max(0.36, 0.18 * max(name.count("\n") + 1 for name in told))
    # As wide as a phone, nearly: letters are as large there as they are made here.
    canvas = Canvas(figsize=(4.2, 1.1 + height * len(names)), layout="constrained",
                    facecolor="white")
    axes = canvas.subplots()
    axes.barh(range(len(names)), lengths, color=[OURS if mine else OTHERS for mine in ours],
              height=0.7)
    for y, (length, label) in enumerate(zip(lengths, labels, strict=True)):
        axes.annotate(label, (length, y), (4, 0), textcoords="offset points", va="center",
                      fontsize=10, color=INK, weight="bold" if ours[y] else "normal",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    if line:
        axes.axvline(line[0], color=LIMIT, linestyle="--", linewidth=1.5)
        canvas.supxlabel(line[1], x=0.98, ha="right", color=LIMIT, fontsize=10)
    axes.set_yticks(range(len(names)), told, fontsize=10)
    for tick, mine in zip(axes.get_yticklabels(), ours, strict=True):
        tick.set(color=OURS if mine else INK, weight="bold" if mine else "normal")
    axes.invert_yaxis()
    axes.set_xlim(0, max(lengths) * (1.15 + 0.046 * max(map(len, labels))))
    axes.set_xticks([])
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    canvas.suptitle(fill(title, 38), fontsize=12, weight="bold", color=INK, x=0.02, ha="left")
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        canvas.savefig(path, metadata={"Date": None})


def _told(seconds: float) -> str:
    value, unit = (seconds, "s") if seconds >= 10 else (seconds * 1e3, "ms")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def draw_all(out: Path) -> None:
    """Draw every figure."""
    out.mkdir(parents=True, exist_ok=True)
    records = json.loads((HERE / "results.json").read_text())["records"]
    for figure in FIGURES:
        draw(figure, records, out)
    draw_history(out)


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
