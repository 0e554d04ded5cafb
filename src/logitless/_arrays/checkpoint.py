"""Which of the arrays in a file are those of a head."""

from __future__ import annotations

import contextlib
import os

from .files import LISTED, Archive, kind_of, listed
from .npy import Npz
from .safetensors import Safetensors, Sharded

# What weights of a last layer are called. Where it shares those of the first, a checkpoint often
# holds them once, under the name that they have there.
_LAST = ("lm_head.weight", "weight", "head.weight", "score.weight", "classifier.weight",
         "fc.weight", "output.weight", "embed_out.weight")
_FIRST = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")


def open_archive(path: str | os.PathLike[str]) -> Archive | None:
    """Open a file of arrays with names; None for a .npy file, whose array has none."""
    kinds: dict[str, type[Npz | Safetensors | Sharded]] = {
        "npz": Npz, "safetensors": Safetensors, "index": Sharded}
    kind = kind_of(path)
    return None if kind == "npy" else kinds[kind](path)


def weight_name(archive: Archive, key: str | None) -> str:
    """Find the weights (n, k): those named `key`, or by the names that weights have."""
    if key is not None:
        check_name(archive, key)
        return key
    for name in _LAST + _FIRST:
        if name in archive.names and _axes(archive, name) in (2, None):
            return name
    matrices = [name for name in archive.names if _axes(archive, name) == 2]
    for some in [name for name in matrices if not archive.stored(name).is_integer], matrices:
        if len(some) == 1:
            return some[0]
    wanted = "one array (n, k), or a key that tells which" if matrices else "an array (n, k)"
    raise ValueError(f"{archive.path}: expected {wanted}, found "
                     f"{_told(archive, matrices or archive.names)}")


def bias_name(archive: Archive, weight: str, key: str | None) -> str | None:
    """Find the bias (n,): that named `key`, or the name of the weights with "bias" in it."""
    if key is not None:
        check_name(archive, key)
        return key
    name = "bias".join(weight.rsplit("weight", 1))
    return name if name != weight and name in archive.names else None


def check_name(archive: Archive, name: str) -> None:
    """Check that there is an array of a name."""
    if not isinstance(name, str) or name not in archive.names:
        raise ValueError(f"{archive.path}: expected an array named {name!r}, found "
                         f"{_told(archive, archive.names)}")


def _axes(archive: Archive, name: str) -> int | None:
    """Count the axes of an array; None where it is not known what it is."""
    try:
        return len(archive.stored(name).shape)
    except ValueError:  # no numbers, or damaged: who loads it is told so
        return None


def _told(archive: Archive, names: list[str]) -> str:
    """Some names, with what they are names of where that is known."""
    told = [f"{name!r}" for name in names]
    for i in range(min(len(told), LISTED)):
        with contextlib.suppress(ValueError, OSError):
            told[i] += " {0.shape} {0.dtype}".format(archive.stored(names[i]))
    return listed(told)
