"""States of rows in pickles: what is written, and checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from .._arrays.checks import check_integer, plain
from .._engines.choice import engine
from .._engines.interface import Part
from .._version import __version__
from .parts import MOST, Agreed, Held, Span

F64, INT64 = np.dtype(np.float64), np.dtype(np.int64)
NUMBERS = "softcap", "temperature", "label_smoothing", "z_loss", "entropy_weight"
DTYPES = np.dtype(np.float32), F64


def made_by() -> str:
    """Whose states can be merged with each other."""
    return f"logitless {__version__}, arithmetic {engine.contract()}"


def written(held: Held) -> dict[str, Any]:
    """Make plain objects of a state."""
    contents = {field.name: getattr(held, field.name) for field in fields(Held)}
    contents["agreed"], contents["part"] = asdict(held.agreed), asdict(held.part)
    contents["apart"] = [tuple(span) for span in held.apart]
    return contents


def read(maker: object, contents: Any) -> Held:
    """Make a state again, of what may be anything."""
    if maker != made_by():
        raise ValueError(f"this RowState was made by {maker} and cannot be used by {made_by()}: "
                         "all workers must have the same version")
    try:
        return _read(contents)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"this RowState is damaged: {error}") from error


def _read(contents: Mapping[str, Any]) -> Held:
    agreed = Agreed(**contents["agreed"])
    m = math.prod(agreed.shape)
    dtype = agreed.dtype
    if dtype not in DTYPES:
        raise ValueError(f"it is of {dtype}")
    check_integer(agreed.k, "k", 0)
    for name in NUMBERS:
        if not math.isfinite(getattr(agreed, name)):
            raise ValueError(f"its `{name}` is {getattr(agreed, name)}")
    for name in "target", "sample_weight", "row_temperature", "target_logit":
        of = {"target": INT64, "target_logit": dtype}.get(name, F64)
        _array(getattr(agreed, name), (m,), of, name, optional=True)
    of_classes = agreed.targets == "classes"
    if of_classes != (agreed.target is not None) or agreed.targets not in (
            "none", "classes", "probabilities"):
        raise ValueError(f"its targets are {agreed.targets!r}")
    soft, smooth = agreed.targets == "probabilities", agreed.label_smoothing > 0
    summed = 2 + (agreed.entropy or agreed.entropy_weight != 0) + 2 * soft + 2 * smooth
    end = last = check_integer(contents["end"], "end", 0, MOST)
    folded = _array(contents["folded"], (summed, m), F64, "folded", optional=not end)
    apart = []
    for first, behind, sums in contents["apart"]:
        first = check_integer(first, "first", last)
        last = check_integer(behind, "last", first + 1, MOST)
        of = F64 if sums.dtype == F64 else dtype
        apart.append(Span(first, last, _array(sums, (len(sums), summed, m), of, "sums")))
    index = _array(contents["index"], (m,), INT64, "index", optional=not soft)
    weight = _array(contents["weight"], (m,), F64, "weight", optional=not agreed.class_weight)
    part = _read_part(contents["part"], agreed, m, bool(contents["ranked"]))
    return Held(agreed, end, folded, tuple(apart), part, bool(contents["ranked"]), index, weight)


def _read_part(contents: Mapping[str, Any], agreed: Agreed, m: int, ranked: bool) -> Part:
    part = Part(**contents)
    k, dtype, none = agreed.k, agreed.dtype, agreed.targets == "none"
    part.max = _array(part.max, (m,), dtype, "max")
    part.argmax = _array(part.argmax, (m,), INT64, "argmax")
    part.rank = _array(part.rank, (m,), INT64, "rank", optional=not ranked)
    part.target_logit = _array(part.target_logit, (m,), dtype, "target_logit", optional=none)
    part.top_logit = _array(part.top_logit, (m, k), dtype, "top_logit", optional=not k)
    part.top_index = _array(part.top_index, (m, k), INT64, "top_index", optional=not k)
    return part


def _array(value: Any, shape: tuple[int, ...], dtype: np.dtype, name: str,
           optional: bool = False) -> Any:
    """An array of this shape, as the engines read it."""
    if value is None and optional:
        return None
    if type(value) is not np.ndarray or value.shape != shape or value.dtype != dtype:
        raise ValueError(f"its `{name}` is not {dtype} of shape {shape}")
    return plain(value, dtype)
