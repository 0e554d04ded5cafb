"""The engine over the compiled kernels: memory, blocks and threads; the kernels do the arithmetic.

`..interface.Engine` says what each function is for.
"""

from __future__ import annotations

import numpy as np

from ..._arrays.files import Windows
from ..._arrays.sparse_x import SparseX
from ..interface import Request, State
from ._core import SMALL_N, FewRows, screener_for
from .divergence import divergence
from .gradient import gradients
from .kernels import BF16, KERNELS, active_isa, available_isas, in_place, type_of
from .layer import Layer
from .logit_scoring import LogitScoring
from .parts import finish, fold, merge_top, part, target_logits
from .plan import small_rows
from .scoring import LinearScoring
from .scratch import aligned
from .screen import Screen, can_screen
from .screening import ScreenedScoring
from .sharing import find_targets, score_all

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


PASS_CLASSES = 32  # that a pass meets in the time one target takes alone, at least
empty = aligned  # memory for a gradient


def make_layer(
    weight: np.ndarray | Windows, bias: np.ndarray | None, *, softcap: float | None,
    temperature: float, pack: bool, screen: bool,
) -> Layer:
    """Weights and what is done to their logits, ready for `score`."""
    layer = Layer(weight, bias, softcap, temperature, pack)
    if screen and layer.packed is not None:
        layer.screen = Screen(layer)
    return layer


def few_rows(layer: Layer) -> FewRows | None:
    """The layer for calls of a few rows, where its arrays can be read as they are."""
    kernels = KERNELS[layer.dtype]
    n, k = layer.n_classes, layer.n_features
    most = small_rows(kernels, n, k)
    packed = layer.packed is not None
    weight = layer.packed if packed else layer.weight
    if weight is None or most == 0:
        return None
    plain = packed or in_place(weight, layer.held)
    plain &= layer.bias is None or layer.bias.dtype == layer.dtype
    plain &= np.dtype(np.intp) == np.int64  # classes come as the kernels leave them
    if not plain:
        return None
    return FewRows(kernels, weight, packed, layer.bias, n, k, layer.softcap, layer.temperature,
                   most, type_of(layer.held))


def score(
    layer: Layer, x: np.ndarray | SparseX, request: Request, n_threads: int | None
) -> State:
    """What `request` asks for, about the rows of x (m, k)."""
    if (layer.screen is not None and not isinstance(x, SparseX)
            and can_screen(layer, x, request)):

        def dense(x: np.ndarray, request: Request) -> State:
            return score_all(LinearScoring(layer, x, request, n_threads))

        return ScreenedScoring(layer, x, request, n_threads).state(dense)
    scoring = LinearScoring(layer, x, request, n_threads)
    if _needs_no_pass(layer, request):
        return find_targets(scoring, n_threads)
    return score_all(scoring)


def _needs_no_pass(layer: Layer, request: Request) -> bool:
    """Whether the logits of targets are all that is asked for, and a pass would take longer."""
    return (request.only_targets and layer.n_classes > SMALL_N
            and PASS_CLASSES * request.n_targets < layer.n_classes)


def score_logits(logits: np.ndarray, request: Request, n_threads: int | None) -> State:
    """What `request` asks for, about the rows of logits (m, n)."""
    return score_all(LogitScoring(logits, request, n_threads))


def contract() -> str:
    """Version of docs/arithmetic.md."""
    return "2.1"


def span(dtype: np.dtype) -> int:
    """Classes whose sums are merged as one."""
    return KERNELS[dtype].span


def neg_log(p: np.ndarray) -> np.ndarray:
    """``-log(p)``, contiguous in one dimension."""
    loss = np.empty_like(p)
    KERNELS[p.dtype].map("log", p, loss)
    return np.subtract(0, loss, out=loss)


def neg_log_sum(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``-sum(t * log(p))`` of each row; entries with t = 0 contribute nothing."""
    loss = np.empty(len(p), p.dtype)
    KERNELS[p.dtype].nll(p, t, loss)
    return loss


def spin_fma(dtype: np.dtype, rounds: int) -> float:
    """Keep one core's multiply-add units busy; returns the flops done."""
    return KERNELS[dtype].spin_fma(rounds)


def spin_bf16(rounds: int) -> float:
    """Multiply bfloat16 as fast as one core can; returns the flops done."""
    return BF16.spin(rounds)


def spin_int8(rounds: int) -> float:
    """Multiply bytes as fast as one core can; returns the operations done."""
    return screener_for(active_isa()).spin(rounds)


def spin_read(memory: np.ndarray, streams: int) -> None:
    """Read an array of float64 once, so many parts of it side by side."""
    KERNELS[memory.dtype].spin_read(memory, streams)


def bf16_name() -> str:
    """Name what multiplies bfloat16."""
    return BF16.name


def int8_name() -> str:
    """Name what multiplies bytes."""
    return screener_for(active_isa()).name
