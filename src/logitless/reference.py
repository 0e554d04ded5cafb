"""The engine in plain NumPy: takes the place of the compiled one, and is its oracle."""

from ._plain_scoring import (
    active_isa,
    available_isas,
    empty,
    make_layer,
    neg_log,
    neg_log_sum,
    score,
    score_logits,
    small_calls,
    spin_fma,
    spin_read,
)
from .reference_gradient import gradients

__all__ = [
    "active_isa",
    "available_isas",
    "empty",
    "gradients",
    "make_layer",
    "neg_log",
    "neg_log_sum",
    "score",
    "score_logits",
    "small_calls",
    "spin_fma",
    "spin_read",
]
