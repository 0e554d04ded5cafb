"""Measure everything and write it down: RESULTS.md and results.json.

    python bench/report.py            everything but scaling.py's; four hours on one core
    python bench/report.py --shown    what README and pages show; an hour and a half
    python bench/report.py --quick    a few shapes cut down, the loss alone, under three minutes
    python bench/report.py --redraw   tables again from results.json, nothing measured
    python bench/report.py --readme   the tables of README and pages again from results.json

A run of some sections, shapes, operations or rivals replaces those records and leaves the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import readme
import tables
from runner import (
    BF16_CONTENDERS,
    CONTENDERS,
    OURS,
    SCREEN_CONTENDERS,
    Setting,
    measure,
    usable_cpus,
)
from shapes import ALL, FORWARD, OPS, QUICK, SCREEN, SCREEN_SHAPES, SHAPES, SWEEP, Shape, parse

HERE = Path(__file__).resolve().parent
QUICK_OUT = HERE.parent / "build" / "bench-quick"
SECTIONS = ("main", "gradient", "screen", "bf16", "threads", "float64", "avx2", "memory",
            "scaling", "model")  # the last two are those of scaling.py
KEY = ("section", "shape", "op", "contender", "threads")


@dataclass(frozen=True)
class Section:
    """Shapes measured under one setting."""

    name: str
    title: str
    shapes: tuple[Shape, ...]
    setting: Setting
    take: Callable[[Shape, Setting], list[dict]] = measure


def _named(text: str) -> tuple[Shape, ...]:
    return tuple(SHAPES[name] for name in text.split())


def full_sections() -> list[Section]:
    """What a full run measures, the most important first."""
    loss, gradient = Setting(ops=("loss",)), Setting(ops=("value_and_grad",))
    found = [
        Section("main", "float32, one thread", tuple(SHAPES.values()), Setting(ops=FORWARD)),
        Section("gradient", "gradients, float32, one thread",
                _named("digits tags intents imagenet recsys gpt2 gemma2"), gradient),
        Section("screen", "the best classes of a screened head, float32, one thread", SCREEN_SHAPES,
                Setting(ops=SCREEN, contenders=SCREEN_CONTENDERS)),
        Section("bf16", "bfloat16, one thread", _named("gpt2 llama3 imagenet decode1 decode8"),
                Setting("bfloat16", ops=("loss", "predict", "topk"), contenders=BF16_CONTENDERS)),
    ]
    if len(usable_cpus()) >= 2:
        found += [
            Section("threads", "float32, two threads",
                    _named("seed digits tags intents imagenet recsys gpt2 decode1 decode64 tiny"),
                    replace(loss, threads=2)),
            Section("threads", "float32, two threads",
                    _named("digits tags intents imagenet recsys gpt2"),
                    replace(gradient, threads=2)),
        ]
    found += [
        Section("float64", "float64, one thread", _named("seed digits imagenet recsys gpt2"),
                replace(loss, dtype="float64")),
        Section("avx2", "float32, one thread, logitless held to AVX2", _named("gpt2 recsys"),
                replace(loss, isa="avx2", contenders=(OURS,))),
        Section("memory", "float32, one thread, more and more classes", SWEEP,
                replace(loss, seconds=0.0)),
    ]
    import logitless as ll

    isas = ll.available_isas()
    return [s for s in found if s.setting.isa is None or s.setting.isa in isas[1:]]


def shown(sections: list[Section]) -> list[Section]:
    """Sections cut down to what the README shows of them."""
    return [
        replace(s, shapes=tuple(shape for shape in s.shapes if shape.name in cut.shapes),
                setting=replace(s.setting, ops=(cut.op,)))
        for cut in readme.CUTS for s in sections if s.name == cut.section
    ]


def quick_sections() -> list[Section]:
    """Minutes: the memory of two shapes only, since each contender's takes a process."""
    setting = Setting(ops=("loss",), seconds=0.1)
    return [Section("main", "float32, one thread, a short run", (shape,),
                    replace(setting, memory=shape.name.endswith("-cut"))) for shape in QUICK]


def machine() -> dict:
    """What the numbers were measured on."""
    import numpy as np

    import logitless as ll
    from logitless._engines.choice import engine

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": _cpu_model(),
        "system": f"{platform.system()}, {platform.machine()}",
        "cpus": len(usable_cpus()) or None,
        "python": platform.python_version(),
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "isa": ll.active_isa(),
        "isas": list(ll.available_isas()),
        "products": {"bfloat16": engine.bf16_name(), "bytes": engine.int8_name()},
        "date": date.today().isoformat(),
    }


