"""What a pass finds out about each target beside its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ._checks import Options
from ._sparse import SparseTarget


class Scores(NamedTuple):
    """What `linear_cross_entropy` finds out beside the loss, with ``return_scores=True``.

    Tensors without gradient, of the shape of losses that are not reduced; float32, of
    float64 tensors float64.

    Attributes
    ----------
    lse : Tensor
        ``log(sum(exp(logits)))``.
    entropy : Tensor
        ``-sum(p * log(p))`` of the softmax.
    z_loss : Tensor
        The part that the option `z_loss` has in each loss; 0 where the target does not count.
    predicted : Tensor of int64
        Class of the largest logit, the lowest of equals.
    hits : Tensor of bool
        Whether it is the target; of class probabilities, whether none is larger than its own.
        False where the target does not count.

    Examples
    --------
    >>> import torch
    >>> from logitless.torch import linear_cross_entropy
    >>> x, target = torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1, -100])
    >>> loss, scores = linear_cross_entropy(x, torch.eye(2), target, return_scores=True)
    >>> scores.predicted, scores.hits
    (tensor([1, 0, 0]), tensor([ True, False, False]))
    >>> scores.hits.sum() / (target != -100).sum()
    tensor(0.5000)
    """

    lse: torch.Tensor
    entropy: torch.Tensor
    z_loss: torch.Tensor
    predicted: torch.Tensor
    hits: torch.Tensor


@torch.no_grad()
def scores_of(
    found: Sequence[torch.Tensor], target: torch.Tensor, stored: SparseTarget | None, n_lead: int,
    options: Options,
) -> Scores:
    """Scores against a target with so many leading axes, the last of which may be shifted."""
    lse, entropy, predicted = found
    z_loss = options.z_loss * lse.square()
    if stored is not None:
        everywhere = predicted.new_full(target.shape[:-1], -1)
        _scored(everywhere, n_lead, options.shift).copy_(predicted)
        hits = stored.hits(everywhere.reshape(-1)).view(everywhere.shape)
        return Scores(lse, entropy, z_loss, predicted, _scored(hits, n_lead, options.shift))
    target = _scored(target, n_lead, options.shift)
    if target.is_floating_point():
        best = target.amax(n_lead)
        of_predicted = target.gather(n_lead, predicted.unsqueeze(n_lead)).squeeze(n_lead)
        return Scores(lse, entropy, z_loss, predicted, (of_predicted == best) & (best > 0))
    assert options.ignore_index is not None  # once it has been checked
    target = target.long()
    ignored = target.eq(options.ignore_index)
    return Scores(lse, entropy, z_loss.masked_fill(ignored, 0), predicted,
                  (predicted == target) & ~ignored)


def _scored(target: torch.Tensor, n_lead: int, shift: int) -> torch.Tensor:
    """The part of a target that a position is scored against."""
    if not shift:
        return target
    return target.narrow(n_lead - 1, shift, target.shape[n_lead - 1] - shift)
