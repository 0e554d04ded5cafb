"""Records of `scaling` to Markdown: times over threads, and what the model says of many."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from formats import milliseconds, table, times
from runner import LIBRARIES, OURS, SCREENED

ABOUT = """\
Every number of threads in a process of its own for a shape, pinned to as many CPUs, the last ones
of the machine, with both limits measured there on as many threads. **times one thread**: how many
times as fast, and **the limit's**: how many times as fast the machine allows, where peak and rate
of reading grow as measured. The fastest way of each library counts. **screened**: the head with
`screen="int8"`; `best` is the top 10 without log-probabilities."""
MODEL_ABOUT = """\
A call planned for as many threads, made on one core: its threads take turns, each task is timed
undisturbed, and goes to the thread that is the first to be free. **alone**: time in which one
thread does what cannot be shared out. **runs**: how often threads are started and awaited,
**starting**: the time of that, as measured on two cores. **longest thread**: the time of tasks;
**imbalance**: over the mean of all threads; **work**: of all threads, over that of a call on one.
What kernels share out among themselves is seen as a whole, and taken for even.
The three times add up to the one predicted. It is for cores as fast as this one: what many cores
share, memory above all, is not in it; where the limit grows less, so does a call."""


def _grouped(records: list[dict], *keys: str) -> Iterator[tuple[tuple, list[dict]]]:
    for key, some in groupby(records, key=lambda r: tuple(r[k] for k in keys)):
        yield key, list(some)


def fastest(records: list[dict], names: tuple[str, ...]) -> dict | None:
    """The record of the least time, of some contenders."""
    timed = [r for r in records if r["contender"] in names and r["status"] == "ok"]
    return min(timed, key=lambda r: r["best"], default=None)


def by_threads(records: list[dict]) -> dict[int, list[dict]]:
    """Records of one shape and operation, by their number of threads."""
    counts = sorted({r["threads"] for r in records})
    return {count: [r for r in records if r["threads"] == count] for count in counts}


def summary(section: list[dict], _: list[dict]) -> Iterator[str]:
    """A table for each operation, a row for each shape and number of threads."""
    yield ABOUT
    for op in dict.fromkeys(r["op"] for r in section):
        of_op = [r for r in section if r["op"] == op]
        columns = [OURS, *([SCREENED] if any(r["contender"] == SCREENED for r in of_op) else [])]
        rows = []
        for (shape,), some in _grouped(of_op, "shape"):
            rows += _rows(shape, by_threads(some), columns)
        yield f"**{op}**"
        yield table(("shape", "threads", "the limit's", "ours, ms", "of limit", "times one thread",
                     *(["screened, ms", "of limit", "times one thread"] if columns[1:] else []),
                     "NumPy, ms", "x ours", "torch, ms", "x ours"), rows, 1)


def _rows(shape: str, found: dict[int, list[dict]], columns: list[str]) -> Iterator[list[str]]:
    single = {name: fastest(found.get(1, []), (name,)) for name in columns}
    for count, records in found.items():
        ours = fastest(records, (OURS,))
        if ours is None:
            told = next((r for r in records if r["contender"] == OURS), {})
            yield [shape, str(count), f"*{told.get('status')}*: {told.get('reason')}",
                   *[""] * (4 + 3 * len(columns))]
            continue
        row = [shape, str(count), _gain(single[OURS], ours, "limit_seconds")]
        for name in columns:
            timed = fastest(records, (name,))
            row += ([milliseconds(timed["best"]), f"{timed['fraction']:.2f}",
                     _gain(single[name], timed, "best")] if timed else ["-", "", ""])
        for library in ("NumPy", "torch"):
            rival = fastest(records, LIBRARIES[library])
            row += ([milliseconds(rival["best"]), times(rival["best"] / ours["best"])] if rival
                    else ["-", ""])
        yield row


def _gain(single: dict | None, record: dict, key: str) -> str:
    return f"{single[key] / record[key]:.2f}" if single else "-"


def model_summary(section: list[dict], records: list[dict]) -> Iterator[str]:
    """One table: what is predicted for two threads, and was measured; and for many."""
    timed = {(r["shape"], r["op"], r["contender"], r["threads"]): r["best"] for r in records
             if r["section"] == "scaling" and r["status"] == "ok"}
    rows, many = [], max(r["threads"] for r in section)
    for (shape, op), some in _grouped(section, "shape", "op"):
        by_count = {r["threads"]: r for r in some if r["status"] == "ok"}
        if not {1, many} <= set(by_count):
            reason = next((r["reason"] for r in some if r["status"] != "ok"), "not measured")
            rows.append([shape, op, reason, *[""] * 9])
            continue
        one, two, most = by_count[1], by_count.get(2), by_count[many]
        name = one["contender"]
        pair = [timed.get((shape, op, name, count)) for count in (1, 2)]
        starting = most["seconds"] - most["alone"] - most["longest"]
        rows.append([shape, op, milliseconds(one["seconds"]),
                     f"{one['seconds'] / two['seconds']:.2f}" if two else "-",
                     f"{pair[0] / pair[1]:.2f}" if all(pair) else "-",
                     f"{most['runs']:,}", milliseconds(most["alone"]), milliseconds(starting),
                     milliseconds(most["longest"]), f"{most['imbalance']:.2f}",
                     f"{most['work'] / one['work']:.2f}",
                     f"{one['seconds'] / most['seconds']:.1f}"])
    yield MODEL_ABOUT
    yield table(("shape", "operation", "one thread, ms", "x on two, predicted", "measured",
                 f"on {many}: runs", "alone, ms", "starting, ms", "longest thread, ms", "imbalance",
                 "work", f"x on {many}, predicted"), rows, 2)


SECTIONS = {"scaling": summary, "model": model_summary}
