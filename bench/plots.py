"""Records to pictures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from runner import LIBRARIES, OURS, SCREENED, USUAL
from scaling_tables import by_threads, fastest
from shapes import OPS, Shape

DPI = 80


def draw_all(records: list[dict], folder: Path) -> list[tuple[str, str]]:
    """Draw what the records of one thread in float32 allow; file names and what they show."""
    main = [r for r in records if r["section"] in ("main", "gradient") and r["status"] == "ok"]
    if not _matplotlib():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for op in OPS:
        some = [r for r in main if r["op"] == op]
        rivalled = {r["shape"] for r in some if not r["contender"].startswith(OURS)}
        some = [r for r in some if r["shape"] in rivalled]
        if some:
            _bars(some, op, folder / f"time_{op}.png")
            drawn.append((f"time_{op}.png", f"Time of {op} relative to the best rival"))
    loss = [r for r in main if r["op"] == "loss"]
    sweep = [r for r in records if r["section"] == "memory" and r.get("extra_bytes") is not None]
    if sweep:
        _memory(sweep, folder / "memory.png")
        drawn.append(("memory.png", "Extra memory of the loss against the number of classes"))
    if loss:
        _roofline(loss, folder / "roofline.png")
        drawn.append(("roofline.png", "Roofline of the loss"))
    for op in OPS:
        some = [r for r in records if (r["section"], r["op"], r["status"]) == ("scaling", op, "ok")]
        if len({r["threads"] for r in some}) > 1:
            _scaling(some, op, folder / f"scaling_{op}.png")
            drawn.append((f"scaling_{op}.png", f"Speed of {op} over threads"))
    return drawn


@cache
def _matplotlib() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("matplotlib is not installed: no plots")
        return False
    return True


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _colour(name: str) -> str:
    from matplotlib import colormaps

    if name == OURS:
        return "black"
    colours = colormaps["tab10"].colors
    return colours[(USUAL.index(name) - 1) % len(colours)]


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _bars(records: list[dict], op: str, path: Path) -> None:
    """One panel for each shape: time over that of the fastest contender that is not ours."""
    shapes = list(dict.fromkeys(r["shape"] for r in records))
    names = [c for c in USUAL if any(r["contender"] == c for r in records)]
    columns = min(3, len(shapes))
    rows = -(-len(shapes) // columns)
    figure = _figure(4.2 * columns, 0.6 + (0.5 + 0.2 * len(names)) * rows)
    figure.suptitle(f"{op}: time relative to the best rival (line), less is better")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(shapes) :]:
        axes.set_axis_off()
    for axes, shape in zip(panels.flat, shapes, strict=False):
        some = {r["contender"]: r["best"] for r in records if r["shape"] == shape}
        best = min(time for name, time in some.items() if not name.startswith(OURS))
        ratios = [some.get(name, float("nan")) / best for name in names]
        axes.barh(names, ratios, color=[_colour(name) for name in names])
        axes.axvline(1, color="grey", linewidth=1)
        axes.set_xlim(0, min(6, 1.1 * max(r for r in ratios if r == r)))
        axes.set_title(shape, fontsize=9)
        axes.tick_params(labelsize=8)
        for y, ratio in enumerate(ratios):
            label = f"{ratio:.2f}" if ratio == ratio else "not measured"
            axes.text(min(ratio, 5.2) if ratio == ratio else 0, y, f" {label}", va="center",
                      fontsize=7, clip_on=False)
    panels[0, 0].invert_yaxis()
    _save(figure, path)


LINES = {"logitless": ((OURS,), "black"), "logitless, screened": ((SCREENED,), "tab:red"),
         "NumPy": (LIBRARIES["NumPy"], "tab:blue"), "torch": (LIBRARIES["torch"], "tab:orange")}


def _scaling(records: list[dict], op: str, path: Path) -> None:
    """One panel for each shape: speed over threads, ours on one thread being 1, and the limit."""
    shapes = list(dict.fromkeys(r["shape"] for r in records))
    columns = min(4, len(shapes))
    rows = -(-len(shapes) // columns)
    figure = _figure(0.5 + 3.2 * columns, 1 + 2.6 * rows)
    figure.suptitle(f"{op} over threads: times as fast as logitless on one thread")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(shapes) :]:
        axes.set_axis_off()
    for axes, shape in zip(panels.flat, shapes, strict=False):
        found = by_threads([r for r in records if r["shape"] == shape])
        ours = {count: fastest(some, (OURS,)) for count, some in found.items()}
        ours = {count: r for count, r in ours.items() if r}
        if not ours:
            axes.set_axis_off()
            continue
        one = next(iter(ours.values()))["best"]
        axes.plot(list(ours), [one / r["limit_seconds"] for r in ours.values()], color="grey",
                  linestyle="--", label="limit of the machine")
        for label, (names, colour) in LINES.items():
            timed = {count: fastest(some, names) for count, some in found.items()}
            points = [(count, one / r["best"]) for count, r in timed.items() if r]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label,
                          color=colour, linewidth=2.5 if label == OURS else 1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(list(found), [str(count) for count in found])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(shape, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    lines = {label: line for axes in panels.flat
             for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, path)


def _memory(records: list[dict], path: Path) -> None:
    figure = _figure(8, 5)
    axes = figure.subplots()
    for name in USUAL:
        points = sorted((r["n"], max(r["extra_bytes"], 1 << 14) / 2**20) for r in records
                        if r["contender"] == name)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name,
                      color=_colour(name), linewidth=2.5 if name == OURS else 1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("classes (n)")
    axes.set_ylabel("extra MiB")
    axes.set_title(f"Extra memory of the loss: {records[0]['m']} samples of {records[0]['k']} "
                   "features")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def _roofline(records: list[dict], path: Path) -> None:
    figure = _figure(8, 5)
    axes = figure.subplots()
    limits = [r["limits"] for r in records]
    peak = max(lim["fma_gflops_float32"] for lim in limits)
    read = max(lim["read_gb_s"] for lim in limits)
    at = sorted({_intensity(r) for r in records})
    xs = sorted({at[0] / 2, peak / read, at[-1] * 2})
    axes.plot(xs, [min(peak, read * x) for x in xs], color="grey",
              label=f"limit: {peak:.0f} GFLOP/s, {read:.0f} GB/s")
    labelled = set()
    for r in records:
        if r["contender"].startswith("logitless,"):
            continue
        ours = r["contender"] == OURS
        axes.plot(_intensity(r), r["gflop_s"], color=_colour(r["contender"]), linestyle="none",
                  marker="o" if ours else "_", markersize=6 if ours else 8,
                  label=None if r["contender"] in labelled else r["contender"])
        labelled.add(r["contender"])
        if ours:
            axes.annotate(r["shape"], (_intensity(r), r["gflop_s"]), fontsize=7,
                          xytext=(0, 6), textcoords="offset points", ha="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flops for each byte that must be moved")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("Roofline of the loss")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def _intensity(r: dict) -> float:
    shape = Shape(r["shape"], r["m"], r["k"], r["n"], "")
    return shape.flops(r["op"]) / shape.bytes_moved(r["op"], 4)
