"""Inputs and options of the loss: any, or a few of each kind."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

# Around the blocks of classes and features, and the tiles of rows.
CLASSES = [1, 2, 3, 15, 16, 17, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097]
FEATURES = [0, 1, 2, 15, 16, 17, 255, 256, 257]
ROWS = [1, 2, 11, 12, 13, 23, 24, 25, 239, 240, 241, 479, 480, 481]


@st.composite
def losses(draw, most_rows=20):
    """Inputs and options: (x, weight, bias), target, options of the head, options of the loss."""
    n = draw(st.one_of(st.sampled_from(CLASSES), st.integers(1, 600)))
    k = draw(st.one_of(st.sampled_from(FEATURES), st.integers(0, 100)))
    room = max(1, min(most_rows, 2_000_000 // (n * max(k, 1))))
    m = draw(st.one_of(
        st.sampled_from([r for r in ROWS if r <= room]), st.integers(1, min(20, room))
    ))
    dtype = np.dtype(draw(st.sampled_from([np.float32, np.float64])))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scale = draw(st.sampled_from([0.01, 1.0, 8.0]))
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((n, k)) * (scale / math.sqrt(max(k, 1)))).astype(dtype)
    bias = draw(st.sampled_from([None, rng.standard_normal(n).astype(dtype)]))
    target = any_target(draw, rng, m, n, dtype)
    of_head = draw(st.fixed_dictionaries({}, optional={
        "softcap": st.sampled_from([0.5, 5.0, 50.0]),
        "temperature": st.sampled_from([0.3, 1.0, 2.5]),
    }))
    options = draw(st.fixed_dictionaries({}, optional={
        "class_weight": st.sampled_from([
            (rng.random(n) * 3).astype(dtype),
            (rng.random(n) * rng.integers(0, 2, n)).astype(dtype),
            np.ones(n, dtype),
        ]),
        "sample_weight": st.sampled_from([
            rng.random(m), rng.integers(0, 3, m).astype(np.float32), rng.standard_normal(m),
        ]),
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.625, 1.0]),
        "z_loss": st.sampled_from([0.0, 1e-4, 0.5]),
        "entropy_weight": st.sampled_from([0.0, -0.01, 1.0]),
    }))
    if "temperature" not in of_head and draw(st.booleans()):
        options["temperature"] = rng.choice([0.3, 1.0, 2.5], m)
    if target.ndim == 1 and draw(st.booleans()):
        options["ignore_index"] = draw(st.sampled_from([-100, -1, n, 0]))
        target[rng.random(m) < 0.3] = options["ignore_index"]
    return (x, w, bias), target, of_head, options


def any_target(draw, rng, m, n, dtype):
    kind = draw(st.sampled_from(["index", "probabilities", "masses", "some one-hot"]))
    if kind == "index":
        return rng.integers(0, n, m)
    if kind == "masses":  # not summing to 1, some classes and rows without any
        return (rng.random((m, n)) * rng.integers(0, 2, (m, n))).astype(dtype)
    t = rng.dirichlet(np.ones(n), m).astype(dtype)
    if kind == "some one-hot":
        t[::2] = np.eye(n, dtype=dtype)[rng.integers(0, n, len(t[::2]))]
    return t


OPTIONS = {
    "none": {},
    "class weights": {"class_weight": True},
    "sample weights": {"sample_weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-3},
    "entropy": {"entropy_weight": -0.1},
    "temperatures": {"temperature": True},
    "all": {"class_weight": True, "sample_weight": True, "label_smoothing": 0.2, "z_loss": 0.01,
            "entropy_weight": 0.3, "temperature": True},
}


def with_weights(options, m, n, dtype, seed=5):
    """Options with arrays where they say True."""
    rng, options = np.random.default_rng(seed), dict(options)
    if options.get("class_weight") is True:
        options["class_weight"] = (rng.random(n) * 2).astype(dtype)
    if options.get("sample_weight") is True:
        options["sample_weight"] = rng.random(m).astype(dtype)
    if options.get("temperature") is True:
        options["temperature"] = rng.uniform(0.4, 2.5, m)
    return options


def in_force(of_head, options):
    """Options of a head that none of the loss takes the place of."""
    return {name: value for name, value in of_head.items() if name not in options}


def targets_of(kind, m, n, dtype, seed=6):
    """Class indices, some ignored; or class probabilities."""
    rng = np.random.default_rng(seed)
    if kind == "index":
        target = rng.integers(0, n, m)
        target[::4] = -100
        return target
    t = rng.dirichlet(np.ones(n), m).astype(dtype)
    if kind == "rows of all kinds":
        t[::3] = np.eye(n, dtype=dtype)[rng.integers(0, n, len(t[::3]))]
        t[1::6] *= 3
        t[4::6] = 0
    return t


KINDS = ["index", "probabilities", "rows of all kinds"]
OF_HEAD = [{}, {"softcap": 3.0, "temperature": 0.6}]
