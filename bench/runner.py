"""Starts a pinned process for each shape, and makes whole records of what it measured."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rivals import all_contenders
from shapes import ITEMSIZE, OPS, Shape, available_bytes

HERE = Path(__file__).resolve().parent
OURS = "logitless"
CONTENDERS = (
    OURS,
    "logitless, unpacked",
    "logitless, out",
    "logitless, screened",
    "NumPy",
    "NumPy, row blocks",
    "torch",
    "torch linear_cross_entropy",
    "torch linear_cross_entropy, options",
    "torch.compile",
    "JAX",
    "scikit-learn",
    "ONNX Runtime",
    "OpenVINO",
    "scikit-learn, without gradient of x",
    "FAISS",
    "FAISS, HNSW",
    "logitless, float32 x",
    "logitless, float32",
    "torch bf16",
    "torch bf16, bf16 logits",
    "torch bf16 linear_cross_entropy",
    "OpenVINO bf16",
    "OpenVINO int8",
)
SCREENED = "logitless, screened"
SCREEN_CONTENDERS = (OURS, SCREENED, "NumPy", "NumPy, row blocks", "torch", "JAX", "ONNX Runtime",
                     "OpenVINO", "FAISS", "FAISS, HNSW")
WIDE_ROWS, WIDE = "logitless, float32 x", "logitless, float32"
ONLY_BF16 = CONTENDERS[CONTENDERS.index(WIDE_ROWS) :]
BF16_CONTENDERS = (OURS, "logitless, unpacked", *ONLY_BF16, "torch", "ONNX Runtime", "OpenVINO")
USUAL = tuple(c for c in CONTENDERS
              if c != SCREENED and not c.startswith("FAISS") and c not in ONLY_BF16)

LIBRARIES = {  # contenders of which the fastest counts
    "logitless": (OURS,),
    "NumPy": ("NumPy", "NumPy, row blocks"),
    "torch": ("torch", "torch linear_cross_entropy", "torch linear_cross_entropy, options",
              "torch.compile"),
    "JAX": ("JAX",),
    "ONNX Runtime": ("ONNX Runtime",),
    "OpenVINO": ("OpenVINO",),
}


@dataclass(frozen=True)
class Setting:
    """How something is measured."""

    dtype: str = "float32"
    threads: int = 1
    isa: str | None = None  # the best one unless named
    ops: tuple[str, ...] = OPS
    contenders: tuple[str, ...] = USUAL
    seconds: float = 1.0  # for each contender and operation, at least three rounds
    memory: bool = True
    more: dict = field(default_factory=dict)


def usable_cpus() -> list[int]:
    """CPUs of this process; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def measure(shape: Shape, setting: Setting) -> list[dict]:
    """Time one shape, then take the memory of each contender; one record for each result."""
    facts, records = _start("time", shape, setting, setting.contenders,
                            usable_cpus()[-setting.threads :])
    for record in records:
        record |= _facts(shape, setting, facts)
        record["version"] = facts.get("versions", {}).get(record["contender"])
    if setting.memory:
        names = list({r["contender"]: None for r in records if r["status"] == "ok"})
        by_key = {(r["op"], r["contender"]): r for r in records}
        for found in _memory(shape, setting, names):
            if record := by_key.get((found["op"], found["contender"])):
                record["extra_bytes"] = found.get("extra_bytes")
                record["held_bytes"] = found.get("held_bytes")
    complete(records)
    return records


def modelled(shape: Shape, setting: Setting) -> list[dict]:
    """What calls on so many threads would come to: see `model`."""
    cpus = usable_cpus()[-2:]
    facts, records = _start("model", shape, setting, setting.contenders, cpus)
    return [record | _facts(shape, setting, facts) for record in records]


def _facts(shape: Shape, setting: Setting, facts: dict) -> dict:
    return {
        "shape": shape.name, "m": shape.m, "k": shape.k, "n": shape.n, "dtype": setting.dtype,
        "threads": setting.threads, "isa": facts.get("isa"), "limits": facts.get("limits"),
        "date": facts.get("date"), **setting.more,
    }


def _memory(shape: Shape, setting: Setting, names: list[str]) -> list[dict]:
    """Take the memory of each contender, of several at once where CPUs and memory allow it."""
    cpus = usable_cpus()
    free = deque(cpus[at - setting.threads : at]
                 for at in range(len(cpus), setting.threads - 1, -setting.threads)) or deque([[]])

    def taken(name: str) -> list[dict]:
        own = free.popleft()
        try:
            return _start("memory", shape, setting, (name,), own)[1]
        finally:
            free.append(own)

    with ThreadPoolExecutor(min(len(free), _room(shape, setting, names))) as pool:
        return [found for records in pool.map(taken, names) for found in records]


