"""The engine in plain NumPy: takes the place of the compiled one, and is its oracle."""

from __future__ import annotations

import numpy as np

from ..._arrays.files import Windows
from .divergence import divergence
from .gradient import gradients
from .layer import Layer
from .parts import finish, fold, merge_top, part, target_logits
from .scoring import score, score_logits

__all__ = [
    "Layer",
    "active_isa",
    "available_isas",
    "bf16_name",
    "contract",
    "divergence",
    "empty",
    "few_rows",
    "finish",
    "fold",
    "gradients",
    "int8_name",
    "make_layer",
    "merge_top",
    "neg_log",
    "neg_log_sum",
    "part",
    "score",
    "score_logits",
    "span",
    "spin_bf16",
    "spin_fma",
    "spin_int8",
    "spin_read",
    "target_logits",
]


def available_isas() -> tuple[str, ...]:
    """Give NumPy as the one choice there is."""
    return ("numpy",)


def active_isa() -> str:
    """Give NumPy."""
    return "numpy"


def make_layer(
    weight: np.ndarray | Windows, bias: np.ndarray | None, *, softcap: float | None,
    temperature: float, pack: bool, screen: bool,
) -> Layer:
    """Weights and what is done to their logits; a screen would spare nothing here."""
    return Layer(weight, bias, softcap=softcap, temperature=temperature, pack=pack)


def contract() -> str:
    """Sums have no order of their own here."""
    return "of NumPy"


def span(dtype: np.dtype) -> int:
    """As many as of the kernels."""
    return (1 << 14) // dtype.itemsize


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory for a gradient."""
    return np.empty(shape, dtype)


def few_rows(layer: Layer) -> None:
    """No short way for calls of a few rows."""


def neg_log(p: np.ndarray) -> np.ndarray:
    """``-log(p)``."""
    with np.errstate(all="ignore"):
        return 0 - np.log(p)


def neg_log_sum(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``-sum(t * log(p))`` of each row; entries with t = 0 contribute nothing."""
    with np.errstate(all="ignore"):
        return np.where(t == 0, 0, t * (0 - np.log(p))).sum(axis=1)


def spin_fma(dtype: np.dtype, rounds: int) -> float:
    """Multiply matrices; returns the flops done."""
    side = 256
    a = np.ones((side, side), dtype)
    times = max(1, rounds // 4096)
    for _ in range(times):
        a @ a
    return 2.0 * side**3 * times


def spin_bf16(rounds: int) -> float:
    """Nothing multiplies bfloat16 here: it is widened."""
    return 0.0


def spin_int8(rounds: int) -> float:
    """Nothing multiplies bytes here: there are no screens."""
    return 0.0


def spin_read(memory: np.ndarray, streams: int) -> None:
    """Read an array once."""
    memory.sum()


def bf16_name() -> str:
    """Nothing multiplies bfloat16 here."""
    return ""


def int8_name() -> str:
    """Nothing multiplies bytes here."""
    return ""
