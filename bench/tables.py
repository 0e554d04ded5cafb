"""Records to Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

import scaling_tables
from checks import TOLERANCE_16
from formats import mebibytes, milliseconds, scientific, table, times
from runner import OURS, SCREENED, WIDE, WIDE_ROWS
from shapes import ALL, LOGIT_STD, TOP

ABOUT = f"""\
Every contender runs in the same process for a shape, pinned to the same CPUs and the same number of
threads, in turns; the time is the best of at least three rounds (of two where a call takes more
than 8 seconds, and of one less where it takes more than 2 and 1.5 times as long as the fastest).
Inputs are uniform random numbers, logits with a standard deviation of {LOGIT_STD:g}, no bias except
for gradients. Conversions to a contender's own arrays, compilation, packing of weights and the
making of sessions are not timed. Each result was compared with ours first: a contender that differs
by more than rounding is marked *wrong* and not timed.

- **loss** of each row; **predict**, its class; **topk**, {TOP} best classes with log-probabilities;
  **predict_proba**, all probabilities; **score**, all of: loss, log-sum-exp, entropy, rank of the
  target, {TOP} best classes with log-probabilities.
- **logitless, out** writes its probabilities into one array made before. The other contenders
  return new arrays; ONNX Runtime keeps the memory it once took and needs no new pages either.
- **value_and_grad**: the mean loss and its gradients with respect to inputs, weights and bias.
  Nothing is packed beforehand. logitless and NumPy write into arrays made before; the others offer
  no such thing. scikit-learn has no gradient of the inputs: it makes two products where the rates
  count three.
- **of limit**: the shortest time this machine allows, over the time taken. That is the larger of
  flops / measured peak of fused multiply-adds and bytes that must be moved (inputs, gradients and
  the result of predict_proba, each once) / measured rate of reading memory; both are the best seen
  in the same process before, between and after. Above 1 where the data stays in the caches.
- **extra MiB**: the most memory resident during a call beyond what was before it, result included
  but for gradients, in a process of its own. **held MiB**: what the contender keeps between calls
  beside the weights given and arrays for the gradients, as packed weights.
- **loss error**: the most that the loss of a row differs from the one computed in float64, of the
  same numbers.
- **x ours**: its time over that of `logitless`. Below 1 it is faster.
"""


SCREEN_ABOUT = f"""\
Two questions: **predict**, the class of the largest logit; **best**, the {TOP} best classes with
their logits, no log-probabilities. **logitless, screened** is `LinearHead(weight, screen="int8")`:
a copy of the weights in bytes rules nearly all classes out, and the logits of the others are
computed as always. Its results were compared with those of **logitless**, the head without a
screen, and are the same to the bit, else it is marked *wrong*.

- **of limit** and **GFLOP/s** are reckoned as if every logit were computed from float32 weights.
  So **of limit** may be more than 1 for the screened head, which computes few logits in float32 and
  reads a quarter of the bytes: it says how many times sooner than any product of float32 matrices
  could be made here, or than their weights could be read.
- **logits a row**: how many classes of a row the screened head had to compute exactly, on average.
  **rows given up**: rows for which too many were left; they were computed as without a screen.
- **FAISS** is `IndexFlatIP`, which is exact. **FAISS, HNSW** is `IndexHNSWFlat` with M = 32 and
  efSearch = 64, which looks at some classes only: **recall** is which part of the exact answer (of
  the {TOP} classes of best, of the one of predict) it found. It counts as nobody's best rival.
- **held MiB** of the screened head is packed weights and the bytes.
- A *fitted* head is a softmax head fitted by gradient descent to Gaussian classes, and asked about
  other rows of them: as a rule one logit is far above the others. Elsewhere numbers are random.
"""
BF16_ABOUT = f"""\
Rows and weights of bfloat16, the same for all. **logitless** multiplies them as they are;
**logitless, float32 x** has the rows in float32 and packed weights of bfloat16, **logitless,
float32** both in float32. **torch bf16** widens logits of bfloat16 for the loss, **torch bf16, bf16
logits** and **linear_cross_entropy** do not. **OpenVINO bf16** is a graph in that precision,
**OpenVINO int8** one whose weights are bytes with a scale for each class: as these are other
weights, it counts as nobody's best rival. The others are given the same numbers in float32, and
compute in it.

