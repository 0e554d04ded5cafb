"""Time calls over threads, each number beside the machine's limit on as many; RESULTS.md.

    python bench/scaling.py                      all shapes, 1, 2, 4, ... all threads; an hour
    python bench/scaling.py --quick              a few shapes, cut down; ten minutes on two cores
    python bench/scaling.py --shapes tags,100x512x1000 --ops loss --threads 1,2

Beside torch and NumPy, which is all it needs. Then a model of what calls would gain on many cores,
which one core is enough for. The results of all shapes become sections of bench/RESULTS.md, those
of a few go to build/bench-quick; `--out` says where else.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import scaling_tables
from report import HERE, QUICK_OUT, Section, parse_list, run
from runner import LIBRARIES, OURS, SCREENED, Setting, modelled, usable_cpus
from shapes import QUICK, SHAPES, TOP, Shape, parse

OPS = ("loss", "predict", "topk", "best", "value_and_grad")
CONTENDERS = (OURS, *LIBRARIES["NumPy"], "torch", "torch linear_cross_entropy")
OURS_ALONE = (OURS, SCREENED)
SCREENED_CLASSES = 128 * TOP  # with fewer no screen is used
QUICK_SHAPES = (SHAPES["digits"], SHAPES["tags"], *QUICK[1:])


def thread_counts() -> list[int]:
    """1, 2, 4, ... and as many as there are CPUs."""
    cpus = len(usable_cpus()) or 1
    return sorted({*(1 << i for i in range(cpus.bit_length()) if 1 << i <= cpus), cpus})


def sections(shapes: tuple[Shape, ...], counts: list[int], cores: int,
             seconds: float) -> list[Section]:
    """Shapes on each number of threads, then the model of one, two and many cores."""
    found = []
    for shape in shapes:
        screened = shape.n >= SCREENED_CLASSES
        setting = Setting(ops=tuple(op for op in OPS if op != "best" or screened), seconds=seconds,
                          contenders=CONTENDERS + (SCREENED,) * screened, memory=False)
        found += [Section("scaling", "float32, over threads", (shape,),
                          replace(setting, threads=count)) for count in counts]
        found += [Section("model", f"a model of {cores} cores", (shape,),
                          replace(setting, threads=count, contenders=OURS_ALONE), modelled)
                  for count in sorted({1, 2, cores}) if cores > 1]
    return found


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--shapes", type=parse_list, help=f"MxKxN or of {', '.join(SHAPES)}")
    parser.add_argument("--ops", type=parse_list, help=f"of {', '.join(OPS)}")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in parse_list(text)])
    parser.add_argument("--cores", type=int, default=16, help="of the model; 0 leaves it out")
    parser.add_argument("--seconds", type=float, help="for each contender and operation")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if unknown := set(args.ops or ()) - set(OPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(OPS)}")
    try:
        shapes = tuple(map(parse, args.shapes or ()))
    except ValueError as error:
        parser.error(str(error))
    out = args.out or (QUICK_OUT if args.quick or shapes else HERE)
    shapes = shapes or (QUICK_SHAPES if args.quick else tuple(SHAPES.values()))
    seconds = args.seconds or (0.1 if args.quick else 0.5)
    results = run(sections(shapes, args.threads or thread_counts(), args.cores, seconds), args, out)
    for name, tell in scaling_tables.SECTIONS.items():
        if some := [r for r in results["records"] if r["section"] == name]:
            print("", *tell(some, results["records"]), sep="\n\n")
    return int(any(r["status"] in ("wrong", "failed") for r in results["records"]))


if __name__ == "__main__":
    sys.exit(main())
