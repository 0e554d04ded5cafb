"""Files with some bytes changed, and what readers make of them."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import strategies as st

from logitless.io import open_array, read_head

from .memory import MIB, traced

positions = st.integers(0, 9999)
damages = st.lists(st.one_of(
    st.tuples(st.just("set"), positions, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("insert"), positions, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("cut"), positions, st.just(b"")),
    st.tuples(st.just("drop"), positions, st.binary(min_size=1, max_size=9)),
), min_size=1, max_size=3)


def damaged(data, hurts):
    """A file's bytes with `hurts`, some of the `damages`."""
    for kind, where, piece in hurts:
        where %= len(data) + 1
        rest = {"set": len(piece), "insert": 0, "cut": len(data), "drop": len(piece)}[kind]
        data = data[:where] + (piece if kind in ("set", "insert") else b"") + data[where + rest:]
    return data


def everything(path):
    """What the readers make of a file: arrays, and the messages of errors."""
    found = []
    for read in (open_array, lambda path: open_array(path, prefer="weight"), read_head):
        try:
            result = read(path)
        except (OSError, ValueError) as error:
            found.append(str(error))
        else:
            found += [result] if isinstance(result, np.ndarray) else [
                a for a in result if isinstance(a, np.ndarray)]
    return found


def assert_clean(path):
    """Every array that is read is there, and every error is one line that names the file."""
    with traced() as memory:
        found = everything(path)
    assert memory.peak < 8 * MIB
    for result in found:
        if isinstance(result, np.ndarray):
            result.tobytes()  # every byte is there
        else:
            assert os.fspath(path) in result
            assert "\n" not in result