- **loss error**: the most that the loss of a row differs from the one computed in float64, of the
  same numbers. **recall**: which part of the classes that we name the other named too. What is
  computed in 16 bits was held to ours by {TOLERANCE_16:g}, relative to 1 + |loss|; the one with
  bytes, to nothing; everybody else, as in the other sections.
- **of limit** has the measured peak of what a contender multiplies: of products of bfloat16 or of
  bytes, or of multiply-adds in float32. Weights are read as many bytes wide as it has them.
- **head MiB**: what a head of ours needs once it is made, the weights given with it where they are
  still used.
"""


EXTRA_COLUMNS = {  # of records that have them: heading, and how it is told
    "rescored": ("logits a row", lambda value: f"{value:,.1f}"),
    "fell_back": ("rows given up", lambda value: f"{value:,}"),
    "recall": ("recall", lambda value: f"{value:.3f}"),
    "loss_error": ("loss error", scientific),
}


def whole(results: dict) -> str:
    """RESULTS.md."""
    records, machine = results["records"], results["machine"]
    parts = ["# Results", "Made by `python bench/report.py`; not edited by hand.",
             _machine(machine, records), ABOUT]
    for _, section in groupby(records, key=lambda r: r["section"]):
        section = list(section)
        parts.append(f"## {section[0]['title'][0].upper() + section[0]['title'][1:]}")
        if section[0]["section"] in scaling_tables.SECTIONS:
            parts += scaling_tables.SECTIONS[section[0]["section"]](section, records)
            continue
        parts += _limits(section)
        if section[0]["section"] == "screen":
            parts += [SCREEN_ABOUT, screen_summary(section)]
        elif section[0]["section"] == "bf16":
            parts += [BF16_ABOUT, bf16_summary(section)]
        else:
            parts.append(summary(section))
        if section[0]["threads"] > 1:
            parts.append(_scaling(section, records))
        parts += _details(section, _differ(_versions(records)))
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _machine(machine: dict, records: list[dict]) -> str:
    versions = _versions(records)
    told = ", ".join(f"{name} {' or '.join(found)}" for name, found in versions.items())
    if differ := _differ(versions):
        told += f" (which {' and '.join(differ)}, each table tells)"
    products = machine.get("products", {}).items()
    by = "".join(f"; {what} by {name}" for what, name in products if name)
    days = sorted({r["date"][:10] for r in records if r.get("date")}) or [machine["date"]]
    lines = {"CPU": machine["cpu"], "system": machine["system"], "instruction set":
             f"{machine['isa']} (available: {', '.join(machine['isas'])}){by}",
             "Python": machine["python"], "versions": f"{told}; NumPy's BLAS {machine['blas']}",
             "measured": " to ".join(dict.fromkeys([days[0], days[-1]]))}
    return table(("", ""), ((name, str(value)) for name, value in lines.items()), 2)


def _versions(records: Iterable[dict]) -> dict[str, list[str]]:
    """Versions of each library that records are of."""
    found: dict[str, dict[str, None]] = {}
    for r in records:
        if r.get("version"):
            library = re.split(r"[ ,.](?!Runtime)", r["contender"])[0]
            found.setdefault(library, {})[r["version"]] = None
    return {library: list(versions) for library, versions in found.items()}


def _differ(versions: dict[str, list[str]]) -> list[str]:
    """Libraries of several versions."""
    return [library for library, found in versions.items() if len(found) > 1]


def _limits(section: list[dict]) -> Iterator[str]:
    found = [r["limits"] for r in section if r.get("limits")]
    if not found:
        return
    dtype = section[0]["dtype"]
    wide = "float64" if dtype == "float64" else "float32"
    named = [(f"fma_gflops_{wide}", f"GFLOP/s of multiply-adds in {wide}"),
             ("read_gb_s", "GB/s of reading memory")]
    if dtype == "bfloat16":
        named[1:1] = [("dot_gflops_bfloat16", "GFLOP/s of products of bfloat16"),
                      ("dot_gops_int8", "Gop/s of products of bytes")]
    told = []
    for key, what in named:
        low, high = (f(limits[key] for limits in found) for f in (min, max))
        told.append(f"{low:,.1f} to {high:,.1f} {what}")
    isa = next(r["isa"] for r in section if r.get("isa"))
    yield f"Threads: {section[0]['threads']}; {isa}. Limits measured: {', '.join(told)}."


def _groups(records: list[dict]) -> Iterator[tuple[tuple[str, str], dict[str, dict]]]:
    for key, group in groupby(records, key=lambda r: (r["shape"], r["op"])):
        yield key, {r["contender"]: r for r in group}


def summary(records: list[dict]) -> str:
    """Ours and the best rival, one row for each shape and operation; rows we lose are marked."""
    rows = []
    for (shape, op), group in _groups(records):
        ours = group.get(OURS, {})
        if ours.get("status") != "ok":
            rows.append([shape, op, _status(ours), *[""] * 6])
            continue
        best = group.get(ours.get("best_rival"), None)
        row = [shape, op, milliseconds(ours["best"]), f"{ours['fraction']:.2f}",
               mebibytes(ours.get("extra_bytes"))]
        if best:
            ratio = best["best"] / ours["best"]
            row += [best["contender"], milliseconds(best["best"]),
                    mebibytes(best.get("extra_bytes")),
                    times(ratio)]
        rows.append(row + [""] * (9 - len(row)))
    return table(("shape", "operation", "ours, ms", "of limit", "extra MiB", "best rival",
                  "its ms", "its extra MiB", "x ours"), rows, 2)


def screen_summary(records: list[dict]) -> str:
    """The screened head beside the one without a screen and the best exact rival."""
    rows = []
    for (shape, op), group in _groups(records):
        screened = group.get(SCREENED, {})
        if screened.get("status") != "ok":
            rows.append([shape, op, _status(screened), *[""] * 8])
            continue
        rival = screened.get("best_rival")
        rows.append([shape, op, milliseconds(screened["best"]), f"{screened['fraction']:.2f}",
                     *_extra(screened, ("rescored", "fell_back")),
                     *_beside(screened, group.get(OURS)),
                     rival or "", *_beside(screened, group.get(rival))])
    return table(("shape", "operation", "screened, ms", "of limit", "logits a row",
                  "rows given up", "without a screen, ms", "x screened", "best exact rival",
                  "its ms", "x screened"), rows, 2)


def bf16_summary(records: list[dict]) -> str:
    """The head of bfloat16 beside its wider twins and the best rival."""
    rows = []
    for (shape, op), group in _groups(records):
        ours = group.get(OURS, {})
        if ours.get("status") != "ok":
            rows.append([shape, op, _status(ours), *[""] * 11])
            continue
        rival = ours.get("best_rival")
        rows.append([shape, op, milliseconds(ours["best"]), f"{ours['fraction']:.2f}",
                     *_extra(ours, ("loss_error",)), mebibytes(ours.get("head_bytes")),
                     *_beside(ours, group.get(WIDE_ROWS)), *_beside(ours, group.get(WIDE)),
                     rival or "", *_beside(ours, group.get(rival)),
                     *_extra(group.get(rival, {}), ("loss_error",))])
    return table(("shape", "operation", "ours, ms", "of limit", "loss error", "head MiB",
                  "float32 x, ms", "x ours", "float32, ms", "x ours", "best rival", "its ms",
                  "x ours", "its loss error"), rows, 2)


def _beside(ours: dict, other: dict | None) -> list[str]:
    """Another's time, and over ours."""
    if not other or not other.get("best"):
        return ["", ""]
    return [milliseconds(other["best"]), times(other["best"] / ours["best"])]


