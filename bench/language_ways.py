"""Ways to the losses of language models: ours, and what else there is on a CPU.

A way is made of a `Case` and its tensors, and is called without arguments: it gives a loss, whose
``backward`` is the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F

import logitless.torch as ours

LOGIT_STD = 2.0  # as spread out as those of a trained model


@dataclass(frozen=True)
class Case:
    """What is computed: a loss of one head, of two, or of a whole model.

    Attributes
    ----------
    kind : {"head", "two heads", "model"}
    name : str
    m, k, n : int
        Tokens, features, classes.
    dtype : str
    softcap : float, optional
    teacher : int
        Features of the other head.
    """

    kind: str
    name: str
    m: int
    k: int
    n: int
    dtype: str
    softcap: float | None = None
    teacher: int = 0

    @property
    def itemsize(self) -> int:
        return getattr(torch, self.dtype).itemsize


Loss = Callable[[], torch.Tensor]


# One head


def tensors(case: Case, step: bool) -> SimpleNamespace:
    """Hidden states, weights and targets, of a teacher too if there is one."""
    gen = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def normal(rows: int, k: int, std: float) -> torch.Tensor:
        made = torch.empty(rows, k, dtype=dtype)
        for part in made.split(4096):  # in pieces, so that their float32 is no peak
            part.copy_(torch.randn(part.shape, generator=gen) * std)
        return made

    def head(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(case.m, k, 1.0), normal(case.n, k, LOGIT_STD / k**0.5)

    x, weight = (t.requires_grad_(step) for t in head(case.k))
    target = torch.randint(case.n, (case.m,), generator=gen)
    teacher = head(case.teacher) if case.teacher else None
    return SimpleNamespace(x=x, weight=weight, target=target, teacher=teacher)


def logitless(case: Case, t: SimpleNamespace) -> Loss:
    return partial(ours.linear_cross_entropy, t.x, t.weight, t.target, softcap=case.softcap,
                   loss_dtype=torch.float32 if case.itemsize < 4 else None)


def _logits(x: torch.Tensor, weight: torch.Tensor, softcap: float | None) -> torch.Tensor:
    z = F.linear(x, weight)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return z.float()


def stock(case: Case, t: SimpleNamespace) -> Loss:
    """What models of transformers do."""
    return lambda: F.cross_entropy(_logits(t.x, t.weight, case.softcap), t.target)


def compiled(case: Case, t: SimpleNamespace) -> Loss:
    def loss(x: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_logits(x, weight, case.softcap), target)

    return partial(torch.compile(loss, dynamic=False), t.x, t.weight, t.target)


def torch_linear(case: Case, t: SimpleNamespace) -> Loss | None:
    if case.softcap is not None:
        return None
    return partial(F.linear_cross_entropy, t.x, t.weight, t.target)


def torch_chunked(case: Case, t: SimpleNamespace) -> Loss | None:
    if case.softcap is not None:
        return None
    options = torch.nn.LinearCrossEntropyOptions()
    return partial(F.linear_cross_entropy, t.x, t.weight, t.target, options=options)


# Two heads


def divergence(case: Case, t: SimpleNamespace) -> Loss:
    return partial(ours.linear_kl_div, t.x, t.weight, *t.teacher, reduction="mean")


def both_losses(case: Case, t: SimpleNamespace) -> Loss:
    """What the products and exponentials of a divergence take, to hold its time against."""
    of_student = logitless(case, t)
    return lambda: of_student() + ours.linear_cross_entropy(*t.teacher, t.target)


def divergence_of_logits(case: Case, t: SimpleNamespace) -> Loss:
    def loss() -> torch.Tensor:
        with torch.no_grad():
            teacher = _logits(*t.teacher, None).log_softmax(-1)
        student = _logits(t.x, t.weight, None).log_softmax(-1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True)

    return loss


# A whole model


def model(case: Case, step: bool) -> torch.nn.Module:
    """A Llama of one layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=case.k, intermediate_size=2 * case.k, num_hidden_layers=1,
        num_attention_heads=8, vocab_size=case.n, tie_word_embeddings=False)
    made = LlamaForCausalLM(config).to(getattr(torch, case.dtype))
    return made.requires_grad_(step).train(step)


def patched_model(case: Case, made: torch.nn.Module) -> Loss:
    import logitless.transformers

    logitless.transformers.patch(made)
    return stock_model(case, made)


def stock_model(case: Case, made: torch.nn.Module) -> Loss:
    ids = torch.randint(case.n, (1, case.m), generator=torch.Generator().manual_seed(0))
    return lambda: made(input_ids=ids, labels=ids, use_cache=False).loss


INPUTS = {"head": tensors, "two heads": tensors, "model": model}
WAYS: dict[str, dict[str, Callable]] = {
    "head": {
        "logitless": logitless, "torch": stock, "torch.compile": compiled,
        "F.linear_cross_entropy": torch_linear, "F.linear_cross_entropy, options": torch_chunked,
    },
    "two heads": {"logitless": divergence, "torch": divergence_of_logits,
                  "logitless, losses of both heads": both_losses},
    "model": {"logitless": patched_model, "torch": stock_model},
}
