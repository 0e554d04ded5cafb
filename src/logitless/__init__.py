"""The softmax head of a classifier, scored in one pass without its logits."""

from ._engines.choice import active_isa, available_isas
from ._parallel.pool import threads
from ._version import __version__ as __version__
from .calibration import Calibration, calibration_error, fit_temperature
from .distillation import (
    linear_kl_div,
    linear_kl_div_value_and_grad,
    linear_topk_kl_div,
    linear_topk_kl_div_value_and_grad,
)
from .functional import (
    linear_argmax,
    linear_cross_entropy,
    linear_cross_entropy_value_and_grad,
    linear_log_softmax,
    linear_logsumexp,
    linear_score,
    linear_softmax,
    linear_topk,
)
from .head import LinearHead
from .limits import machine_limits
from .logits import cross_entropy, log_softmax, logsumexp, nll, softmax
from .results import Gradients, Scores, ScreenStats, TopK
from .states import RowState, shard_bounds

__all__ = [
    "Calibration",
    "Gradients",
    "LinearHead",
    "RowState",
    "Scores",
    "ScreenStats",
    "TopK",
    "active_isa",
    "available_isas",
    "calibration_error",
    "cross_entropy",
    "fit_temperature",
    "linear_argmax",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "linear_kl_div",
    "linear_kl_div_value_and_grad",
    "linear_log_softmax",
    "linear_logsumexp",
    "linear_score",
    "linear_softmax",
    "linear_topk",
    "linear_topk_kl_div",
    "linear_topk_kl_div_value_and_grad",
    "log_softmax",
    "logsumexp",
    "machine_limits",
    "nll",
    "shard_bounds",
    "softmax",
    "threads",
]

for _name in __all__:  # where users find them, in tracebacks and pickles
    globals()[_name].__module__ = __name__
