"""What is asked of every call: no crash, a clear error or none, nothing touched, the same again."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import sys
import warnings

import ml_dtypes
import numpy as np
import scipy.sparse
from support.oracle import bits

import logitless
from logitless._engines.compiled import (
    _core,
    engine,
    gradient_plan,
    kernels,
    plan,
    scoring,
    screening,
)

from .calls import case
from .draw import Draw, Read
from .problem import Head

WORDS = re.compile(
    r"\b(got|found|expected|cannot be|must|needs|is no|is not|are not|holds no|missing)\b")
EXPECTED = "of no rows that count is NaN"  # the warning that is promised
ISAS = logitless.available_isas()
COMPILED = ISAS != ("numpy",)
_MADE = {isa: ({np.dtype(f"f{size}"): _core.Kernels(isa, 8 * size) for size in (4, 8)},
               _core.bf16_products(isa)) for isa in ISAS if COMPILED}


def plain_package():
    """The package once more, on plain NumPy."""
    def ours():
        return {name: sys.modules.pop(name) for name in list(sys.modules)
                if name.partition(".")[0] == "logitless"}

    compiled, before = ours(), os.environ.get("LOGITLESS_BACKEND")
    os.environ["LOGITLESS_BACKEND"] = "numpy"
    try:
        package = importlib.import_module("logitless")
        importlib.import_module("logitless.io")
    finally:
        ours()
        sys.modules.update(compiled)
        del os.environ["LOGITLESS_BACKEND"]
        if before is not None:
            os.environ["LOGITLESS_BACKEND"] = before
    return package


PLAIN = plain_package() if COMPILED else None


def use(isa, draw=None):
    """Let all layers made from now on use an instruction set."""
    if not COMPILED:
        return
    made, products = _MADE[isa]
    kernels._ISA = isa
    kernels.KERNELS.update(made)
    product = products[0] if draw is None else draw.pick(products)
    for module in (engine, kernels, scoring, screening):
        module.BF16 = product


@contextlib.contextmanager
def listening():
    """Threads for work of any size, and a list of warnings."""
    heard = []
    names = [(plan, "FLOPS_PER_THREAD"), (plan, "FLOPS_PER_SHARE"),
             (gradient_plan, "FLOPS_PER_THREAD")]
    before = [getattr(module, name) for module, name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: heard.append(str(message))
        for module, name in names:
            setattr(module, name, 1)
        try:
            yield heard
        finally:
            for (module, name), value in zip(names, before, strict=True):
                setattr(module, name, value)
            use(ISAS[0])


def arrays(value):
    """All arrays that an argument consists of."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from arrays(part)
    elif isinstance(value, (list, tuple)) and len(value) < 9:
        for part in value:
            yield from arrays(part)
    elif isinstance(value, Read):
        yield value._array
    elif scipy.sparse.issparse(value):
        yield from (part for part in vars(value).values() if isinstance(part, np.ndarray))


def parts(result):
    """The arrays of a result, None for those that are not there."""
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, (tuple, list)):
        return [array for part in result for array in parts(part)]
    if type(result).__name__ == "LinearHead":
        return parts(result.logits(np.ones(result.n_features, np.float32)))
    return [None if result is None else np.asarray(result)]


def outcome(found, ll=logitless, args=None):
    """The arrays of a result, or an error."""
    try:
        return parts(found.run(ll, args)), None
    except Exception as error:
        return None, error


def check(seed, heard):
    """Complaints about the call that a seed stands for, its name, and how it ended.

    `heard` is the list of those `listening`.
    """
    draw = Draw(seed)
    found = case(draw)
    heard.clear()  # what SciPy has to say about matrices as they are made
    use(ISAS[0] if draw.chance(0.7) else draw.pick(ISAS), draw)
    out = [a for name, value in found.args.items() if name == "out" for a in arrays(value)]
    held = [(a, a.tobytes()) for value in found.args.values() for a in arrays(value)
            if a.flags.writeable and a.dtype != object]
    result, error = outcome(found)
    complaints = [f"warns: {text}" for text in heard if EXPECTED not in text]
    kept = {id(a) for a in out} if error is None else set()
    for a, before in held:
        if id(a) not in kept and a.tobytes() != before:
            complaints.append("an argument, or `out` of a call that failed, has changed")
    if error is not None:
        complaints += wrong_error(found, error)
    reads = any(isinstance(value, Read) for value in found.args.values())
    if COMPILED and not out and not reads and found.args.get("rng", 0) is not None:
        if draw.chance(0.25):
            complaints += variant(found, draw, result, error)
        if draw.chance(0.06):
            complaints += on_plain_numpy(found, result, error)
    return complaints, found.name, "ok" if error is None else type(error).__name__


def wrong_error(found, error):
    text = str(error)
    kinds = (ValueError, TypeError, IndexError)
    if isinstance(error, (MemoryError, OSError) if found.name == "from_file" else MemoryError):
        return []
    if type(error) not in kinds:
        return [f"raised {type(error).__name__}: {text}"]
    if not WORDS.search(text) and "unexpected keyword" not in text:
        return [f"a message that does not say what was expected: {type(error).__name__}: {text}"]
    return []