def _cpu_model() -> str:
    """Name, and the numbers that tell generations apart where the name does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
    return ", ".join([facts.get("model name", platform.machine()), *numbers])


def load(out: Path) -> dict:
    """Read earlier results, none if there are none."""
    path = out / "results.json"
    return json.loads(path.read_text()) if path.exists() else {"machine": {}, "records": []}


def store(out: Path, results: dict) -> None:
    """Write results and tables."""
    out.mkdir(parents=True, exist_ok=True)
    text = ",\n".join(json.dumps(record) for record in results["records"])
    (out / "results.json").write_text(
        f'{{"machine": {json.dumps(results["machine"])},\n"records": [\n{text}\n]}}\n')
    (out / "RESULTS.md").write_text(tables.whole(results))


def merged(records: list[dict], new: list[dict]) -> list[dict]:
    """Replace the records that were measured again, keep the order of the tables."""
    by_key = {tuple(r[k] for k in KEY): r for r in [*records, *new]}
    sections, shapes, ops, contenders = (
        {name: i for i, name in enumerate(names)} for names in (SECTIONS, ALL, OPS, CONTENDERS))
    return sorted(by_key.values(), key=lambda r: (
        sections[r["section"]], shapes.get(r["shape"], len(shapes)), r["shape"], ops[r["op"]],
        contenders[r["contender"]], r["threads"]))


def run(sections: list[Section], args, out: Path) -> dict:
    """Measure sections and write after every shape, so that nothing is lost.

    `args` may narrow them down: to `ops`, to `rivals`, to so many `seconds`, to `no_memory`.
    """
    results = load(out)
    results["machine"] = machine()
    begun, rivals = time.perf_counter(), getattr(args, "rivals", None)
    for section in sections:
        for shape in section.shapes:
            setting = section.setting
            setting = replace(
                setting,
                ops=tuple(op for op in setting.ops if not args.ops or op in args.ops),
                contenders=tuple(c for c in setting.contenders if not rivals
                                 or c.startswith(OURS) or c in rivals),
                seconds=args.seconds or setting.seconds,
                memory=setting.memory and not getattr(args, "no_memory", False),
                more={"section": section.name, "title": section.title})
            if not setting.ops:
                continue
            print(f"{time.perf_counter() - begun:6.0f} s  {section.title}: {shape}, "
                  f"{setting.threads} thread{'s' * (setting.threads > 1)}", flush=True)
            records = section.take(shape, setting)
            for r in records:
                r["rounds"] = len(r.pop("samples", ()))  # the file stays small
            results["records"] = merged(results["records"], records)
            store(out, results)
            print(tables.brief(records), flush=True)
    print(f"{time.perf_counter() - begun:6.0f} s  wrote {out / 'RESULTS.md'}")
    return results


def parse_list(text: str, separator: str = ",") -> list[str]:
    return [part.strip() for part in text.split(separator)]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shown", action="store_true")
    parser.add_argument("--redraw", action="store_true")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--sections", type=parse_list, help=f"of {', '.join(SECTIONS[:-2])}")
    parser.add_argument("--shapes", type=parse_list,
                        help=f"of {', '.join(name for name in ALL if '=' not in name)}")
    parser.add_argument("--ops", type=parse_list, help=f"of {', '.join(OPS)}")
    parser.add_argument("--rivals", type=lambda text: parse_list(text, ";"),
                        help=f"separated by semicolons, of: {'; '.join(CONTENDERS)}")
    parser.add_argument("--seconds", type=float, help="for each contender and operation")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory alone")
    parser.add_argument("--out", type=Path, help="folder, bench/ unless --quick")
    args = parser.parse_args()
    out = args.out or (QUICK_OUT if args.quick else HERE)
    for asked, known in ((args.ops, OPS), (args.rivals, CONTENDERS)):
        if unknown := set(asked or ()) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {'; '.join(known)}")
    if args.readme:
        for name, cuts in readme.PAGES.items():
            page = HERE.parent / name
            page.write_text(readme.renewed(page.read_text(), load(out)["records"], cuts))
        return 0
    if args.redraw:
        store(out, load(out))
        return 0
    sections = quick_sections() if args.quick else full_sections()
    if args.shown:
        sections = shown(sections)
    if args.sections:
        sections = [s for s in sections if s.name in args.sections]
    if args.shapes:
        wanted = [parse(name) for name in args.shapes]
        sections = [replace(s, shapes=tuple(w for w in wanted if w in s.shapes))
                    for s in sections]
    if not any(s.shapes for s in sections):
        parser.error("no section has any of these shapes")
    results = run(sections, args, out)
    return int(any(r["status"] in ("wrong", "failed") for r in results["records"]))


if __name__ == "__main__":
    sys.exit(main())
