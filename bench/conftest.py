"""Options of the benchmark: what is measured, and under which conditions.

    pytest bench                                  a few shapes cut down, loss and gradients
    pytest bench --shapes tiny --ops all          one shape, everything
    pytest bench --shapes all --ops all           the whole table; an hour or two
"""

from __future__ import annotations

import pytest
import shapes
from runner import CONTENDERS, ONLY_BF16, OURS, Setting, measure


def pytest_addoption(parser):
    group = parser.getgroup("logitless benchmark")
    add = group.addoption
    add("--shapes", default=",".join(s.name for s in shapes.QUICK),
        help=f"comma-separated, MxKxN or of {', '.join(shapes.ALL)}; or all")
    add("--ops", default="loss,value_and_grad", help=f"of {', '.join(shapes.OPS)}; or all")
    add("--dtype", default="float32", choices=("float32", "float64", "bfloat16"))
    add("--threads", type=int, default=1, help="of every contender")
    add("--rivals", default="all", help="separated by semicolons: " + "; ".join(CONTENDERS))
    add("--isa", help="instruction set of logitless; the best one unless given")
    add("--seconds", type=float, default=0.3, help="for each contender and operation")
    add("--memory", action="store_true", help="also take the extra memory, a process for each")


def _chosen(text: str, known, separator: str = ",") -> list[str]:
    if text == "all":
        return list(known)
    found = [part.strip() for part in text.split(separator)]
    if unknown := set(found) - set(known):
        raise pytest.UsageError(f"unknown: {', '.join(sorted(unknown))}; there are "
                                f"{separator.join(known)}")
    return found


def _shapes(config) -> list[shapes.Shape]:
    text = config.getoption("shapes")
    names = shapes.SHAPES if text == "all" else text.split(",")
    try:
        return [shapes.parse(name.strip()) for name in names]
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def _setting(config) -> Setting:
    option = config.getoption
    rivals = _chosen(option("rivals"), CONTENDERS, ";")
    return Setting(
        dtype=option("dtype"), threads=option("threads"), isa=option("isa"),
        ops=tuple(_chosen(option("ops"), shapes.OPS)), seconds=option("seconds"),
        contenders=tuple(c for c in CONTENDERS if (c == OURS or c in rivals)
                         and (option("dtype") == "bfloat16" or c not in ONLY_BF16)),
        memory=option("memory"))


def pytest_generate_tests(metafunc):
    if "contender" not in metafunc.fixturenames:
        return
    from rivals import all_contenders

    setting, classes = _setting(metafunc.config), all_contenders()
    cases = [(shape, op, name) for shape in _shapes(metafunc.config) for op in setting.ops
             for name in setting.contenders if classes[name].offers(op)]
    metafunc.parametrize("shape, op, contender", cases,
                         ids=[f"{shape.name}-{op}-{name}" for shape, op, name in cases])


@pytest.fixture(scope="session")
def measured(request):
    """Records of a shape, measured once: all operations and contenders, in turns."""
    setting, known = _setting(request.config), {}

    def records(shape):
        if shape not in known:
            known[shape] = {(r["op"], r["contender"]): r for r in measure(shape, setting)}
        return known[shape]

    return records