def _extra(record: dict, keys: Iterable[str]) -> list[str]:
    """Columns that only some records fill."""
    return ["" if record.get(key) is None else EXTRA_COLUMNS[key][1](record[key])
            for key in keys]


def _builds(group: dict[str, dict]) -> str | None:
    """What it takes to make what is held between calls, where that was measured."""
    told = []
    for name, r in group.items():
        if r.get("build_seconds") is None:
            continue
        passes = r.get("build_passes")
        beside = f", {passes:.1f} times as long as reading the float32 weights" if passes else ""
        told.append(f"{name}: {milliseconds(r['build_seconds'])} ms{beside}")
    return f"Made beforehand, once: {'; '.join(told)}." if told else None


def _scaling(section: list[dict], records: list[dict]) -> str:
    one = {(r["shape"], r["op"], r["contender"]): r for r in records
           if r["section"] in ("main", "gradient") and r["status"] == "ok"}
    names = list(dict.fromkeys(r["contender"] for r in section))
    rows = []
    for (shape, op), group in _groups(section):
        row = [shape, op]
        for name in names:
            single, r = one.get((shape, op, name)), group.get(name, {})
            good = single and r.get("status") == "ok"
            row.append(f"{single['best'] / r['best']:.2f}" if good else "-")
        rows.append(row)
    return f"Times faster than with one thread:\n\n{table(('shape', 'operation', *names), rows, 2)}"


