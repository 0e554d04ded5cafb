"""The tables of the README, cut from the records."""

from __future__ import annotations

import re
from dataclasses import dataclass

from formats import mebibytes, milliseconds, scientific, table
from runner import LIBRARIES, OURS, SCREENED, WIDE
from shapes import ALL


@dataclass(frozen=True)
class Cut:
    """One operation on some shapes, a column for each of some contenders."""

    section: str
    op: str
    shapes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    beside: str | None = "memory"  # the times: "memory" of the call, or the "error" of the loss
    heads: bool = False  # a last column of the memory of our head, and of one in float32


CUTS = (
    Cut("main", "loss",
        ("gpt2", "recsys", "intents", "tags", "digits", "seed", "decode1", "decode64"), LIBRARIES),
    Cut("bf16", "loss", ("gpt2", "llama3", "imagenet", "decode1", "decode8"),
        {"logitless": (OURS,), "OpenVINO bf16": ("OpenVINO bf16",),
         "torch bf16 `linear_cross_entropy`": ("torch bf16 linear_cross_entropy",),
         "torch eager bf16": ("torch bf16", "torch bf16, bf16 logits")},
        beside="error", heads=True),
    Cut("screen", "best",
        ("gpt2", "wide", "recsys", "peaked-20k", "decode8", "decode1"),
        {"screened": (SCREENED,), "without": (OURS,),
         **{name: names for name, names in LIBRARIES.items() if name != "logitless"},
         "FAISS (`IndexFlatIP`)": ("FAISS",)}, beside=None),
    Cut("gradient", "value_and_grad",
        ("gpt2", "gemma2", "recsys", "imagenet", "digits"),
        {name: LIBRARIES[name] for name in ("logitless", "NumPy", "torch", "JAX")}),
)
TABLE = re.compile(r"^\|  \| (.*)\n(?:\|.*\n)+", re.M)  # one whose first heading is empty


def cut_table(cut: Cut, records: list[dict]) -> str:
    """Markdown, the best time of each row in bold; a dash where nothing was measured."""
    timed = {(r["shape"], r["contender"]): r for r in records
             if (r["section"], r["op"], r["status"]) == (cut.section, cut.op, "ok")}
    rows = []
    for shape in cut.shapes:
        found = [[timed[shape, name] for name in names if (shape, name) in timed]
                 for names in cut.columns.values()]
        fastest = [min(some, key=lambda r: r["best"], default=None) for some in found]
        least = min((r["best"] for r in fastest if r), default=None)
        size = ALL[shape]
        rows.append([f"{shape}: {size.m:,} x {size.k:,} x {size.n:,}",
                     *(_cell(r, least, cut.beside) for r in fastest)])
        if cut.heads:
            held = [timed.get((shape, name), {}).get("head_bytes") for name in (OURS, WIDE)]
            rows[-1].append("{} MiB for {}".format(*map(mebibytes, held)) if all(held) else "-")
    return table(("", *cut.columns, *(["head"] if cut.heads else [])), rows)


def _cell(record: dict | None, least: float, beside: str | None) -> str:
    if record is None:
        return "-"
    time = f"{milliseconds(record['best'])} ms"
    time = f"**{time}**" if record["best"] == least else time
    if beside == "memory":
        return f"{time}, {mebibytes(record.get('extra_bytes'))} MiB"
    return f"{time}, {scientific(record['loss_error'])}" if beside == "error" else time


def tables(records: list[dict]) -> list[str]:
    """Give all tables, in the order of the README."""
    return [cut_table(cut, records) for cut in CUTS]


def renewed(page: str, records: list[dict]) -> str:
    """Give the README with its first tables made anew; what is written between them stays."""
    for new, old in zip(tables(records)[::-1], list(TABLE.finditer(page))[: len(CUTS)][::-1],
                        strict=True):
        (made,) = TABLE.finditer(f"{new}\n")
        first, before = (found[1].partition(" |")[0] for found in (made, old))
        if first != before:
            raise ValueError(f"expected a table of {first!r}, found one of {before!r}")
        page = page[: old.start()] + made[0] + page[old.end() :]
    return page
