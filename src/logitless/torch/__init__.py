"""Losses of linear heads for PyTorch, without the logits."""

from ._cross_entropy import linear_cross_entropy
from ._kl_div import linear_kl_div, linear_topk_kl_div
from ._log_prob import linear_log_prob
from ._module import LinearCrossEntropyLoss
from ._scores import Scores

__all__ = [
    "LinearCrossEntropyLoss",
    "Scores",
    "linear_cross_entropy",
    "linear_kl_div",
    "linear_log_prob",
    "linear_topk_kl_div",
]
