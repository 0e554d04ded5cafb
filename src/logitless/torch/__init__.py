"""The loss for PyTorch: ``torch.nn.functional.linear_cross_entropy`` without the logits."""

from ._cross_entropy import linear_cross_entropy
from ._kl_div import linear_kl_div
from ._module import LinearCrossEntropyLoss
from ._scores import Scores

__all__ = ["LinearCrossEntropyLoss", "Scores", "linear_cross_entropy", "linear_kl_div"]
