"""Tables of pages, that of the README first, cut from the records."""

from __future__ import annotations

import re
from dataclasses import dataclass

from formats import mebibytes, milliseconds, scientific, table
from runner import LIBRARIES, OURS, SCREENED, WIDE
from shapes import ALL, SWEEP


@dataclass(frozen=True)
class Cut:
    """One operation on some shapes, a column for each of some contenders."""

    section: str
    op: str
    shapes: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    beside: tuple[str, ...] = ("memory",)  # the times: "memory" of the call, "error" of the loss
    heads: bool = False  # a last column of the memory of our head, and of one in float32
    of: str = "best"  # what is compared: seconds, or "extra_bytes"


CUTS = (
    Cut("main", "loss",
        ("gpt2", "recsys", "intents", "tags", "digits", "seed", "decode1", "decode64"), LIBRARIES,
        beside=("memory", "error")),
    Cut("bf16", "loss", ("gpt2", "llama3", "imagenet", "decode1", "decode8"),
        {"logitless": (OURS,), "OpenVINO bf16": ("OpenVINO bf16",),
         "torch bf16 `linear_cross_entropy`": ("torch bf16 linear_cross_entropy",),
         "torch eager bf16": ("torch bf16", "torch bf16, bf16 logits")},
        beside=("error",), heads=True),
    Cut("screen", "best",
        ("gpt2", "wide", "recsys", "peaked-20k", "decode8", "decode1"),
        {"screened": (SCREENED,), "without": (OURS,),
         **{name: names for name, names in LIBRARIES.items() if name != "logitless"},
         "FAISS (`IndexFlatIP`)": ("FAISS",)}, beside=()),
    Cut("gradient", "value_and_grad",
        ("gpt2", "gemma2", "recsys", "imagenet", "digits"),
        {name: LIBRARIES[name] for name in ("logitless", "NumPy", "torch", "JAX")}),
)
MEASURED = {name: names for name, names in LIBRARIES.items() if name != "OpenVINO"}
EVERYONE = {**MEASURED, "scikit-learn": ("scikit-learn",)}
LOSSES = {**LIBRARIES, "scikit-learn": ("scikit-learn",)}
WHOLE = {"logitless": (OURS,), "logitless, `out`": ("logitless, out",), **EVERYONE}
MANY_CLASSES = ("gpt2", "gemma2", "llama3", "recsys", "xml", "imagenet")
PAGES = {"README.md": CUTS[:1]} | {f"docs/benchmarks/{name}.md": cuts for name, cuts in {
    "losses": (Cut("main", "loss", (*MANY_CLASSES, "intents"), LOSSES),),
    "few-classes": (Cut("main", "loss", ("seed", "digits", "tags"), LOSSES),
                    Cut("main", "predict", ("seed", "digits"), MEASURED)),
    "few-rows": (Cut("main", "loss", ("tiny", "decode1", "decode8", "decode64"), LOSSES),
                 Cut("main", "predict", ("tiny", "decode1", "decode8"), MEASURED)),
    "best-classes": (CUTS[2],
                     Cut("main", "topk", (*MANY_CLASSES, "digits", "decode8"), MEASURED)),
    "probabilities": (
        Cut("main", "predict_proba", (*MANY_CLASSES, "digits", "decode8"), WHOLE),),
    "gradients": (CUTS[3],),
    "sixteen-bits": (CUTS[1],),
    "memory": (
        Cut("memory", "loss", tuple(shape.name for shape in SWEEP), EVERYONE, of="extra_bytes"),),
    "many-cores": (
        Cut("threads", "loss", ("gpt2", "recsys", "imagenet", "digits", "seed", "tiny"), EVERYONE),
        Cut("threads", "value_and_grad", ("gpt2", "recsys", "imagenet", "digits"),
            {name: LIBRARIES[name] for name in ("logitless", "NumPy", "torch", "JAX")})),
}.items()}
TABLE = re.compile(r"^\|  \| (.*)\n(?:\|.*\n)+", re.M)  # one whose first heading is empty


def cut_table(cut: Cut, records: list[dict]) -> str:
    """Markdown, the best time of each row in bold; a dash where nothing was measured."""
    timed = {(r["shape"], r["contender"]): r for r in records
             if (r["section"], r["op"], r["status"]) == (cut.section, cut.op, "ok")}
    rows = []
    for shape in cut.shapes:
        found = [[timed[shape, name] for name in names if (shape, name) in timed]
                 for names in cut.columns.values()]
        found = [[r for r in some if r.get(cut.of) is not None] for some in found]
        fastest = [min(some, key=lambda r: r[cut.of], default=None) for some in found]
        least = min((r[cut.of] for r in fastest if r), default=None)
        size = ALL[shape]
        rows.append([f"{shape}: {size.m:,} x {size.k:,} x {size.n:,}",
                     *(_cell(r, least, cut) for r in fastest)])
        if cut.heads:
            held = [timed.get((shape, name), {}).get("head_bytes") for name in (OURS, WIDE)]
            rows[-1].append("{} MiB for {}".format(*map(mebibytes, held)) if all(held) else "-")
    return table(("", *cut.columns, *(["head"] if cut.heads else [])), rows)


def _cell(record: dict | None, least: float, cut: Cut) -> str:
    if record is None:
        return "-"
    memory = f"{mebibytes(record.get('extra_bytes'))} MiB"
    value = f"{milliseconds(record['best'])} ms" if cut.of == "best" else memory
    value = f"**{value}**" if record[cut.of] == least else value
    more = {"memory": lambda: memory, "error": lambda: scientific(record["loss_error"])}
    return ", ".join([value, *(more[name]() for name in cut.beside if cut.of == "best")])


def tables(records: list[dict], cuts: tuple[Cut, ...] = CUTS) -> list[str]:
    """Give tables, in the order of their pages."""
    return [cut_table(cut, records) for cut in cuts]


def renewed(page: str, records: list[dict], cuts: tuple[Cut, ...]) -> str:
    """Give a page with its first tables made anew; what is written between them stays."""
    there = list(TABLE.finditer(page))[: len(cuts)]
    if len(there) < len(cuts):
        raise ValueError(f"expected a page of {len(cuts)} tables, found {len(there)}")
    for new, old in zip(tables(records, cuts)[::-1], there[::-1], strict=True):
        (made,) = TABLE.finditer(f"{new}\n")
        first, before = (found[1].partition(" |")[0] for found in (made, old))
        if first != before:
            raise ValueError(f"expected a table of {first!r}, found one of {before!r}")
        page = page[: old.start()] + made[0] + page[old.end() :]
    return page