def _details(section: list[dict], differ: list[str]) -> Iterator[str]:
    """All contenders; of libraries that `differ` in version, which one it was."""
    seen = None
    for (shape, op), group in _groups(section):
        extra = [key for key in EXTRA_COLUMNS if any(key in r for r in group.values())]
        first = next(iter(group.values()))
        if shape != seen:
            seen = shape
            what = ALL[shape].what if shape in ALL else ""
            yield (f"### {shape}: {first['m']} samples x {first['k']} features x {first['n']} "
                   f"classes, {what}")
            if builds := _builds(group):
                yield builds
        ours = group.get(OURS, {})
        rows = []
        for name, r in group.items():
            if r["status"] != "ok":
                rows.append([name, _status(r), *[""] * (6 + len(extra))])
                continue
            apart = ", on its own for want of memory" if r.get("alone") else ""
            rows.append([name + apart, milliseconds(r["best"]),
                         f"{r['best'] / ours['best']:.2f}" if ours.get("best") else "-",
                         f"{r['fraction']:.2f}", f"{r['gflop_s']:,.1f}", f"{r['gb_s']:,.1f}",
                         mebibytes(r.get("extra_bytes")), mebibytes(r.get("held_bytes")),
                         *_extra(r, extra)])
        bound = f", bound by {ours['bound']}" if ours.get("bound") else ""
        threads = f"{first['threads']} thread{'s' * (first['threads'] > 1)}"
        found = _versions(group.values())
        named = "".join(f"; {name} {found[name][0]}" for name in differ if name in found)
        yield f"**{op}** ({first['dtype']}, {threads}{bound}{named})"
        yield table(("", "ms", "x ours", "of limit", "GFLOP/s", "GB/s", "extra MiB", "held MiB",
                     *(EXTRA_COLUMNS[key][0] for key in extra)), rows)


def _status(r: dict) -> str:
    return f"*{r.get('status', 'not measured')}*: {r.get('reason', '')}".replace("|", "/")


def brief(records: list[dict]) -> str:
    """A line for each operation, while a run goes on."""
    lines = []
    for (_, op), group in _groups(records):
        ours = group.get(OURS, {})
        bad = [f"{name} {r['status']} ({r['reason']})" for name, r in group.items()
               if r["status"] != "ok"]
        line = f"          {op}: "
        if ours.get("best"):
            line += f"{milliseconds(ours['best'])} ms, {ours['fraction']:.2f} of limit"
        if ours.get("best_rival"):
            rival = group[ours["best_rival"]]
            line += f"; {rival['contender']} {milliseconds(rival['best'])} ms"
        if predicted := [r["seconds"] for r in group.values() if r.get("seconds")]:
            line += f"{milliseconds(predicted[0])} ms predicted"
        if group.get(SCREENED, {}).get("best"):
            line += f"; screened {milliseconds(group[SCREENED]['best'])} ms"
        lines.append("; ".join([line, *bad]))
    return "\n".join(lines)