def variant(found, draw, result, error):
    """The same call in another way: other threads, packing, layouts, instruction sets, rows."""
    how = draw.pick(["threads", "pack", "layout", "isa", "rows", "rows"])
    args = dict(found.args)
    if how == "rows":
        return some_rows(found, draw, result) if error is None else []
    if how == "isa":
        use(draw.pick(ISAS), draw)
    else:
        args = {name: _otherwise(value, how) for name, value in args.items()}
    other, other_error = outcome(found, args=args)
    if error is not None or other_error is not None:
        same = repr(error) == repr(other_error) or how == "layout"
        return [] if same and (error is None) == (other_error is None) else [
            f"{how}: {error!r} and {other_error!r}"]
    return [f"{how}: other bits: {where}" for where in differences(result, other)]


def _otherwise(value, how):
    if isinstance(value, Head):
        value = Head({name: _otherwise(part, how) for name, part in value.items()})
        if how == "threads" and type(value.get("n_threads", 1)) is int and (
                value.get("n_threads", 1) > 0):
            value["n_threads"] = 5 - min(value.get("n_threads", 1), 3)
        if (how == "pack" and type(value.get("pack", True)) is bool
                and value.get("screen") is None):
            value["pack"] = not value.get("pack", True)
        return value
    if isinstance(value, list) and value and isinstance(value[0], Head):
        return [_otherwise(head, how) for head in value]
    if how == "layout" and type(value) is np.ndarray and value.dtype.kind in "fiubV":
        native = value.dtype if value.dtype == ml_dtypes.bfloat16 or value.dtype.names else (
            value.dtype.newbyteorder("="))
        return np.array(value, native, order="C")
    return value


ROWWISE = {"x", "target", "sample_weight", "temperature", "candidates", "index", "prob",
           "teacher_x", "logits", "p"}
BY_ROWS = re.compile(r"loss|score|predict|logits|topk|logsumexp|target_log_prob|kl_div|argmax"
                     r"|softmax|cross_entropy|nll")


def some_rows(found, draw, result):
    """Some rows in another order have the results that they had among all of them."""
    args, name = found.args, found.name
    x = args.get("x", args.get("logits", args.get("p")))
    if not (BY_ROWS.search(name) and type(x) is np.ndarray and x.ndim == 2 and len(x)
            and args.get("reduction", "none") == "none" and not args.get("shift")
            and "grad" not in name and "axis" not in args
            and not scipy.sparse.issparse(args.get("exclude"))):
        return []
    m = len(x)
    rows = np.array(draw.random.sample(range(m), 1 + draw.below(m)))
    chosen = {key: _rows(value, rows, m) if key in ROWWISE else value
              for key, value in args.items()}
    other, error = outcome(found, args=chosen)
    if error is not None:
        return [f"rows {rows.tolist()}: {error!r}"]
    # Rows of probabilities that are all of one class have the logit of it, too.
    both = [(a[rows], b) for a, b in zip(result, other, strict=True)
            if a is not None and b is not None]
    return [f"rows {rows.tolist()}: other bits: {where}"
            for where in differences(*zip(*both, strict=True))]


def _rows(value, rows, m):
    if scipy.sparse.issparse(value):
        return value.tocsr()[rows] if value.shape[0] == m else value
    if isinstance(value, (list, tuple, range)):
        return [value[row] for row in rows] if len(value) == m else value
    of_rows = isinstance(value, np.ndarray) and value.ndim and len(value) == m
    return value[rows] if of_rows else value


def differences(result, other):
    return [f"result {i}" for i, (a, b) in enumerate(zip(result, other, strict=True))
            if (a is None) != (b is None)
            or (a is not None and a.dtype != object and bits(a) != bits(b))]


def on_plain_numpy(found, result, error):
    """Plain NumPy says the same of arguments, and finds the same to rounding."""
    with np.errstate(all="ignore"):
        other, other_error = outcome(found, PLAIN)
    if error is not None or other_error is not None:
        same = (repr(error) == repr(other_error)
                or (isinstance(error, MemoryError) and isinstance(other_error, MemoryError))
                # To rounding, too: losses may fall for ever or end just there.
                or (found.name == "fit_temperature" and type(error or other_error) is ValueError))
        return [] if same else [f"plain NumPy: {error!r} and {other_error!r}"]
    complaints = []
    for i, (a, b) in enumerate(zip(result, other, strict=True)):
        if [getattr(a, name, None) for name in ("dtype", "shape")] != [
                getattr(b, name, None) for name in ("dtype", "shape")]:
            complaints.append(f"plain NumPy: result {i} has another shape or type")
        elif i and "grad" in found.name and not np.isfinite(result[0]).all():
            pass  # what is infinite has no gradient
        elif a is not None and found.exact and not near(a, b, "topk_kl_div" in found.name):
            complaints.append(f"plain NumPy: result {i} is {a!r} and {b!r}")
    return complaints


def near(a, b, half=False):
    """Whether these are equal but for rounding; to `half` of the digits, as differences are."""
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    finite = np.abs(b[np.isfinite(b)])
    eps = np.finfo(a.dtype).eps
    eps = 20 * eps**0.5 if half else 1000 * eps
    return np.allclose(a, b, rtol=eps, atol=eps * max(1.0, finite.max(initial=0)), equal_nan=True)
