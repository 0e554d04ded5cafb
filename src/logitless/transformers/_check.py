"""Whether a model can do without its logits: its own loss and ours, on a tiny batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ._deferred import DeferredHead, DeferredLogits

_SAMPLES, _TOKENS = 2, 5
_SPREAD = 8.0  # standard deviation of the logits: caps and scales of any size tell
_CLASSES = 8192  # of a float32 copy of the weights at a time


class Probe(DeferredHead):
    """The head with inputs that are drawn here, the same whatever the body of the model says.

    Its weights are seen as float32 at least. Logits are computed unless `deferred`.
    """

    def __init__(self, model: PreTrainedModel, deferred: bool) -> None:
        super().__init__(model)
        self.deferred = deferred
        self.inputs: list[torch.Tensor] = []
        self.gen = torch.Generator().manual_seed(0)

    def logits(
        self, input: Any, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> Any:
        """Note the input that takes the place of `input`."""
        if isinstance(input, torch.Tensor):
            input = self.drawn(input.shape, weight)
        if self.deferred:
            return super().logits(input, weight, bias)
        bias = None if bias is None else bias.to(input.dtype)
        parts = weight.detach().split(_CLASSES)
        z = torch.cat([F.linear(input, part.to(input.dtype)) for part in parts], -1)
        return z if bias is None else z + bias.detach()

    def drawn(self, shape: torch.Size, weight: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        norm = weight.detach()[:_CLASSES].to(dtype).norm(dim=1).mean().clamp_min(1e-6)
        x = torch.randn(shape, generator=self.gen, dtype=dtype) * (_SPREAD / norm)
        self.inputs.append(x.requires_grad_())
        return x


def check_model(model: PreTrainedModel, stock: type[PreTrainedModel]) -> None:
    """Check that a model has the same loss and gradient without its logits as with them."""
    name = stock.__name__
    for parameter, tensor in model.named_parameters():
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, where its loss is computed: "
                             f"`{parameter}` is on {tensor.device}")
    if "labels" not in inspect.signature(stock.forward).parameters:
        raise ValueError(f"{name} has no loss: its forward takes no `labels`")
    if not isinstance(model.get_output_embeddings(), torch.nn.Module):
        raise ValueError(f"{name} has no head: `get_output_embeddings()` gives none")
    try:
        with in_evaluation(model), torch.inference_mode(False), torch.enable_grad():
            ours = _result(model, stock, deferred=True)
            theirs = _result(model, stock, deferred=False)
    except Exception as error:
        raise ValueError(f"{name} cannot do without its logits: {error}") from error
    for what, one, other in zip(("loss", "gradient"), ours, theirs, strict=True):
        if not torch.allclose(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item()):
            raise ValueError(f"{name} has another {what} without its logits, on a tiny batch: "
                             f"{one.flatten()[0]} instead of {other.flatten()[0]}")


def _result(
    model: PreTrainedModel, stock: type[PreTrainedModel], deferred: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient by what the head was given."""
    gen = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary(model), (_SAMPLES, _TOKENS), generator=gen)
    labels = ids.clone()
    labels[0, 2] = -100
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
        with Probe(model, deferred) as probe:
            output = stock.forward(model, input_ids=ids, labels=labels, return_dict=True)
        if not probe.inputs:
            raise TypeError("they are not those of one linear layer, `get_output_embeddings()`")
        if deferred and not isinstance(output.get("logits"), DeferredLogits):
            raise TypeError("its output has no `logits` that could be left out")
        gradients = torch.autograd.grad(output.loss, probe.inputs)
    return output.loss.detach(), torch.cat([grad.flatten() for grad in gradients])


def vocabulary(model: PreTrainedModel) -> int:
    """Number of tokens that a model can be given, and predicts."""
    weights = [module.weight
               for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    for weight in weights:
        if not isinstance(weight, torch.Tensor):
            raise TypeError("its embedding or its head holds no weights as a tensor, "
                            "as if they were quantized")
    return min(weight.shape[0] for weight in weights)


@contextmanager
def in_evaluation(model: torch.nn.Module) -> Iterator[None]:
    """Have every module of a model in evaluation, and afterwards as it was."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