def _room(shape: Shape, setting: Setting, names: list[str]) -> int:
    """How many contenders fit into half of the memory, however much each of them takes."""
    most = 0
    for cls in (all_contenders()[name] for name in names):
        item = cls.itemsize(setting.dtype)
        given = (shape.m + shape.n) * shape.k * max(item, 4)  # bfloat16 is made of float32
        most = max([most, *(given + cls.held(shape, item) + cls.transient(shape, op, item)
                            for op in setting.ops)])
    free = available_bytes()
    return 1 if free is None else max(1, free // 2 // max(most, 1))


def _start(mode: str, shape: Shape, setting: Setting, contenders: Iterable[str],
           cpus: list[int]):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.json")
        job = {
            "mode": mode, "shape": asdict(shape), "dtype": setting.dtype, "out": str(out),
            "threads": setting.threads, "ops": list(setting.ops), "contenders": list(contenders),
            "seconds": setting.seconds, "cpus": cpus, "parent": os.getpid(),
        }
        described = Path(folder, "job.json")
        described.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, str(HERE / "worker.py"), str(described)],
            env=_environment(mode, setting), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, check=False,
        )
        made = json.loads(out.read_text()) if out.exists() else {"facts": {}, "records": []}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        reason = f"the process ended with {done.returncode}: {last[:160]}"
        if done.returncode < 0:  # it had no last word; killed for memory, as a rule
            reason = f"the process was ended by signal {-done.returncode}"
        print(f"{shape}, {mode}: {reason}", file=sys.stderr)
        seen = {(r["op"], r["contender"]) for r in made["records"]}
        classes = all_contenders()
        made["records"] += [
            {"op": op, "contender": name, "status": "failed", "reason": reason}
            for op in setting.ops for name in contenders
            if classes[name].offers(op) and (op, name) not in seen
        ]
    return made["facts"], made["records"]


def _environment(mode: str, setting: Setting) -> dict:
    threads = str(setting.threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
             "LOGITLESS_NUM_THREADS")
    env = dict(os.environ) | dict.fromkeys(names, threads) | {"JAX_PLATFORMS": "cpu"}
    # JAX sizes its pool by the affinity; this keeps a single thread from handing work over.
    if setting.threads == 1:
        env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    if setting.isa:
        env["LOGITLESS_ISA"] = setting.isa
    if mode == "memory":  # what is freed goes back to the system and is not counted twice
        env |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return env


def complete(records: list[dict]) -> None:
    """Add to each record what follows from its samples: times, rates and ratios."""
    classes = all_contenders()
    for r in records:
        if r.get("samples"):
            r["best"], r["median"] = min(r["samples"]), statistics.median(r["samples"])
            shape = Shape(r["shape"], r["m"], r["k"], r["n"], "")
            r |= rates(shape, r["op"], classes[r["contender"]].multiplied(r["dtype"]), r["best"],
                       r["limits"])
            if r["contender"] == SCREENED:
                r |= screen_rates(shape, r)
        elif r["status"] == "ok":
            r |= {"status": "failed", "reason": "the process ended before it was timed"}
    for r in records:
        if r["status"] != "ok":
            continue
        same = [s for s in records if s["status"] == "ok" and s["op"] == r["op"]]
        ours = [s["best"] for s in same if s["contender"] == OURS]
        rivals = [s for s in same if not s["contender"].startswith(OURS) and s is not r
                  and classes[s["contender"]].counts]
        r["times_ours"] = r["best"] / ours[0] if ours else None
        if rivals:
            best = min(rivals, key=lambda s: s["best"])
            r |= {"best_rival": best["contender"], "times_best_rival": r["best"] / best["best"]}


def peak(products: tuple[str, str], limits: dict) -> float:
    """1e9 operations a second that this machine does at most, of rows and weights of two types."""
    of_16_bits = limits.get("dot_gflops_bfloat16") if products == ("bfloat16", "bfloat16") else None
    of_bytes = limits.get("dot_gops_int8") if products == ("int8", "int8") else None
    wide = "float64" if "float64" in products else "float32"
    return of_16_bits or of_bytes or limits[f"fma_gflops_{wide}"]


def rates(shape: Shape, op: str, products: tuple[str, str], seconds: float, limits: dict) -> dict:
    """GFLOP/s, GB/s and the fraction of what this machine can do with rows and weights of types."""
    moved = shape.bytes_moved(op, *(ITEMSIZE[name] for name in products))
    flops = shape.flops(op)
    compute = flops / (peak(products, limits) * 1e9)
    read = moved / (limits["read_gb_s"] * 1e9)
    return {
        "gflop_s": flops / seconds / 1e9,
        "gb_s": moved / seconds / 1e9,
        "limit_seconds": max(compute, read),
        "bound": "compute" if compute >= read else "memory",
        "fraction": max(compute, read) / seconds,
    }


def screen_rates(shape: Shape, record: dict) -> dict:
    """Time against both limits of a head that looks at every weight, and that of the screen."""
    read = shape.weight_bytes(ITEMSIZE[record["dtype"]]) / (record["limits"]["read_gb_s"] * 1e9)
    build = record.get("build_seconds")
    return {
        "of_fma_peak": record["gflop_s"] / peak(2 * (record["dtype"],), record["limits"]),
        "of_weight_read": read / record["best"],
        "build_passes": build and build / read,
    }
